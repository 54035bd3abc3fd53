"""Grids for the tests of the op: tables of a sensible size, points inside and outside the box, and how to run them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.grids import Grid

# Small tables: some levels are dense, the finer ones hashed.
GRIDS: dict[str, tuple[int, Grid]] = {
    "hash_1d": (1, mf.HashGrid(3, 2, 4, base=3, growth=2.0)),
    "hash_2d": (2, mf.HashGrid(3, 4, 6, base=3, growth=2.0, low=0.0)),
    "hash_3d": (3, mf.HashGrid(4, 2, 8, base=3, finest=17)),
    "hash_3d_of_1": (3, mf.HashGrid(3, 1, 7, base=2, growth=1.5, low=-2.0, high=1.5)),
    "hash_4d": (4, mf.HashGrid(2, 3, 7, base=2, growth=2.0)),
    "smooth_2d": (2, mf.HashGrid(3, 2, 6, base=3, growth=2.0, interpolation="smoothstep")),
    "smooth_3d": (3, mf.HashGrid(3, 11, 8, base=3, growth=2.0, interpolation="smoothstep", low=0.0)),
    "nearest_3d": (3, mf.HashGrid(3, 2, 8, base=3, growth=2.0, interpolation="nearest")),
    "plane_sum": (3, mf.TriPlane(5, 4)),
    "plane_concat": (3, mf.TriPlane(8, 5, "concat", low=0.0)),
    "plane_product": (3, mf.TriPlane(3, 4, "product")),
    "plane_wide": (3, mf.TriPlane(43, 3, "sum")),
}


@dataclasses.dataclass
class Case:
    """One grid, the tables of its modules and their points."""

    grid: Grid
    x: Tensor
    offsets: Tensor
    tables: Tensor

    def run(self, backend: str = "auto") -> Tensor:
        return mf.ops.grid_encode(self.x, self.offsets, self.tables, self.grid, backend=backend)

    def to(self, dtype: torch.dtype) -> Case:
        return Case(self.grid, self.x.detach().to(dtype), self.offsets, self.tables.detach().to(dtype))

    def require(self, x: bool = True, tables: bool = True) -> Case:
        self.x.requires_grad_(x)
        self.tables.requires_grad_(tables)
        return self

    @property
    def leaves(self) -> list[Tensor]:
        return [t for t in (self.x, self.tables) if t.requires_grad]


def make(
    name: str, counts: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 0, spread: float = 1.2
) -> Case:
    """`counts[m]` points for module m, uniform in the box grown `spread` times about its center."""
    dims, grid = GRIDS[name]
    g = torch.Generator().manual_seed(seed)
    layout = grid.layout(dims)
    tables = torch.randn(len(counts), layout.entries, layout.features, dtype=torch.float64, generator=g)
    unit = torch.rand(sum(counts), dims, dtype=torch.float64, generator=g) * 2 - 1
    x = (grid.low + grid.high) / 2 + unit * (spread * (grid.high - grid.low) / 2)
    return Case(grid, x.to(dtype), torch.tensor([0, *counts]).cumsum(0), tables.to(dtype))


def gradients(case: Case, backend: str, second: bool = False) -> list[Tensor]:
    """Gradients of a loss in x and tables, or of a function of those gradients (as normals need)."""
    y = case.require().run(backend)
    factor = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    grads = torch.autograd.grad((y * factor).sin().sum(), case.leaves, create_graph=second)
    if second:
        total = sum((g.square() * (k + 1)).sum() for k, g in enumerate(grads))
        grads = torch.autograd.grad(total, case.leaves)
    return list(grads)
