"""Hold a loss whose samples are known before the parameters: many steps of it can be one call of an op."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.learn.params import LossFn, Params, split_pair
from mclnf_fast.learn.task import Batch, ScoredTask, fit_data
from mclnf_fast.ops.bank_fit import FitData
from mclnf_fast.spec import FieldSpec


class StepSamples(NamedTuple):
    """The samples of the steps of a loss, which is the mean squared error of a field.

    Attributes:
        data: of every module; all in every step, or the next `batch` of each module in every step.
        batch: None: all.
    """

    data: FitData
    batch: int | None

    @property
    def modules(self) -> int:
        """M."""
        return len(self.data.target) if self.data.offsets is None else len(self.data.offsets) - 1


@dataclasses.dataclass(frozen=True)
class SampledLoss:
    """A loss function `(params [M, ...], step) -> [M]` that can also give the samples of its next steps at once.

    Either way the samples are the same: those that are drawn come from the same generator in the same order.

    Args:
        loss: the loss function.
        samples: number of steps K -> the samples of the steps 0 ... K - 1.
        spec: of the field.
        backend: of the ops.

    >>> from mclnf_fast.spec import FieldSpec
    >>> from mclnf_fast.tasks import CoordTask, whole_loss
    >>> task = CoordTask("ramps", torch.rand(6, 2), torch.rand(3, 6, 1), FieldSpec(2, 1, 8, 1))
    >>> whole_loss(task).samples(4).modules
    3
    """

    loss: LossFn
    samples: Callable[[int], StepSamples]
    spec: FieldSpec
    backend: str = "auto"

    def __call__(self, params: Params, step: int) -> Tensor:
        """Return the losses of one step, [M]."""
        return self.loss(params, step)

    def on(self, samples: Sequence[Tensor], modules: int, steps: int) -> SampledLoss:
        """Return the same loss on samples x [N, d] and target [N, C] that are there, as `samples` returns those of
        `steps` steps: step k takes the k-th batch of each of M modules."""
        x, y = (t.reshape(modules, steps, -1, t.shape[-1]) for t in samples)
        batch = x.shape[2]
        offsets = ops.offsets_of_equal_shares(modules, batch, x.device)

        def loss(params: Params, step: int) -> Tensor:
            weights, biases = split_pair(params)
            places, values = (t[:, step].flatten(0, 1) for t in (x, y))
            return ops.bank_mse(places, offsets, weights, biases, values, self.spec, backend=self.backend)

        data = FitData(samples[0], samples[1], ops.offsets_of_equal_shares(modules, steps * batch, x.device))
        return SampledLoss(loss, lambda _: StepSamples(data, batch), self.spec, self.backend)


def drawn_loss(task: ScoredTask, count: int, generator: torch.Generator, modules: Tensor | None = None) -> LossFn:
    """Return the loss over fresh uniform samples of a task in every step: a `SampledLoss` if the task lies in memory.

    Args:
        task: S signals side by side.
        count: samples per module and step.
        generator: of the draws.
        modules: int64 [T], the signals to learn, module m on modules[m]; None: all.

    >>> from mclnf_fast.fields import initial_parameters
    >>> from mclnf_fast.spec import FieldSpec
    >>> from mclnf_fast.tasks import CoordTask
    >>> task = CoordTask("ramps", torch.rand(6, 2), torch.rand(3, 6, 1), FieldSpec(2, 1, 8, 1))
    >>> drawn_loss(task, 4, torch.Generator())(initial_parameters(task.spec, 3), 0).shape
    torch.Size([3])
    """

    def loss(params: Params, step: int) -> Tensor:
        return task.loss(params, task.draw(count, generator, modules), seed=step)

    def samples(steps: int) -> StepSamples:
        return StepSamples(in_batches([task.draw(count, generator, modules) for _ in range(steps)]), count)

    return loss if fit_data(task) is None else SampledLoss(loss, samples, task.spec, task.backend)


def in_batches(batches: Sequence[Batch]) -> FitData:
    """Return the batches x [M, k, d], y [M, k, C] of K steps as samples that lie side by side, step after step.

    >>> in_batches([(torch.zeros(3, 4, 2), torch.zeros(3, 4, 1))] * 5).x.shape
    torch.Size([60, 2])
    """
    x, y = (torch.stack([batch[i] for batch in batches], 1) for i in range(2))
    offsets = ops.offsets_of_equal_shares(len(x), x.shape[1] * x.shape[2], x.device)
    return FitData(x.flatten(0, 2), y.flatten(0, 2), offsets)
