"""Modules with Fisher information: which samples teach a module most (MCL-NF's `Ours (MIM)`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig, Memory
from mclnf_fast.learn.methods.fitted import guided_draws, sampled_draws
from mclnf_fast.learn.methods.mod import Mod
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.guided import GuidedSteps
from mclnf_fast.learn.task import ScoredTask, Task, check_scored
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
