"""Measure a method at budgets of 1, 2, 4, ... steps per task: what a run with so many steps would leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from typing import Protocol as TypingProtocol

import torch
from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig, Method
from mclnf_fast.learn.params import Params, part_of
from mclnf_fast.learn.protocol import Plan, Protocol
from mclnf_fast.learn.task import Task, join
from mclnf_fast.metrics import MOST_PSNR, mse_to_psnr

Measure = Callable[[list[Tensor]], dict[str, list[float]]]
"""Predictions of all tasks [S, n, C] -> metrics of the whole signals [S]."""


class ValueTask(Task, TypingProtocol):
    """A `Task` whose network predicts values [S, n, C] of the task's own: `y`."""

    y: Tensor

    def predict(self, params: Params) -> Tensor:
        """Return the values of every sample: params [S, ...] -> [S, n, C]."""

    def squared_errors(self, values: Tensor) -> Tensor:
        """Return the sum of squared errors of predicted values per signal, fp64 [S]."""


@dataclasses.dataclass
class Record:
    """What was measured of a method; S values stand for S signals.

    Args:
        curve: {metric: {budget: [S]}}, of the whole signal after the sequence; budget 0: before it.
        fine: PSNR in dB at further steps, {"steps": [...], "psnr": [[S]]}, of methods whose run passes through all
            smaller budgets.
        matrix: R[k][i] [S], PSNR of task i after task k at the last budget.
        before: that of the initialization [T][S].
        seconds: of training at the last budget.
        steps: gradient steps at the last budget, over all tasks.
        points_per_step: samples in a step, over all signals.
        samples: of one signal, over all steps.
        operations: of one signal, over all steps: 6 per parameter and sample (2 forward, 4 backward). What a method
            does beside forward and backward (scores, penalties) is not counted.
        parameters: of one signal, all its modules.
    """

    curve: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)
    fine: dict[str, Any] | None = None
    matrix: list[list[list[float]]] | None = None
    before: list[list[float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    points_per_step: int = 0
    samples: int = 0
    operations: int = 0
    parameters: int = 0

    def add(self, budget: int, measured: dict[str, list[float]]) -> None:
        """Put in the metrics of a budget.

        >>> record = Record()
        >>> record.add(4, {"psnr": [20.0]})
        >>> record.curve
        {'psnr': {'4': [20.0]}}
        """
        for metric, values in measured.items():
            self.curve.setdefault(metric, {})[str(budget)] = values


class Budgets:
    """A method at several budgets on the same tasks, as runs of `Protocol`.

    A network that is trained through the sequence is run once for every budget, from its initialization: after the
    sequence with 64 steps per task it is not what it is half way. Modules, and a network that meets all tasks at once,
    pass through the small budgets on the way to the last. A network that meets T tasks at once makes T steps for each
    step per task of the others: as many steps on as many samples in all.

    Args:
        cls: the method.
        tasks: in the order in which they are met.
        init: parameters [1, ...].
        config: of the training.
        seed: of the mini-batches.
        budgets: steps per task, growing.
        measure: see `Measure`.
        fine: further steps at which `Record.fine` is taken.

    >>> from mclnf_fast.fields import initial_parameters
    >>> from mclnf_fast.learn.methods import Mod
    >>> from mclnf_fast.spec import FieldSpec
    >>> from mclnf_fast.tasks import CoordTask
    >>> import torch
    >>> spec, x = FieldSpec(1, 1, 8, 1), torch.linspace(-1, 1, 16)[:, None]
    >>> tasks = [CoordTask(str(k), x, torch.rand(2, 16, 1), spec) for k in range(2)]
    >>> config = AdaptConfig(batch=8, warm_steps=0)
    >>> runs = Budgets(Mod, tasks, initial_parameters(spec), config, 0, (1, 2), lambda predictions: {})
    >>> while not runs.done:
    ...     runs.step()
    >>> runs.record.fine["steps"]
    [1, 2]
    """

    def __init__(
        self,
        cls: type[Method],
        tasks: Sequence[ValueTask],
        init: Params,
        config: AdaptConfig,
        seed: int,
        budgets: Sequence[int],
        measure: Measure,
        fine: Sequence[int] = (),
    ) -> None:
        self.cls, self.tasks, self.budgets, self.measure = cls, tasks, budgets, measure
        self._arguments = (cls, tasks, init, config)
        self.seed = seed
        self.through = cls.joint or cls.modular  # one run passes through all budgets
        self.stops = sorted({*budgets, *(step for step in fine if step < budgets[-1])}) if self.through else []
        self.logged: Sequence[ValueTask] = [join(tasks)] if cls.joint else tasks  # tasks as the method meets them
        self._squares: dict[int, list[list[float]]] = {stop: [] for stop in self.stops}  # [task][S]
        self._params: dict[int, list[Params]] = {budget: [] for budget in budgets} if self.through else {}
        self.record = Record()
        self._run = 0
        self.protocol = self._protocol()
        self.record.before = [task.evaluate(self.protocol.params_of(0)).tolist() for task in tasks]
        self.record.add(0, measure(self.predictions()))

    def _protocol(self) -> Protocol:
        """Return the current run, before its first step."""
        last = self.through or self._run == len(self.budgets) - 1
        # A run through all budgets is as long as the last; the others are runs of their own length.
        steps = self.budgets[-1] if self.through else self.budgets[self._run]
        # The matrix is of the last budget alone: it takes as many evaluations as the square of the number of tasks.
        plan = Plan(steps, tuple(self.stops), matrix="all" if last and not self.cls.joint else "none")
        return Protocol(*self._arguments, plan, self.seed, self._log)

    @property
    def done(self) -> bool:
        """Whether all runs have ended."""
        return self._run == (1 if self.through else len(self.budgets))

    @property
    def made(self) -> int:
        """Training steps done, over all runs and tasks."""
        before = 0 if self.through else sum(self.budgets[: self._run]) * len(self.tasks)
        return self.total if self.done else before + self.protocol.made

    @property
    def total(self) -> int:
        """Training steps in all."""
        steps = self.budgets[-1] if self.through else sum(self.budgets)
        return steps * len(self.tasks)

    def predictions(self) -> list[Tensor]:
        """Return what the method predicts for each task now, [S, n, C] each."""
        # A joint method has met one task, number 0, which holds them all.
        joint = self.cls.joint
        return [task.predict(self.protocol.params_of(0 if joint else k)) for k, task in enumerate(self.tasks)]

    def final_predictions(self) -> list[Tensor]:
        """Return the predictions after the last budget."""
        return self._predicted(self.budgets[-1]) if self.through else self.predictions()

    def reading(self) -> dict[str, float]:
        """Return what was measured last; see `Protocol.reading`. Waits for the device."""
        return self.protocol.reading()

    def step(self, most: int = 1) -> None:
        """Make at least one training step and up to `most` (see `Protocol.step`); after the last of a run, measure
        it."""
        self.protocol.step(most)
        if self.protocol.done:
            self._measure()
            self._run += 1
            if not self.done:
                self.protocol = self._protocol()

    def _log(self, k: int, step: int, params: Params) -> None:
        """Keep the errors at this step, and at a budget the parameters, of a run that passes through all of them."""
        task = self.logged[k]
        # Sums of squares: those of the tasks add up to the whole signal's, as their PSNRs do not.
        self._squares[step].append(task.squared_errors(task.predict(params)).tolist())
        if step in self._params:
            # Parameters, not predictions: a state on disk that holds these would be many times as large.
            # Copies, since the next step changes the parameters in place.
            self._params[step].append(tuple(p.detach().clone() for p in params))

    def _measure(self) -> None:
        """Put a run that has ended into the record."""
        record, protocol, last = self.record, self.protocol, self.budgets[-1]
        if self.through:
            for budget in self.budgets:
                record.add(budget, self.measure(self._predicted(budget)))
            record.fine = {"steps": self.stops, "psnr": [self._psnr(stop) for stop in self.stops]}
        else:
            record.add(protocol.plan.steps, self.measure(self.predictions()))
        record.matrix = None if self.cls.joint else protocol.matrix  # type: ignore[assignment]  # all were evaluated
        # Time and steps of the last budget alone: the shorter runs only serve the curve, and would add to its cost.
        record.seconds = protocol.seconds
        record.steps = last * len(self.tasks)
        # `params` are of the task that was last learned, with a module per signal: one signal is counted.
        networks = len(self.tasks) if self.cls.modular else 1
        record.parameters = networks * sum(p[0].numel() for p in protocol.method.params)
        # Replay takes two mini-batches per step: counted as one, its steps would look half as costly as they are.
        batch = self.cls.batches * protocol.method.config.batch
        record.points_per_step, record.samples = batch * self.tasks[0].modules, batch * record.steps
        # A step of modules trains the one of its task, and not all that a signal has.
        record.operations = 6 * record.samples * (record.parameters // networks)

    def _psnr(self, stop: int) -> list[float]:
        """Return the PSNR of the whole signals after `stop` steps per task."""
        count = sum(task.samples for task in self.tasks) * self.tasks[0].y.shape[-1]
        total = torch.zeros(self.tasks[0].modules, dtype=torch.float64)
        for errors in self._squares[stop]:  # one after another: a sum over a stack may add in another order
            total = total + torch.tensor(errors, dtype=torch.float64)
        return mse_to_psnr(total / count).clamp(max=MOST_PSNR).tolist()

    def _predicted(self, budget: int) -> list[Tensor]:
        """Return the predictions per task at a budget; those of a joint method are split."""
        values = [task.predict(params) for task, params in zip(self.logged, self._params[budget], strict=True)]
        return list(values[0].split([task.samples for task in self.tasks], 1)) if self.cls.joint else values

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that a resumed run needs, as tensors and plain data."""
        tensors, meta = self.protocol.state_dict()
        for budget, rows in self._params.items():
            tensors |= {f"kept.{budget}.{k}.{i}": p for k, row in enumerate(rows) for i, p in enumerate(row)}
        squares = {str(stop): rows for stop, rows in self._squares.items()}
        own = {"run": self._run, "record": dataclasses.asdict(self.record), "squares": squares}
        return tensors, {**own, "protocol": meta}

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. Raises KeyError, ValueError if it does not fit."""
        self._run, self.record = int(meta["run"]), Record(**meta["record"])
        # After the last run there is none to build: its budget would be out of range.
        self.protocol = self._protocol() if not self.done else self.protocol
        self._squares = {int(stop): rows for stop, rows in meta["squares"].items()}
        kept, size = part_of(tensors, "kept"), len(self.protocol.method.params)
        device = self.protocol.method.params[0].device
        for budget in self._params:
            rows = part_of(kept, str(budget))
            self._params[budget] = [
                tuple(rows[f"{k}.{i}"].to(device) for i in range(size)) for k in range(len(rows) // size)
            ]
        self.protocol.load_state_dict(tensors, meta["protocol"])
