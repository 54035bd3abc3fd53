"""A method from outside: fine-tuning that is pulled back to where the last task ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.methods import FineTune, MethodEntry


class Anchored(FineTune):
    """L = L_k + 1/2 |theta - theta_(k-1)|^2, the simplest penalty on change."""

    def begin(self, k: int) -> None:
        super().begin(k)
        self.anchor = tuple(p.detach().clone() for p in self.params)

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        plain = super().gradients(k, step, generator)
        return tuple(g + (p.detach() - a) for g, p, a in zip(plain, self.params, self.anchor))


ANCHORED = MethodEntry("anchored", Anchored, "anchored", "#2f6f4f", "#8fd0a8", "p", "fine-tuning with a pull back")
