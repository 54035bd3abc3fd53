"""Experience replay: old samples, kept in a reservoir, are trained on beside the new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig, Memory, Method
from mclnf_fast.learn.methods.fitted import next_steps, replayed_ids, uniform_draws, uniform_ids
from mclnf_fast.learn.methods.reservoir import Reservoir
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Batch, Task, fit_data, listed
from mclnf_fast.ops.bank_fit import Draws, FitData, FitRays


class ER(Method):
    """L = L_new(batch) + L_memory(batch), the memory a uniform sample of all that was seen (Chaudhry et al., "On Tiny
    Episodic Memories in Continual Learning", arXiv 1902.10486)."""

    batches = 2
    options = ("memory",)

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        super().__init__(tasks, init, config, seed)
        self.memory = Reservoir(config.memory, seed)

    def draw(self, k: int, step: int, generator: torch.Generator) -> tuple[Batch, Tensor | None]:
        batch, weights = super().draw(k, step, generator)
        # Before the first task has ended there is nothing to replay: the step is that of fine-tuning.
        if not self.memory:
            return batch, weights
        # Both in one batch: the mean over it is half the sum of their means, hence the weight of 2.
        old = self.memory.take(replayed_ids(self, k, range(step, step + 1), len(self.memory))[0])
        both = tuple(torch.cat(pair, 1) for pair in zip(batch, old))
        return both, both[0].new_full(both[0].shape[:2], 2.0)

    def next_draws(self, k: int, most: int) -> Draws | None:
        if not self.makes_steps_as(ER):
            return None
        if not self.memory:
            return uniform_draws(self, k, most)
        steps = next_steps(self, k, most)
        new = uniform_ids(self, k, steps)
        old = replayed_ids(self, k, steps, len(self.memory)) + self.tasks[k].samples
        ids = torch.cat((new, old), 2)
        return Draws("given", ids=ids, weights=torch.full(ids.shape, 2.0, dtype=self.params[0].dtype))

    def fit_samples(self, k: int, draws: Draws) -> tuple[FitData | FitRays, Draws]:
        if not self.memory:
            return super().fit_samples(k, draws)
        assert draws.ids is not None
        task, old, device = self.tasks[k], self.memory.samples, self.params[0].device
        rays = listed(task)
        if rays is None:
            data = fit_data(task)
            assert data is not None
            # The coordinates are the same for all signals, and so are those that were kept.
            return FitData(torch.cat((data.x, old[0][0])), torch.cat((data.target, old[1]), 1)), draws
        count = draws.ids.shape[2] // 2
        new, kept = draws.ids[:, 0, :count].flatten(), draws.ids[:, 0, count:].flatten() - task.samples
        batch = [torch.cat(pair) for pair in zip(rays.batch(new), (t[0] for t in self.memory.take(kept[None])))]
        rows = torch.arange(2 * len(new), device=device).reshape(2, -1, 1, count)
        return rays.fit_rays(tuple(batch)), dataclasses.replace(draws, ids=torch.cat((rows[0], rows[1]), 2))

    def finish(self, k: int) -> None:
        super().finish(k)
        # Only now: while the task is being learned, its own samples would be replayed as old ones.
        self.memory.see(self.tasks[k])

    def memories(self) -> dict[str, Memory]:
        return {"memory": self.memory}
