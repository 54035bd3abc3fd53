"""One step of Adam over all parameters of a bank (`bank_step`). Shapes: those of the bank, points aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.contender import Contender, Outputs
from benchmarks.correctness import joined
from benchmarks.work.bank import Bank
from mclnf_fast.learn import BankOptimizer

LR = 1e-3
STEPS = 3  # that are compared


class Optimizer(Bank):
    """Parameters [M, ...] and gradients like them; every step is made with the same gradients."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        super().__init__(op, {**shapes, "points": 0}, device)
        generator = torch.Generator().manual_seed(4)
        self.start = [*self.weights, *self.biases]
        self.grads = [torch.randn(t.shape, generator=generator).to(t) for t in self.start]
        parameters = sum(t.numel() for t in self.start)
        self.flops, self.points = None, parameters
        self.moved = 7.0 * parameters * self.start[0].element_size()  # p, g, m, v read; p, m, v written
        self.tolerance = {"": 1e-6}

    def leaves_with_gradients(self, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return fresh copies of the parameters, their `grad` set."""
        leaves = [t.to(dtype or t.dtype).clone().requires_grad_() for t in self.start]
        for leaf, grad in zip(leaves, self.grads):
            leaf.grad = grad.to(leaf.dtype)
        return leaves

    def contender(self, name: str, optimizer_of: Callable[[list[Tensor]], Any]) -> Contender:
        """Any optimizer with `step()`; `optimizer_of` makes one over leaves."""
        leaves = self.leaves_with_gradients()
        optimizer = optimizer_of(leaves)
        return Contender(
            name, lambda: optimizer.step(), check=lambda: self.stepped(optimizer_of, self.leaves_with_gradients())
        )

    def stepped(self, optimizer_of: Callable[[list[Tensor]], Any], leaves: list[Tensor]) -> Outputs:
        """Return parameters after `STEPS` steps."""
        optimizer = optimizer_of(leaves)
        for _ in range(STEPS):
            optimizer.step()
        return joined("parameters", leaves)

    def ours(self) -> list[Contender]:
        return [self.contender("ours", lambda leaves: BankOptimizer(tuple(leaves), lr=LR))]

    def truth(self) -> Outputs:
        return self.stepped(lambda leaves: torch.optim.Adam(leaves, lr=LR), self.leaves_with_gradients(torch.float64))


WORK = Optimizer
