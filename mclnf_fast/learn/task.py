"""What a learner needs to know of a task, and nothing else: no cameras, no pixels, no audio."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from mclnf_fast.learn.params import Params
from mclnf_fast.ops import FisherResult

Pair = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


class Task(Protocol):
    """A stream of samples for one module, and the loss on them.

    An *item* is what Fisher information is remembered for: a coordinate, or a small patch of them where single samples
    are drawn too seldom to be known.
    """

    name: str

    @property
    def items(self) -> int:
        """Number of items in the pool."""

    def draw(self, count: int, generator: torch.Generator) -> Any:
        """A batch of `count` samples, uniform over the pool."""

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Any, Tensor]:
        """A batch with one sample of each item int64 [S], and factors [S] that correct for items of unequal size."""

    def losses(self, params: Params, batch: Any, seed: int) -> Tensor:
        """Each sample's own loss [S], differentiable in the module's parameters (tensors [1, ...])."""

    def scores(self, params: Params, batch: Any, weights: Tensor, fisher: Pair | None, seed: int) -> FisherResult:
        """Fisher scores of the losses times `weights` [S], with the summed gradients and the batch's Fisher."""

    def evaluate(self, params: Params) -> float:
        """Held-out quality, PSNR in dB."""
