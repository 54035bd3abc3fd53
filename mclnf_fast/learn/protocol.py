"""The protocol: a method meets the tasks in their order, with budgets of 1, 2, 4, ... steps a task."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.learn.methods import AdaptConfig, Method
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import join
from mclnf_fast.metrics import mse_to_psnr

Measure = Callable[[list[Tensor]], dict[str, list[float]]]


@dataclasses.dataclass
class Record:
    """What came of a method; S values stand for S signals.

    curve: {metric: {budget: [S]}}, of the whole signal after the sequence. fine: PSNR in dB at further steps [[S]],
    of methods whose run passes through all smaller budgets. matrix: R[k][i] [S], PSNR of task i after task k at the
    last budget; before: that of the start [T][S]. seconds: of the training steps of the last budget.
    """

    curve: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)
    fine: dict[str, Any] | None = None
    matrix: list[list[list[float]]] | None = None
    before: list[list[float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    points_per_step: int = 0
    parameters: int = 0

    def add(self, budget: int, measured: dict[str, list[float]]) -> None:
        """Puts in the metrics of a budget."""
        for metric, values in measured.items():
            self.curve.setdefault(metric, {})[str(budget)] = values


class Protocol:
    """Runs methods on the same tasks of the same S signals.

    A network that is trained through the sequence is run once for every budget, from its start: what it has after the
    sequence with 64 steps a task is not what it has half way. Modules, and a network that meets all tasks at once, pass
    through the small budgets on the way to the last.

    Args:
        tasks: the tasks in order.
        budgets: steps a task, growing.
        fine: further steps at which `fine` is taken.
        measure: predictions of all tasks [S, n, C] -> metrics of the whole signals.
        advance: called with the number of steps made.
    """

    def __init__(
        self,
        tasks: Sequence[Any],
        budgets: Sequence[int],
        measure: Measure,
        fine: Sequence[int] = (),
        advance: Callable[[int], object] = lambda steps: None,
    ) -> None:
        self.tasks, self.budgets, self.measure, self.fine, self.advance = tasks, budgets, measure, fine, advance

    def steps_of(self, cls: type[Method]) -> int:
        """Steps that `run` makes with a method, over all budgets and tasks."""
        if cls.joint:
            return self.budgets[-1]
        return (self.budgets[-1] if cls.modular else sum(self.budgets)) * len(self.tasks)

    def run(self, cls: type[Method], start: Params, config: AdaptConfig, seed: int) -> tuple[Record, list[Tensor]]:
        """A method from its start [1, ...]; returns the record and the last predictions, [S, n, C] a task."""
        record = Record()
        tasks = [join(self.tasks)] if cls.joint else self.tasks
        method = cls(tasks, start, config, seed)
        record.before = [t.evaluate(method.params_of(0)).tolist() for t in self.tasks]
        record.add(0, self.measure(self._predict(cls, method)))
        if cls.joint or cls.modular:
            predictions = self._pass_through(cls, method, tasks, record)
        else:
            for budget in self.budgets:
                method = cls(tasks, start, config, seed)
                rows = self._sequence(method, budget, record)
                predictions = self._predict(cls, method)
                record.add(budget, self.measure(predictions))
            record.matrix = rows
        networks = len(self.tasks) if cls.modular else 1
        record.parameters = networks * sum(p[0].numel() for p in method.params)
        record.steps = self.budgets[-1] * len(tasks)
        record.points_per_step = cls.batches * config.batch * self.tasks[0].modules
        return record, predictions

    def _sequence(self, method: Method, budget: int, record: Record) -> list[list[list[float]]]:
        """All tasks in order; PSNR of every task after each."""
        rows, last = [], budget == self.budgets[-1]
        for k in range(len(self.tasks)):
            seconds = self._train(method, k, 0, budget)
            record.seconds += seconds if last else 0.0
            method.finish(k)
            if last:
                rows.append([task.evaluate(method.params_of(i)).tolist() for i, task in enumerate(self.tasks)])
        return rows

    def _train(self, method: Method, k: int, begin: int, end: int) -> float:
        """Steps begin ... end - 1 on task k; the seconds that they took."""
        began = time.perf_counter()
        if begin == 0:
            method.begin(k)
        for step in range(begin, end):
            method.step(k, step)
        if self.tasks[0].x.device.type == "cuda":
            torch.cuda.synchronize(self.tasks[0].x.device)
        self.advance(end - begin)
        return time.perf_counter() - began

    def _pass_through(self, cls: type[Method], method: Method, tasks: Sequence[Any], record: Record) -> list[Tensor]:
        """One run through all budgets; predictions of modules are put together task by task."""
        stops = sorted({*self.budgets, *(s for s in self.fine if s < self.budgets[-1])})
        kept: dict[int, list[Tensor]] = {budget: [] for budget in self.budgets}
        squares: dict[int, Tensor] = {}
        rows: list[list[list[float]]] = []
        for k, task in enumerate(tasks):
            done = 0
            for stop in stops:
                record.seconds += self._train(method, k, done, stop)
                done = stop
                predictions = task.predict(tuple(p.detach() for p in method.params))
                error = task.squared_errors(predictions)
                squares[stop] = squares[stop] + error if k else error
                if stop in kept:
                    kept[stop].append(predictions)
            method.finish(k)
            if cls.modular:
                rows.append([t.evaluate(method.params_of(i)).tolist() for i, t in enumerate(self.tasks)])
        for budget, pieces in kept.items():
            record.add(budget, self.measure(self._split(pieces)))
        count = sum(task.items for task in self.tasks) * self.tasks[0].y.shape[-1]
        record.fine = {"steps": stops, "psnr": [mse_to_psnr(squares[s] / count).tolist() for s in stops]}
        record.matrix = rows or None
        return self._split(kept[self.budgets[-1]])

    def _predict(self, cls: type[Method], method: Method) -> list[Tensor]:
        return [task.predict(method.params_of(0 if cls.joint else k)) for k, task in enumerate(self.tasks)]

    def _split(self, predictions: list[Tensor]) -> list[Tensor]:
        """One a task, also of what was predicted for all tasks at once."""
        if len(predictions) == len(self.tasks):
            return predictions
        return list(predictions[0].split([task.items for task in self.tasks], 1))
