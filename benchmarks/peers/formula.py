"""Our own formula for Fisher scores written in plain PyTorch: no library has it, so it is shown but is no peer to
beat. One point's squared weight gradient is an outer product: score = rowsum((d^2 F^-1) * a^2), F = (d^2)^T a^2 / n.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.contender import Contender, Unsupported
from benchmarks.correctness import joined
from benchmarks.peers import plain
from benchmarks.work.fisher import DAMPING, Fisher


def missing() -> str | None:
    """It needs torch alone."""
    return None


def _sweep(work: Fisher) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs a [M, n, in] and pre-activation gradients d [M, n, out] of every layer, all modules at once."""
    h = plain.encode(work.x.view(work.modules, -1, work.x.shape[1]), plain.frequencies(work.spec, work.device))
    inputs: list[Tensor] = []
    zs: list[Tensor] = []
    for k, (w, b) in enumerate(zip(work.weights, work.biases)):
        inputs.append(h.detach())
        z = torch.baddbmm(b[:, None], h, w)
        if not zs:
            z.requires_grad_()
        zs.append(z)
        h = torch.relu(z) if k + 1 < len(work.weights) else z
    return inputs, list(torch.autograd.grad(h, zs, work.grad_y.view(work.modules, -1, h.shape[2])))


def points(work: Fisher) -> Contender:
    """Return one point, one sample; with sums where the problem asks for them."""
    if not work.equal:
        raise Unsupported("stacked modules need equal shares")

    def run() -> dict[str, Tensor]:
        inputs, grads = _sweep(work)
        scores: Tensor = torch.zeros(())
        total: list[list[Tensor]] = [[], [], [], []]
        for a, d, f, fb in zip(inputs, grads, *work.given):
            aa, dd = a * a, d * d
            scores = scores + ((dd @ (1 / (f + DAMPING)).transpose(1, 2)) * aa).sum(-1)
            scores = scores + (dd @ (1 / (fb + DAMPING))[:, :, None])[..., 0]
            if work.sums:
                total[0].append(a.transpose(1, 2) @ d)
                total[1].append(d.sum(1))
                total[2].append(aa.transpose(1, 2) @ dd / a.shape[1])
                total[3].append(dd.mean(1))
        found = {"scores": scores.flatten()}
        if work.sums:
            found |= joined("grads", total[0] + total[1]) | joined("fisher", total[2] + total[3])
        return found

    return Contender("formula", run)


def rays(work: Fisher) -> Contender:
    """Return one ray, one sample: its gradient formed, squared, weighted; 64 rays of every module at a time."""

    def run() -> dict[str, Tensor]:
        inputs, grads = _sweep(work)
        scores = work.x.new_zeros(work.modules, work.counts[0] // work.ray_points)
        for a, d, f, fb in zip(inputs, grads, *work.given):
            a, d = a.unflatten(1, (-1, work.ray_points)), d.unflatten(1, (-1, work.ray_points))
            information = 1 / (f + DAMPING)
            for k in range(0, scores.shape[1], 64):
                g = a[:, k : k + 64].transpose(2, 3) @ d[:, k : k + 64]
                scores[:, k : k + 64] += (g.square() * information[:, None]).sum((2, 3))
            scores += (d.sum(2).square() * (1 / (fb + DAMPING))[:, None]).sum(-1)
        return {"scores": scores.flatten()}

    return Contender("formula", run)


OPS: dict[str, Callable[..., Contender]] = {"fisher_scores": points, "fisher_all": points, "fisher_rays": rays}
