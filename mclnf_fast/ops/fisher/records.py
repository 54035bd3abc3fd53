"""The records that Fisher scores take and return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.spec import FieldSpec

ParameterLists = tuple[list[Tensor], list[Tensor]]
"""One tensor per layer shaped like the weights [M, in, out], and one like the biases [M, out]."""


class Points(NamedTuple):
    """A batch as `fisher_scores` and its kin take it.

    Attributes:
        x: points [N, in_dim], grouped by module.
        offsets: int64 [M + 1].
        grad_y: [N, out_dim], the gradient of each sample's loss in the field's values.
        sample_ids: int64 [N], the sample (ray) of each point; a number: as many points in succession are one; None:
            each point is one.
        num_samples: S.
    """

    x: Tensor
    offsets: Tensor
    grad_y: Tensor
    sample_ids: Tensor | int | None
    num_samples: int


class FisherResult(NamedTuple):
    """The result of `fisher_scores`.

    Attributes:
        scores: [S].
        grads: sum of the samples' gradients, (like weights, like biases); empty lists if not asked for.
        fisher: diagonal Fisher, (like weights, like biases); empty lists if not asked for.
    """

    scores: Tensor
    grads: ParameterLists
    fisher: ParameterLists


class FisherCall(NamedTuple):
    """A checked call, as every backend takes it; nothing in it requires a gradient."""

    x: Tensor
    offsets: Tensor
    weights: list[Tensor]
    biases: list[Tensor]
    grad_y: Tensor
    fisher: ParameterLists | None
    spec: FieldSpec
    sample_ids: Tensor | int | None
    samples: int
    damping: float
    grads: bool

    @property
    def modules(self) -> int:
        return self.offsets.numel() - 1

    def to(self, dtype: torch.dtype) -> FisherCall:
        """Return the call with its real tensors in another dtype."""

        def converted(tensors: Sequence[Tensor]) -> list[Tensor]:
            return [t.to(dtype) for t in tensors]

        fisher = None if self.fisher is None else (converted(self.fisher[0]), converted(self.fisher[1]))
        return self._replace(
            x=self.x.to(dtype),
            weights=converted(self.weights),
            biases=converted(self.biases),
            grad_y=self.grad_y.to(dtype),
            fisher=fisher,
        )
