"""A loop over separate nn.Modules: what everybody writes first."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.contender import Contender
from benchmarks.correctness import joined
from benchmarks.peers import bmm, plain
from benchmarks.work.bank import Bank
from benchmarks.work.nerf import Nerf


def missing() -> str | None:
    """It needs torch alone."""
    return None


def _parts(work: Bank) -> tuple[list[torch.nn.Sequential], list[Tensor], list[Tensor]]:
    nets = [
        plain.sequential(work.spec, [w[m] for w in work.weights], [b[m] for b in work.biases])
        for m in range(work.modules)
    ]
    return nets, list(work.x.split(work.counts)), list(work.grad_y.split(work.counts))


def forward(work: Bank) -> Contender:
    """Return one call per module, the results joined."""
    nets, xs, _ = _parts(work)

    def run() -> Tensor:
        with torch.no_grad():
            return torch.cat([net(x) for net, x in zip(nets, xs)])

    return Contender("loop", run, lambda y: {"y": y})


def forward_backward(work: Bank) -> Contender:
    """Return one forward and one backward per module, one after another: nothing is saved longer than it must be."""
    nets, xs, gys = _parts(work)
    owned = [plain.parameters([net]) for net in nets]
    layers = len(work.weights)

    def run() -> list[Tensor]:
        grads: list[Tensor] = []
        for net, own, x, gy in zip(nets, owned, xs, gys):
            grads += torch.autograd.grad(net(x), own, gy)
        return grads

    return Contender("loop", run, lambda grads: joined("grads", plain.stacked(grads, layers, work.modules)))


def squared_error(work: Bank) -> Contender:
    """Return the mean squared error of a module, a forward and a backward, one after another."""
    nets, xs, targets = _parts(work)
    owned = [plain.parameters([net]) for net in nets]
    layers = len(work.weights)

    def run() -> list[Tensor]:
        grads: list[Tensor] = []
        for net, own, x, target in zip(nets, owned, xs, targets):
            grads += torch.autograd.grad(torch.nn.functional.mse_loss(net(x), target), own)
        return grads

    return Contender("loop", run, lambda grads: joined("grads", plain.stacked(grads, layers, work.modules)))


def nerf_step(work: Nerf) -> Contender:
    """Return a training step with one call per module for the field; the rest as in the stacked one."""
    nets, _, _ = _parts(work)
    leaves = plain.parameters(nets)

    def field(x: Tensor) -> Tensor:
        return torch.cat([net(part) for net, part in zip(nets, x.split(work.counts))])

    layers = len(work.weights)
    return bmm.eager_step("loop", work, field, leaves, lambda grads: plain.stacked(grads, layers, work.modules))


OPS = {
    "forward": forward,
    "forward_backward": forward_backward,
    "squared_error": squared_error,
    "nerf_step": nerf_step,
}
