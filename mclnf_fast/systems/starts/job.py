"""One job for every system that learns an initialization, compares it with others, and fine-tunes each on unseen tasks.

A system says what its tasks are; learning, comparing, saving, resuming and recording are written once, here.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from mclnf_fast.fields import FieldBank
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.meta.episodes import DrawnEpisodes
from mclnf_fast.learn.meta.inits import matched, shuffled
from mclnf_fast.learn.meta.trainer import CURVE_POINTS, MetaTrainer, loss_curve
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import log_steps, mse_to_psnr
from mclnf_fast.report.record import (
    InitializationRecord,
    InitializationResults,
    MetaTraining,
    Names,
    Picture,
    from_json,
)
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.progress import progress
from mclnf_fast.systems.common.result import Result, bank_of
from mclnf_fast.systems.common.run import Run, begin, say
from mclnf_fast.systems.starts.options import InitializationName, StartConfig
from mclnf_fast.systems.starts.ray_field import Tuning

C = TypeVar("C", bound=StartConfig)
Row = dict[str, Any]
"""`InitializationResults` as plain data: {"curve": {step: a score per task}, "after", "seconds", ...}."""


@dataclass(frozen=True)
class Pages:
    """What the report room makes of a run: pictures(folder, record), page(folder, record), table(record)."""

    pictures: Callable[[pathlib.Path, InitializationRecord], Sequence[Picture]]
    page: Callable[[pathlib.Path, InitializationRecord], pathlib.Path]
    table: Callable[[InitializationRecord], str]


class Trace(NamedTuple):
    """Fine-tuning as it went: the last parameters [T, ...], scores per task by step, seconds of the steps alone, the
    losses [steps, T] before each step, and pictures [K, T, ...] at the steps that were asked for."""

    params: Params
    curve: dict[str, list[float]]
    seconds: float
    losses: Tensor
    pictures: Tensor | None


class Look(NamedTuple):
    """Pictures [T, ...] of parameters, to be taken before the first step (0) or after some steps."""

    picture: Callable[[Params], Tensor]
    steps: tuple[int, ...]


class StartJob(Generic[C]):
    """One run: its tasks, its initializations, and how each is fine-tuned.

    A subclass reads its data in `__init__`, and defines every method that is not defined here.

    Attributes:
        ops: which ops the run calls.
        kept: which parameters of a saved state are the fine-tuned modules.
        names: which initializations to compare.
        match_steps: Adam steps in which `matched` comes to its mean.
        check_every: outer steps of meta-training between two calls of `check`; 0: never; None: there is no such check.
        fine_tuned: initialization -> modules [T, ...] fine-tuned from it.
    """

    ops: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[str] = "params"
    names: tuple[InitializationName, ...] = ("standard", "meta")
    check_every: int | None = None
    match_steps: int = 500

    def __init__(self, run: Run[C], spec: FieldSpec) -> None:
        self.run, self.config, self.folder, self.phases, self.spec = run, run.config, run.folder, run.phases, spec
        self.fine_tuned: dict[str, Params] = {}

    @property
    def tasks(self) -> int:
        """Tasks to meta-train on; 0: the standard initialization stands alone."""
        raise NotImplementedError

    def random(self, k: int) -> Params:
        """Return a random initialization [1, ...]: 0, the standard one; 1, that which `matched` begins from."""
        raise NotImplementedError

    def draw(self, tasks: Tensor, generator: torch.Generator) -> LossFn:
        """Return the loss of an outer step of meta-training: module m learns task tasks[m] (int64 [T])."""
        raise NotImplementedError

    def matching(self) -> tuple[Callable[[Params, Tensor], Tensor], Tensor]:
        """Return a function (params, x) -> outputs, and the points x [1, n, ...] on which `matched` is matched."""
        raise NotImplementedError

    def fine_tune(self, name: str, initialization: Params) -> tuple[dict[str, Tensor], Row]:
        """Return the fine-tuned modules, with their name `kept`, and the row of an initialization."""
        raise NotImplementedError

    def result(self, bank: FieldBank, modules: list[str]) -> Result:
        """Return the result of the run around a bank."""
        raise NotImplementedError

    def announce(self) -> Iterable[str]:
        """Yield the lines that tell a user what the run is about to do."""
        raise NotImplementedError

    def task_names(self) -> Names:
        """Return the names of the tasks."""
        raise NotImplementedError

    def complete(self, record: InitializationRecord) -> InitializationRecord:
        """Return the record of the run with its title, notes, sizes and what else only the system knows; keeps the
        true pictures beside the others."""
        raise NotImplementedError

    def check(self, params: Params) -> float:
        """Return a score of the initialization as it is learned, for the record; it changes nothing."""
        raise NotImplementedError

    def learn(self, initial: Params) -> tuple[Params, dict[str, Any]]:
        """Return the meta-learned initialization [1, ...], and what to report of the learning; goes on from where a
        former process left it."""
        meta = self.config.meta
        # The seed alone decides an outer step, so that a resumed run draws what an uninterrupted one would have drawn.
        episodes = DrawnEpisodes(self.tasks, self.draw, meta.tasks)
        learner = MetaTrainer(initial, episodes, meta, self.config.seed, curve_points=CURVE_POINTS)

        def checked(outer_steps: int) -> list[float] | None:
            if not self.check_every or outer_steps % self.check_every:
                return None
            return [outer_steps, self.check(learner.params)]

        checks = self.run.learn(learner, "meta", "learning the initialization", check=checked)
        # Losses are mean squared errors; in dB the curve is on the scale of every other figure of the report.
        curve = [[step, float(mse_to_psnr(loss))] for step, loss in loss_curve(learner.curve)]
        about: dict[str, Any] = {"curve": curve, "seconds": learner.seconds}
        return learner.params, about | ({} if self.check_every is None else {"checks": checks})

    def initializations(self) -> tuple[dict[InitializationName, Params], dict[str, Any]]:
        """Return the initializations to compare, in a fixed order, and what to report of the learning."""
        standard, seed = self.random(0), self.config.seed
        about: dict[str, Any] = {"parameters": self.spec.num_parameters}
        all_of_them: dict[InitializationName, Params] = {"standard": standard}
        if self.tasks and set(self.names) != {"standard"}:
            learned, curves = self.learn(standard)
            about |= curves
            # Written before the comparison, which may take longer than the learning: a run that is stopped then has
            # a result that can be loaded and fine-tuned.
            self.result(bank_of(self.spec, learned), []).write(self.folder.path)
            if "matched" in self.names:
                with self.phases("matching"):
                    forward, points = self.matching()
                    all_of_them["matched"] = matched(self.random(1), learned, forward, points, steps=self.match_steps)
            # The same numbers in other places: tells whether more than their distribution was learned.
            all_of_them["shuffled"] = shuffled(learned, torch.Generator().manual_seed(seed))
            all_of_them["meta"] = learned
        # In the order of the report, whatever the order on the command line.
        return {name: params for name, params in all_of_them.items() if name in self.names}, about

    def rows(self, initializations: dict[InitializationName, Params]) -> dict[str, Row]:
        """Return the row of everything that is compared."""
        return {name: self.compare(name, params) for name, params in initializations.items()}

    def compare(self, name: str, initialization: Params) -> Row:
        """Return the row of an initialization, fine-tuned now or by a former process."""
        state = self.folder.load_state(f"adapted_{name}")
        if state is None:
            # One state per initialization: a kill costs the one that was being fine-tuned, and no other.
            tensors, row = self.fine_tune(name, initialization)
            self.folder.save_state(f"adapted_{name}", tensors, row)
            self.run.save_phases()
            state = tensors, row
        tensors, row = state
        count = sum(key.startswith(f"{self.kept}.") for key in tensors)
        if count:  # a state of version 0.1 may be without
            self.fine_tuned[name] = tuple(tensors[f"{self.kept}.{i}"] for i in range(count))
        return row

    def trace(
        self,
        name: str,
        before: Params,
        tuning: Tuning,
        score: Callable[[Params], Sequence[float]],
        look: Look | None = None,
    ) -> Trace:
        """Return the fine-tuning of modules `before` [T, ...], scored before the first step and after 1, 2, 4, ... and
        the last step; the clock stands still while they are scored."""
        steps = tuning.steps
        looked = {} if look is None else {k: look.picture(before) for k in look.steps if k == 0}
        # Powers of two: a curve on a logarithmic axis, for a dozen evaluations whatever the number of steps.
        wanted = {*log_steps(steps), *(look.steps if look is not None else ())} - {0}
        curve = {"0": list(score(before))}
        losses: list[Tensor] = []
        seconds = 0.0
        with self.phases("adapting"), progress(name, steps) as bar:
            began = time.perf_counter()

            def after(step: int, params: Params, loss: Tensor) -> None:
                nonlocal began, seconds
                bar(1)
                losses.append(loss.detach())  # on the device: a copy per step would wait for it each time
                if step in wanted:
                    # Scoring can take longer than the steps; a time that held it would compare nothing.
                    seconds += time.perf_counter() - began
                    curve[str(step)] = list(score(params))
                    if look is not None and step in look.steps:
                        looked[step] = look.picture(params)
                    began = time.perf_counter()

            params = fine_tune(
                before, tuning.loss, steps, tuning.lr, kind=tuning.kind, lr_end=tuning.lr_end, callback=after
            )
        pictures = torch.stack([looked[k] for k in sorted(looked)]).cpu() if looked else None
        return Trace(params, curve, seconds, torch.stack(losses).cpu(), pictures)

    def record(self, rows: dict[str, Row], about: dict[str, Any]) -> InitializationRecord:
        """Return the record of the run, but for the pictures and the seconds of the report."""
        record = InitializationRecord(
            **self.run.facts(),
            names=self.task_names(),
            steps=(0, *log_steps(self.config.steps)),
            meta=from_json(MetaTraining, about),
            initializations={name: from_json(InitializationResults, row) for name, row in rows.items()},
        )
        return self.complete(record)

    def write_result(self, initializations: Mapping[InitializationName, Params]) -> None:
        """Write the fine-tuned modules of the meta-learned initialization, or of the first one that was compared."""
        # Of all that were compared users want the learned one; a run without it still has a result.
        name: InitializationName = "meta" if "meta" in initializations else next(iter(initializations))
        modules = self.fine_tuned.get(name)
        names = [] if modules is None else list(self.task_names().test)
        result = self.result(bank_of(self.spec, initializations[name], modules), names)
        result.initialization = name
        result.write(self.folder.path)


def run_job(config: C, command: str | None, job: type[StartJob[C]], pages: Pages) -> pathlib.Path:
    """Run a job to its report and return the run folder.

    Raises InputError on unusable input. Whatever ends a run, its folder keeps what is done, and `resume` continues it
    to the same result.
    """
    run = begin(config, job.ops, command)
    with run.reading():
        # Within `reading`: a folder whose data are unusable is removed again, and the corrected command can use it.
        this = job(run)  # type: ignore[call-arg]  # a subclass has no other argument
    for line in this.announce():
        say(line)
    initializations, about = this.initializations()
    rows = this.rows(initializations)
    unfinished = this.record(rows, about)
    # Before the report: drawing can fail for want of a font or a codec, and must not cost the result.
    this.write_result(initializations)
    record, report = run.finish(unfinished, pages.pictures, pages.page)
    say(pages.table(record))
    say(f"report: {report}")
    return run.folder.path
