"""What an optimizer step takes, at random, for its tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf

SHAPES = ((3, 5), (5, 4), (5,), (4,))


class State:
    """Parameters, gradients and the rest of what a step takes."""

    copies: list[Tensor]
    scale: Tensor | None

    def __init__(
        self, modules: int, shapes=SHAPES, dtype=torch.float32, kind: str = "adam", half: torch.dtype | None = None
    ) -> None:
        self.kind = kind
        self.params = [torch.randn(modules, *s, dtype=dtype) for s in shapes]
        self.grads = [torch.randn_like(p) for p in self.params]
        self.exp_avg = [torch.randn_like(p) * 0.1 for p in self.params] if kind == "adam" else []
        self.exp_avg_sq = [torch.rand_like(p) for p in self.params] if kind == "adam" else []
        self.step = torch.randint(0, 9, (modules,)).double()
        self.lr = torch.rand(modules, dtype=torch.float64) * 0.1
        self.trust = (0.7, [torch.rand_like(p) for p in self.params], [torch.randn_like(p) for p in self.params])
        self.copies, self.scale = [], None
        if half is not None:
            self.grads = [g.to(half) for g in self.grads]
            self.copies = [torch.full_like(p, 7.0, dtype=half) for p in self.params]
            self.scale = torch.exp2(torch.randint(-3, 4, (modules,)).double())

    @property
    def changed(self) -> list[Tensor]:
        return [*self.params, *self.exp_avg, *self.exp_avg_sq, self.step, *self.copies]

    def copy(self, dtype: torch.dtype | None = None) -> State:
        new = State(0, (), kind=self.kind)
        for name in ("params", "grads", "exp_avg", "exp_avg_sq"):
            setattr(new, name, [t.clone().to(dtype or t.dtype) for t in getattr(self, name)])
        new.step, new.lr = self.step.clone(), self.lr.clone()
        new.copies, new.scale = [t.clone() for t in self.copies], self.scale
        new.trust = (self.trust[0], *([t.to(dtype or t.dtype) for t in ts] for ts in self.trust[1:]))
        return new

    def run(self, backend: str = "auto", **options: Any) -> State:
        """One step with the state's own rates, unless told otherwise."""
        lr = options.pop("lr", self.lr)
        tensors = (self.params, self.grads, self.exp_avg, self.exp_avg_sq, self.step)
        halves = {"copies": self.copies, "scale": self.scale}
        mf.ops.bank_step(*tensors, lr, kind=self.kind, backend=backend, **halves, **options)
        return self

    def row(self, m: int) -> State:
        """Module m as a bank of its own."""
        new = self.copy()
        for name in ("params", "grads", "exp_avg", "exp_avg_sq"):
            setattr(new, name, [t[m : m + 1] for t in getattr(new, name)])
        new.step, new.lr = new.step[m : m + 1], new.lr[m : m + 1]
        new.trust = (new.trust[0], *([t[m : m + 1] for t in ts] for ts in new.trust[1:]))
        return new


def assert_same(a: State, b: State, **tolerance: float) -> None:
    for x, y in zip(a.changed, b.changed, strict=True):
        torch.testing.assert_close(x, y, **({"rtol": 0, "atol": 0} | tolerance))
