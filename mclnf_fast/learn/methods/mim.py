"""Modules with Fisher information: which samples teach a module most (MCL-NF's `Ours (MIM)`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig, Memory
from mclnf_fast.learn.methods.mod import Mod
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.guided import GuidedSteps
from mclnf_fast.learn.task import ScoredTask, Task, check_scored


class MIM(Mod):
    """As `Mod`, with Fisher information to choose the samples, to weight their loss, or both (arXiv 2504.05806)."""

    options = ("fim",)
    tasks: Sequence[ScoredTask]

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        super().__init__(check_scored(tasks, "mim"), init, config, seed)

    def begin(self, k: int) -> None:
        super().begin(k)
        # Scores of the last task say nothing of this one: each task begins without any.
        self.guided = GuidedSteps(self.tasks[k], self.config.fim, self.config.batch)

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        gradients = self.guided.gradients(self.params, step, generator)
        self.losses = self.guided.losses
        return gradients

    def memories(self) -> dict[str, Memory]:
        # "informed" in the states of all versions.
        return {} if self.task is None else {"informed": self.guided}
