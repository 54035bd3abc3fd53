"""A run's folder: its configuration, its state that survives a kill at any moment, and its results."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors, save_tensors, write_atomically


def plain(value: Any) -> Any:
    """A configuration as data that YAML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, pathlib.Path) else value


class RunFolder:
    """`config.yaml`, `command.txt`, `metrics.json`, `metrics.jsonl`, `images/`, and `state/` while the run is on.

    Every file is written whole or not at all.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.images = path / "images"

    @classmethod
    def create(
        cls, out: pathlib.Path | None, system: str, config: Mapping[str, Any], command: str | None = None
    ) -> RunFolder:
        """A new folder: `out`, or outputs/<system>/<time>. Raises InputError where `out` holds anything.

        command: what makes this run, for its report; default: this process's command line.
        """
        if out is None:
            stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
            out = pathlib.Path("outputs") / system / stamp
        folder = cls(out)
        try:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise InputError(f"out: {out} must be new or empty, but it holds something; --resume continues a run")
            folder.images.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"out: {out} must be a folder that can be written, but: {error}") from None
        folder._name_command(system, command)
        folder.write_config(config)  # last: where it is, the run can be resumed
        return folder

    @property
    def command(self) -> str:
        """What made this run, however often it was resumed."""
        return (self.path / "command.txt").read_text().strip()

    @classmethod
    def reopen(
        cls, path: pathlib.Path | None, system: str, command: str | None = None
    ) -> tuple[RunFolder, dict[str, Any]]:
        """A run that was begun before, and its configuration. None: the newest under outputs/<system>. A folder with a
        configuration alone is a run that this command begins."""
        import yaml

        if path is None:
            runs = sorted(pathlib.Path("outputs", system).glob("*/config.yaml"))
            if not runs:
                raise InputError(f"resume: outputs/{system} must hold a run to continue, but it holds none")
            path = runs[-1].parent
        file = path / "config.yaml"
        if not file.is_file():
            raise InputError(f"resume: {path} must be the folder of a run (with config.yaml), but it is not")
        try:
            config = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"resume: {file} must be YAML, but: {error}") from None
        if not isinstance(config, dict):
            raise InputError(f"resume: {file} must hold a mapping, got {type(config).__name__}")
        folder = cls(path)
        folder.images.mkdir(exist_ok=True)
        if not (path / "command.txt").is_file():
            folder._name_command(system, command)
        return folder, config

    def _name_command(self, system: str, command: str | None) -> None:
        line = command or f"mclnf-fast run {system} {shlex.join(sys.argv[3:])}".rstrip()
        write_atomically(self.path / "command.txt", (line + "\n").encode())

    def write_config(self, config: Mapping[str, Any]) -> None:
        import yaml

        write_atomically(self.path / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False).encode())

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        write_atomically(self.path / name, (json.dumps(plain(data), indent=1) + "\n").encode())

    def write_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        write_atomically(self.path / name, "".join(json.dumps(plain(r)) + "\n" for r in rows).encode())

    def save_state(self, name: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The state of one part of the run: replaces the last one in one step."""
        save_tensors(self.path / "state" / f"{name}.safetensors", tensors, plain(meta))

    def load_state(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save_state` left, or None. Raises InputError where its bytes have changed."""
        file = self.path / "state" / f"{name}.safetensors"
        return load_tensors(file) if file.exists() else None

    def drop_state(self, name: str) -> None:
        """Remove the state of one part of the run, if there is one."""
        (self.path / "state" / f"{name}.safetensors").unlink(missing_ok=True)

    def save_values(self, name: str, values: Tensor) -> None:
        """Signals as a method gives them back: `predictions/<name>.safetensors`, the tensor `values`."""
        save_tensors(self.path / "predictions" / f"{name}.safetensors", {"values": values.contiguous()}, {})

    @contextmanager
    def must_fit(self, name: str) -> Iterator[None]:
        """Around taking over a state: what does not fit it was left by a run with another configuration."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            file = self.path / "state" / f"{name}.safetensors"
            raise InputError(f"resume: {file} must be the state of this configuration, but: {error!r}") from None

    def discard(self) -> None:
        """Undoes `create` where nothing was learned, so that a mended command can use the same folder."""
        for name in ("config.yaml", "command.txt"):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.images, self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def clean(self) -> None:
        """Removes temporary files that a killed process left."""
        for left in self.path.rglob(".*.tmp"):
            if not left.name.endswith(f".{os.getpid()}.tmp"):
                left.unlink(missing_ok=True)


class Phases:
    """Seconds of each phase; a phase of a resumed run adds to what it had."""

    def __init__(self, known: dict[str, float]) -> None:
        self.seconds = dict(known)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar with rate and time left; silent where the output is no terminal."""
    from tqdm import tqdm

    with tqdm(total=total, desc=label, disable=None, leave=False, dynamic_ncols=True) as bar:
        yield bar.update
