"""A method meets the tasks of a stream one after another: modules, or one network that is trained on and on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.learn.learner import Learner, LearnerConfig
from mclnf_fast.learn.params import Params
from mclnf_fast.render.posed import PosedImages
from mclnf_fast.systems.folder import RunFolder

SAVE_EVERY = 10.0  # seconds


class Stream:
    """One method over all tasks, with everything that a resumed run needs.

    Args:
        name: of the method.
        tasks: in the order in which they are met.
        start: parameters [1, ...] that a module, or the one network, starts from.
        modular: True: a new module a task, never touched again; False: one network for all tasks.
        config: of the training on each task.
        log_steps: steps after which the current task's held-out PSNR is taken.
        folder: where the state is kept.
        seed: of the mini-batches.
        picture: called as `picture(method, block, step, params)` at each logged step, with step 0 for the start.
    """

    def __init__(
        self,
        name: str,
        tasks: Sequence[PosedImages],
        start: Params,
        modular: bool,
        config: LearnerConfig,
        log_steps: Sequence[int],
        folder: RunFolder,
        seed: int,
        picture: Callable[[str, int, int, Params], None],
    ) -> None:
        self.name, self.tasks, self.start, self.modular, self.config = name, tasks, start, modular, config
        self.log_steps, self.folder, self.seed, self.picture = set(log_steps), folder, seed, picture
        self.finished: list[Params] = []  # a module a finished task; of one network, its last state alone
        self.matrix: list[list[float]] = []  # [k][i]: held-out PSNR of task i after task k
        self.curves: list[dict[int, float]] = []  # of each task: held-out PSNR by step
        self.seconds = 0.0
        self.evaluation_seconds = 0.0
        self._learner: Learner | None = None
        self._load()

    @property
    def tasks_done(self) -> int:
        """Number of tasks that have been learned and evaluated."""
        return len(self.matrix)

    def params_of(self, task: int) -> Params:
        """The parameters that answer for a task now."""
        return self.finished[task] if self.modular else self.finished[-1]

    def learn(self, k: int, advance: Callable[[int], object]) -> None:
        """Learns task k, then measures this and all earlier tasks; does what of it is left to do."""
        if k < self.tasks_done:
            return
        learner = self._learner or self._new_learner(k)
        self._learner = learner
        advance(learner.steps_made)
        self._log(k, learner)
        saved = time.monotonic()
        while not learner.done:
            began = time.perf_counter()
            learner.step()
            wait(learner.device)
            self.seconds += time.perf_counter() - began
            advance(1)
            self._log(k, learner)
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        params = tuple(p.detach().clone() for p in learner.params)
        self.finished = [*self.finished, params] if self.modular else [params]
        self._learner = None
        began = time.perf_counter()
        self.matrix.append([self.tasks[i].evaluate(self.params_of(i)) for i in range(k + 1)])
        self.evaluation_seconds += time.perf_counter() - began
        self.save()

    def _new_learner(self, k: int) -> Learner:
        start = self.start if self.modular or not self.finished else self.finished[-1]
        self.curves = [*self.curves[:k], {}]
        return Learner(self.tasks[k], start, self.config, seed=self.seed * 1009 + k)

    def _log(self, k: int, learner: Learner) -> None:
        step = learner.steps_made
        if step in self.curves[k] or not (step in self.log_steps or learner.done or step == 0):
            return
        began = time.perf_counter()
        params = tuple(p.detach() for p in learner.params)
        self.curves[k][step] = self.tasks[k].evaluate(params)
        self.picture(self.name, k, step, params)
        self.evaluation_seconds += time.perf_counter() - began

    def save(self) -> None:
        """Writes everything, in one file, in one step."""
        tensors: dict[str, Tensor] = {}
        for m, params in enumerate(self.finished):
            tensors.update({f"finished.{m}.{i}": p for i, p in enumerate(params)})
        if self._learner is not None:
            tensors.update({f"learner.{key}": t for key, t in self._learner.state_dict().items()})
        meta = {
            "matrix": self.matrix,
            "curves": [{str(step): v for step, v in c.items()} for c in self.curves],
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "finished": len(self.finished),
        }
        self.folder.save_state(self.name, tensors, meta)

    def _load(self) -> None:
        state = self.folder.load_state(self.name)
        if state is None:
            return
        with self.folder.must_fit(self.name):
            self._take_over(*state)

    def _take_over(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.matrix, self.seconds = meta["matrix"], meta["seconds"]
        self.evaluation_seconds = meta["evaluation_seconds"]
        self.curves = [{int(step): v for step, v in c.items()} for c in meta["curves"]]
        shapes = [p.shape for p in self.start]
        self.finished = [
            tuple(tensors[f"finished.{m}.{i}"].to(p.device) for i, p in enumerate(self.start))
            for m in range(meta["finished"])
        ]
        for params in self.finished:
            if [p.shape for p in params] != shapes:
                raise ValueError(f"a module must have the shapes {shapes}, got {[p.shape for p in params]}")
        if self.tasks_done > len(self.tasks):
            raise ValueError(f"at most {len(self.tasks)} tasks can be done, got {self.tasks_done}")
        own = {key[len("learner.") :]: t for key, t in tensors.items() if key.startswith("learner.")}
        if own:
            curves = self.curves
            self._learner = self._new_learner(self.tasks_done)
            self.curves = curves
            self._learner.load_state_dict(own)

    def summary(self) -> dict[str, Any]:
        """What `metrics.json` holds of this method."""
        last = self.matrix[-1]
        drops = [self.matrix[i][i] - last[i] for i in range(len(last))]
        steps = sorted(set.intersection(*(set(c) for c in self.curves)))
        return {
            "psnr_mean": sum(last) / len(last),
            "psnr_first_task_after_own": self.matrix[0][0],
            "psnr_first_task_after_all": last[0],
            "forgetting": sum(drops) / len(drops),
            "psnr_at_step": {str(s): sum(c[s] for c in self.curves) / len(self.curves) for s in steps},
            "psnr_at_step_by_task": [{str(s): c[s] for s in sorted(c)} for c in self.curves],
            "matrix": [row + [None] * (len(last) - len(row)) for row in self.matrix],
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "parameters": sum(p.numel() for params in self.finished for p in params),
            "steps_per_block": self.config.steps,
            "fisher": self.config.fim,
        }


def wait(device: torch.device) -> None:
    """Until the device has done what it was given, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def stack(modules: Sequence[Params]) -> Params:
    """Modules [1, ...] side by side as one bank's parameters [M, ...]."""
    return tuple(torch.cat(tensors) for tensors in zip(*modules))
