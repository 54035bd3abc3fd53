"""One run, whatever the system: its folder is opened or reopened, it learns, saves, resumes and reports."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mclnf_fast.cpus import use_threads
from mclnf_fast.errors import InputError
from mclnf_fast.info import info
from mclnf_fast.ops import select
from mclnf_fast.report.record import Facts, Picture, Record
from mclnf_fast.systems.common.callbacks.base import Callback, Reading, Watched, begin_callbacks, current, end_callbacks
from mclnf_fast.systems.common.callbacks.writers import make_writers
from mclnf_fast.systems.common.config_file import from_plain
from mclnf_fast.systems.common.folder import Phases, RunFolder, plain
from mclnf_fast.systems.common.idle import name_idle
from mclnf_fast.systems.common.options import SystemConfig
from mclnf_fast.systems.common.progress import progress

say = functools.partial(print, flush=True)
SAVE_EVERY = 10.0  # seconds: what a kill costs at most; more often, writing would slow small runs down


class Learner(Protocol):
    """Learns step by step, and can be stopped after any: `learn.MetaTrainer`, `learn.Protocol`, `learn.Budgets`."""

    @property
    def made(self) -> int:
        """Steps done."""

    @property
    def total(self) -> int:
        """Steps in all."""

    def step(self, most: int = 1) -> None:
        """Make at least one step, and up to `most` if it can make several in one call. A learner may also have
        `reading()`, which returns figures of the last one (loss, psnr)."""

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that decides the next step and what has been measured, as tensors and plain data."""

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. Raises KeyError, ValueError if it does not fit."""


@dataclass(frozen=True)
class Stretch:
    """The steps `begin` ... `end` - 1 of a learner.

    label: at the progress bar. phase: under which the seconds are counted.
    """

    label: str
    phase: str
    begin: int
    end: int


class Advance(Protocol):
    """Takes what returns the figures measured last, and the number of steps just made."""

    def __call__(self, reading: Reading, steps: int = 1) -> None: ...


class Pace:
    """Chooses how many steps a call makes: as many as take between a tenth and four tenths of a second, so that a stop,
    the progress and the state on disk never wait long.

    >>> pace = Pace()
    >>> for _ in range(3):
    ...     with pace:
    ...         pass  # learner.step(pace.most)
    >>> pace.most
    8
    """

    def __init__(self) -> None:
        self.most = 1

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        seconds = time.monotonic() - self._began
        if seconds < 0.1:
            self.most = min(2 * self.most, 1 << 16)
        elif seconds > 0.4:
            self.most = max(1, self.most // 2)


C = TypeVar("C", bound=SystemConfig)
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Run(Generic[C]):
    """A run in progress.

    Attributes:
        config: its options; of a resumed run those that it was begun with.
        folder: where it keeps its state and results.
        phases: seconds of each of its phases, those of former processes included.
        ops: those that it calls, for the report.
        fresh: whether this process has begun it.
        callbacks: what is told how it goes on.
    """

    config: C
    folder: RunFolder
    phases: Phases
    ops: tuple[str, ...]
    fresh: bool
    callbacks: tuple[Callback, ...] = ()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Run the reading of the data; if they are unusable, remove the folder that this run has just made, so that a
        corrected command can use it."""
        path = getattr(getattr(self.config, "data", None), "path", None)
        say(f"reading {path}" if path is not None else "making procedural data")
        try:
            with self.phases("data"):
                yield
        except Exception:  # a full disk and too little memory too: nothing has been learned
            if self.fresh:
                self.folder.discard()
            raise
        # Now, and not when it was made: a folder that is removed again is none to look into.
        say(f"run folder: {self.folder.path}")

    def save_phases(self) -> None:
        """Save the seconds of the phases for a process that resumes this run."""
        self.folder.save_state("run", {}, {"phases": self.phases.seconds})

    def restore(self, learner: Learner, name: str) -> dict[str, Any]:
        """Give a learner the state `name` that a former process left, if there is one.

        Returns: the plain data of the state; none without one. Raises InputError if it is not this learner's.
        """
        state = self.folder.load_state(name)
        if state is None:
            return {}
        with self.folder.must_fit(name):
            learner.load_state_dict(*state)
        return state[1]

    @contextmanager
    def watched(self, label: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Show how far a loop is, and tell callbacks; yield the function to be called after each step, or several, with
        one that returns what was measured last.

        Args:
            label: what is done.
            total: steps in all.
            done: those that a former process has made.
        """
        made = done
        with progress(label, total, done) as bar:

            def advance(reading: Reading, steps: int = 1) -> None:
                nonlocal made
                made += steps
                bar(steps, reading)
                for callback in self.callbacks:
                    callback.step(Watched(label, made, total, reading, steps))

            yield advance

    def advance(
        self, learner: Learner, name: str, stretch: Stretch, save: Callable[[], Mapping[str, object]] = dict
    ) -> Iterator[int]:
        """Learn to the end of a stretch, one call of the learner's `step` after the other; yields the steps made after
        each.

        The state is kept under `name` every ten seconds and at the end: a kill costs at most that much.

        Args:
            save: further plain data for the state.
        """

        def keep() -> None:
            tensors, meta = learner.state_dict()
            self.folder.save_state(name, tensors, {**meta, **save()})

        done, total = learner.made - stretch.begin, stretch.end - stretch.begin
        reading: Reading = getattr(learner, "reading", dict)
        with self.phases(stretch.phase), self.watched(stretch.label, total, done) as advance:
            saved, pace = time.monotonic(), Pace()
            while (before := learner.made) < stretch.end:
                with _finite(learner, stretch), pace:
                    learner.step(min(pace.most, stretch.end - before))
                advance(reading, learner.made - before)
                yield learner.made
                if learner.made >= stretch.end or time.monotonic() - saved > SAVE_EVERY:
                    keep()
                    saved = time.monotonic()
        self.save_phases()

    def learn(
        self,
        learner: Learner,
        name: str,
        label: str,
        phase: str = "meta-training",
        check: Callable[[int], object] | None = None,
    ) -> list[Any]:
        """Restore a learner and learn to the end.

        Args:
            name: of its state in the folder.
            label: at the progress bar.
            phase: under which the seconds are counted.
            check: called after each step with the number of steps made.

        Returns: the results of `check` that are not None, those of former processes included. Raises InputError if
        the state is not this learner's.
        """
        # In the state beside the learner: a resumed run would otherwise report the checks of its own process alone.
        checks: list[Any] = list(self.restore(learner, name).get("checks", ()))
        stretch = Stretch(label, phase, 0, learner.total)
        for made in self.advance(learner, name, stretch, lambda: {"checks": checks} if checks else {}):
            result = check(made) if check is not None else None
            if result is not None:
                checks.append(result)
        return checks

    def facts(self) -> Facts:
        """Return the first fields of every record: system, command, machine, versions, backends, config."""
        about, options = info(), self.config.run
        where = (torch.device(options.device), torch.float32)
        return {
            "system": self.config.kind,
            "command": self.folder.command,
            "machine": about["machine"],
            "versions": about["versions"],
            "backends": {op: select(op, options.backend, *where) for op in self.ops},
            "config": json.loads(json.dumps(plain(self.config))),
        }

    def finish(
        self,
        record: R,
        pictures: Callable[[pathlib.Path, R], Sequence[Picture]],
        report: Callable[[pathlib.Path, R], pathlib.Path],
    ) -> tuple[R, pathlib.Path]:
        """Draw the pictures, write metrics.json and the report; return the finished record and the report's path."""
        say("drawing the pictures and the report")
        with self.phases("report"):
            record = dataclasses.replace(record, pictures=tuple(pictures(self.folder.path, record)))
        phases = dict(self.phases.seconds)
        record = dataclasses.replace(record, phases=phases, seconds_total=sum(phases.values()))
        # Before the report, so that the results are kept if its page cannot be written.
        self.folder.write_json("metrics.json", record.to_json())
        page = report(self.folder.path, record)
        end_callbacks(record)
        self.folder.release()
        return record, page


_begun: list[RunFolder] = []  # the folder that this process has made last


def discard_unused() -> None:
    """Remove the folder of the last run that this process has begun, if nothing was saved in it.

    A run that is refused after its data were read leaves nothing to continue.

    >>> discard_unused()
    """
    for folder in _begun:
        if folder.path.is_dir() and folder.images.is_dir() and folder.unused:
            folder.discard()
    _begun.clear()


@contextmanager
def _finite(learner: Learner, stretch: Stretch) -> Iterator[None]:
    """Name the reason if an op refuses what a step gives it because the weights are no longer finite.

    Looked at after an error alone: at every step it would wait for the device.
    """
    try:
        yield
    except ValueError as error:
        tensors, _ = learner.state_dict()
        if all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
            raise
        made = learner.made - stretch.begin
        raise InputError(
            f"{stretch.label}: the weights are no longer finite after {made} of {stretch.end - stretch.begin} steps: "
            f"choose smaller rates ({' '.join(str(error).split())[:120]})"
        ) from None


def begin(config: C, ops: Sequence[str], command: str | None = None) -> Run[C]:
    """Return a new run, or the one that `config.run.resume` names, with the options that it was begun with.

    Args:
        config: the options; `run.out` and `run.resume` decide the folder.
        ops: those that the run will call.
        command: the command line that made this run, for its report; None: it is called from Python.

    Raises InputError if the options are out of range or the folder is unusable; BackendError if the backend cannot
    serve one of the ops.
    """
    from mclnf_fast.report import check_extra

    check_extra()
    config.check()
    options = config.run
    # Before any data are read or made, which may take minutes.
    for op in ops:
        select(op, options.backend, torch.device(options.device), torch.float32)
    end_callbacks()  # of a run that was stopped in this process
    fresh = options.resume is None
    if fresh and command is None:  # the command line has looked at what was typed
        for sentence in name_idle(config, config.baseline(), config.idle()):
            say(f"note: {sentence}")
    if options.resume is not None:
        folder, described = RunFolder.reopen(options.resumed, config.kind, command)
        config = from_plain(type(config), described)
    else:
        folder = RunFolder.create(options.out, config.kind, plain(config), command)
        _begun[:] = [folder]
    writers = _writers(config, folder, fresh)
    use_threads(config.run.threads)
    folder.clean()
    state = folder.load_state("run")
    with folder.must_fit("run"):
        phases = {} if state is None else {str(name): float(s) for name, s in state[1]["phases"].items()}
    callbacks = (*writers, *current())
    begin_callbacks(callbacks, config, folder.path)
    return Run(config, folder, Phases(phases), tuple(ops), fresh, callbacks)


def _writers(config: SystemConfig, folder: RunFolder, fresh: bool) -> list[Callback]:
    try:
        return make_writers(config.run.writers)
    except InputError:
        if fresh:
            folder.discard()
        raise
