"""One job for every system that learns an initialization, compares it with others, and fine-tunes each on unseen tasks.

A system says what its tasks are; learning, comparing, saving, resuming and recording are written once, here.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank
from mclnf_fast.learn.meta.episodes import DrawnEpisodes
from mclnf_fast.learn.meta.inits import Distilled, shuffled
from mclnf_fast.learn.meta.trainer import CURVE_POINTS, MetaTrainer, loss_curve
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import EIGHT_BITS, log_steps, mse_to_psnr
from mclnf_fast.report.record import (
    InitializationRecord,
    InitializationResults,
    MetaTraining,
    Names,
    Picture,
    Tried,
    from_json,
)
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.pretrained import initialization_from
from mclnf_fast.systems.common.result import Result, bank_of
from mclnf_fast.systems.common.run import Run, begin, say
from mclnf_fast.systems.starts.distill import Matching, distilled
from mclnf_fast.systems.starts.options import InitializationName, StartConfig
from mclnf_fast.systems.starts.trace import Look, Trace, traced
from mclnf_fast.systems.starts.tuning import Choice, Trials, Tuning, best_choice

C = TypeVar("C", bound=StartConfig)
Row = dict[str, Any]
"""`InitializationResults` as plain data: {"curve": {step: a score per task}, "after", "seconds", ...}."""


@dataclass(frozen=True)
class Pages:
    """What the report room makes of a run: pictures(folder, record), page(folder, record), table(record)."""

    pictures: Callable[[pathlib.Path, InitializationRecord], Sequence[Picture]]
    page: Callable[[pathlib.Path, InitializationRecord], pathlib.Path]
    table: Callable[[InitializationRecord], str]


class StartJob(Generic[C]):
    """One run: its tasks, its initializations, and how each is fine-tuned.

    A subclass reads its data in `__init__`, and defines every method that is not defined here.

    Attributes:
        ops: which ops the run calls.
        kept: which parameters of a saved state are the fine-tuned modules.
        names: which initializations to compare.
        match_steps: Adam steps of the distillation of `constant` and of `matched`.
        distilled: initialization -> how it was distilled, of those that are.
        choices: initialization -> the rate and density bias that it is fine-tuned with.
        check_every: outer steps of meta-training between two calls of `check`; 0: never; None: there is no such check.
        fine_tuned: initialization -> modules [T, ...] fine-tuned from it.
    """

    ops: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[str] = "params"
    names: tuple[InitializationName, ...] = ("standard", "meta")
    check_every: int | None = None
    match_steps: int = 2000

    def __init__(self, run: Run[C], spec: FieldSpec) -> None:
        self.run, self.config, self.folder, self.phases, self.spec = run, run.config, run.folder, run.phases, spec
        self.fine_tuned: dict[str, Params] = {}
        self.distilled: dict[str, Distilled] = {}
        self.choices: dict[str, Choice] = {}

    @property
    def tasks(self) -> int:
        """Tasks to meta-train on; 0: the standard initialization stands alone."""
        raise NotImplementedError

    def random(self, k: int) -> Params:
        """Return a random initialization [1, ...]: 0, the standard one; 1, that which the distilled ones begin from."""
        raise NotImplementedError

    def draw(self, tasks: Tensor, generator: torch.Generator) -> LossFn:
        """Return the loss of an outer step of meta-training: module m learns task tasks[m] (int64 [T])."""
        raise NotImplementedError

    def matching(self) -> Matching:
        """Return what is distilled into `matched` and `constant`, and on which points."""
        raise NotImplementedError

    def trials(self) -> Trials:
        """Return how the rate and the density bias of each initialization are chosen."""
        raise NotImplementedError

    def biased(self, initialization: Params, density_bias: float) -> Params:
        """Return an initialization that puts out so much more raw density everywhere; of fields without: itself."""
        return initialization

    def comparators(self) -> dict[str, Row]:
        """Return the rows of answers that no network learns, such as a white page: they bound what is learned."""
        return {}

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

    def exact_from(self) -> Sequence[float]:
        """Return the PSNR in dB from which each test task counts as exact."""
        return [EIGHT_BITS] * len(self.task_names().test)

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
        if self.config.init_from is not None:
            return self.former(self.config.init_from, initial)
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

    def former(self, where: pathlib.Path, initial: Params) -> tuple[Params, dict[str, object]]:
        """Return the initialization [1, ...] of a former run or of the package. Raise InputError if it does not fit."""
        device = self.config.run.device
        there, here = initialization_from(where, self.config.kind, device), self.result(bank_of(self.spec, initial), [])
        # A field that was learned in other units of length would be as wrong as one of another architecture.
        for name, theirs, ours in (("network", there.bank.spec, self.spec), ("scale", there.scale, here.scale)):
            if theirs != ours:
                raise InputError(f"init-from: {where} must have the {name} {ours}, got {theirs}")
        return tuple(p.detach() for p in there.bank.shared), {"source": str(where)}

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
            all_of_them |= self.distill(learned)
            # The same numbers in other places: tells whether more than their distribution was learned.
            all_of_them["shuffled"] = shuffled(learned, torch.Generator().manual_seed(seed))
            all_of_them["meta"] = learned
        # In the order of the report, whatever the order on the command line.
        return {name: params for name, params in all_of_them.items() if name in self.names}, about

    def distill(self, learned: Params) -> dict[InitializationName, Params]:
        """Return the initializations to compare that are distilled from the learned one."""
        with self.phases("matching"):
            results = distilled(self.names, learned, self.random, self.matching, self.match_steps)
        for name, made in results.items():
            self.distilled[name] = made
            say(f"{name}: {made.steps:,} steps, {100 * made.residual:.2g} % of the variance is left")
        return {name: made.params for name, made in results.items()}

    def tuned(self, initializations: dict[InitializationName, Params]) -> dict[InitializationName, Params]:
        """Return the initializations with the density bias of each; the rates are in `choices`."""
        trials = self.trials()
        for name, params in initializations.items():
            # All before the first is fine-tuned: the result tells users the rate of the meta-learned one.
            self.choices[name] = self.choose(name, params, trials)
        return {name: self.biased(p, self.choices[name].density_bias) for name, p in initializations.items()}

    def choose(self, name: str, initialization: Params, trials: Trials) -> Choice:
        """Return the choice with which an initialization comes furthest in trials, made now or by a former process."""
        state = self.folder.load_state(f"rate_{name}")
        if state is not None:
            return Choice(float(state[1]["rate"]), float(state[1].get("density_bias", 0.0)))
        if len(trials.grid) == 1:
            return trials.grid[0]
        # An equal choice for every initialization: one rate for all would favor that which it suits.
        with self.phases("choosing rates"):
            best = best_choice(initialization, trials, self.biased)
        self.folder.save_state(f"rate_{name}", {}, {"rate": best.lr, "density_bias": best.density_bias})
        return best

    def rows(self, initializations: dict[InitializationName, Params]) -> dict[str, Row]:
        """Return the row of everything that is compared."""
        rows = {name: self.compare(name, p) | self.care(name) for name, p in initializations.items()}
        return rows | self.comparators()

    def care(self, name: str) -> Row:
        """Return what went into an initialization before its fine-tuning: its choice, and its distillation."""
        choice, made = self.choices[name], self.distilled.get(name)
        row: Row = {"lr": choice.lr, "density_bias": choice.density_bias or None}
        return row if made is None else row | {"distilled_steps": made.steps, "residual": made.residual}

    def without_steps(self, after: Sequence[float], curve: Sequence[float] | None = None, seconds: float = 0.0) -> Row:
        """Return the row of an answer that takes no steps; `curve`: its scores where those over steps are taken."""
        values = list(after if curve is None else curve)
        return {"curve": {"0": values, str(self.config.steps): values}, "after": list(after), "seconds": seconds}

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
        """Return the fine-tuning of modules `before` [T, ...]; see `trace.traced`."""
        with self.phases("adapting"), self.run.watched(name, tuning.steps) as advance:
            return traced(before, tuning, score, look, advance)

    def tried(self) -> Tried | None:
        """Return what the choice of rates and biases cost, the same for every initialization; None without one."""
        trials = self.trials()
        return Tried(len(trials.grid), trials.tasks, trials.steps) if len(trials.grid) > 1 else None

    def record(self, rows: dict[str, Row], about: dict[str, Any]) -> InitializationRecord:
        """Return the record of the run, but for the pictures and the seconds of the report."""
        record = InitializationRecord(
            **self.run.facts(),
            names=self.task_names(),
            steps=(0, *log_steps(self.config.steps)),
            exact_from=tuple(self.exact_from()),
            meta=from_json(MetaTraining, about),
            trials=self.tried(),
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
    initializations = this.tuned(initializations)
    rows = this.rows(initializations)
    unfinished = this.record(rows, about)
    # Before the report: drawing can fail for want of a font or a codec, and must not cost the result.
    this.write_result(initializations)
    record, report = run.finish(unfinished, pages.pictures, pages.page)
    say(pages.table(record))
    say(f"report: {report}")
    return run.folder.path
