"""A whole training step of a bank on given samples: encoding, network, squared error, backward and Adam.

Shapes: those of the bank, equal shares. What is checked are the parameters after a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf
from benchmarks.contender import Contender, Outputs
from benchmarks.correctness import joined
from benchmarks.work.bank import Bank
from mclnf_fast.learn import BankOptimizer
from mclnf_fast.ops.bank_mlp import reference

LR = 1e-3
CHECKED = 3  # steps

Loss = Callable[[Sequence[Tensor]], Tensor]
"""The sum of the modules' losses, of leaves: weights, then biases."""


class TrainStep(Bank):
    """x [M, n, in_dim] and target [M, n, out_dim], the same in every step."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        super().__init__(op, shapes, device)
        self.shares = self.x.view(self.modules, -1, self.spec.in_dim)
        self.target = self.grad_y.view(self.modules, -1, self.spec.out_dim)
        # Adam's first steps have the full length whatever the gradient: where one is 0 but for rounding, they differ.
        self.tolerance = {"": 1e-2}

    def bank(self) -> mf.FieldBank:
        """Return the problem's parameters as a bank of their own."""
        bank = mf.FieldBank(self.spec, self.modules, self.dtype, self.device)
        with torch.no_grad():
            for p, q in zip(bank.stacked, (*self.weights, *self.biases), strict=True):
                p.copy_(q)
        return bank

    def ours(self) -> list[Contender]:
        return [
            self.of_bank("ours", lambda bank: mf.optim.Adam(bank, lr=LR), self.fused),
            self.handed("ours, op by op"),
            self.of_bank(
                "FieldBank, Adam fused",
                lambda bank: torch.optim.Adam(bank.parameters(), lr=LR, fused=True),
                lambda bank: (bank(self.shares) - self.target).square().mean((1, 2)).sum(),
            ),
        ]

    def fused(self, bank: mf.FieldBank) -> Tensor:
        """Return the loss as users of `bank.mse` take it."""
        return bank.mse(self.shares, self.target).sum()

    def of_bank(
        self, name: str, optimizer_of: Callable[[mf.FieldBank], Any], loss_of: Callable[[mf.FieldBank], Tensor]
    ) -> Contender:
        """Return steps of a `FieldBank` by an optimizer of its gradients."""

        def make() -> tuple[Sequence[Tensor], Callable[[], None]]:
            bank = self.bank()
            optimizer = optimizer_of(bank)

            def step() -> None:
                optimizer.zero_grad()
                loss_of(bank).backward()
                optimizer.step()

            return bank.stacked, step

        return self.stepped(name, make)

    def handed(self, name: str) -> Contender:
        """Return steps by the ops, gradients handed from one to the other."""
        layers = len(self.weights)

        def make() -> tuple[Sequence[Tensor], Callable[[], None]]:
            leaves = [t.clone().requires_grad_() for t in (*self.weights, *self.biases)]
            optimizer = BankOptimizer(tuple(leaves), lr=LR)

            def step() -> None:
                weights, biases = leaves[:layers], leaves[layers:]
                loss = mf.ops.bank_mse(self.x, self.offsets, weights, biases, self.grad_y, self.spec)
                optimizer.step(torch.autograd.grad(loss.sum(), leaves))

            return leaves, step

        return self.stepped(name, make)

    def of_leaves(self, name: str, loss: Loss) -> Contender:
        """Return steps of torch's fused Adam on a loss of weights and biases."""

        def make() -> tuple[Sequence[Tensor], Callable[[], None]]:
            leaves = [t.clone().requires_grad_() for t in (*self.weights, *self.biases)]
            optimizer = torch.optim.Adam(leaves, lr=LR, fused=True)

            def step() -> None:
                optimizer.zero_grad()
                loss(leaves).backward()
                optimizer.step()

            return leaves, step

        return self.stepped(name, make)

    def stepped(self, name: str, make: Callable[[], tuple[Sequence[Tensor], Callable[[], None]]]) -> Contender:
        """Return a contender of which `make` gives fresh parameters and what makes a step."""
        _, run = make()

        def check() -> Outputs:
            params, step = make()
            for _ in range(CHECKED):
                step()
            return joined("parameters", [p.detach() for p in params])

        return Contender(name, run, check=check)

    def truth(self) -> Outputs:
        leaves = [t.double().requires_grad_() for t in (*self.weights, *self.biases)]
        layers, optimizer = len(self.weights), torch.optim.Adam(leaves, lr=LR)
        x, target = self.shares.double(), self.target.double()
        for _ in range(CHECKED):
            y = reference.mlp(x, leaves[:layers], leaves[layers:], self.spec)
            optimizer.zero_grad()
            (y - target).square().mean((1, 2)).sum().backward()
            optimizer.step()
        return joined("parameters", [t.detach() for t in leaves])


WORK = TrainStep
