"""The learned encodings as plain data: grids of feature vectors that are interpolated at a point.

A grid has a table of entries per module, a parameter of the bank beside the network's weights. This module only knows
the positions of its nodes and the entry of each; `ops.grid_encode` looks them up.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

from mclnf_fast.encodings import Composite, Encoding, Identity, check_size
from mclnf_fast.packing import (
    LIMITS,
    EncodingPart,
    GridHeader,
    GridLevelHeader,
    GridPlacement,
    GridReduction,
    GridTable,
    Interpolation,
)

INTERPOLATIONS = tuple(interpolation.name.lower() for interpolation in Interpolation)
"""How a level is read between its nodes; the position in this tuple is the number in the compiled kernels."""

REDUCTIONS = ("sum", "concat", "product")
"""How the three maps of a tri-plane become one vector of features."""

PRIMES = (1, 2654435761, 805459861, 3674653429)
"""The factor of each coordinate in the hash of instant-NGP (arXiv 2201.05989, eq. 4)."""

_MOST_CELLS = 1 << 20  # a float32 coordinate still has 4 bits within a cell


class GridLevel(NamedTuple):
    """One level: `cells` cells, so `cells + 1` nodes, along each of the coordinates `axes`.

    Its nodes' entries are `first` ... `first + entries - 1` of the table: dense (the first axis fastest), or hashed.
    Of half cells, a point x lies at `(x - low) scale + 1/2`, and the places of nodes are taken modulo the entries.
    """

    cells: int
    first: int
    entries: int
    hashed: bool
    axes: tuple[int, ...]
    scale: float = 0.0

    @property
    def strides(self) -> tuple[int, ...]:
        """The factor of each axis' index in a node's place: of the hash, or of the dense order.

        Of a dense order with more nodes than 32 bits count, 0 (as tiny-cuda-nn).
        """
        count = len(self.axes)
        if self.hashed:
            return PRIMES[:count]
        nodes = self.cells + 1
        return tuple(nodes**a if nodes**count < 1 << 32 else 0 for a in range(count))


class GridLayout(NamedTuple):
    """A grid over a given number of coordinates.

    Attributes:
        levels: in order.
        entries, features: the shape of a module's table.
        together: whether the levels' features are added up; else they stand side by side.
        interpolation: how a level is read between its nodes.
        half_cell: whether the nodes lie half a cell off the border of the box, and go round beyond it.
        packed: the description that the compiled ops take (`mclnf_fast.packing.GridHeader` and what follows it).
    """

    levels: tuple[GridLevel, ...]
    entries: int
    features: int
    together: bool
    interpolation: Interpolation
    half_cell: bool
    packed: tuple[list[int], list[float]]


class Grid(Encoding):
    """Base of the grids. Coordinates outside [low, high] are read at the border; there the gradient in x is 0."""

    features: int
    low: float
    high: float
    _layouts: ClassVar[dict[int, GridLayout]]

    def layout(self, in_dim: int) -> GridLayout:
        """Return the levels over `in_dim` coordinates. Raises ValueError if the grid can't have that many."""
        if in_dim not in self._layouts:
            can = " or ".join(map(str, self._layouts))
            raise ValueError(f"{type(self).__name__}: needs {can} coordinates, got {in_dim}")
        layout = self._layouts[in_dim]
        largest = max(level.entries for level in layout.levels) * self.features
        if largest >= 1 << 32:  # the kernels' places in a level have 32 bits
            raise ValueError(f"{type(self).__name__}: a level's table must have fewer than 2^32 numbers, got {largest}")
        return layout

    def parts(self, start: int, in_dim: int) -> tuple[EncodingPart, ...]:
        raise ValueError(f"{type(self).__name__} is learned and is no part of the fused network: use FieldSpec.mlp")

    def _check_box(self, owner: str) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{owner}: {name} must be a finite number, got {value!r}")
        if not self.low < self.high:
            raise ValueError(f"{owner}: low must be below high, got {self.low!r} and {self.high!r}")

    def _layout_of(
        self,
        in_dim: int,
        levels: list[GridLevel],
        interpolation: Interpolation,
        together: bool,
        half_cell: bool = False,
    ) -> GridLayout:
        reduction = GridReduction.SUM if together else GridReduction.CONCAT
        placement = GridPlacement.HALF_CELL if half_cell else GridPlacement.BORDER
        axes = len(levels[0].axes)
        header = GridHeader(in_dim, axes, self.features, interpolation, reduction, len(levels), placement)
        ints = [int(value) for value in header]
        for level in levels:
            table = GridTable.HASHED if level.hashed else GridTable.DENSE
            ints += [int(value) for value in (*GridLevelHeader(level.cells, level.entries, table), *level.axes)]
        floats = [float(self.low), float(self.high), *(level.scale for level in levels if half_cell)]
        entries = levels[-1].first + levels[-1].entries
        return GridLayout(tuple(levels), entries, self.features, together, interpolation, half_cell, (ints, floats))


