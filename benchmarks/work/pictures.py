"""Many small pictures, each learned until it is good enough: what a data set of fields costs.

Shapes: those of `fitting`, with `psnr` in dB, and `steps` the most that a module makes. The pictures are procedural:
soft strokes on black, as handwritten digits are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf
from benchmarks.contender import Contender, Outputs
from benchmarks.work.fitting import LR, Fit
from mclnf_fast.ops.bank_fit import Draws, FitData, FitRule, FitState, Schedule, Watch
from mclnf_fast.ops.bank_mlp import reference

CHECK_EVERY = 20  # steps


def strokes(count: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return coordinates [n, 2] in [-1, 1] and values [count, n, 1] of square pictures of three soft strokes each, the
    largest of at most `samples` pixels."""
    generator, side = torch.Generator().manual_seed(11), int(samples**0.5)
    axis = torch.linspace(-1, 1, side)
    x = torch.cartesian_prod(axis, axis)
    values = torch.zeros(count, len(x))
    for _ in range(3):
        a, b = (1.4 * torch.rand(count, 1, 2, generator=generator) - 0.7 for _ in range(2))
        along = ((x - a) * (b - a)).sum(-1) / (b - a).square().sum(-1).clamp(min=1e-6)
        distance = (x - a - along.clamp(0, 1)[..., None] * (b - a)).norm(dim=-1)
        values = torch.maximum(values, torch.sigmoid(30 * (0.12 - distance)))
    return x, values[..., None]


class FitPictures(Fit):
    """Pictures of strokes, each module until its PSNR over all pixels is `psnr`, at most `steps` steps; from host
    memory to the end. Every module must come there."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        super().__init__(op, {**shapes, "in_dim": 2, "out_dim": 1}, device)
        self.loss = 10 ** (-float(shapes["psnr"]) / 10)
        self.host = strokes(self.modules, self.samples)
        self.coordinates, self.target = (t.to(device) for t in self.host)
        self.ids %= len(self.coordinates)
        self.batch = min(self.batch, len(self.coordinates))
        self.flops = None  # of a module as many as it needs

    def ours(self) -> list[Contender]:
        contender = self.fitted("ours")
        start = self.start()
        every = min(CHECK_EVERY, self.steps)

        def run() -> FitState:
            state = FitState.begin([t.clone() for t in start])
            data = FitData(*(t.to(self.device) for t in self.host))
            draws, watch = Draws("even", self.batch), Watch(stop_loss=self.loss, check_every=every)
            rule = FitRule(Schedule(LR))
            mf.ops.bank_fit(state, data, self.spec, self.steps, draws=draws, rule=rule, watch=watch)
            return state

        def check() -> Outputs:
            assert contender.check is not None
            x = self.coordinates.expand(self.modules, -1, -1)
            params = run().params
            layers = len(params) // 2
            y = reference.mlp(x, list(params[:layers]), list(params[layers:]), self.spec)
            losses = (y - self.target).square().mean((1, 2))
            # As rounding may have it, where a loss is its bound.
            return {**contender.check(), "reached": (losses <= 1.01 * self.loss).float()}

        return [Contender("ours", run, check=check)]

    def truth(self) -> Outputs:
        return {**super().truth(), "reached": torch.ones(self.modules, dtype=torch.float64, device=self.device)}


WORK = FitPictures
