"""Shapes of the kernels' tiles, by architecture, kind of product and padded width.

Each entry compiles for its architecture within the spills that `tests/ops/test_triton_compile.py` allows; none has been
timed on a GPU yet. `mclnf-fast tune` times them on the present GPU and saves the fastest in a file, which `tiles.py`
takes instead. Another table may give other bits: sums are cut at the tiles. One table gives the same bits in every run.
"""

from __future__ import annotations

import dataclasses

import torch

from mclnf_fast.ops.triton.launch import Network, padded

SMALL_TILE = 16  # rows of the smallest tile that a matrix instruction takes


@dataclasses.dataclass(frozen=True)
class Shape:
    """Points per tile, warps per program, stages of software pipelining."""

    rows: int
    warps: int
    stages: int = 1

    @property
    def warp_group(self) -> bool:
        """Whether Hopper's warp-group matrix instructions take it: they multiply 64 rows."""
        return self.rows >= 64 and self.warps % 4 == 0


TENSOR_COLUMNS = 512  # of Blackwell's tensor memory

ShapePair = tuple[Shape, Shape]
Limited = tuple[tuple[Shape, int], tuple[Shape, int]]
TileKey = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The shapes of one architecture.

    forward: (kind of product, padded width) -> the tile of large modules and that of small ones. A missing network goes
    layer by layer, because it does not fit the registers. backward: with the columns of activations
    (`launch.Network.saved`) up to which each tile is taken, since the backward holds them all. layer: the tile of the
    kernels that go layer by layer, with the columns and the depth of their blocks. weight_gradient: by kind, the side
    of the blocks and the points that go by at a time: without matrix instructions each thread holds a share of both
    factors as well.
    """

    forward: dict[TileKey, ShapePair]
    backward: dict[TileKey, Limited]
    layer: Shape
    columns: int
    depth: int
    weight_gradient: dict[str, tuple[int, int]]

    def forward_shapes(self, kind: str, width: int) -> ShapePair | None:
        """Return the tiles of the fused forward at a padded width (the largest of the network's, the features' and the
        outputs'), None if there are none."""
        return self.forward.get((kind, max(width, 64)))

    def backward_shapes(self, kind: str, width: int, saved: int) -> ShapePair | None:
        """Return the tiles of the fused backward that holds this many columns of activations; None if there are
        none."""
        entry = self.backward.get((kind, max(width, 64)))
        if entry is None:
            return None
        (large, most), (small, more) = entry
        if saved > max(most, more):
            return None
        return (large if saved <= most else small, small)


FORWARD: dict[TileKey, ShapePair] = {
    ("half", 64): (Shape(128, 8), Shape(SMALL_TILE, 4)),
    ("half", 128): (Shape(128, 8), Shape(SMALL_TILE, 8)),
    ("tf32", 64): (Shape(64, 4), Shape(SMALL_TILE, 4)),
    ("tf32", 128): (Shape(SMALL_TILE, 8), Shape(SMALL_TILE, 8)),
    ("ieee", 64): (Shape(SMALL_TILE, 8), Shape(SMALL_TILE, 8)),
}
BACKWARD: dict[TileKey, Limited] = {
    ("half", 64): ((Shape(32, 8), 320), (Shape(SMALL_TILE, 8), 640)),
    ("half", 128): ((Shape(SMALL_TILE, 8), 576), (Shape(SMALL_TILE, 8), 576)),
    ("tf32", 64): ((Shape(SMALL_TILE, 4), 384), (Shape(SMALL_TILE, 4), 384)),
}
# Of the walk forward and back: the tile of large modules and that of small ones; a missing network goes layer by layer.
# Last: whether more than 64 features come in again behind a hidden layer. `tune` does not time these.
WALK: dict[tuple[str, int, bool], ShapePair] = {
    ("half", 64, False): (Shape(128, 8), Shape(SMALL_TILE, 4)),
    ("half", 128, False): (Shape(64, 8), Shape(SMALL_TILE, 8)),
    ("half", 128, True): (Shape(32, 8), Shape(SMALL_TILE, 8)),
    ("tf32", 64, False): (Shape(64, 4), Shape(SMALL_TILE, 4)),
    ("tf32", 128, False): (Shape(32, 8), Shape(SMALL_TILE, 8)),
    ("tf32", 128, True): (Shape(SMALL_TILE, 8), Shape(SMALL_TILE, 8)),
    ("ieee", 64, False): (Shape(SMALL_TILE, 8), Shape(SMALL_TILE, 8)),
}
# Without warp-group instructions 64 rows spill 184 bytes, and take a tenth more instructions per point.
AMPERE_WALK: dict[tuple[str, int, bool], ShapePair] = {("tf32", 64, False): (Shape(32, 4), Shape(SMALL_TILE, 4))}
LAYER = Shape(64, 4, 3)
LAYER_COLUMNS, LAYER_DEPTH = 64, 32
WEIGHT_GRADIENT = {"half": (64, 32), "tf32": (64, 32), "ieee": (32, 16)}
# Of the second derivatives, one layer at a time: points per tile, and the depth that a product goes by.
SECOND = {"half": (64, 32), "tf32": (64, 32), "ieee": (32, 16)}

AMPERE = Tiles(FORWARD, BACKWARD, LAYER, LAYER_COLUMNS, LAYER_DEPTH, WEIGHT_GRADIENT)
# 64 rows for the warp-group instructions, with fewer spills than 32 rows have without them.
HOPPER = dataclasses.replace(AMPERE, forward={**FORWARD, ("tf32", 128): (Shape(64, 8), Shape(SMALL_TILE, 8))})
TABLES: dict[int, Tiles] = {80: AMPERE, 90: HOPPER, 100: AMPERE}
"""By compute capability times 10. One that is not here takes the nearest older one's; the interpreter, sm_80's."""


def product_kind(dtype: torch.dtype, tf32: bool) -> str:
    """Return `half`, `tf32` or `ieee`: the numbers that the matrix instructions work on."""
    return "half" if dtype != torch.float32 else "tf32" if tf32 else "ieee"


def built_in(arch: int) -> Tiles:
    """Return the table of an architecture, or the nearest older one's."""
    return TABLES[max((known for known in TABLES if known <= arch), default=min(TABLES))]


def in_tensor_memory(shapes: ShapePair | None, columns: int, arch: int) -> ShapePair | None:
    """Return the forward's tiles with which an architecture can hold its products, of `columns` columns in all.

    Data-center Blackwell's matrix instructions (compute capability 10 and 11) put the products of 64 rows and more in a
    tensor memory of 512 columns. Triton gives every product of the forward columns of its own, and compiles a kernel
    that wants more to a trap: tiles of deeper networks stay below 64 rows, whose products are in registers.
    """
    if shapes is None or not 100 <= arch < 120 or columns <= TENSOR_COLUMNS:
        return shapes
    large, small = shapes
    return (dataclasses.replace(large, rows=min(large.rows, 32)), small)


def walk_shapes(kind: str, net: Network, arch: int) -> ShapePair | None:
    """Return the tiles of the walk through a network on an architecture; None if it goes layer by layer.

    Blackwell's matrix instructions put the products of 64 rows and more in a tensor memory of 512 columns, and Triton
    gives every product of the walk columns of its own: tiles stay below that there. Without such instructions it
    spills 192 bytes there, so that it goes layer by layer.
    """
    entry = kind, max(net.widest, 64), bool(net.skips) and padded(net.features) > 64
    shapes = WALK.get(entry)
    if arch < 90:
        return AMPERE_WALK.get(entry, shapes)
    if shapes is None or not 100 <= arch < 120:
        return shapes
    if kind == "ieee":
        return None
    return (Shape(32, 8), shapes[1]) if shapes[0].rows >= 64 else shapes
