"""Make the episodes of meta-training: which tasks an outer step adapts to, and the losses on them.

An episode source holds all that differs between kinds of meta-training; `MetaTrainer` holds what they share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.scores import FimConfig, FisherScorer
from mclnf_fast.learn.meta.config import MetaConfig, Use
from mclnf_fast.learn.meta.gradncp import PrunedContext, bootstrapped
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.learn.sampled import SampledLoss, StepSamples, in_batches
from mclnf_fast.learn.sampling.guided import guided_batch
from mclnf_fast.learn.task import Batch, ScoredTask, fit_data

Kind = Literal["modules", "joint", "oml"]
DrawLoss = Callable[[Tensor, torch.Generator], LossFn]
"""(tasks int64 [T], generator of their samples) -> the loss of T modules, module m on tasks[m]."""


class Episode(NamedTuple):
    """The tasks of one outer step: losses `(params [modules, ...], inner step) -> [modules]`.

    The inner loop descends on `support`; `query` is MAML's outer loss, and Reptile has none.
    """

    support: LossFn
    query: LossFn
    modules: int


class Episodes(Protocol):
    """A source of episodes, the same ones for the same outer step and generator."""

    @property
    def sequence(self) -> int:
        """Tasks that OML's inner loop passes through one after another; 1 for all others."""

    def __call__(self, outer: int, generator: torch.Generator) -> Episode:
        """Return the episode of outer step `outer`, from 0; all that is random comes from the generator."""


class DrawnEpisodes:
    """Episodes over `tasks` tasks of one kind, some of them side by side in each outer step.

    They are drawn without replacement (with, if there are fewer tasks than wanted). Support and query loss are one,
    with fresh samples in each call.

    Args:
        tasks: how many there are.
        draw_loss: see `DrawLoss`.
        count: tasks of an outer step; None: all.

    Raises InputError if there is no task.

    >>> import torch
    >>> episodes = DrawnEpisodes(5, lambda tasks, generator: lambda params, step: params[0].sum(1) * tasks, 2)
    >>> episodes(0, torch.Generator().manual_seed(0)).modules
    2
    """

    sequence = 1

    def __init__(self, tasks: int, draw_loss: DrawLoss, count: int | None = None) -> None:
        if tasks < 1:
            raise InputError(f"tasks must be at least 1, got {tasks}")
        self.tasks, self.draw_loss, self.count = tasks, draw_loss, tasks if count is None else count

    def __call__(self, outer: int, generator: torch.Generator) -> Episode:
        if self.count <= self.tasks:
            chosen = torch.randperm(self.tasks, generator=generator)[: self.count]
        else:
            chosen = torch.randint(self.tasks, (self.count,), generator=generator)
        # One loss for both: its samples are drawn afresh in each call, so the query meets others than the support.
        loss = self.draw_loss(chosen, generator)
        return Episode(loss, loss, self.count)


