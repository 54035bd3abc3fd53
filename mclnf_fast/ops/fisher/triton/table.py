"""Shapes of the Fisher kernels' tiles, by kind of product and padded width. None has been timed on a GPU yet.

Compiled for sm_80, sm_90 and sm_100: the sweep of width 64 takes 128 rows in 136 to 180 registers, that of width 128 no
more than 64 rows (128 spill 280 bytes, and 64 with a skip to 120 features 850). The sums of points spill 370 bytes with
four warps and up to 136 with eight, those of samples 40 with four.
"""

from __future__ import annotations

import dataclasses

from mclnf_fast.ops.triton.launch import Network, padded
from mclnf_fast.ops.triton.table import SMALL_TILE, Shape, ShapePair

# The tile of large modules and that of small ones. A missing network goes layer by layer. Last: whether more than 64
# features come in again behind a hidden layer, and stay in registers until then.
SWEEP: dict[tuple[str, int, bool], ShapePair] = {
    ("half", 64, False): (Shape(128, 8), Shape(SMALL_TILE, 4)),
    ("half", 128, False): (Shape(64, 8), Shape(SMALL_TILE, 8)),
    ("half", 128, True): (Shape(32, 8), Shape(SMALL_TILE, 8)),
    ("tf32", 64, False): (Shape(64, 4), Shape(SMALL_TILE, 4)),
    ("tf32", 128, False): (Shape(32, 8), Shape(SMALL_TILE, 8)),
    ("tf32", 128, True): (Shape(SMALL_TILE, 8), Shape(SMALL_TILE, 8)),
    ("ieee", 64, False): (Shape(SMALL_TILE, 8), Shape(SMALL_TILE, 8)),
}


@dataclasses.dataclass(frozen=True)
class SampleBlock:
    """A block of a layer's weights, `side` inputs times as many outputs, and the points that go by at a time."""

    side: int
    depth: int
    warps: int
    stages: int


# Of points, and of samples of many points. Points take a third product, for which four warps have no registers.
POINTS: dict[str, SampleBlock] = {
    "bf16": SampleBlock(64, 64, 8, 3),
    "fp16": SampleBlock(64, 64, 8, 2),
    "tf32": SampleBlock(64, 32, 8, 3),
    "ieee": SampleBlock(32, 16, 4, 3),
}
SAMPLES: dict[str, SampleBlock] = {
    "bf16": SampleBlock(64, 64, 4, 3),
    "fp16": SampleBlock(64, 64, 4, 3),
    "tf32": SampleBlock(64, 32, 4, 3),
    "ieee": SampleBlock(32, 16, 4, 3),
}
ANY_DEPTH = 32  # at most, of the kernels for any width: samples of half types would spill 264 bytes at 64
CHUNKS = 512  # of all modules together, about
REDUCED_CHUNKS, REDUCED = 8, 512  # chunks and parameters that a reduction takes at a time


def sweep_shapes(kind: str, net: Network, blackwell: bool) -> ShapePair | None:
    """Return the tiles of the sweep through a network; None if it goes layer by layer.

    Blackwell's matrix instructions put the products of 64 rows and more in a tensor memory of 512 columns, and Triton
    gives every product of the sweep columns of its own: tiles stay below that there. Without such instructions it
    spills 192 bytes there, so that it goes layer by layer.
    """
    shapes = SWEEP.get((kind, max(net.widest, 64), bool(net.skips) and padded(net.features) > 64))
    if shapes is None or not blackwell:
        return shapes
    if kind == "ieee":
        return None
    return (Shape(32, 8), shapes[1]) if shapes[0].rows >= 64 else shapes
