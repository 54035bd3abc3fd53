"""Finished runs read back from their folders, and the names by which they go beside each other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mclnf_fast.errors import InputError
from mclnf_fast.report.page.methods import METHOD_KEYS
from mclnf_fast.report.protocol.counts import Protocol, mapping, sequence


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, what it is called, its metrics, and its statistics (None: a city)."""

    folder: Path
    label: str
    metrics: Mapping[str, Any]
    run: Protocol | None

    @property
    def command(self) -> str:
        """The command that made it."""
        return str(self.metrics.get("command") or "")

    @property
    def stem(self) -> str:
        """The label as the beginning of a file's name."""
        return re.sub(r"[^a-z0-9]+", "_", self.label.lower()).strip("_") or "run"


def read_runs(folders: Sequence[str | Path]) -> list[Finished]:
    """Reads runs, and names them by their titles, or where two have the same one by their folders too.

    Raises: InputError, naming the folder, where one is no run, is not finished, or was named twice.
    """
    paths = [Path(f) for f in folders]
    for k, path in enumerate(paths):
        if path.resolve() in [p.resolve() for p in paths[:k]]:
            raise InputError(f"run: {path} must be named once, was named twice")
    read = [(path, *_read(path)) for path in paths]
    titles = [str(m.get("title") or path.resolve().name) for path, m, _ in read]
    labels = [t if titles.count(t) == 1 else f"{t} ({p.resolve().name})" for t, p in zip(titles, paths)]
    labels = [t if labels.count(t) == 1 else f"{t} {k}" for k, t in enumerate(labels, start=1)]
    return [Finished(path, label, metrics, run) for (path, metrics, run), label in zip(read, labels)]


def _read(path: Path) -> tuple[Mapping[str, Any], Protocol | None]:
    if not path.is_dir():
        raise InputError(f"run: {path} must be the folder of a run, but there is no such folder")
    file = path / "metrics.json"
    if not file.is_file():
        if (path / "config.yaml").is_file() or (path / "state").is_dir():
            raise InputError(f"run: {path} must be finished, but has no metrics.json yet; --resume continues a run")
        raise InputError(f"run: {path} must be the folder of a run, but it holds no metrics.json")
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"run: {file} must be JSON, but: {error}") from None
    if not isinstance(metrics, dict):
        raise InputError(f"run: {file} must hold a mapping, got {type(metrics).__name__}")
    if metrics.get("system") == "city" or ("system" not in metrics and "summary" in metrics):
        if not mapping(metrics.get("summary")):
            raise InputError(f"run: {path} must be finished, but its metrics.json has no method's results")
        return metrics, None
    if "system" not in metrics and "seeds" not in metrics:
        raise InputError(f"run: {file} must be that of a run image, video, audio or city, but holds neither")
    try:
        run = Protocol(metrics)
    except InputError as error:
        raise InputError(f"run: {path}: {error}") from None
    _check_finished(path, run)
    return metrics, run


def _check_finished(path: Path, run: Protocol) -> None:
    """Raises InputError where a method that the run was to learn is missing in a seed, or has no last step."""
    if not run.methods:
        raise InputError(f"run: {path} must be finished, but its metrics.json has no method's results")
    asked = [str(m) for m in sequence(mapping(run.metrics.get("config")).get("methods")) if m in METHOD_KEYS]
    for m in dict.fromkeys([*asked, *run.methods]):
        missing = [s for s in run.seeds if s not in run.rows.get(m, {})]
        if missing:
            raise InputError(f"run: {path} must be finished, but {m} has no results for seed {missing[0]}")
        if run.last not in run.values(m):
            raise InputError(f"run: {path} must be finished, but {m} has no PSNR at the last step, {run.last}")
