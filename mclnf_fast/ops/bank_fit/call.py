"""A checked call of a fit, as every backend takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.ops.bank_fit.guide import Guide
from mclnf_fast.ops.bank_fit.types import Draws, FitData, FitRays, FitRule, FitState, Watch
from mclnf_fast.ops.bank_step import Trust
from mclnf_fast.packing import DrawRule, Precision
from mclnf_fast.spec import FieldSpec


class FitCall(NamedTuple):
    """The arguments of `ops.bank_fit`, checked, with what follows from them.

    Attributes:
        goal: int64 [M], steps of each module at the end of the call.
        last: a number that none of them passes; None if that is known on the device alone.
        numbers: int64 [M], what the draws are keyed by.
        trust: None if it is off.
        stop_loss: float64 [M] or None.
        guide: options of the rule "guided"; None for another.
    """

    state: FitState
    data: FitData | FitRays
    spec: FieldSpec
    goal: Tensor
    last: int | None
    draws: Draws
    draw_rule: DrawRule
    numbers: Tensor
    rule: FitRule
    trust: Trust | None
    watch: Watch
    stop_loss: Tensor | None
    guide: Guide | None

    @property
    def batch(self) -> int:
        """Samples per module and step; 0: all."""
        if self.draw_rule == DrawRule.WHOLE:
            return 0
        return self.draws.batch if self.draws.ids is None else self.draws.ids.shape[2]

    @property
    def precision(self) -> Precision:
        """Of the operands of products."""
        return Precision[self.rule.precision.upper()]

    def rates(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the rates of all steps up to the last one, or some more, float64."""
        last = self.last
        if last is None:
            last = int(self.goal.max())  # waits for the device
        return self.rule.schedule.rates(last, device)

    def by_layer(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return weights and then biases as weight and bias of one layer after the other, as the compiled op does."""
        layers = len(tensors) // 2
        return [t for l in range(layers) for t in (tensors[l], tensors[layers + l])]

    def by_kind(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the order of `by_layer` as weights and then biases."""
        return (*tensors[0::2], *tensors[1::2])
