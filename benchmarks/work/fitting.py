"""Whole training loops of many small fields: draws, squared error, gradients and Adam, `steps` steps per call.

Shapes: those of the bank, with `samples` of each module (points counts them all), `batch` of a step, `steps` of a call
and `precision`, that of the operands of products ("fp32"; with the dtype tf32, "tf32"). All modules share their
coordinates. Everyone draws its own samples in its own way; what is checked are the parameters after a few steps on
given ones. Of `fit_guided`, Fisher-guided draws beside uniform ones, it is those of the first modules, and their
scores, after a few steps that each score their samples.
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
from mclnf_fast.ops.bank_fit import Draws, FitData, FitRule, FitState, Guide, GuideState, Schedule
from mclnf_fast.ops.bank_mlp import reference

LR = 1e-3
CHECKED = 3  # steps
SCORED = 8  # modules, which the definition goes through one by one
LOOPED = 256  # steps of a loop in Python that are timed on a GPU, where thousands take seconds


class Fit(Bank):
    """x [n, in_dim] of all modules, target [M, n, out_dim], ids [CHECKED, M, batch] of the steps that are checked."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        modules, self.samples = int(shapes["modules"]), int(shapes.get("samples", 16))
        super().__init__(op, {**shapes, "points": modules * self.samples}, device)
        self.batch, self.steps = min(int(shapes.get("batch", 8)), self.samples), int(shapes["steps"])
        self.coordinates = self.x[: self.samples]
        self.target = self.grad_y.view(modules, self.samples, -1)
        generator = torch.Generator().manual_seed(7)
        self.ids = torch.randint(self.samples, (CHECKED, modules, self.batch), generator=generator).to(device)
        # `flops` is of the bank's points: of a step there are `batch` per module.
        assert self.flops is not None
        share = 3 * sum(r * c for r, c in self.spec.layer_shapes) - self.spec.layer_shapes[0][0] * self.spec.width
        self.flops = 2.0 * share * self.batch * modules * self.steps
        self.points = self.batch * modules * self.steps
        self.precision = shapes.get("precision", "tf32" if self.tf32 else "fp32")
        # Adam's first steps have the full length whatever the gradient: where one is 0 but for rounding, they differ.
        self.tolerance = {"": 1e-3 if self.precision == "fp32" else 2e-2}

    def start(self) -> list[Tensor]:
        """Return a copy of the parameters, weights and then biases."""
        return [t.clone() for t in (*self.weights, *self.biases)]

    def ours(self) -> list[Contender]:
        if self.op == "fit_guided":
            uniform = self.fitted("ours, uniform draws")
            uniform.only = ("parameters",)
            return [self.guided(), uniform]
        return [self.fitted("ours"), self.stepped()]

    def guided(self) -> Contender:
        """Return the loop in one call, with Fisher-guided draws."""
        data, guide = FitData(self.coordinates, self.target), Guide()
        state = FitState.begin(self.start())
        state.guide = GuideState.begin(state.params, data, guide)
        draws, rule = Draws("guided", self.batch, guide=guide), FitRule(Schedule(LR))

        def run() -> None:
            mf.ops.bank_fit(state, data, self.spec, self.steps, draws=draws, rule=rule)

        only = ("guided parameters", "scores")
        return Contender("ours", run, check=lambda: self.scored(torch.float32, "auto"), only=only)

    def scored(self, dtype: torch.dtype, backend: str) -> Outputs:
        """Return parameters and scores of the first modules after steps that score their samples."""
        guide = Guide(refresh=1)
        data = FitData(self.coordinates.to(dtype), self.target[:SCORED].to(dtype))
        state = FitState.begin([t[:SCORED].to(dtype) for t in self.start()])
        state.guide = GuideState.begin(state.params, data, guide)
        draws, rule = Draws("guided", self.batch, guide=guide), FitRule(Schedule(LR))
        mf.ops.bank_fit(state, data, self.spec, CHECKED, draws=draws, rule=rule, backend=backend)
        return {**joined("guided parameters", list(state.params)), "scores": state.guide.scores}

    def fitted(self, name: str) -> Contender:
        """Return the loop in one call."""
        data, rule = FitData(self.coordinates, self.target), FitRule(Schedule(LR), precision=self.precision)
        state = FitState.begin(self.start())

        def run() -> None:
            mf.ops.bank_fit(state, data, self.spec, self.steps, draws=Draws(batch=self.batch), rule=rule)

        def check() -> Outputs:
            fresh, draws = FitState.begin(self.start()), Draws("given", ids=self.ids)
            mf.ops.bank_fit(fresh, data, self.spec, CHECKED, draws=draws, rule=rule)
            return joined("parameters", list(fresh.params))

        return Contender(name, run, check=check)

    def stepped(self) -> Contender:
        """Return the loop over our ops: what `bank_fit` saves."""
        offsets = torch.arange(self.modules + 1, device=self.device) * self.batch
        rows = (torch.arange(self.modules, device=self.device) * self.samples)[:, None]
        flat, layers = self.target.flatten(0, 1), len(self.weights)
        sizes = torch.full((self.modules,), self.samples, device=self.device)

        def step(leaves: list[Tensor], optimizer: BankOptimizer, ids: Tensor) -> None:
            x, y = self.coordinates[ids.flatten()], flat[(ids + rows).flatten()]
            loss = mf.ops.bank_mse(x, offsets, leaves[:layers], leaves[layers:], y, self.spec)
            optimizer.step(torch.autograd.grad(loss.sum(), leaves))

        return self.looped(
            "ours, op by op",
            lambda leaves: BankOptimizer(tuple(leaves), lr=LR),
            step,
            lambda k: mf.ops.draw_ids(sizes, self.batch, k),
        )

    def looped(
        self,
        name: str,
        optimizer_of: Callable[[list[Tensor]], Any],
        step: Callable[[list[Tensor], Any, Tensor], None],
        draw: Callable[[int], Tensor],
        arrange: Callable[[Sequence[Tensor]], Sequence[Tensor]] = lambda leaves: leaves,
        leaves_of: Callable[[], list[Tensor]] | None = None,
    ) -> Contender:
        """Return a loop in Python: `step(leaves, optimizer, ids [M, batch])`, `draw(k) -> ids`; `arrange` gives the
        leaves as weights and biases."""
        make = leaves_of or (lambda: [t.requires_grad_() for t in self.start()])
        leaves = make()
        optimizer = optimizer_of(leaves)
        steps = min(self.steps, LOOPED) if self.device == "cuda" else self.steps

        def run() -> None:
            for k in range(steps):
                step(leaves, optimizer, draw(k))

        def check() -> Outputs:
            fresh = make()
            other = optimizer_of(fresh)
            for ids in self.ids:
                step(fresh, other, ids)
            return joined("parameters", [t.detach() for t in arrange(fresh)])

        note = f"timed over {steps} of {self.steps} steps" if steps < self.steps else ""
        return Contender(name, run, check=check, share=steps / self.steps, note=note)

    def truth(self) -> Outputs:
        leaves = [t.double().requires_grad_() for t in self.start()]
        layers, optimizer = len(self.weights), torch.optim.Adam(leaves, lr=LR)
        x, target = self.coordinates.double(), self.target.double()
        rows = torch.arange(self.modules, device=self.device)[:, None]
        for ids in self.ids:
            y = reference.mlp(x[ids], leaves[:layers], leaves[layers:], self.spec)
            optimizer.zero_grad()
            (y - target[rows, ids]).square().mean((1, 2)).sum().backward()
            optimizer.step()
        found = joined("parameters", [t.detach() for t in leaves])
        return found | self.scored(torch.float64, "reference") if self.op == "fit_guided" else found


WORK = Fit
