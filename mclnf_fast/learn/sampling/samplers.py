"""Draw a task's items by their Fisher scores: one interface to `EvenSampler` and `FisherSampler`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.sampling.even import EvenSampler
from mclnf_fast.learn.sampling.sampling import FisherSampler
from mclnf_fast.learn.task import ScoredTask

BLOCK = 16  # neighboring samples that share a score


class Sampler(Protocol):
    """Draws items for S modules in step, by numbers of the CPU, so that a seed means the same on every device."""

    def draw(self, count: int, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return `count` items per module in step number `step`: ids int64 [S, count], weights [S, count] (None: 1),
        where the scores are."""

    def update(self, items: Tensor, q: Tensor, weights: Tensor | None) -> None:
        """Take in the scores q [S, k] of samples of items [S, k] that were drawn with these weights."""

    def probabilities(self) -> Tensor:
        """Return p of every item, [S, items]."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that decides the next draw, except for the generator (copies)."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises ValueError if it does not fit."""


class IndependentSampler:
    """`FisherSampler`, whose items may be drawn several times in a batch, and be several samples.

    An item's score is then the mean of its samples in the batch, mixed with what was known by `smooth`.
    """

    def __init__(self, items: int, modules: int, mix: float, refresh: int, smooth: float) -> None:
        self.items, self.smooth = items, smooth
        self.inner = FisherSampler([items] * modules, mix=mix, refresh=refresh)
        self.probabilities = self.inner.probabilities
        self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict

    def draw(self, count: int, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        return self.inner.draw(count, generator)

    def update(self, items: Tensor, q: Tensor, weights: Tensor | None) -> None:
        # The pool takes one score per item: of an item drawn twice, whichever was written last would decide.
        rows = torch.arange(len(items))[:, None] * self.items
        unique, place = (items + rows).unique(return_inverse=True)
        total = torch.zeros(unique.numel(), dtype=torch.float64).index_add_(0, place.flatten(), q.flatten().double())
        mean = (total / place.flatten().bincount())[place].to(q.dtype)
        old = self.inner.scores(items)
        self.inner.update(items, torch.where(old < 0, mean, torch.lerp(old, mean, self.smooth)), weights=weights)


def make_sampler(task: ScoredTask, config: FimConfig, seed: int = 0, number: int = 0) -> Sampler:
    """Return the sampler that the configuration asks for; seed and number (of the task) of counted draws."""
    several = task.items != task.samples  # an item has neighbors enough in itself
    if config.draws == "independent":
        # The score of an item that is one sample has no sampling noise to average: the latest one stands.
        smooth = config.smooth if several else 1.0
        return IndependentSampler(task.items, task.modules, config.mix, config.refresh, smooth)
    block = 1 if several else BLOCK
    mix, smooth = config.mix, config.smooth
    return EvenSampler(
        task.items, task.modules, task.curve, mix=mix, smooth=smooth, block=block, seed=seed, task=number
    )
