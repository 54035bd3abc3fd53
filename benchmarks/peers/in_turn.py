"""One object after another, each an nn.Sequential with its own SGD: what a single-view user of PyTorch writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.contender import Contender
from benchmarks.peers import plain
from benchmarks.work.bins import LR, SingleView, encode, pixel_loss
from benchmarks.work.nerf import stepper


def missing() -> str | None:
    """It needs torch alone."""
    return None


def single_view_step(work: SingleView) -> Contender:
    """Return a forward, a backward and a step of SGD per object."""
    edges = torch.linspace(2, 6, work.samples, device=work.device)
    middles = (edges[1:] + edges[:-1]) / 2
    lower, upper = torch.cat((edges[:1], middles)), torch.cat((middles, edges[-1:]))
    weights, biases = work.params[: work.layers], work.params[work.layers :]
    nets: list[nn.Sequential] = [
        plain.sequential(work.spec, [w[m] for w in weights], [b[m] for b in biases], with_encoding=False)
        for m in range(work.modules)
    ]
    owned = [plain.parameters([net]) for net in nets]
    optimizers = [torch.optim.SGD(own, lr=LR, fused=True) for own in owned]

    def gradients() -> tuple[Tensor, Sequence[Tensor]]:
        total, grads = torch.zeros((), device=work.device), []
        for m, net in enumerate(nets):
            t = lower + (upper - lower) * work.noise[m]
            x = work.origins[m][:, None] + t[..., None] * work.directions[m][:, None]
            raw = net(encode(x.reshape(-1, 3))).view(work.rays, work.samples, 4)
            loss = pixel_loss(raw, t, work.target[m])
            grads += torch.autograd.grad(loss, owned[m])
            total = total + loss.detach()
        return total, grads

    def step(grads: Sequence[Tensor]) -> None:
        each = 2 * work.layers
        for m, optimizer in enumerate(optimizers):
            for leaf, grad in zip(owned[m], grads[m * each : (m + 1) * each]):
                leaf.grad = grad
            optimizer.step()

    return stepper("in turn", gradients, step, lambda grads: plain.stacked(grads, work.layers, work.modules))


OPS = {"single_view_step": single_view_step}
