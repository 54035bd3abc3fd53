"""A method meets the blocks of a stream one after another, or, offline, all at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.learn.methods import MIM, AdaptConfig, Method, Mod
from mclnf_fast.learn.params import Params, part_of
from mclnf_fast.learn.task import join
from mclnf_fast.systems.common.folder import RunFolder
from mclnf_fast.tasks.rays import PosedImages, RayTask

SAVE_EVERY = 10.0  # seconds


class Stream:
    """One method over all blocks, with everything that a resumed run needs.

    A method that meets all blocks at once learns when the last one is there, with as many steps as the others make over
    all blocks; its curve counts them a block.

    Args:
        name: of the method.
        cls: the method.
        tasks: the blocks, in the order in which they are met.
        start: parameters [1, ...] that a module, or the one network, starts from.
        config: of the training; the exponential schedule is spread over the method's steps here.
        steps: a block.
        log_steps: steps a block after which the held-out PSNR is taken.
        folder: where the state is kept.
        seed: of the mini-batches.
        picture: called as `picture(method, block, step, params)` at each logged step, with step 0 for the start.
    """

    def __init__(
        self,
        name: str,
        cls: type[Method],
        tasks: Sequence[PosedImages],
        start: Params,
        config: AdaptConfig,
        steps: int,
        log_steps: Sequence[int],
        folder: RunFolder,
        seed: int,
        picture: Callable[[str, int, int, Params], None],
    ) -> None:
        self.name, self.tasks, self.steps, self.folder, self.picture = name, tasks, steps, folder, picture
        self.log_steps = {0, *log_steps, steps}
        self.blocks_at_once = len(tasks) if cls.joint else 1
        met: Sequence[RayTask] = [join(tasks)] if cls.joint else tasks
        self.method = cls(met, start, dataclasses.replace(config, decay_steps=self.budget), seed)
        self.matrix: list[list[float | None]] = []  # [k][i]: held-out PSNR of block i after block k
        self.curves: list[dict[int, float]] = []  # of each block: held-out PSNR by steps a block
        self.seconds = 0.0
        self.evaluation_seconds = 0.0
        self._load()

    @property
    def modular(self) -> bool:
        """Whether every block has a module of its own."""
        return self.method.modular

    @property
    def joint(self) -> bool:
        """Whether all blocks are met at once."""
        return self.method.joint

    @property
    def budget(self) -> int:
        """Gradient steps on a task of the method: a block, or all of them."""
        return self.steps * self.blocks_at_once

    @property
    def modules(self) -> list[Params]:
        """The finished modules, tensors [1, ...]; of one network, that alone."""
        return self.method.modules if isinstance(self.method, Mod) else [self.method.params_of(0)]

    @property
    def tasks_done(self) -> int:
        """Number of blocks that have been learned and evaluated."""
        return len(self.matrix)

    def params_of(self, block: int) -> Params:
        """The parameters that answer for a block now."""
        return self.method.params_of(block)

    def learn(self, k: int, advance: Callable[[int], object]) -> None:
        """Learns block k, then measures this and all earlier blocks; does what of it is left to do."""
        last = len(self.tasks) - 1
        if k < self.tasks_done or (self.joint and k < last):
            return
        method, task = self.method, 0 if self.joint else k
        if method.task is None:
            self.curves = self.curves[: self.tasks_done] + [{} for _ in range(self.blocks_at_once)]
            method.begin(task)
        advance(method.made)
        self._log(k)
        saved = time.monotonic()
        while method.made < self.budget:
            began = time.perf_counter()
            method.step(task, method.made)
            wait(method.params[0].device)
            self.seconds += time.perf_counter() - began
            advance(1)
            self._log(k)
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        began = time.perf_counter()
        method.finish(task)
        wait(method.params[0].device)
        self.seconds += time.perf_counter() - began
        began = time.perf_counter()
        if self.joint:  # there is no time at which only some blocks had been learned
            self.matrix += [[None] * len(self.tasks)] * last
        self.matrix.append([self.tasks[i].evaluate(self.params_of(i)).item() for i in range(k + 1)])
        self.evaluation_seconds += time.perf_counter() - began
        self.save()

    def _log(self, k: int) -> None:
        step, rest = divmod(self.method.made, self.blocks_at_once)
        if rest or step not in self.log_steps:
            return
        began = time.perf_counter()
        for block in range(len(self.tasks)) if self.joint else (k,):
            if step not in self.curves[block]:
                params = self.params_of(block)
                self.curves[block][step] = self.tasks[block].evaluate(params).item()
                self.picture(self.name, block, step, params)
        self.evaluation_seconds += time.perf_counter() - began

    def save(self) -> None:
        """Writes everything, in one file, in one step."""
        meta = {
            "matrix": self.matrix,
            "curves": [{str(step): v for step, v in c.items()} for c in self.curves],
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
        }
        self.folder.save_state(self.name, {f"method.{key}": t for key, t in self.method.state_dict().items()}, meta)

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
        if self.tasks_done > len(self.tasks):
            raise ValueError(f"at most {len(self.tasks)} blocks can be done, got {self.tasks_done}")
        self.method.load_state_dict(part_of(tensors, "method"))

    def summary(self) -> dict[str, Any]:
        """What `metrics.json` holds of this method. None of a method without a sequence: what it was before the end."""
        last = self.matrix[-1]
        own = [row[k] for k, row in enumerate(self.matrix)]
        drops = [a - b for a, b in zip(own, last) if a is not None and b is not None]
        steps = sorted(set.intersection(*(set(c) for c in self.curves)))
        tasks, config = 1 if self.joint else self.tasks_done, self.method.config
        return {
            "psnr_mean": sum(v for v in last if v is not None) / len(last),
            "psnr_first_task_after_own": own[0],
            "psnr_first_task_after_all": last[0],
            "forgetting": sum(drops) / len(drops) if len(drops) == len(last) and not self.joint else None,
            "psnr_at_step": {str(s): sum(c[s] for c in self.curves) / len(self.curves) for s in steps},
            "psnr_at_step_by_task": [{str(s): c[s] for s in sorted(c)} for c in self.curves],
            "matrix": [row + [None] * (len(last) - len(row)) for row in self.matrix],
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "parameters": sum(p.numel() for params in self.modules for p in params),
            "steps_per_block": self.steps,
            "steps_total": self.budget * tasks,
            "category": self.method.category,
            "fisher": config.fim.use if isinstance(self.method, MIM) else "none",
        }


def wait(device: torch.device) -> None:
    """Until the device has done what it was given, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def stack(modules: Sequence[Params]) -> Params:
    """Modules [1, ...] side by side as one bank's parameters [M, ...]."""
    return tuple(torch.cat(tensors) for tensors in zip(*modules))
