"""What the losses of a bank share: the field's points, when one sweep forms the gradients too, and the reductions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.ops._dispatch import cpu_widens
from mclnf_fast.ops.bank_mlp import bank_mlp
from mclnf_fast.spec import FieldSpec

REDUCTIONS = ("mean", "sum")


def checked_mean(reduction: str) -> bool:
    """Return whether the reduction is the mean. Raises ValueError if it is neither that nor the sum."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return reduction == "mean"


class FieldPoints(NamedTuple):
    """The arguments of `bank_mlp`: points of a bank, checked."""

    x: Tensor
    offsets: Tensor
    weights: list[Tensor]
    biases: list[Tensor]
    spec: FieldSpec

    def outputs(self, backend: str) -> Tensor:
        """Return the outputs [N, out_dim] by a backend."""
        return bank_mlp(*self, backend)

    @property
    def on_cpu(self) -> FieldPoints:
        """The field as the CPU kernels multiply it: with weights in float32 but where it has products of bf16 pairs."""
        if not cpu_widens(self.weights[-1].dtype):
            return self
        return self._replace(weights=[w.float() for w in self.weights])

    def parameters_alone(self, *others: Tensor | None) -> bool:
        """Return whether neither x nor one of the others is differentiated: one sweep serves."""
        return not any(t is not None and t.requires_grad for t in (self.x, *others))

    @property
    def need_gradients(self) -> bool:
        """Whether the gradients of the parameters will be asked for."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in (*self.weights, *self.biases))
