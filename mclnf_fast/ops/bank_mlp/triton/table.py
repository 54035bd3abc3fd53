"""Shapes of the kernels' tiles, by kind of product and padded width.

Each entry compiles for sm_80, sm_90 and sm_100 within the spills that `tests/ops/test_triton_compile.py` allows; none
has been timed on a GPU yet.
"""

from __future__ import annotations

import dataclasses

import torch

SMALL_TILE = 16  # rows of the smallest tile that a matrix instruction takes


@dataclasses.dataclass(frozen=True)
class Shape:
    """Points a tile, warps a program, stages of software pipelining."""

    rows: int
    warps: int
    stages: int = 1

    @property
    def warp_group(self) -> bool:
        """Whether Hopper's warp-group matrix instructions take it: they multiply 64 rows."""
        return self.rows >= 64 and self.warps % 4 == 0


Pair = tuple[Shape, Shape]

# (kind of product, padded width): the tile of large modules and that of small ones. What is missing goes layer by
# layer: it does not fit the registers.
FORWARD: dict[tuple[str, int], Pair] = {
    ("half", 64): (Shape(128, 8), Shape(SMALL_TILE, 4)),
    ("half", 128): (Shape(128, 8), Shape(SMALL_TILE, 8)),
    ("tf32", 64): (Shape(64, 4), Shape(SMALL_TILE, 4)),
    ("tf32", 128): (Shape(32, 8), Shape(SMALL_TILE, 8)),
    ("ieee", 64): (Shape(SMALL_TILE, 8), Shape(SMALL_TILE, 8)),
}
# With the columns of activations (`launch.Network.held`) up to which each tile is taken: the backward keeps them all.
BACKWARD: dict[tuple[str, int], tuple[tuple[Shape, int], tuple[Shape, int]]] = {
    ("half", 64): ((Shape(32, 8), 320), (Shape(SMALL_TILE, 8), 640)),
    ("half", 128): ((Shape(SMALL_TILE, 8), 576), (Shape(SMALL_TILE, 8), 576)),
    ("tf32", 64): ((Shape(SMALL_TILE, 4), 384), (Shape(SMALL_TILE, 4), 384)),
}
LAYER = Shape(64, 4, 3)
LAYER_COLUMNS, LAYER_DEPTH = 64, 32
# Sides of the blocks of a weight gradient, and points that it goes by at a time: without matrix instructions each
# thread holds a share of both factors as well.
OUTER = {"half": (64, 32), "tf32": (64, 32), "ieee": (32, 16)}


def product_kind(dtype: torch.dtype, tf32: bool) -> str:
    """`half`, `tf32` or `ieee`: what the matrix instructions work on."""
    return "half" if dtype != torch.float32 else "tf32" if tf32 else "ieee"


def forward_shapes(kind: str, width: int) -> Pair | None:
    """Of the fused forward at a padded width (the largest of the network's, the features' and the outputs')."""
    return FORWARD.get((kind, max(width, 64)))


def backward_shapes(kind: str, width: int, held: int) -> Pair | None:
    """Of the fused backward that holds this many columns of activations."""
    (large, most), (small, more) = BACKWARD.get((kind, max(width, 64)), ((LAYER, -1), (LAYER, -1)))
    if held > max(most, more):
        return None
    return (large if held <= most else small, small)