class TaskEpisodes:
    """Episodes over the signals of `ScoredTask`s.

    `modules`: every task of every signal is a module of its own; `joint`: a signal with all its tasks is one;
    `oml`: a signal is one, its inner loop runs through the tasks in their order, and the outer loss is over all tasks
    (Javed & White, arXiv 1905.12588).

    Args:
        kind: as above.
        tasks: T tasks of all signals (for `modules` in local, else in global coordinates).
        config: its `tasks`, `batch`, `inner_steps` and `inner_lr`; `context`, `keep` and `bootstrap` (which need
            batches (x, y)); `fim_inner` and `fim_outer`: whether the inner loop, and the outer loss, use Fisher scores:
            `weight` on the loss, `sample` to draw each batch out of four times as many candidates, or `both`. Weights
            and draws are not differentiated.
        fim: how Fisher scores are formed.
        validation: all signals in every episode, a context whole and rescaled as at test time, and no weights on the
            outer loss.

    Raises InputError if options exclude each other.
    """

    def __init__(
        self,
        kind: Kind,
        tasks: Sequence[ScoredTask],
        config: MetaConfig,
        fim: FimConfig | None = None,
        validation: bool = False,
    ) -> None:
        self.kind, self.tasks, self.config, self.validation = kind, tasks, config, validation
        self.fim = fim or FimConfig()
        self.axis = 0 if kind == "modules" else 1  # of the modules, or of the samples: along it tasks lie side by side

    @property
    def sequence(self) -> int:
        """Number of tasks in OML, else 1."""
        return len(self.tasks) if self.kind == "oml" else 1

    def __call__(self, outer: int, generator: torch.Generator) -> Episode:
        total = self.tasks[0].modules
        # Without a choice nothing is drawn from the generator: the samples of a run over all tasks stay what they were.
        if self.validation or self.config.tasks is None:
            chosen = torch.arange(total)
        else:
            chosen = torch.randperm(total, generator=generator)[: min(total, self.config.tasks)]
        pruned = self.config.context == "gradncp"
        return self._pruned(chosen, generator) if pruned else self._sampled(chosen, generator)

    def _sampled(self, chosen: Tensor, generator: torch.Generator) -> Episode:
        """Return the losses on fresh uniform samples, with Fisher scores if they are asked for."""
        first, config = self.tasks[0], self.config
        modules = len(chosen) * (len(self.tasks) if self.kind == "modules" else 1)

        def draw(count: int, step: int | None) -> Batch:
            if self.kind == "oml" and step is not None:
                return self.tasks[step // config.inner_steps].draw(count, generator, chosen)
            batches = [task.draw(count, generator, chosen) for task in self.tasks]
            return tuple(torch.cat(tensors, self.axis) for tensors in zip(*batches))

        def loss(params: Params, step: int | None, use: Use, scorer: FisherScorer) -> Tensor:
            batch, weights = guided_batch(
                lambda count: draw(count, step), config.batch, params, first, use, scorer, generator
            )
            return first.loss(params, batch, weights)

        # Validation is of the plain error: weighted ones of two settings could not be compared.
        query_use: Use = "none" if self.validation else config.fim_outer
        # Two scorers: a running Fisher of adapted networks says little of those that begin.
        inner, outer = (FisherScorer(first.spec, modules, self.fim, first.backend) for _ in range(2))

        def support(params: Params, step: int) -> Tensor:
            return loss(params, step, config.fim_inner, inner)

        def query(params: Params, step: int) -> Tensor:
            return loss(params, None, query_use, outer)

        def samples(batches: list[Batch]) -> StepSamples:
            return StepSamples(in_batches(batches), batches[0][0].shape[1])  # a batch of each task of a joint module

        def sampled(loss: LossFn, use: Use, draw_at: Callable[[int], Batch]) -> LossFn:
            # Scores are of the parameters: a step's samples are then known only when it comes.
            if use != "none" or any(fit_data(task) is None for task in self.tasks):
                return loss
            return SampledLoss(loss, lambda n: samples([draw_at(i) for i in range(n)]), first.spec, first.backend)

        return Episode(
            sampled(support, config.fim_inner, lambda step: draw(config.batch, step)),
            sampled(query, query_use, lambda step: draw(config.batch, None)),
            modules,
        )

    def _pruned(self, chosen: Tensor, generator: torch.Generator) -> Episode:
        """Return the losses on a context that is pruned at every inner step, or whole and rescaled in validation."""
        config = self.config
        # As large a context that its kept share is a batch: an inner step costs what one without pruning does.
        count = math.ceil(config.batch / config.keep)
        batches = [task.draw(count, generator, chosen) for task in self.tasks]
        whole = self._context(tuple(torch.cat(tensors, self.axis) for tensors in zip(*batches)))
        contexts = [self._context(batch) for batch in batches] if self.kind == "oml" else None

        def support(params: Params, step: int) -> Tensor:
            context = whole if contexts is None else contexts[step // config.inner_steps]
            return context.rescaled(params) if self.validation else context.pruned(params)

        query = whole.whole if self.validation else bootstrapped(whole, lr=config.inner_lr, weight=config.bootstrap)
        return Episode(support, query, whole.modules)

    def _context(self, batch: Batch) -> PrunedContext:
        (x, y), task = batch, self.tasks[0]
        offsets = ops.offsets_of_equal_shares(len(x), x.shape[1], x.device)
        return PrunedContext(x.flatten(0, 1), offsets, y.flatten(0, 1), task.spec, self.config.keep, task.backend)
