"""Opacus: GradSampleModule, gradients of each sample by hooks."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import Tensor

from benchmarks.contender import Contender
from benchmarks.peers import importable, per_sample, plain
from benchmarks.work.fisher import Fisher


def missing() -> str | None:
    """Return whether it imports."""
    return importable("opacus")


def fisher(work: Fisher) -> Contender:
    """Return the gradients per sample, then squared."""
    from opacus.grad_sample import GradSampleModule

    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    own = [w[0] for w in work.weights], [b[0] for b in work.biases]  # module 0 is all that it does
    net = GradSampleModule(plain.sequential(work.spec, *own, with_encoding=False), loss_reduction="sum")
    freqs = plain.frequencies(work.spec, work.device)

    def gradients(x: Tensor, gy: Tensor) -> list[Tensor]:
        net(plain.encode(x, freqs)).backward(gy)
        found: list[Tensor] = [vars(p)["grad_sample"] for p in plain.parameters([net])]
        net.zero_grad()
        return found

    return per_sample.contender("opacus", work, gradients)


OPS: dict[str, Callable[..., Contender]] = {"fisher_scores": fisher, "fisher_all": fisher}
