"""Modules whose samples are drawn evenly, without scores: what is left of `MIM` without Fisher information."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig
from mclnf_fast.learn.methods.fitted import guided_draws, sampled_draws
from mclnf_fast.learn.methods.mod import Mod
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.even import EvenSampler
from mclnf_fast.learn.task import ScoredTask, Task, check_scored
from mclnf_fast.ops.bank_fit import Draws, Guide


class ModEven(Mod):
    """As `Mod`, but a mini-batch covers the task like a grid, where `Mod` draws each sample independently (stratified
    sampling; Zhao & Zhang, arXiv 1405.3080). `MIM` draws so too: the lead over this is what its scores bring."""

    tasks: Sequence[ScoredTask]

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        super().__init__(check_scored(tasks, "mod_even"), init, config, seed)

    def begin(self, k: int) -> None:
        super().begin(k)
        task = self.tasks[k]
        self.sampler = EvenSampler(task.items, task.modules, task.curve, mix=0.0, seed=self.draw_seed, task=k)

    def next_draws(self, k: int, most: int) -> Draws | None:
        if not self.makes_steps_as(ModEven):
            return None
        draws = guided_draws(self, k, Guide(self.tasks[k].curve, mix=0.0))
        return draws or sampled_draws(self, self.sampler, k, most, weighted=False)

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        task = self.tasks[k]
        items, _ = self.sampler.draw(self.config.batch, step, generator)  # without scores all count alike
        batch, factors = task.draw_in(items, generator)
        # Items of unequal size (tiles at the border of a view) would count too much without their factors.
        weights = None if factors is None else factors.to(self.params[0].device)
        return self.gradient(task.loss(self.learned_at, batch, weights, step))
