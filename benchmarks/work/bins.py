"""One SGD step of single-view fields: T objects side by side, stratified samples, composite, loss, backward, SGD.

Shapes: modules (T), width, hidden; rays per object and step; bins, the samples per ray. The noise of the samples is
given, so that all contenders evaluate the same points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.contender import Contender, Outputs
from benchmarks.work import Work
from benchmarks.work.nerf import stepper
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn import BankOptimizer
from mclnf_fast.render import RenderSettings, ray_losses, sample_between
from mclnf_fast.spec import FieldSpec, LogFrequency

LR = 0.5


class SingleView(Work):
    """origins, directions, target [T, R, 3]; noise [T, R, S]; weights [T, in, out] and biases [T, out] a layer."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        self.modules, self.rays, self.samples = (int(shapes[k]) for k in ("modules", "rays", "bins"))
        generator = torch.Generator().manual_seed(0)
        self.spec = FieldSpec(3, 4, int(shapes["width"]), int(shapes["hidden"]), encoding=LogFrequency(20, 8.0))
        self.params = initial_parameters(self.spec, self.modules, device=device, generator=generator)
        self.layers = len(self.params) // 2
        shape = (self.modules, self.rays, 3)
        origins = 4 * torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
        towards = 0.5 * torch.randn(shape, generator=generator) - origins
        self.origins, self.directions = origins.to(device), torch.nn.functional.normalize(towards, dim=-1).to(device)
        self.target = torch.rand(shape, generator=generator).to(device)
        self.noise = torch.rand(self.modules, self.rays, self.samples, generator=generator).to(device)
        self.device, self.points = device, self.modules * self.rays * self.samples
        weights = sum(rows * columns for rows, columns in self.spec.layer_shapes)
        first = self.spec.layer_shapes[0][0] * self.spec.layer_shapes[0][1]
        self.flops = 2.0 * (3 * weights - first) * self.points  # forward and backward, as of a bank
        self.tolerance = {"loss": 1e-5, "grads": 1e-2}

    def own_step(self, name: str, backend: str = "auto", fused: bool = True) -> Contender:
        """`render.ray_losses` and `learn.BankOptimizer`, as `learn.fine_tune` calls them; not fused as `Nerf`'s."""
        target = self.target.clone().requires_grad_(not fused)
        leaves = tuple(p.clone().requires_grad_() for p in self.params)
        settings = RenderSettings.between(samples_per_ray=self.samples, backend=backend)
        optimizer = BankOptimizer(leaves, kind="sgd", lr=LR)

        def gradients() -> tuple[Tensor, Sequence[Tensor]]:
            samples, _ = sample_between(self.origins, self.directions, settings, self.noise)
            loss = ray_losses(leaves, self.spec, samples, target, settings).sum()
            return loss, torch.autograd.grad(loss, leaves)

        return stepper(name, gradients, optimizer.step)

    def ours(self) -> list[Contender]:
        return [self.own_step("ours"), self.own_step("ours, op by op", fused=False)]

    def truth(self) -> Outputs:
        total, grads = torch.zeros((), dtype=torch.float64, device=self.device), []
        for m in range(self.modules):
            own = [p[m].double().requires_grad_() for p in self.params]
            h = encode(self.places(m).double())
            for k in range(self.layers):
                h = h @ own[k] + own[self.layers + k]
                h = torch.relu(h) if k + 1 < self.layers else h
            loss = self.loss_of(m, h)
            grads.append(torch.cat([g.reshape(1, -1) for g in torch.autograd.grad(loss, own)], 1))
            total = total + loss.detach()
        return {"loss": total, "grads": torch.cat(grads)}

    def distances(self, m: int) -> Tensor:
        """Return the distances of the samples of object m, [R, S], float64."""
        edges = torch.linspace(2, 6, self.samples, dtype=torch.float64, device=self.device)
        middles = (edges[1:] + edges[:-1]) / 2
        lower, upper = torch.cat((edges[:1], middles)), torch.cat((middles, edges[-1:]))
        return lower + (upper - lower) * self.noise[m].double()

    def places(self, m: int) -> Tensor:
        """Return the sample points of object m, [R S, 3], float32 as all contenders have them."""
        t = self.distances(m).float()[..., None]
        return (self.origins[m][:, None] + t * self.directions[m][:, None]).reshape(-1, 3)

    def loss_of(self, m: int, raw: Tensor) -> Tensor:
        """Return the loss of object m at raw outputs [R S, 4], as the published renderer computes it."""
        return pixel_loss(raw.view(self.rays, self.samples, 4), self.distances(m).to(raw.dtype), self.target[m])


def encode(x: Tensor) -> Tensor:
    """Return sine and cosine [N, 120] of x [N, 3] at 20 frequencies 2^(8 k / 19)."""
    frequencies = 2.0 ** (8.0 * torch.arange(20, dtype=torch.float64, device=x.device) / 19)
    angles = x[:, None, :] * frequencies[:, None].to(x.dtype)
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)


def pixel_loss(raw: Tensor, t: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of pixels over white of raw [R, S, 4] at t [R, S], by a cumulative product."""
    delta = torch.cat((t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)), 1)
    alpha = 1 - torch.exp(-torch.relu(raw[..., 3]) * delta)
    through = torch.cumprod(1 - alpha, 1)
    weights = alpha * torch.cat((torch.ones_like(alpha[:, :1]), through[:, :-1]), 1)
    color = (weights[..., None] * torch.sigmoid(raw[..., :3])).sum(1) + 1 - weights.sum(1, keepdim=True)
    return (color - target.to(raw.dtype)).square().mean()


WORK = SingleView
