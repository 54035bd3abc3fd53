"""Writers: callbacks that hand the figures of a run to TensorBoard or Weights & Biases."""

from __future__ import annotations

import importlib
import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from mclnf_fast.errors import InputError, pip_install
from mclnf_fast.systems.common.callbacks.base import Callback, Watched
from mclnf_fast.systems.common.folder import plain

if TYPE_CHECKING:
    from mclnf_fast.report.record import Record
    from mclnf_fast.systems.common.options import SystemConfig

WriterName = Literal["tensorboard", "wandb"]


class _SummaryWriter(Protocol):
    def add_text(self, tag: str, text: str) -> object: ...
    def add_scalar(self, tag: str, value: float, step: int) -> object: ...
    def close(self) -> object: ...


class _WandbRun(Protocol):
    def log(self, row: Mapping[str, float]) -> object: ...
    def finish(self, *, exit_code: int) -> object: ...


class TensorBoardWriter(Callback):
    """Writes event files into `tensorboard/` of the run folder: a scalar per loop and figure, and the options."""

    def __init__(self) -> None:
        self._module = _imported("torch.utils.tensorboard", "tensorboard")
        self._writer: _SummaryWriter | None = None

    def begin(self, config: SystemConfig, folder: pathlib.Path) -> None:
        # Flushed soon: a run that is killed keeps what was written, and pages follow a run as it goes.
        self._writer = self._module.SummaryWriter(str(folder / "tensorboard"), flush_secs=10)
        options = json.dumps(plain(config), indent=1)
        self._writer.add_text("config", f"```\n{options}\n```")

    def step(self, watched: Watched) -> None:
        if self._writer is not None and watched.due():
            for name, value in watched.reading().items():
                self._writer.add_scalar(f"{watched.label}/{name}", value, watched.step)

    def end(self, record: Record | None) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbWriter(Callback):
    """Logs to Weights & Biases: a figure per loop against its own steps; WANDB_MODE, WANDB_PROJECT and the other
    variables of the package say where to."""

    def __init__(self) -> None:
        self._wandb = _imported("wandb", "wandb")
        self._run: _WandbRun | None = None

    def begin(self, config: SystemConfig, folder: pathlib.Path) -> None:
        # By the folder's name: a run that is resumed goes on with the same curves.
        name = folder.resolve().name
        options = {"name": name, "id": name, "resume": "allow", "dir": str(folder), "config": plain(config)}
        self._run = self._wandb.init(group=config.kind, **options)

    def step(self, watched: Watched) -> None:
        if self._run is not None and watched.due():
            figures = {f"{watched.label}/{name}": value for name, value in watched.reading().items()}
            self._run.log({**figures, f"{watched.label}/step": watched.step})

    def end(self, record: Record | None) -> None:
        if self._run is not None:
            self._run.finish(exit_code=1 if record is None else 0)


WRITERS: dict[str, type[TensorBoardWriter] | type[WandbWriter]] = {
    "tensorboard": TensorBoardWriter,
    "wandb": WandbWriter,
}
"""Name -> writer, of `--writers`."""


def make_writers(names: Sequence[str]) -> list[Callback]:
    """Return the writers of these names.

    Raises InputError that names the extra to install, if a package is missing.

    >>> make_writers([])
    []
    """
    return [WRITERS[name]() for name in names]


def _imported(module: str, name: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"writers: {name} needs the package {name}: {pip_install(name)}") from None
