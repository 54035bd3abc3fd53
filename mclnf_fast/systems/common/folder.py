"""A run's folder: its configuration, its state that survives a kill at any moment, and its results.

Every file is written under another name and renamed: a reader, or a run that is resumed, sees the old content or the
new one, never half of it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors, save_tensors, write_atomically
from mclnf_fast.systems.common.config_file import read_mapping
from mclnf_fast.systems.common.lock import FILE, lock, unlock


def plain(value: object) -> Any:
    """Return a configuration as data that YAML and JSON can hold.

    >>> plain({"out": pathlib.Path("runs"), "seeds": (0, 1)})
    {'out': 'runs', 'seeds': [0, 1]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, pathlib.Path) else value


class RunFolder:
    """`config.yaml`, `command.txt`, `metrics.json`, `bank.safetensors`, `images/`, `predictions/` and `state/`.

    Args:
        path: of the folder; use `create` or `reopen`.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.images = path / "images"
        self.made: list[pathlib.Path] = []  # by `create`, the innermost first: `discard` removes them again

    @classmethod
    def create(
        cls, out: pathlib.Path | None, system: str, config: Mapping[str, object], command: str | None = None
    ) -> RunFolder:
        """Return a new folder: `out`, or outputs/<system>/<time>.

        command: the command line that makes this run, for its report; None: it is called from Python.

        Raises InputError if `out` holds anything, or cannot be written.
        """
        if out is None:
            stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
            out = pathlib.Path("outputs") / system / stamp
        folder = cls(out)
        try:
            _must_be_empty(out)
            folder.made = [place for place in (out, *out.parents) if not place.exists()]
            out.mkdir(parents=True, exist_ok=True)
            lock(out)
            _must_be_empty(out)  # again: another process may have come first
            folder.images.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"out: {out} must be a folder that can be written, but: {error}") from None
        folder._name_command(system, command)
        folder.write_config(config)  # last: a folder with a configuration can be resumed
        return folder

    @property
    def command(self) -> str:
        """The command line that made this run, however often it was resumed."""
        return (self.path / "command.txt").read_text(encoding="utf-8", errors="replace").strip()

    @classmethod
    def reopen(
        cls, path: pathlib.Path | None, system: str, command: str | None = None
    ) -> tuple[RunFolder, dict[str, object]]:
        """Return the folder of a run that was begun before, and its configuration.

        path: None: the newest under outputs/<system>. A folder with a configuration alone is a run that this command
            begins.

        Raises InputError if it is not the folder of a run.
        """
        path = former_run(path, system)
        config = read_mapping(path / "config.yaml", "resume")
        folder = cls(path)
        try:
            lock(path)
            folder.images.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"resume: {path} must be a folder that can be written, but: {error}") from None
        # Never replaced: the report names the command that made the run, not the one that resumed it.
        if not (path / "command.txt").is_file():
            folder._name_command(system, command)
        return folder, config

    def _name_command(self, system: str, command: str | None) -> None:
        # Not the words of this process: it may be a notebook, whose command line has not made this run.
        line = command or f"(run {system} from Python, with the options in config.yaml)"
        write_atomically(self.path / "command.txt", (line + "\n").encode())

    def write_config(self, config: Mapping[str, object]) -> None:
        import yaml

        write_atomically(self.path / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False).encode())

    def write_json(self, name: str, data: Mapping[str, object]) -> None:
        write_atomically(self.path / name, (json.dumps(plain(data), indent=1) + "\n").encode())

    def write_lines(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        write_atomically(self.path / name, "".join(json.dumps(plain(r)) + "\n" for r in rows).encode())

    def save_state(self, name: str, tensors: Mapping[str, Tensor], meta: Mapping[str, object]) -> None:
        """Save the state of one part of the run, in the place of the last one."""
        save_tensors(self.path / "state" / f"{name}.safetensors", tensors, plain(meta))

    def load_state(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what `save_state` saved, or None. Raises InputError if its bytes have changed."""
        file = self.path / "state" / f"{name}.safetensors"
        return load_tensors(file) if file.exists() else None

    def drop_state(self, name: str) -> None:
        """Remove the state of one part of the run, if there is one."""
        (self.path / "state" / f"{name}.safetensors").unlink(missing_ok=True)

    def save_values(self, name: str, values: Tensor) -> None:
        """Save signals or pictures as they were learned: `predictions/<name>.safetensors`, the tensor `values`."""
        save_tensors(self.path / "predictions" / f"{name}.safetensors", {"values": values.contiguous()}, {})

    @contextmanager
    def must_fit(self, name: str) -> Iterator[None]:
        """Turn errors while a state is taken over into InputError: the state is that of another configuration."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            file = self.path / "state" / f"{name}.safetensors"
            raise InputError(f"resume: {file} must be the state of this configuration, but: {error!r}") from None

    def discard(self) -> None:
        """Undo `create` if nothing was learned yet, so that a corrected command can use the same folder."""
        unlock(self.path)
        for name in ("config.yaml", "command.txt"):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.images, *self.made):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    @property
    def unused(self) -> bool:
        """Whether nothing but its configuration is in it: no state, no results."""
        known = {"config.yaml", "command.txt", "images", FILE}
        return all(file.name in known for file in self.path.iterdir()) and not any(self.images.iterdir())

    def release(self) -> None:
        """Let other processes write the folder."""
        unlock(self.path)

    def clean(self) -> None:
        """Remove temporary files that a killed process left."""
        for file in self.path.rglob(".*.tmp"):
            # Those of this process may be in use by another thread.
            if not file.name.endswith(f".{os.getpid()}.tmp"):
                file.unlink(missing_ok=True)


def former_run(path: pathlib.Path | None, system: str) -> pathlib.Path:
    """Return the folder of a run that was begun before: `path`, or the newest under outputs/<system>.

    Raises InputError if there is none.
    """
    if path is None:
        runs = sorted(pathlib.Path("outputs", system).glob("*/config.yaml"))
        if not runs:
            raise InputError(f"resume: outputs/{system} must hold a run to continue, but it holds none")
        # Folders are named by their time, so the last name is the newest; times of files change with a copy.
        path = runs[-1].parent
    if not (path / "config.yaml").is_file():
        raise InputError(f"resume: {path} must be the folder of a run (with config.yaml), but it is not")
    return path


def _must_be_empty(out: pathlib.Path) -> None:
    if out.exists() and (not out.is_dir() or any(file.name != FILE for file in out.iterdir())):
        raise InputError(f"out: {out} must be new or empty, but it holds something; --resume continues a run")


class Phases:
    """Seconds of each phase; a resumed run adds to those of its former processes.

    >>> phases = Phases({"data": 1.0})
    >>> with phases("data"):
    ...     pass
    >>> phases.seconds["data"] > 1.0
    True
    """

    def __init__(self, known: dict[str, float]) -> None:
        self.seconds = dict(known)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
