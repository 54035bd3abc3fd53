"""Whole training loops of radiance fields: rays drawn, cut, composited, gradients and Adam, `steps` steps per call.

Shapes: those of the bank, with `rays` (an equal share per module, grouped by module) of `samples` intervals each,
`batch` rays of a step, `steps` of a call and `precision`, that of the operands of products. How far a few steps on
given rays move the parameters is checked against the reference in float64.
"""

from __future__ import annotations

from typing import Any

import torch

import mclnf_fast as mf
from benchmarks.contender import Contender, Outputs
from benchmarks.correctness import joined
from benchmarks.work.bank import Bank
from benchmarks.work.fitting import CHECKED, LR
from benchmarks.work.render import rays_of
from mclnf_fast.ops.bank_fit import Draws, FitRays, FitRule, FitState, Schedule
from mclnf_fast.shading import SCENE_SHADING


class RayFit(Bank):
    """rays: that all cross the box; ids [CHECKED, M, batch] of the steps that are checked."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        modules, samples, self.steps = int(shapes["modules"]), int(shapes["samples"]), int(shapes["steps"])
        per_module = int(shapes["rays"]) // modules
        count, self.batch = per_module * modules, min(int(shapes.get("batch", 8)), per_module)
        super().__init__(op, {**shapes, "points": count * samples}, device)
        generator = torch.Generator().manual_seed(7)
        origins, directions, _ = rays_of(count)
        self.rays = FitRays(
            origins.to(device),
            directions.to(device),
            torch.rand(count, 3, generator=generator).to(device),
            (torch.arange(modules + 1) * per_module).to(device),
            SCENE_SHADING,
            samples,
        )
        self.ids = torch.randint(per_module, (CHECKED, modules, self.batch), generator=generator).to(device)
        assert self.flops is not None
        points = self.batch * samples * modules * self.steps
        self.flops, self.points = self.flops / self.points * points, points
        self.precision = shapes.get("precision", "tf32" if self.tf32 else "fp32")
        # Adam's first steps have the full length whatever the gradient: where one is 0 but for rounding, they differ.
        self.tolerance = {"": 2e-2 if self.precision == "fp32" else 0.2}

    def ours(self) -> list[Contender]:
        rule = FitRule(Schedule(LR), precision=self.precision)
        state = FitState.begin([t.clone() for t in (*self.weights, *self.biases)])

        def run() -> None:
            mf.ops.bank_fit(state, self.rays, self.spec, self.steps, draws=Draws("uniform", self.batch), rule=rule)

        return [Contender("ours", run, check=lambda: self.checked(self.rays, torch.float32, rule))]

    def checked(self, rays: FitRays, dtype: torch.dtype, rule: FitRule, backend: str = "auto") -> Outputs:
        """Return by how much the steps on given rays change the parameters."""
        before = [t.to(dtype) for t in (*self.weights, *self.biases)]
        state, draws = FitState.begin([t.clone() for t in before]), Draws("given", ids=self.ids)
        mf.ops.bank_fit(state, rays, self.spec, CHECKED, draws=draws, rule=rule, backend=backend)
        return joined("change", [after - t for after, t in zip(state.params, before)])

    def verify(self) -> dict[str, float]:
        return self.tolerance

    def truth(self) -> Outputs:
        double = {name: getattr(self.rays, name).double() for name in ("origins", "directions", "colors")}
        rays = self.rays._replace(**double)
        return self.checked(rays, torch.float64, FitRule(Schedule(LR)), "reference")


WORK = RayFit
