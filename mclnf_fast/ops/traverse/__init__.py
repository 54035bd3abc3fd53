"""Traversal of several grids: from rays and occupied cells to packed samples."""

from mclnf_fast.ops.traverse.api import traverse_grids
from mclnf_fast.ops.traverse.reference import Traversal

__all__ = ["Traversal", "traverse_grids"]
