"""Learn images, video and audio task by task, by every method, under one protocol (MCL-NF)."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.data.signals import Signals, SignalSets
from mclnf_fast.errors import InputError
from mclnf_fast.learn.budgets import Budgets
from mclnf_fast.learn.meta.episodes import Kind, TaskEpisodes
from mclnf_fast.learn.meta.trainer import MetaTrainer, mean_psnr
from mclnf_fast.learn.methods import METHODS, MIM, Method
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import MOST_PSNR, exact_from, log_steps, measures
from mclnf_fast.report.page.style import duration
from mclnf_fast.report.record import Names, SeedResults, SignalRecord, Trivial, from_json
from mclnf_fast.systems.common.folder import RunFolder
from mclnf_fast.systems.common.pretrained import initialization_from, is_pretrained
from mclnf_fast.systems.common.result import Frame, Result, bank_of
from mclnf_fast.systems.common.run import Run, begin, say
from mclnf_fast.systems.signals.data import cut_of, load, meta_initialization, random_initialization, tasks_of
from mclnf_fast.systems.signals.options import SignalConfig
from mclnf_fast.tasks.coords import CoordTask

OPS = ("bank_mlp", "bank_mse", "fisher_scores", "bank_step")


def run_signals(config: SignalConfig, command: str | None = None) -> pathlib.Path:
    """Run the job and return the run folder.

    Whatever ends a run, its folder keeps what is done, and `resume` continues it to the same result. Raises InputError
    on unusable input.
    """
    from mclnf_fast.report.protocol.report import signal_table, write_run_pictures, write_signal_report

    run = begin(config, OPS, command)
    with run.reading():
        job = _Job(run, load(run.config))
    job.announce()
    seeds = {str(seed): job.seed(seed) for seed in run.config.seeds}
    job.result().write(run.folder.path)
    record, report = run.finish(job.metrics(seeds), write_run_pictures, write_signal_report)
    say(signal_table(record))
    say(f"report: {report}")
    return run.folder.path


@dataclasses.dataclass(frozen=True)
class _Initialization:
    """An initialization that methods share.

    Args:
        name: of its state, and in metrics.json.
        kind: of its meta-training; None: random.
        modular: whether it is of a module.
        fisher: whether its meta-training uses Fisher information.
    """

    name: str
    kind: Kind | None
    modular: bool
    fisher: bool


class _Job:
    """One run: its data, cut into tasks, and what is done with each seed."""

    def __init__(self, run: Run[SignalConfig], sets: SignalSets) -> None:
        self.run, self.config, self.folder, self.sets, self.phases = run, run.config, run.folder, sets, run.phases
        config = run.config
        values = sets.test.values
        self.channels = values.shape[-1]
        self.cut = cut_of(config, sets)
        self.module = config.spec(self.channels, self.cut.tasks, modular=True)
        self.wide = config.spec(self.channels, self.cut.tasks, modular=False)
        self.notes = list(sets.notes)
        best = next((name for name in ("mim", "mod", "mim_weight") if name in config.methods), config.methods[0])
        self.best, self.best_init = best, random_initialization(config, self.module, config.seeds[0])
        learned = any(METHODS[name].initialization != "random" for name in config.methods)
        if learned and config.init_from is None and not len(sets.train):
            raise InputError("data: meta-training needs signals beside those to test on, got none")

    def announce(self) -> None:
        """Print what the run is about."""
        sets = self.sets
        counts = (
            f"{len(sets.train)} signals to meta-train, {len(sets.validation)} to validate, {len(sets.test)} to test"
        )
        say(f"{sets.title}: {counts}; {self.cut.tasks} tasks of {self.cut.coordinates(0, 'local').shape[0]:,} samples")
        widths = f"{self.module.width}, {self.module.num_parameters * self.cut.tasks:,} parameters per signal"
        say(f"modules of width {widths}; one network of width {self.wide.width}, {self.wide.num_parameters:,}")
        for note in sets.notes:
            say(f"note: {note}")

    def tasks(self, signals: Signals, modular: bool) -> list[CoordTask]:
        """Return the tasks of signals: in local coordinates for modules, in global ones for one network."""
        if modular:
            return tasks_of(self.config, self.cut, signals, self.module, "local")
        return tasks_of(self.config, self.cut, signals, self.wide, "global")

    def seed(self, seed: int) -> dict[str, Any]:
        """Return all results of one seed."""
        methods = {name: METHODS[name] for name in METHODS if name in self.config.methods}
        needed = {name: self.initialization(cls) for name, cls in methods.items()}
        params: dict[_Initialization, Params] = {}
        about: dict[str, Any] = {}
        for one in needed.values():
            # `mod` and `mim` share theirs: it is learned once.
            if one in params:
                continue
            params[one] = random_initialization(self.config, self.module if one.modular else self.wide, seed)
            if one.kind is not None:
                params[one], about[one.name] = self.learn(one, params[one], seed)
        if seed == self.config.seeds[0]:
            self.best_init = params[needed[self.best]]
        results = {name: self.method(name, cls, params[needed[name]], seed) for name, cls in methods.items()}
        return {"initializations": about, "methods": results}

    def initialization(self, cls: type[Method]) -> _Initialization:
        """Return the initialization of a method: MIM has one of its own if its meta-training uses Fisher
        information."""
        meta = self.config.meta
        if cls.initialization == "random":
            return _Initialization("random", None, cls.modular, False)
        fisher = issubclass(cls, MIM) and (meta.fim_inner, meta.fim_outer) != ("none", "none")
        name = "modules_fim" if fisher else cls.initialization
        return _Initialization(name, cls.initialization, cls.modular, fisher)

    def learn(self, one: _Initialization, random: Params, seed: int) -> tuple[Params, dict[str, Any]]:
        """Return a meta-learned initialization and what to report of it; from a former run with `--init-from`."""
        config, name = self.config, f"start_{seed}_{one.name}"
        assert one.kind is not None
        if config.init_from is not None:
            if is_pretrained(config.init_from):
                return self._shipped(config.init_from, one)
            return self._former(config.init_from, name, random)
        # Methods without Fisher information share one initialization, whatever `mim` asks for.
        plain = dataclasses.replace(config.meta, fim_inner="none", fim_outer="none")
        meta = config.meta if one.fisher else plain
        # Few signals may leave none to validate on: the curve then has training scores alone.
        validated = len(self.sets.validation) > 0
        trainer = MetaTrainer(
            meta_initialization(config, random, self.sets.train),
            TaskEpisodes(one.kind, self.tasks(self.sets.train, one.modular), meta, config.fim),
            meta,
            seed,
            config.adapt.fast_layers if one.kind == "oml" else None,
            TaskEpisodes(one.kind, self.tasks(self.sets.validation, one.modular), meta, config.fim, validation=True)
            if validated
            else None,
            mean_psnr,
        )
        self.run.learn(trainer, name, f"seed {seed}: initialization {one.name}")
        about = {"curve": trainer.curve, "seconds": trainer.seconds, "outer_steps": trainer.made}
        return trainer.params, {**about, "parameters": sum(p.numel() for p in trainer.params)}

    def _shipped(self, where: pathlib.Path, one: _Initialization) -> tuple[Params, dict[str, object]]:
        """Return an initialization that comes with the package. Raise InputError if it is of another kind."""
        result = initialization_from(where, self.config.kind, self.config.run.device)
        if result.initialization != one.name:
            raise InputError(f"init-from: {where} has the initialization {result.initialization}, but not {one.name}")
        if result.bank.spec != self.module:
            raise InputError(f"init-from: {where} must hold a network of {self.module}, got {result.bank.spec}")
        params = tuple(p.detach() for p in result.bank.shared)
        return params, {"source": str(where), "parameters": sum(p.numel() for p in params)}

    def _former(self, folder: pathlib.Path, name: str, random: Params) -> tuple[Params, dict[str, Any]]:
        """Return the initialization of a former run. Raise InputError if it has none, or one of another network."""
        if not folder.is_dir():
            initialization_from(folder, self.config.kind)  # raises, and lists the names of those that are shipped
        state = RunFolder(folder).load_state(name)
        if state is None:
            raise InputError(f"init-from: {folder} must be a run folder with the initialization {name}, but has none")
        tensors, meta = state
        params = tuple(tensors[f"init.{i}"].to(p.device) for i, p in enumerate(random) if f"init.{i}" in tensors)
        if [p.shape for p in params] != [p.shape for p in random]:
            raise InputError(f"init-from: {folder} must hold networks of this architecture, but does not")
        about = {"curve": meta["curve"], "seconds": meta["seconds"]}
        about |= {"source": str(folder), "outer_steps": int(tensors["outer_steps"])}
        return params, {**about, "parameters": sum(p.numel() for p in params)}

    def method(self, name: str, cls: type[Method], init: Params, seed: int) -> dict[str, Any]:
        """Return the results of one method with one seed, from a former process if it has got so far."""
        state = self.folder.load_state(f"method_{seed}_{name}")
        if state is not None:
            done: dict[str, Any] = state[1]
            return done
        config, tasks = self.config, self.tasks(self.sets.test, cls.modular)
        budgets, unfinished = log_steps(config.steps), f"running_{seed}_{name}"
        fine = fine_steps(config.steps)
        runs = Budgets(cls, tasks, init, config.adapting(), seed, budgets, self.measure, fine)
        began, methods = time.monotonic(), [key for key in METHODS if key in config.methods]
        label = f"seed {seed}: {name} ({methods.index(name) + 1} of {len(methods)} methods)"
        self.run.learn(runs, unfinished, label, "learning")
        record = runs.record
        row = {**dataclasses.asdict(record), "category": cls.category}
        row["seconds_per_step"] = record.seconds / record.steps
        tensors: dict[str, Tensor] = {}
        if seed == config.seeds[0]:
            values = self.cut.assemble(runs.final_predictions()).clamp(0, 1).cpu()
            self.folder.save_values(name, values)
            if name == self.best:
                networks = len(tasks) if cls.modular else 1
                rows = [runs.protocol.params_of(k) for k in range(networks)]
                tensors = {f"network.{k}.{i}": p for k, params in enumerate(rows) for i, p in enumerate(params)}
        self.folder.save_state(f"method_{seed}_{name}", tensors, row)
        self.folder.drop_state(unfinished)  # it may hold the parameters at every budget
        self.run.save_phases()
        last = record.curve["psnr"][str(config.steps)]
        # The time that has passed, over all budgets: `record.seconds` is of the last one alone.
        took = duration(time.monotonic() - began)
        say(f"seed {seed}, {name}: {sum(last) / len(last):.2f} dB after {took} over all numbers of steps")
        return row

    def result(self) -> Result:
        """Return the networks of the best method with the first seed: a module per signal and task, or one per signal.

        A state of version 0.1 holds no parameters: the result then has no modules.
        """
        config, cls = self.config, METHODS[self.best]
        state = self.folder.load_state(f"method_{config.seeds[0]}_{self.best}")
        spec, size = self.module if cls.modular else self.wide, len(self.best_init)
        span = (self.cut.box_span or self.cut.span) if cls.modular else self.cut.span
        frame = Frame(AXES[config.kind], tuple(-s for s in span), span, "of a task" if cls.modular else "of a signal")
        tensors = {} if state is None else state[0]
        networks = len(tensors) // size
        names, modules = [], None
        if networks:
            # [networks, signals, ...] -> a module per signal and network, those of a signal side by side.
            rows = [torch.stack([tensors[f"network.{k}.{i}"] for k in range(networks)], 1) for i in range(size)]
            modules = tuple(row.flatten(0, 1) for row in rows)
            parts = self.task_names() if cls.modular else [""]
            names = [f"{signal} {part}".strip() for signal in self.sets.test.names for part in parts]
        bank = bank_of(spec, self.best_init, modules)
        return Result(config.kind, bank, names, frame, initialization=cls.initialization, method=self.best)

    def task_names(self) -> tuple[str, ...]:
        """Return the names of the tasks that a signal is cut into."""
        return tuple(f"{TASKS[self.config.kind]} {k + 1}" for k in range(self.cut.tasks))

    def measure(self, predictions: list[Tensor]) -> dict[str, list[float]]:
        """Return the metrics of the whole signals."""
        return self.compared(self.cut.assemble(predictions).clamp(0, 1).cpu())

    def compared(self, values: Tensor) -> dict[str, list[float]]:
        """Return the metrics of values of the test signals."""
        result = measures(self.config.kind, values, self.sets.test.values)
        # An exact hit has an infinite PSNR, which JSON does not have: it would read as one that was not measured.
        return result | {"psnr": [min(value, MOST_PSNR) for value in result["psnr"]]}

    def trivial(self) -> Trivial | None:
        """Return the answer that nobody has to learn: silence, or the mean of the training signals; None without."""
        test, train = self.sets.test.values, self.sets.train.values
        if self.config.kind == "audio":
            return Trivial("silence", from_lists(self.compared(torch.full_like(test, 0.5))))
        if not len(train):
            return None
        name = "mean picture" if self.config.kind == "image" else "mean clip"
        return Trivial(name, from_lists(self.compared(train.mean(0).expand_as(test).contiguous())))

    def metrics(self, seeds: dict[str, Any]) -> SignalRecord:
        """Return the record of the run, but for the pictures and the seconds of the report."""
        config, sets = self.config, self.sets
        self.folder.save_values("truth", sets.test.values)
        results = {}
        for seed, row in seeds.items():
            # A method that a former process finished comes as JSON data: one way in for both.
            results[seed] = from_json(SeedResults, row)
        measures = next(iter(next(iter(results.values())).methods.values())).curve
        return SignalRecord(
            **self.run.facts(),
            title=sets.title,
            notes=tuple(self.notes),
            names=Names(*(tuple(part.names) for part in (sets.train, sets.validation, sets.test))),
            tasks=self.task_names(),
            measures=tuple(measures),
            steps=tuple(log_steps(config.steps)),
            exact_from=tuple(exact_from(sets.test.values).tolist()),
            trivial=self.trivial(),
            grid=tuple(self.cut.grid),
            rate=sets.test.rate,
            seeds=results,
        )


TASKS = {"image": "patch", "video": "frames", "audio": "window"}
AXES = {"image": ("row", "column"), "video": ("frame", "row", "column"), "audio": ("time",)}


def from_lists(measured: dict[str, list[float]]) -> dict[str, tuple[float | None, ...]]:
    """Return measures with None for what is not finite, such as the SI-SDR of silence.

    >>> from_lists({"si_sdr": [1.0, float("-inf")]})
    {'si_sdr': (1.0, None)}
    """
    return {name: tuple(v if math.isfinite(v) else None for v in row) for name, row in measured.items()}


def fine_steps(steps: int) -> tuple[int, ...]:
    """Return the steps at which the PSNR of modules is taken besides the powers of two: 64 of them, evenly."""
    # Powers of two have none between half of the steps and all: `mim` is to match `mod` within 75 % of them.
    return tuple(sorted({max(1, round(steps * i / 64)) for i in range(1, 65)}))
