"""The grids of tiny-cuda-nn as plain data: sizes and scales of their levels, rounded where it rounds them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mclnf_fast.grids import INTERPOLATIONS, Grid, GridLayout, GridLevel
from mclnf_fast.packing import Interpolation

KINDS = ("Hash", "Dense", "Tiled")
DIMS = (2, 3, 4)

_MOST_NODES = 1 << 30  # along a coordinate
_MOST_ENTRIES = 1 << 30  # of a level


def _rounded(value: float) -> float:
    return float(np.float32(value))


@dataclasses.dataclass(frozen=True)
class HalfCellGrid(Grid):
    """A multiresolution grid on [0, 1]^d whose nodes lie half a cell off the border, d = 2, 3 or 4.

    Level l has the scale `growth^l base - 1` in float32 and `resolution = ceil(scale) + 1` nodes along a coordinate; a
    point lies at `x scale + 1/2`. A level has `resolution^d` entries, rounded up to a multiple of 8 ("Dense"); of these
    at most 2^log2_size ("Hash") or base^d ("Tiled"). A node's place is `sum_a i_a resolution^a` modulo the entries, of
    a hash level with more nodes than entries the hash of instant-NGP. Outside [0, 1] places go round.

    Args:
        kind: one of `KINDS`.
        levels, features: number of levels, and of features per level and entry.
        log2_size, base, growth: see above.
        interpolation: one of `mclnf_fast.grids.INTERPOLATIONS`.

    Example:
        >>> grid = HalfCellGrid("Hash", levels=2, features=2, log2_size=12, base=16, growth=2.0)
        >>> [(level.cells + 1, level.entries, level.hashed) for level in grid.layout(3).levels]
        [(16, 4096, False), (32, 4096, True)]
    """

    kind: str
    levels: int
    features: int
    log2_size: int
    base: int
    growth: float
    interpolation: str = "linear"
    low: float = dataclasses.field(default=0.0, init=False)
    high: float = dataclasses.field(default=1.0, init=False)

    def __post_init__(self) -> None:
        interpolation = Interpolation(INTERPOLATIONS.index(self.interpolation))
        layouts = {d: self._layout_of(d, self._find_levels(d), interpolation, False, half_cell=True) for d in DIMS}
        object.__setattr__(self, "_layouts", layouts)

    def _find_scales(self) -> list[float]:
        # Each operation is rounded to float32: a number of nodes, and with it the size of the table, can hang on it.
        log2_growth = _rounded(math.log2(_rounded(self.growth)))
        scales = []
        for level in range(self.levels):
            exponent = _rounded(level * log2_growth)
            scale = math.inf if exponent > 64 else _rounded(_rounded(_rounded(2.0**exponent) * self.base) - 1.0)
            if not 0 <= scale < _MOST_NODES:
                raise ValueError(
                    f"encoding_config: base_resolution and per_level_scale must give every level 1 to {_MOST_NODES} "
                    f"nodes along a coordinate, got {self.base} and {self.growth:g}: {scale + 1:g} on level {level}"
                )
            scales.append(scale)
        return scales

    def _find_levels(self, dims: int) -> list[GridLevel]:
        levels, first = [], 0
        for scale in self._find_scales():
            resolution = math.ceil(scale) + 1
            nodes = resolution**dims
            entries = -(-min(nodes, 2**31) // 8) * 8
            if self.kind == "Hash":
                entries = min(entries, 1 << self.log2_size)
            elif self.kind == "Tiled":
                entries = min(entries, self.base**dims)
            hashed = self.kind == "Hash" and nodes > entries
            levels.append(GridLevel(resolution - 1, first, entries, hashed, tuple(range(dims)), scale))
            first += entries
        return levels

    def layout(self, in_dim: int) -> GridLayout:
        layout = super().layout(in_dim)
        for level in layout.levels:
            if level.entries > _MOST_ENTRIES:
                raise ValueError(
                    f"encoding_config: a level must have at most {_MOST_ENTRIES} entries, got {level.entries}: "
                    f"{level.cells + 1} nodes along each of {in_dim} coordinates"
                )
        return layout

    def out_dim(self, in_dim: int) -> int:
        self.layout(in_dim)
        return self.levels * self.features
