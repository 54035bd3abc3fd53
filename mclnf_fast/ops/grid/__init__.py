"""Grid encodings: hash grids and tri-planes, a table a module."""

from mclnf_fast.ops.grid.api import grid_encode

__all__ = ["grid_encode"]
