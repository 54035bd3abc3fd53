"""Finished runs read back from their folders, and their labels beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mclnf_fast.errors import InputError
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.record import CityRecord, InitializationRecord, Record, SignalRecord, read_record
from mclnf_fast.report.starts.descriptions import DESCRIPTIONS


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder, its label in tables, its record."""

    folder: Path
    label: str
    record: Record

    @property
    def stem(self) -> str:
        """The label as the beginning of a file's name."""
        return re.sub(r"[^a-z0-9]+", "_", self.label.lower()).strip("_") or "run"


def read_runs(folders: Sequence[str | Path]) -> list[FinishedRun]:
    """Read runs; their labels are their titles, with their folders if two have the same one.

    Raises: InputError that names the folder, if it is no run, is not finished, or was named twice.

    >>> read_runs([])
    []
    """
    paths = [Path(folder) for folder in folders]
    for k, path in enumerate(paths):
        # Resolved: one run under two paths would be counted as two.
        if path.resolve() in [p.resolve() for p in paths[:k]]:
            raise InputError(f"run: {path} must be named once, was named twice")
    records = [_read(path) for path in paths]
    titles = [record.title or path.resolve().name for path, record in zip(paths, records)]
    labels = [t if titles.count(t) == 1 else f"{t} ({p.resolve().name})" for t, p in zip(titles, paths)]
    # Two folders of one name in different places: numbered, since whole paths are too long for the head of a table.
    labels = [t if labels.count(t) == 1 else f"{t} {k}" for k, t in enumerate(labels, start=1)]
    return [FinishedRun(path, label, record) for path, label, record in zip(paths, labels, records)]


def _read(path: Path) -> Record:
    if not path.is_dir():
        raise InputError(f"run: {path} must be the folder of a run, but there is no such folder")
    file = path / "metrics.json"
    if not file.is_file():
        if (path / "config.yaml").is_file() or (path / "state").is_dir():
            raise InputError(f"run: {path} must be finished, but has no metrics.json yet; --resume continues a run")
        raise InputError(f"run: {path} must be the folder of a run, but it holds no metrics.json")
    try:
        record = read_record(file)
    except InputError as error:
        raise InputError(f"run: {error}") from None
    return _finished(path, record)


def _finished(path: Path, record: Record) -> Record:
    """Return the record. Raises InputError, if the run is of another system, or not all methods are there."""
    if isinstance(record, InitializationRecord) and record.system in DESCRIPTIONS:
        if not record.initializations:
            raise InputError(f"run: {path} must be finished, but its metrics.json has no initialization's results")
        return record
    if isinstance(record, CityRecord):
        if not record.methods:
            raise InputError(f"run: {path} must be finished, but its metrics.json has no method's results")
        return record
    if not isinstance(record, SignalRecord):
        known = ", ".join(["city", "image", "video", "audio", *DESCRIPTIONS])
        raise InputError(f"run: {path} must be a run of one of {known}, but is one of {record.system}")
    try:
        run = Statistics(record)
    except InputError as error:
        raise InputError(f"run: {path}: {error}") from None
    if not run.methods:
        raise InputError(f"run: {path} must be finished, but its metrics.json has no method's results")
    methods = record.config.get("methods")
    asked = [m for m in methods if isinstance(m, str) and m in METHODS] if isinstance(methods, list | tuple) else []
    for m in dict.fromkeys([*asked, *run.methods]):
        # Methods with other seeds than the rest would be compared on other draws.
        missing = [seed for seed in run.seeds if seed not in run.rows.get(m, {})]
        if missing:
            raise InputError(f"run: {path} must be finished, but {m} has no results for seed {missing[0]}")
        if run.last not in run.values(m):
            raise InputError(f"run: {path} must be finished, but {m} has no PSNR at the last step, {run.last}")
    return record
