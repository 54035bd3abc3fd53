"""Experience replay: old samples, kept in a reservoir, are trained on beside the new ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig, Memory, Method
from mclnf_fast.learn.methods.reservoir import Reservoir
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Task


class ER(Method):
    """L = L_new(batch) + L_memory(batch), the memory a uniform sample of all that was seen (Chaudhry et al., "On Tiny
    Episodic Memories in Continual Learning", arXiv 1902.10486)."""

    batches = 2
    options = ("memory",)

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        super().__init__(tasks, init, config, seed)
        self.memory = Reservoir(config.memory, seed)

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        task = self.tasks[k]
        batch, weights = self.draw(k, step, generator)
        loss = task.loss(self.params, batch, weights, step)
        # Before the first task has ended there is nothing to replay: the step is that of fine-tuning.
        if self.memory:
            loss = loss + task.loss(self.params, self.memory.draw(self.config.batch, generator), None, step)
        return self.gradient(loss)

    def finish(self, k: int) -> None:
        super().finish(k)
        # Only now: while the task is being learned, its own samples would be replayed as old ones.
        self.memory.see(self.tasks[k])

    def memories(self) -> dict[str, Memory]:
        return {"memory": self.memory}
