"""BackPACK: gradients of each sample (BatchGrad), and the diagonal Fisher without them (SumGradSquared)."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.contender import Contender
from benchmarks.correctness import joined
from benchmarks.peers import importable, per_sample, plain
from benchmarks.work.fisher import Fisher


def missing() -> str | None:
    """Return whether it imports."""
    return importable("backpack", "backpack-for-pytorch")


def _nets(work: Fisher) -> list[torch.nn.Module]:
    from backpack import extend

    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    return [
        extend(
            plain.sequential(work.spec, [w[m] for w in work.weights], [b[m] for b in work.biases], with_encoding=False)
        )
        for m in range(work.modules)
    ]


def scores(work: Fisher) -> Contender:
    """BatchGrad, squared."""
    from backpack import backpack
    from backpack.extensions import BatchGrad

    net, freqs = _nets(work)[0], plain.frequencies(work.spec, work.device)

    def gradients(x: Tensor, gy: Tensor) -> list[Tensor]:
        with backpack(BatchGrad()):
            net(plain.encode(x, freqs)).backward(gy)
        found: list[Tensor] = [vars(p)["grad_batch"] for p in plain.parameters([net])]
        net.zero_grad()
        return found

    return per_sample.contender("backpack", work, gradients)


def sums(work: Fisher) -> Contender:
    """SumGradSquared: gradients and diagonal Fisher of every module in two matrix products a layer, no scores."""
    from backpack import backpack
    from backpack.extensions import SumGradSquared

    nets, freqs = _nets(work), plain.frequencies(work.spec, work.device)

    def run() -> list[list[Tensor]]:
        found = []
        for net, x, gy in zip(nets, work.x.split(work.counts), work.grad_y.split(work.counts)):
            net.zero_grad()
            with backpack(SumGradSquared()):
                net(plain.encode(x, freqs)).backward(gy)
            own = [vars(p) | {"grad": p.grad} for p in plain.parameters([net])]
            found.append([p["grad"] for p in own] + [p["sum_grad_squared"] / x.shape[0] for p in own])
        return found

    def outputs(found: list[list[Tensor]]) -> dict[str, Tensor]:
        layers = len(work.weights)
        turned = [[t.t() if t.dim() == 2 else t for t in row] for row in found]
        stacked = [torch.stack(tensors) for tensors in zip(*turned)]
        return joined("grads", stacked[: 2 * layers]) | joined("fisher", stacked[2 * layers :])

    return Contender("backpack", run, outputs, only=("grads", "fisher"), note="gradients and Fisher only, no scores")


OPS: dict[str, Callable[..., Contender]] = {"fisher_scores": scores, "fisher_all": sums}
