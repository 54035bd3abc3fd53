"""What the inner loop of meta-learning takes and returns."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from torch import Tensor

from mclnf_fast.ops.bank_fit.types import FitData
from mclnf_fast.spec import FieldSpec


@dataclasses.dataclass(frozen=True)
class Batches:
    """Which samples an inner step takes; without arguments all of a module's, in every step.

    Args:
        size: so many, the next ones in their order: step k takes the samples k size ... (k + 1) size - 1.
        ids: int64 [K, M, batch], the samples of each step.
        weights: [K, M, batch], what each of `ids` counts, times the sample's own weight; None: ones.

    >>> Batches(size=32).size
    32
    """

    size: int | None = None
    ids: Tensor | None = None
    weights: Tensor | None = None


class Adapted(NamedTuple):
    """The modules after their inner steps.

    Attributes:
        weights, biases: as `ops.bank_mlp` takes them, [M, in, out] and [M, out] per layer.
        losses: [K, M], the loss of each step's samples before the step.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    losses: Tensor


class AdaptCall(NamedTuple):
    """The arguments of `ops.bank_adapt`, checked.

    Attributes:
        weights, biases: of all modules, or of the one that all begin at.
        rates: [K, M, layers].
        clip_value: infinite without a clamp.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    rates: Tensor
    data: FitData
    spec: FieldSpec
    batches: Batches
    frozen_layers: int
    clip_value: float
    first_order: bool

    @property
    def batch(self) -> int:
        """Samples per step; 0: all."""
        return self.batches.size or 0 if self.batches.ids is None else self.batches.ids.shape[2]

    @property
    def clips(self) -> bool:
        """Whether gradients are clamped."""
        return math.isfinite(self.clip_value)

    def samples(self, k: int, m: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return x [n, in_dim], target [n, out_dim] and weight [n] of step k of module m."""
        x, target, weight = self.data.module(m)
        size, ids, factors = self.batches.size, self.batches.ids, self.batches.weights
        if ids is None and size is None:
            return x, target, weight
        rows = ids[k, m] if ids is not None else slice(k * (size or 0), (k + 1) * (size or 0))
        x, target, weight = x[rows], target[rows], None if weight is None else weight[rows]
        if factors is not None:
            weight = factors[k, m] if weight is None else weight * factors[k, m]
        return x, target, weight
