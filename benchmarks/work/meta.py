"""One outer step of meta-training coordinate networks: `learn.MAML.step` over a meta-batch of signals and their tasks.

Shapes: those of `maml`, with `in_dim`, `out_dim` and `w0` of the signals' networks. Everyone takes the whole step, with
the outer Adam: ours that of `learn`, the PyTorch peers torch's; JAX alone
stops at the outer gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.contender import Contender
from benchmarks.correctness import joined
from benchmarks.work.maml import Maml
from mclnf_fast.learn import MAML

OUTER_LR = 1e-5


class Meta(Maml):
    """As Maml, the initialization moving on from step to step; what is checked is the first one's gradient."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        super().__init__(op, shapes, device)
        self.tolerance = {"": 1e-4}

    def own_maml(self, name: str, first_order: bool, backend: str = "auto", at_once: bool = True) -> Contender:
        learner = MAML(self.init, self.lr, self.steps, first_order=first_order, outer_lr=OUTER_LR)
        support, query = self.losses(backend, at_once)

        def run() -> tuple[Tensor | None, ...]:
            learner.step(support, query, self.modules)
            return tuple(p.grad for p in learner.init)

        def outputs(grads: Any) -> dict[str, Tensor]:
            return joined("grads", grads)

        return Contender(name, run, outputs, **self.order(first_order))

    def mover(self, start: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Any]:
        optimizer = torch.optim.Adam(start, lr=OUTER_LR)

        def move(grads: Sequence[Tensor]) -> None:
            for p, g in zip(start, grads):
                p.grad = g
            optimizer.step()

        return move


WORK = Meta
