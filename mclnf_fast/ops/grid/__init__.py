"""Grid encodings: hash grids and tri-planes, one table per module."""

from mclnf_fast.ops.grid.api import grid_encode

__all__ = ["grid_encode"]
