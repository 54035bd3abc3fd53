"""Modules with Fisher information: which samples teach a module most (MCL-NF's `Ours (MIM)`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.graphs import GraphedStep, Tensors
from mclnf_fast.learn.methods.base import AdaptConfig, Memory
from mclnf_fast.learn.methods.fitted import guided_draws, sampled_draws, uniform_ids
from mclnf_fast.learn.methods.mod import Mod
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.guided import GuidedSteps
from mclnf_fast.learn.task import ScoredTask, Task, check_scored, fit_data, listed
from mclnf_fast.ops.bank_fit import Draws, GuideState


class MIM(Mod):
    """As `Mod`, with Fisher information to choose the samples, to weight their loss, or both (arXiv 2504.05806)."""

    options = ("fim",)
    tasks: Sequence[ScoredTask]

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        super().__init__(check_scored(tasks, "mim"), init, config, seed)

    def begin(self, k: int) -> None:
        super().begin(k)
        # Scores of the last task say nothing of this one: each task begins without any.
        self.guided = GuidedSteps(self.tasks[k], self.config.fim, self.config.batch, self.draw_seed, k)
        self._graph: GraphedStep | None = None
        self._graph_of: BankOptimizer | None = None

    def finish(self, k: int) -> None:
        super().finish(k)
        self._graph = self._graph_of = None  # it holds the memory of a step

    def make_step(self, k: int, step: int, optimizer: BankOptimizer) -> None:
        if not self._replay(k, step, optimizer):
            super().make_step(k, step, optimizer)

    def _replay(self, k: int, step: int, optimizer: BankOptimizer) -> bool:
        """Make a step that scores, if it is static: as a CUDA graph. False otherwise: then none is made."""
        if self._graph is None or self._graph_of is not optimizer:
            name, device = f"{type(self).__name__} on {self.tasks[k].name}", self.params[0].device
            self._graph = GraphedStep(functools.partial(self._scored_step, k, optimizer), name, device)
            self._graph_of = optimizer
        if self._graph.reason or not self._static(k, step):
            return False
        rays, generator, items, weights = listed(self.tasks[k]), self.generator(k, step), None, None
        if self.guided.sampler is None:
            ids = uniform_ids(self, k, range(step, step + 1))[0]
        else:
            items, weights = self.guided.items(self.params[0].device, step, generator)
            ids = items
            if rays is not None:
                ids, factors = rays.ids_in(items[0], [generator])
                ids = ids[None]
                if factors is not None:
                    weights = factors[None] if weights is None else weights * factors
        q, *losses = self._graph(ids, torch.tensor(step), *([] if weights is None else [weights]))
        self.losses = losses[0] if losses else self.losses
        if items is not None:
            self.guided.take_in(step, items, q, weights)
        return True

    def _static(self, k: int, step: int) -> bool:
        """Whether step `step` is one that scores, on samples that are known by their ids."""
        known = listed(self.tasks[k]) is not None or fit_data(self.tasks[k]) is not None
        # A scaled loss has its scale in another tensor after each step.
        return known and self.low is None and self.makes_steps_as(MIM) and self.guided.scores(step)

    def _scored_step(self, k: int, optimizer: BankOptimizer, ids: Tensor, seed: Tensor, *weights: Tensor) -> Tensors:
        """Make a step on samples of ids [S, batch] that count weights [S, batch], by a seed []; return the scores [S,
        batch] and the losses [S] if they are formed."""
        task, rays = self.tasks[k], listed(self.tasks[k])
        batch = task.take(ids) if rays is None else tuple(t[None] for t in rays.batch(ids[0]))
        gradients, q, losses = self.guided.scored(self.params, batch, weights[0] if weights else None, seed)
        optimizer.step(gradients)
        return (q,) if losses is None else (q, losses)

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        uniform = None if self.guided.sampler is not None else self.draw(k, step, generator)[0]
        gradients = self.guided.gradients(self.params, step, generator, uniform, self.optimizer)
        self.losses = self.guided.losses
        return gradients

    def next_draws(self, k: int, most: int) -> Draws | None:
        if self.guided.sampler is None or not self.makes_steps_as(MIM):
            return None
        guide = self.guided.guide(self.params[0].device)
        if guide is not None and (draws := guided_draws(self, k, guide)) is not None:
            return draws
        # Without the fit's own scores, the steps between two scorings.
        free = self.guided.free_steps(self.made)
        if not free:
            return None
        return sampled_draws(self, self.guided.sampler, k, min(most, free))

    def guide_state(self) -> GuideState:
        return self.guided.guide_state(self.params)

    def memories(self) -> dict[str, Memory]:
        # "informed" in the states of all versions.
        return {} if self.task is None else {"informed": self.guided}
