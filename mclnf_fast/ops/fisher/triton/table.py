"""Shapes of the Fisher kernels' tiles, by kind of product and padded width. None has been timed on a GPU yet."""

from __future__ import annotations

import dataclasses

from mclnf_fast.ops.bank_mlp.triton.table import SMALL_TILE, Pair, Shape

# The tile of large modules and that of small ones. What is missing goes layer by layer.
WALK: dict[tuple[str, int], Pair] = {
    ("half", 64): (Shape(128, 8), Shape(SMALL_TILE, 4)),
    ("half", 128): (Shape(64, 8), Shape(SMALL_TILE, 8)),
    ("tf32", 64): (Shape(64, 4), Shape(SMALL_TILE, 4)),
    ("tf32", 128): (Shape(32, 8), Shape(SMALL_TILE, 8)),
    ("ieee", 64): (Shape(SMALL_TILE, 8), Shape(SMALL_TILE, 8)),
}


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a layer's weights, `side` inputs times as many outputs, and the points that go by at a time."""

    side: int
    depth: int
    warps: int
    stages: int


SUMS: dict[str, Block] = {
    "bf16": Block(64, 64, 4, 3),
    "fp16": Block(64, 64, 4, 2),
    "tf32": Block(64, 32, 4, 3),
    "ieee": Block(32, 16, 4, 3),
}
CHUNKS = 512  # of all modules together, about
REDUCED_CHUNKS, REDUCED = 8, 512  # chunks and parameters that a reduction takes at a time


def walk_shapes(kind: str, width: int) -> Pair | None:
    """Of the walk at a padded width (the largest of the network's, the features' and the outputs')."""
    return WALK.get((kind, max(width, 64)))
