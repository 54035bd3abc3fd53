"""What the losses of a bank share: the field's points, when one sweep forms the gradients too, and the reductions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.ops._checks import HALVES, autocast_enabled
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
        """Return the outputs [N, out_dim] by a backend, half types as float32: their squares overflow."""
        y = bank_mlp(*self, backend)
        return y.float() if y.dtype in HALVES else y

    def parameters_alone(self, *others: Tensor | None) -> bool:
        """Return whether neither x nor one of the others is differentiated, in the dtype of x: one sweep serves."""
        return not autocast_enabled(self.x) and not any(t is not None and t.requires_grad for t in (self.x, *others))

    @property
    def need_gradients(self) -> bool:
        """Whether the gradients of the parameters will be asked for."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in (*self.weights, *self.biases))
