"""Modules whose samples are drawn evenly, without scores: what is left of `MIM` without Fisher information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig, Memory
from mclnf_fast.learn.methods.fitted import sampled_draws
from mclnf_fast.learn.methods.mod import Mod
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.even import EvenSampler
from mclnf_fast.learn.task import ScoredTask, Task, check_scored
from mclnf_fast.ops.bank_fit import Draws


class ModEven(Mod):
    """As `Mod`, but a mini-batch covers the task like a grid, where `Mod` draws each sample independently (stratified
    sampling; Zhao & Zhang, arXiv 1405.3080). `MIM` draws so too: the lead over this is what its scores bring."""

    tasks: Sequence[ScoredTask]

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        super().__init__(check_scored(tasks, "mod_even"), init, config, seed)

    def begin(self, k: int) -> None:
        super().begin(k)
        task = self.tasks[k]
        self.sampler = EvenSampler(task.items, task.modules, task.curve, mix=0.0)

    def next_draws(self, k: int, most: int) -> Draws | None:
        return sampled_draws(self, self.sampler, k, most, weighted=False) if self.makes_steps_as(ModEven) else None

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        task = self.tasks[k]
        items, _ = self.sampler.draw(self.config.batch, step, generator)  # without scores all count alike
        batch, factors = task.draw_in(items, generator)
        # Items of unequal size (tiles at the border of a view) would count too much without their factors.
        weights = None if factors is None else factors.to(self.params[0].device)
        return self.gradient(task.loss(self.params, batch, weights, step))

    def memories(self) -> dict[str, Memory]:
        return {} if self.task is None else {"sampler": _Draws(self.sampler)}


class _Draws:
    """The draws of a window, which a resumed run must go on with."""

    def __init__(self, sampler: EvenSampler) -> None:
        self.sampler = sampler

    def state_dict(self) -> dict[str, Tensor]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        # On the CPU, wherever the parameters are: a seed draws the same everywhere.
        self.sampler.load_state_dict(state)
