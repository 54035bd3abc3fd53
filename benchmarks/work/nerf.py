"""One training step of radiance fields: march, bank, composite, loss, backward, Adam.

Shapes: those of the bank; rays (an equal share per module), samples per ray. Every module owns a cell and every ray
crosses its module's cell, so that each ray has all its samples: the case that a dense implementation in plain PyTorch
serves best. No jitter, so that all contenders evaluate the same points.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.contender import Contender, Outputs
from benchmarks.correctness import joined
from benchmarks.work.bank import Bank
from benchmarks.work.render import rays_of
from mclnf_fast.learn import BankOptimizer
from mclnf_fast.render import Cells, RayBatch, RenderSettings
from mclnf_fast.shading import SCENE_SHADING
from mclnf_fast.tasks import posed_loss

LR = 5e-4
BACKGROUND = (1.0, 1.0, 1.0)


class Nerf(Bank):
    """origins, directions, target [R, 3] grouped by module; cells [-1, 1]^3, side by side."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        self.rays, self.samples = int(shapes["rays"]), int(shapes["samples"])
        super().__init__(op, {**shapes, "points": self.rays * self.samples}, device)
        local, self.directions, _ = rays_of(self.rays)
        places = torch.tensor([[2.5 * m, 0.0, 0.0] for m in range(self.modules)], device=device)
        local, self.directions = local.to(device), self.directions.to(device)
        self.cells = Cells(torch.stack((places - 1, places + 1), 1), margin=1.0)
        self.per_module = self.rays // self.modules
        self.origins = local + places.repeat_interleave(self.per_module, 0)
        self.target = torch.rand(self.rays, 3, generator=torch.Generator().manual_seed(3)).to(device)
        self.ray_borders = [m * self.per_module for m in range(self.modules + 1)]
        self.ray_offsets = torch.tensor(self.ray_borders, device=device)
        self.tolerance = {"loss": 1e-5, "grads": 1e-2}

    def own_step(self, name: str, backend: str = "auto", fused: bool = True) -> Contender:
        """Return a step by `tasks.posed_loss` and `learn.BankOptimizer`, as a user's loop calls them.

        Not fused: `bank_mlp`, `composite` and the loss op by op, as they run if a target could have a gradient.
        """
        target = self.target.clone().requires_grad_(not fused)
        leaves = tuple(t.clone().requires_grad_() for t in (*self.weights, *self.biases))
        shading = replace(SCENE_SHADING, background=BACKGROUND)
        settings = RenderSettings(self.samples, shading=shading, backend=backend)
        optimizer = BankOptimizer(leaves, lr=LR)

        def gradients() -> tuple[Tensor, Sequence[Tensor]]:
            batch = RayBatch(self.origins, self.directions, target)
            loss = posed_loss(leaves, self.spec, batch, self.ray_offsets, self.cells, settings).mean()
            return loss, torch.autograd.grad(loss, leaves)

        return stepper(name, gradients, optimizer.step)

    def ours(self) -> list[Contender]:
        return [self.own_step("ours"), self.own_step("ours, op by op", fused=False)]

    def local_rays(self) -> tuple[Tensor, Tensor]:
        """Return origins and directions [R, 3] in the coordinates of each ray's cell."""
        owner = torch.arange(self.modules, device=self.device).repeat_interleave(self.per_module)
        return (self.origins - self.cells.centers[owner]) / self.cells.halves[owner], self.directions

    def truth(self) -> Outputs:
        from benchmarks.peers import plain

        freqs, layers = plain.frequencies(self.spec, self.device), len(self.weights)
        origins, directions = (t.double() for t in self.local_rays())
        total, grads = torch.zeros((), dtype=torch.float64, device=self.device), []
        for m, (begin, end) in enumerate(itertools.pairwise(self.ray_borders)):
            own = [t[m : m + 1].double().requires_grad_() for t in (*self.weights, *self.biases)]
            x, lengths = sample(origins[begin:end], directions[begin:end], self.samples)
            raw = plain.bmm_mlp(plain.encode(x.view(1, -1, 3), freqs), own[:layers], own[layers:])
            image = shade(raw.view(-1, self.samples, 4), lengths)
            loss = (image - self.target[begin:end].double()).square().sum() / self.target.numel()
            found = torch.autograd.grad(loss, own)
            grads.append(torch.cat([g.reshape(1, -1) for g in found], 1))
            total = total + loss.detach()
        return {"loss": total, "grads": torch.cat(grads)}


def stepper(
    name: str,
    gradients: Callable[[], tuple[Tensor, Sequence[Tensor]]],
    step: Callable[[Sequence[Tensor]], Any],
    arrange: Callable[[Sequence[Tensor]], Sequence[Tensor]] = lambda grads: grads,
) -> Contender:
    """Return a contender that trains: the loss and `arrange` of `gradients` are checked, then each run goes one step
    on."""

    def check() -> Outputs:
        loss, grads = gradients()
        return {"loss": loss.detach()} | joined("grads", list(arrange(grads)))

    def run() -> None:
        step(gradients()[1])

    return Contender(name, run, check=check)


def sample(origins: Tensor, directions: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return the middles [R, S, 3] of equal intervals of rays [R, 3] in the box [-1, 1]^3, and their lengths [R, S]."""
    a, b = (-1 - origins) / directions, (1 - origins) / directions
    near = torch.minimum(a, b).amax(-1).clamp(min=0)
    far = torch.maximum(torch.maximum(a, b).amin(-1), near)
    edges = torch.linspace(0, 1, samples + 1, dtype=origins.dtype, device=origins.device)
    t = near[:, None] + edges * (far - near)[:, None]
    x = origins[:, None] + directions[:, None] * ((t[:, 1:] + t[:, :-1]) / 2)[..., None]
    return x, t[:, 1:] - t[:, :-1]


def shade(raw: Tensor, lengths: Tensor) -> Tensor:
    """Return the pixels [R, 3] over white of raw [R, S, 4] and lengths [R, S], by cumsum and exp."""
    optical = raw[..., 0].clamp(max=9.0).exp() * lengths
    through = torch.exp(-(optical.cumsum(1) - optical))
    weights = through * (1 - torch.exp(-optical))
    return (weights[..., None] * raw[..., 1:].sigmoid()).sum(1) + (1 - weights.sum(1, keepdim=True))


WORK = Nerf
