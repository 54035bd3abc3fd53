"""What a learner needs to know of a task, and nothing else: no cameras, no pixels, no audio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from mclnf_fast.learn.params import Params
from mclnf_fast.ops import FisherPoints
from mclnf_fast.spec import FieldSpec

__all__ = ["BankTask", "Batch", "FisherPoints"]

Batch = tuple[Tensor, ...]
"""Samples of S modules side by side: tensors [S, k, ...]."""


class BankTask(Protocol):
    """One task of S signals side by side: a stream of samples for S modules in step, and the loss on them.

    A *sample* is what has a loss of its own: a coordinate, a ray. An *item* is what Fisher information is remembered
    for: a sample, or a small patch of them where single samples are drawn too seldom to be known.

    Ids and items come from the CPU, so that a seed means the same on every device; batches are where the data is.
    """

    name: str
    spec: FieldSpec
    backend: str
    curve: Tensor | None
    """The items in an order in which neighbours are alike, int64 [items]; None: their own order."""

    @property
    def modules(self) -> int:
        """S."""

    @property
    def samples(self) -> int:
        """Number of samples in the pool of each signal."""

    @property
    def items(self) -> int:
        """Number of items in the pool of each signal."""

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """`count` samples a module, uniform over the pool."""

    def take(self, ids: Tensor) -> Batch:
        """The samples of int64 ids [S, k]."""

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor | None]:
        """One sample of each item int64 [S, k], and factors [S, k] on the CPU that correct for items of unequal size;
        None where an item is a sample."""

    def loss(self, params: Params, batch: Batch, weights: Tensor | None = None, seed: int = 0) -> Tensor:
        """Each module's mean loss [S] over its samples times weights [S, k]; differentiable in `params` [S, ...].
        seed: of what is random in a sample's own loss, such as where a ray is looked at."""

    def points(self, params: Params, batch: Batch, seed: int = 0) -> FisherPoints:
        """What Fisher scores of the samples' own losses need."""

    def outputs(self, params: Params, batch: Batch, seed: int = 0) -> Iterator[FisherPoints]:
        """The same for each output channel of the samples themselves (a value, a pixel's colour) in place of the loss:
        what the Gauss-Newton form of the Fisher information needs."""