@dataclasses.dataclass(frozen=True)
class HashGrid(Grid):
    """Multiresolution hash grid of instant-NGP (arXiv 2201.05989) on 1 to 4 coordinates: `levels * features` features.

    Level l has `floor(base * growth^l)` cells along each coordinate, hence one node more; its features are
    interpolated between the 2^d nodes around the point and stand at l * features of the result. A level whose nodes
    fit into `2^log2_size` entries has one entry a node (the first coordinate fastest); a finer one shares that many
    entries by the paper's spatial hash (xor of the node's indices times `PRIMES`, modulo the size).

    Args:
        levels, features: number of levels, and of features per level and entry.
        log2_size: a level has at most 2^log2_size entries.
        base: cells of the coarsest level.
        growth: factor from level to level, at least 1; or
        finest: cells of the finest level, from which the factor follows. Neither: finest = 2048.
        interpolation: "linear"; "smoothstep" (3 t^2 - 2 t^3 in place of t: continuous gradients, as normals need); or
            "nearest" (the nearest node's entry; no gradient in x).
        low, high: the box that the grid covers, in every coordinate. The default is that of a cell's local coordinates,
            [-1, 1]; the paper's is [0, 1]. Points outside are read at the border.

    Example:
        >>> grid = HashGrid(levels=2, features=4, base=8, finest=16)
        >>> grid.cells, grid.out_dim(3), grid.layout(3).entries
        ((8, 16), 8, 5642)
    """

    levels: int = 16
    features: int = 2
    log2_size: int = 19
    base: int = 16
    growth: float | None = None
    finest: int | None = None
    interpolation: str = "linear"
    low: float = -1.0
    high: float = 1.0
    _cells: ClassVar[tuple[int, ...]]

    def __post_init__(self) -> None:
        for name in ("levels", "features", "log2_size", "base"):
            check_size("HashGrid", name, getattr(self, name))
        for name, most in (("levels", LIMITS["grid_levels"]), ("features", LIMITS["grid_features"]), ("log2_size", 30)):
            if getattr(self, name) > most:
                raise ValueError(f"HashGrid: {name} must be at most {most}, got {getattr(self, name)}")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"HashGrid: interpolation must be one of {known}, got {self.interpolation!r}")
        self._check_box("HashGrid")
        object.__setattr__(self, "_cells", self._find_cells())
        # Computed once and here, as in FieldSpec: work that a call does not do can't stop torch.compile.
        object.__setattr__(self, "_layouts", {d: self._find_layout(d) for d in range(1, LIMITS["grid_axes"] + 1)})

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells along a coordinate, of each level."""
        return self._cells

    def _find_cells(self) -> tuple[int, ...]:
        growth, last = self.growth, max(self.levels - 1, 1)
        if growth is not None:
            if self.finest is not None:
                raise ValueError(f"HashGrid: give growth or finest, not both, got {growth!r} and {self.finest!r}")
            if isinstance(growth, bool) or not isinstance(growth, (int, float)) or not 1 <= growth < math.inf:
                raise ValueError(f"HashGrid: growth must be a finite number of at least 1, got {growth!r}")
            rate = math.log(growth)
        else:
            finest = max(2048, self.base) if self.finest is None else self.finest
            check_size("HashGrid", "finest", finest, least=self.base)
            if self.levels == 1 and self.finest not in (None, self.base):
                raise ValueError(f"HashGrid: finest must be base = {self.base} with one level, got {finest}")
            rate = math.log(finest / self.base) / last
        if math.log(self.base) + rate * (self.levels - 1) > math.log(_MOST_CELLS) + 1e-9:
            raise ValueError(
                f"HashGrid: the finest level must have at most {_MOST_CELLS} cells, got more (growth, finest)"
            )
        # The small number: a power that is a whole number may come out one rounding below it.
        return tuple(math.floor(self.base * math.exp(rate * l) * (1 + 1e-12)) for l in range(self.levels))

    def _find_layout(self, in_dim: int) -> GridLayout:
        levels, first, size = [], 0, 1 << self.log2_size
        for cells in self._cells:
            nodes = (cells + 1) ** in_dim
            levels.append(GridLevel(cells, first, min(nodes, size), nodes > size, tuple(range(in_dim))))
            first += levels[-1].entries
        kind = Interpolation(INTERPOLATIONS.index(self.interpolation))
        return self._layout_of(in_dim, levels, kind, together=False)

    def out_dim(self, in_dim: int) -> int:
        self.layout(in_dim)
        return self.levels * self.features


@dataclasses.dataclass(frozen=True)
class TriPlane(Grid):
    """Three feature maps, over (x, y), (x, z) and (y, z), read bilinearly at a point (arXiv 2112.07945).

    A map has `resolution` x `resolution` nodes with the first and the last on the border of the box
    (`align_corners=True` and `padding_mode="border"` of `torch.nn.functional.grid_sample`). The table holds the maps
    one after another, each row by row (its first coordinate fastest), the features of a node side by side:
    [3 * resolution^2, features].

    Args:
        features: of a map, and of the result; of the result 3 * features if the maps are concatenated.
        resolution: nodes along a coordinate, at least 2.
        reduce: "sum" of the maps, "concat", or "product" (as K-Planes, arXiv 2301.10241).
        low, high: the box that the maps cover, in every coordinate; [-1, 1] is that of a cell's local coordinates.

    Example:
        >>> TriPlane(features=8, resolution=16, reduce="concat").out_dim(3)
        24
    """

    features: int = 32
    resolution: int = 128
    reduce: str = "sum"
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_size("TriPlane", "features", self.features)
        check_size("TriPlane", "resolution", self.resolution, least=2)
        for name, most in (("features", LIMITS["grid_features"]), ("resolution", 1 << 14)):
            if getattr(self, name) > most:
                raise ValueError(f"TriPlane: {name} must be at most {most}, got {getattr(self, name)}")
        if self.reduce not in REDUCTIONS:
            raise ValueError(f"TriPlane: reduce must be one of {', '.join(REDUCTIONS)}, got {self.reduce!r}")
        self._check_box("TriPlane")
        nodes = self.resolution**2
        pairs = ((0, 1), (0, 2), (1, 2))
        levels = [GridLevel(self.resolution - 1, k * nodes, nodes, False, axes) for k, axes in enumerate(pairs)]
        object.__setattr__(
            self, "_layouts", {3: self._layout_of(3, levels, Interpolation.LINEAR, self.reduce == "sum")}
        )

    def out_dim(self, in_dim: int) -> int:
        self.layout(in_dim)
        return self.features * (3 if self.reduce == "concat" else 1)


class GridPart(NamedTuple):
    """A grid of a field: it reads `dims` coordinates from `start` on."""

    encoding: Grid
    start: int
    dims: int


def grids_of(encoding: Encoding, in_dim: int, start: int = 0) -> tuple[GridPart, ...]:
    """Return the grids within an encoding of `in_dim` coordinates, in the order of their coordinates.

    >>> [part.start for part in grids_of(Composite(((Identity(), 1), (TriPlane(), 3))), 4)]
    [1]
    """
    if isinstance(encoding, Grid):
        return (GridPart(encoding, start, in_dim),)
    grids: list[GridPart] = []
    if isinstance(encoding, Composite):
        for inner, dims in encoding.items:
            grids.extend(grids_of(inner, dims, start))
            start += dims
    return tuple(grids)


def without_grids(encoding: Encoding, in_dim: int) -> tuple[Encoding, int]:
    """Return the encoding with every grid replaced by the identity of its features, and its number of coordinates then.

    >>> without_grids(TriPlane(features=8), 3)
    (Identity(), 8)
    """
    if isinstance(encoding, Grid):
        return Identity(), encoding.out_dim(in_dim)
    if isinstance(encoding, Composite):
        items = tuple(without_grids(inner, dims) for inner, dims in encoding.items)
        return Composite(items), sum(dims for _, dims in items)
    return encoding, in_dim
