"""Tiles of rays, by kind of product and padded width.

Compiled ahead of time for sm_80, sm_90 and sm_100, with few spills (`tests/ops/test_triton_compile.py`); none has been
timed on a GPU yet. A missing entry goes op by op: exact float32 at width 128 spills half a kilobyte per thread in any
tile.
"""

from __future__ import annotations

from typing import NamedTuple

from mclnf_fast.ops.triton.table import Shape


class SceneConstants(NamedTuple):
    """The compile-time constants of a rendering beside its network's.

    Attributes:
        bins: equal bins of a ray; 0: bins of length `step`.
        levels: nested levels of the occupancy.
        x, y, z: cells of a level; x = 0: everything is occupied.
        background: 0: none, 1: one for all rays, 2: one per ray.
        last: whether the last sample of a ray stands behind everything.
        density, color: numbers of the activations.
    """

    bins: int
    levels: int
    x: int
    y: int
    z: int
    background: int
    last: bool
    density: int
    color: int


ALL, NONE = 80, 1000
# With the oldest architecture whose registers hold the features of a network that skips to them as well.
RENDER: dict[tuple[str, int], tuple[Shape, int]] = {
    ("half", 64): (Shape(128, 8), ALL),
    ("half", 128): (Shape(64, 8), 90),
    ("tf32", 64): (Shape(128, 8), 90),
    ("ieee", 64): (Shape(16, 8), NONE),
}
# Without warp-group instructions eight warps of 16 rows would work on 64 rows twice, and 128 rows spill 240 bytes in
# tf32 and 288 in half types.
AMPERE: dict[tuple[str, int], Shape] = {
    ("half", 64): Shape(32, 4),
    ("half", 128): Shape(64, 4),
    ("tf32", 64): Shape(32, 4),
}


def render_shape(kind: str, width: int, skips: bool, architecture: int) -> Shape | None:
    """Return the tile of the fused renderer at a padded width (the largest of the network's, the features' and the
    outputs'); None if the registers do not hold it.

    architecture: ten times the compute capability; of a CPU, where Triton interprets, the oldest.
    """
    entry = kind, max(width, 64)
    shape, oldest = RENDER.get(entry, (None, ALL))
    if skips and architecture < oldest:
        return None
    return AMPERE.get(entry, shape) if architecture < 90 else shape
