"""MCL-NF on images, video and audio: signals learned task by task, by every method, under one protocol."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

from torch import Tensor

from mclnf_fast.data.signals import Signals, SignalSets
from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.starts import StartLearner
from mclnf_fast.learn.methods import METHODS, MIM, Method
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.protocol import Protocol
from mclnf_fast.metrics import log_steps, measures
from mclnf_fast.report.record import Names, SeedResults, SignalRecord, from_json
from mclnf_fast.systems.common.config_file import from_plain
from mclnf_fast.systems.common.folder import RunFolder, progress
from mclnf_fast.systems.common.run import Run, begin, say
from mclnf_fast.systems.signals.data import cut_of, load, meta_start, random_start, tasks_of
from mclnf_fast.systems.signals.options import CONFIGS, SignalConfig
from mclnf_fast.systems.signals.step_memory import measure_steps
from mclnf_fast.tasks.coords import CoordTask

OPS = ("bank_mlp", "bank_mse", "fisher_scores", "bank_step")


def run_signals(config: SignalConfig, command: str | None = None) -> pathlib.Path:
    """Runs the job and returns the run folder.

    Raises InputError on unusable input; whatever ends a run, its folder keeps what is done, and `resume` continues it
    to the same result.
    """
    from mclnf_fast.report.protocol.report import signal_table, write_run_pictures, write_signal_report

    run = begin(config, OPS, functools.partial(from_plain, CONFIGS[config.kind]), command)
    with run.reading():
        job = _Job(run, load(run.config))
    job.announce()
    seeds = {str(seed): job.seed(seed) for seed in run.config.seeds}
    record, report = run.finish(job.metrics(seeds), write_run_pictures, write_signal_report)
    say(signal_table(record))
    say(f"report: {report}")
    return run.folder.path


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
        learned = any(METHODS[name].start != "random" for name in config.methods)
        if learned and config.starts is None and not len(sets.train):
            raise InputError("data: meta-training needs signals beside those to test on, got none")

    def announce(self) -> None:
        """What the run is about, for the terminal."""
        sets = self.sets
        counts = (
            f"{len(sets.train)} signals to meta-train, {len(sets.validation)} to validate, {len(sets.test)} to test"
        )
        say(f"{sets.title}: {counts}; {self.cut.tasks} tasks of {self.cut.coordinates(0, 'local').shape[0]:,} samples")
        widths = f"{self.module.width}, {self.module.num_parameters * self.cut.tasks:,} parameters"
        say(f"modules of width {widths} a signal; one network of width {self.wide.width}, {self.wide.num_parameters:,}")
        for note in sets.notes:
            say(f"note: {note}")

    def tasks(self, signals: Signals, modular: bool) -> list[CoordTask]:
        """The tasks of signals: in local coordinates for modules, in global ones for one network."""
        if modular:
            return tasks_of(self.config, self.cut, signals, self.module, "local")
        return tasks_of(self.config, self.cut, signals, self.wide, "global")

    def seed(self, seed: int) -> dict[str, Any]:
        """Everything of one seed."""
        methods = {name: METHODS[name] for name in METHODS if name in self.config.methods}
        kinds = {self.start_name(name): cls for name, cls in methods.items()}
        starts: dict[str, Params] = {}
        about: dict[str, Any] = {}
        for kind, cls in kinds.items():
            spec = self.module if cls.modular else self.wide
            random = random_start(self.config, spec, seed)
            starts[kind] = random
            if not kind.startswith("random"):
                starts[kind], about[kind] = self.learn_start(kind, random, seed)
        found = {name: self.method(name, cls, starts[self.start_name(name)], seed) for name, cls in methods.items()}
        return {"starts": about, "methods": found}

    def start_name(self, method: str) -> str:
        """The start of a method: MIM has one of its own where its meta-training uses Fisher information."""
        config = self.config
        own = issubclass(METHODS[method], MIM) and (config.fim_inner != "none" or config.fim_outer != "none")
        return "modules_fim" if own else METHODS[method].start

    def learn_start(self, kind: str, random: Params, seed: int) -> tuple[Params, dict[str, Any]]:
        """A meta-learned start and what to report of it; from a former run where `--starts` names one."""
        config, name = self.config, f"start_{seed}_{kind}"
        if config.starts is not None:
            return self._former(name, random)
        random = meta_start(config, random, self.sets.train)
        modular = kind.startswith("modules")
        with_fisher = kind == "modules_fim"
        learner = StartLearner(
            "modules" if modular else kind,  # type: ignore[arg-type]
            random,
            self.tasks(self.sets.train, modular),
            self.tasks(self.sets.validation, modular) if len(self.sets.validation) else None,
            config.meta,
            seed,
            config.adapt.fast_layers,
            fim=config.fim,
            fim_inner=config.fim_inner if with_fisher else "none",
            fim_outer=config.fim_outer if with_fisher else "none",
        )
        self.run.learn(learner, name, config.meta.steps, f"seed {seed}: start {kind}")
        about = {"curve": learner.curve, "seconds": learner.seconds, "outer_steps": learner.outer_steps}
        return learner.params, {**about, "parameters": sum(p.numel() for p in learner.params)}

    def _former(self, name: str, random: Params) -> tuple[Params, dict[str, Any]]:
        assert self.config.starts is not None
        state = RunFolder(self.config.starts).load_state(name)
        if state is None:
            raise InputError(f"starts: {self.config.starts} must be a run folder with the start {name}, but has none")
        tensors, meta = state
        params = tuple(tensors[f"init.{i}"].to(p.device) for i, p in enumerate(random) if f"init.{i}" in tensors)
        if [p.shape for p in params] != [p.shape for p in random]:
            raise InputError(f"starts: {self.config.starts} must hold networks of this architecture, but does not")
        about = {**meta, "source": str(self.config.starts), "outer_steps": int(tensors["outer_steps"])}
        return params, {**about, "parameters": sum(p.numel() for p in params)}

    def method(self, name: str, cls: type[Method], start: Params, seed: int) -> dict[str, Any]:
        """One method with one seed, or what is known of it from before."""
        state = self.folder.load_state(f"method_{seed}_{name}")
        if state is not None:
            done: dict[str, Any] = state[1]
            return done
        config, tasks = self.config, self.tasks(self.sets.test, cls.modular)
        budgets = log_steps(config.steps)
        protocol = Protocol(tasks, budgets, self.measure, fine_steps(config.steps))
        with self.phases("learning"), progress(f"seed {seed}: {name}", protocol.steps_of(cls)) as bar:
            protocol.advance = bar
            record, predictions = protocol.run(cls, start, config.adapting(), seed)
        row = {**dataclasses.asdict(record), "category": cls.category}
        row["seconds_per_step"] = record.seconds / record.steps
        if seed == config.seeds[0]:
            values = self.cut.assemble(predictions).clamp(0, 1).cpu()
            self.folder.save_values(name, values)
        self.folder.save_state(f"method_{seed}_{name}", {}, row)
        self.run.save_phases()
        last = record.curve["psnr"][str(config.steps)]
        say(f"seed {seed}, {name}: {sum(last) / len(last):.2f} dB in {record.seconds:.0f} s")
        return row

    def measure(self, predictions: list[Tensor]) -> dict[str, list[float]]:
        """Metrics of the whole signals."""
        return measures(self.config.kind, self.cut.assemble(predictions).clamp(0, 1).cpu(), self.sets.test.values)

    def metrics(self, seeds: dict[str, Any]) -> SignalRecord:
        """Return the record of the run, but for the pictures and the seconds of the report."""
        config, sets = self.config, self.sets
        self.folder.save_values("truth", sets.test.values)
        with self.phases("memory"):
            peaks = measure_steps(config, self.channels, len(sets.test), self.cut)
        if not peaks:
            self.notes.append("peak memory a step: not measured, its process or the system did not tell")
        results = {}
        for seed, row in seeds.items():
            methods = {n: {**m, "peak_bytes_per_step": peaks.get(n)} for n, m in row["methods"].items()}
            results[seed] = from_json(SeedResults, {"initializations": row["starts"], "methods": methods})
        measures = next(iter(next(iter(results.values())).methods.values())).curve
        return SignalRecord(
            **self.run.facts(),
            title=sets.title,
            notes=tuple(self.notes),
            names=Names(*(tuple(part.names) for part in (sets.train, sets.validation, sets.test))),
            tasks=tuple(f"{TASKS[config.kind]} {k + 1}" for k in range(self.cut.tasks)),
            measures=tuple(measures),
            steps=tuple(log_steps(config.steps)),
            grid=tuple(self.cut.grid),
            rate=sets.test.rate,
            seeds=results,
        )


TASKS = {"image": "patch", "video": "frames", "audio": "window"}


def fine_steps(steps: int) -> tuple[int, ...]:
    """Where the PSNR of modules is taken besides the powers of two: 64 times, evenly."""
    return tuple(sorted({max(1, round(steps * i / 64)) for i in range(1, 65)}))
