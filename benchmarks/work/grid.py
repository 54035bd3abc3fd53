"""Grid encodings: `grid`, forward; `grid_backward`, with the gradients of the tables and of x.

Shapes: points, modules; kind, `hash` (levels, features, log2_size) or `triplane` (resolution, features).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf
from benchmarks.contender import Contender, Outputs
from benchmarks.work import Work
from benchmarks.work.bank import IN_DIM


class Grid(Work):
    """x [N, 3] in the grid's box, tables [M, entries, features], grad_y [N, features out]."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        made: Any = vars(mf)
        if shapes["kind"] == "hash":
            self.encoding = made["HashGrid"](
                levels=int(shapes["levels"]), features=int(shapes["features"]), log2_size=int(shapes["log2_size"])
            )
        else:
            self.encoding = made["TriPlane"](features=int(shapes["features"]), resolution=int(shapes["resolution"]))
        self.backward = op == "grid_backward"
        self.points, modules = int(shapes["points"]), int(shapes["modules"])
        generator = torch.Generator().manual_seed(0)
        layout = self.encoding.layout(IN_DIM)
        low, high = self.encoding.low, self.encoding.high
        self.x = (torch.rand(self.points, IN_DIM, generator=generator) * (high - low) + low).to(device)
        self.offsets = torch.arange(modules + 1, device=device) * (self.points // modules)
        self.tables = torch.randn(modules, layout.entries, layout.features, generator=generator).to(device)
        self.grad_y = torch.randn(self.points, self.encoding.out_dim(IN_DIM), generator=generator).to(device)
        # Rounding moves a coordinate by 1e-4 of a cell of the finest level, and now and then across a node.
        self.tolerance = {"y": 1e-3, "tables": 1e-2, "x": 5e-2}

    def own(self, name: str, backend: str = "auto", dtype: torch.dtype = torch.float32) -> Contender:
        """Return the op as a caller of `mf.ops.grid_encode` meets it."""
        encode: Any = vars(mf.ops)["grid_encode"]
        x, tables, grad_y = (t.to(dtype) for t in (self.x, self.tables, self.grad_y))
        if not self.backward:

            def forward() -> Tensor:
                with torch.no_grad():
                    found: Tensor = encode(x, self.offsets, tables, self.encoding, backend)
                return found

            return Contender(name, forward, lambda y: {"y": y})
        leaves = (x.clone().requires_grad_(), tables.clone().requires_grad_())

        def gradients() -> tuple[Tensor, ...]:
            y = encode(leaves[0], self.offsets, leaves[1], self.encoding, backend)
            return torch.autograd.grad(y, leaves, grad_y)

        return Contender(name, gradients, lambda found: {"x": found[0], "tables": found[1]})

    def ours(self) -> list[Contender]:
        return [self.own("ours")]

    def truth(self) -> Outputs:
        return self.own("", "reference", torch.float64).values()


WORK = Grid
