"""Let a method meet the tasks in their order: one protocol for every kind of task, which a stop at any step costs
nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig, Method
from mclnf_fast.learn.params import Params, part_of
from mclnf_fast.learn.task import Task, join

Log = Callable[[int, int, Params], None]
"""(task, step, parameters that answer for it) -> None; a method that meets all tasks at once has the one task 0."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps a method makes on each task, and when it is looked at.

    Args:
        steps: per task.
        logged: steps per task after which it is logged; 0: before the first.
        joint_steps: steps of a method that meets all tasks at once, for each step per task of the others; None: as many
            as there are tasks, so that all methods make as many steps, on as many samples, in all.
        curves: whether the task (of a joint method every task) is evaluated at each logged step.
        matrix: which tasks are evaluated after each task: none, those met so far, or all.
    """

    steps: int
    logged: tuple[int, ...] = ()
    joint_steps: int | None = None
    curves: bool = False
    matrix: Literal["none", "met", "all"] = "met"


class Protocol:
    """One method over a sequence of tasks, with all that a resumed run needs.

    A method that meets all tasks at once learns them as one. Its curves count steps per task.

    Args:
        cls: the method.
        tasks: in the order in which they are met.
        init: parameters [1, ...] that a module, or the one network, starts from.
        config: of the training; an exponential schedule is spread over the steps of a task here.
        plan: see `Plan`.
        seed: of the mini-batches.
        log: called at each logged step, see `Log`.

    Raises InputError if the method cannot learn this kind of task.

    >>> from mclnf_fast.fields import initial_parameters
    >>> from mclnf_fast.learn.methods import FineTune
    >>> from mclnf_fast.spec import FieldSpec
    >>> from mclnf_fast.tasks import CoordTask
    >>> spec, x = FieldSpec(1, 1, 8, 1), torch.linspace(-1, 1, 16)[:, None]
    >>> tasks = [CoordTask(str(k), x, torch.full((2, 16, 1), 0.2 + 0.5 * k), spec) for k in range(2)]
    >>> config = AdaptConfig(batch=8, lr=1e-2, warm_steps=0)
    >>> protocol = Protocol(FineTune, tasks, initial_parameters(spec), config, Plan(steps=20), seed=0)
    >>> while not protocol.done:
    ...     protocol.step()
    >>> [len(row) for row in protocol.matrix]
    [1, 2]
    """

    def __init__(
        self,
        cls: type[Method],
        tasks: Sequence[Task],
        init: Params,
        config: AdaptConfig,
        plan: Plan,
        seed: int,
        log: Log = lambda task, step, params: None,
    ) -> None:
        self.tasks, self.plan, self.log = tasks, plan, log
        self.joint, self.modular = cls.joint, cls.modular
        # The steps of one `begin` ... `finish`, which the exponential schedule is spread over.
        joint_steps = len(tasks) if plan.joint_steps is None else plan.joint_steps
        self.budget = plan.steps * (joint_steps if cls.joint else 1)
        """Gradient steps on a task of the method: one of the sequence, or all of them joined."""
        learned: Sequence[Task] = [join(tasks)] if cls.joint else tasks
        self.method = cls(learned, init, dataclasses.replace(config, decay_steps=self.budget), seed)
        self.matrix: list[list[list[float] | None]] = []
        """[k][i]: the quality of every signal of task i after task k [S]; None: not measured."""
        self.curves: list[dict[int, list[float]]] = []
        """Of each task the quality of every signal [S] by steps on it."""
        self.seconds = 0.0
        """Of training."""
        self.evaluation_seconds = 0.0
        """Of evaluation, logging and its callback included."""
        self._known: dict[int, tuple[Params, list[float]]] = {}  # of each task what was evaluated last, and how good
        self._began: float | None = None  # when the stretch of training began that the seconds do not hold yet

    @property
    def tasks_done(self) -> int:
        """Number of tasks that have been learned and evaluated."""
        return len(self.matrix)

    @property
    def made(self) -> int:
        """Training steps done, over all tasks."""
        finished = (self.tasks_done == len(self.tasks)) if self.joint else self.tasks_done
        return finished * self.budget + self.method.made

    @property
    def total(self) -> int:
        """Training steps in all."""
        return self.goal(len(self.tasks) - 1)

    @property
    def done(self) -> bool:
        """Whether all tasks have been learned and evaluated."""
        return self.tasks_done == len(self.tasks)

    def goal(self, k: int) -> int:
        """Return `made` after task k: a joint method learns when the last task is there."""
        if self.joint:
            return self.budget if k == len(self.tasks) - 1 else 0
        return (k + 1) * self.budget

    def params_of(self, task: int) -> Params:
        """Return the parameters that answer for a task now."""
        return self.method.params_of(task)

    def reading(self) -> dict[str, float]:
        """Return what was measured last: `loss`, the mean of the last mini-batch, and `psnr`, the quality of the task
        at its last logged step, of all signals; waits for the device."""
        losses, curve = self.method.losses, self.curves[-1] if self.curves else {}
        figures = {} if losses is None else {"loss": float(losses.mean())}
        if curve:
            quality = curve[max(curve)]
            figures["psnr"] = sum(quality) / len(quality)
        return figures

    def step(self, most: int = 1) -> None:
        """Make at least one training step, and up to `most` if one call can make them: with the logs before the first
        step of a task and of these, and after the last step of a task its evaluation."""
        method, k = self.method, 0 if self.joint else self.tasks_done
        if method.task is None:
            self.curves = self.curves[: self.tasks_done] + [{} for _ in (self.tasks if self.joint else (k,))]
            self._train()
            method.begin(k)
            if 0 in self.plan.logged:
                self._log(k, 0, self.params_of(k))
        # A log before the first step stops the clock.
        self._train()
        # A joint method may make several steps for each one that is counted: only whole ones can be compared.
        per_step, end = self.budget // self.plan.steps, min(method.made + most, self.budget)
        logged = {step * per_step: step for step in self.plan.logged if method.made < step * per_step <= end}
        # Not a call for each of them: the parameters are copied on the way, and looked at when the call is over.
        for made, params in method.steps(k, end - method.made, sorted(logged)).items():
            self._log(k, logged[made], params)
        if method.made == self.budget:
            self._finish(k)

    def _log(self, k: int, step: int, params: Params) -> None:
        """Log task k after `step` steps, which left these parameters."""
        # The clock stops first: else a method that is looked at more often would seem to train longer.
        self._pause()
        began = time.perf_counter()
        if self.plan.curves:
            for task in range(len(self.tasks)) if self.joint else (k,):
                # A joint method is one network for all tasks: every task has a value at this step.
                self.curves[task][step] = self._quality(task, params)
        self.log(k, step, params)
        self.evaluation_seconds += time.perf_counter() - began

    def _finish(self, k: int) -> None:
        """End task k, and evaluate it and those that the plan names."""
        # The end of a task is training too: EWC estimates its Fisher matrix there, and replay fills its memory.
        self._train()
        self.method.finish(k)
        self._pause()
        began = time.perf_counter()
        count = len(self.tasks)
        if self.joint:  # there is no time at which only some tasks had been learned
            self.matrix += [[None] * count for _ in range(count - 1)]
        evaluated = {"none": 0, "met": count if self.joint else k + 1, "all": count}[self.plan.matrix]
        self.matrix.append([self._quality(i, self.params_of(i)) for i in range(evaluated)])
        self.evaluation_seconds += time.perf_counter() - began

    def _quality(self, task: int, params: Params) -> list[float]:
        """Return the quality of every signal of a task under these parameters."""
        known = self._known.get(task)
        # A module that is finished answers for its task after every later one, and was evaluated at its last step.
        if known is None or not all(map(torch.equal, known[0], params)):
            known = tuple(p.detach().clone() for p in params), self.tasks[task].evaluate(params).tolist()
            self._known[task] = known
        return list(known[1])

    def _train(self) -> None:
        """Start the clock of training if it stands still."""
        if self._began is None:
            self._began = time.perf_counter()

    def _pause(self) -> None:
        """Stop the clock of training: only here a GPU is waited for, not at every step."""
        device = self.method.params[0].device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
            self._began = None

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that decides the next step and what has been measured, as tensors (copies) and plain data."""
        # The seconds of the stretch that is under way would be missing from a resumed run.
        self._pause()
        tensors = {f"method.{key}": t for key, t in self.method.state_dict().items()}
        curves = [{str(step): values for step, values in curve.items()} for curve in self.curves]
        meta = {"matrix": self.matrix, "curves": curves}
        return tensors, meta | {"seconds": self.seconds, "evaluation_seconds": self.evaluation_seconds}

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. Raises KeyError, ValueError if it does not fit."""
        # Runs of before had one number per task: theirs had one signal.
        self.matrix = [[_signals(value) for value in row] for row in meta["matrix"]]
        self.curves = [{int(step): _signals(v) or [] for step, v in c.items()} for c in meta["curves"]]
        self.seconds, self.evaluation_seconds = meta["seconds"], meta["evaluation_seconds"]
        if self.tasks_done > len(self.tasks):
            raise ValueError(f"at most {len(self.tasks)} tasks can be done, got {self.tasks_done}")
        self.method.load_state_dict(part_of(tensors, "method"))
        if self.method.task is not None and self.method.made == self.budget:
            self._finish(self.method.task)  # saved between the last step of a task and its end


def _signals(value: float | list[float] | None) -> list[float] | None:
    return [value] if isinstance(value, float | int) else value
