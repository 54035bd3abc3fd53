"""Where the modules of a fit are kept until all are finished: in memory, or in files beside the bank."""

from __future__ import annotations

import dataclasses
import errno
import glob
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank
from mclnf_fast.fields.io import check_path, load_meta, load_tensors, save_tensors
from mclnf_fast.fields.join import join_banks
from mclnf_fast.learn.fit.summary import FitSummary
from mclnf_fast.learn.params import Params
from mclnf_fast.spec import FieldSpec, to_dict

STATE = "state.safetensors"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def bank_from(spec: FieldSpec, shared: Sequence[Tensor], params: Sequence[Tensor]) -> FieldBank:
    """Return a bank with a shared initialization [1, ...] and modules [M, ...].

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec = FieldSpec(2, 1, 8, 1)
    >>> len(bank_from(spec, initial_parameters(spec), initial_parameters(spec, 3)))
    3
    """
    bank = FieldBank(spec, len(params[0]), params[0].dtype, params[0].device, init=shared)
    with torch.no_grad():
        for parameter, values in zip(bank.stacked, params):
            parameter.copy_(values)
    return bank


def parts_of(file: pathlib.Path) -> pathlib.Path:
    """Return the folder of the parts of a bank that is not finished.

    >>> parts_of(pathlib.Path("bank")).name
    'bank.parts'
    """
    return file.with_name(file.name + ".parts")


class MemoryStore:
    """Keeps the modules in memory."""

    def __init__(self, spec: FieldSpec, shared: Params) -> None:
        self.spec, self.shared = spec, shared
        self.summaries: list[FitSummary] = []
        self._params: list[Params] = []

    def add(self, params: Params, summary: FitSummary) -> None:
        """Keep the modules of a chunk."""
        self._params.append(params)
        self.summaries.append(summary)

    def bank(self) -> FieldBank:
        """Return all modules."""
        params = [torch.cat(tensors) for tensors in zip(*self._params)]
        return bank_from(self.spec, self.shared, params or [t[:0] for t in self.shared])


class FileStore:
    """Writes chunks into FILE.parts, each a bank of its own, and joins them into FILE at the end.

    Args:
        file: the bank.
        spec, shared: its architecture, and its shared initialization [1, ...].
        described: all that its bits depend on beside the samples.
        resume: whether to go on with what is there.

    Raises InputError if there is something without `resume`, or what is there was begun with other options.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        spec: FieldSpec,
        shared: Params,
        described: Mapping[str, Any],
        resume: bool,
    ) -> None:
        self.file, self.spec, self.shared = check_path(file), spec, shared
        self.described: dict[str, Any] = json.loads(json.dumps(dict(described)))  # as it comes back from a file
        self.folder = parts_of(self.file)
        self.summaries: list[FitSummary] = []
        self._state: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.finished = False
        if self.file.exists() and not (resume and self._is_complete()):
            raise InputError(f"file: {self.file} must be new, but is there already; resume continues a fit")
        if self.finished:
            return
        parts = self.parts
        state = self.folder / STATE
        if not resume and (parts or state.exists()):
            raise InputError(f"file: {self.folder} holds a fit that was stopped; resume continues it")
        for part in parts:
            self._check(part, load_meta(part))
        if state.exists():
            tensors, meta = load_tensors(state)
            self._check(state, meta, keep=False)
            # One that was finished before the process was killed, in between two writes, is a part already.
            self._state = (tensors, meta) if meta.get("first") == self.count else None

    @property
    def parts(self) -> list[pathlib.Path]:
        """Files of finished chunks, in the order of their modules."""
        return sorted(self.folder.glob("[0-9]*.safetensors"))

    @property
    def count(self) -> int:
        """Number of finished modules."""
        return sum(map(len, self.summaries))

    def _is_complete(self) -> bool:
        self._check(self.file, load_meta(self.file))
        self.finished = True
        return True

    def _check(self, path: pathlib.Path, meta: Mapping[str, Any], keep: bool = True) -> None:
        """Take over the summary in a file. Raises InputError if it is of another fit."""
        try:
            former = meta["fit"]
            for name, value in self.described.items():
                if former[name] != value:
                    raise InputError(
                        f"resume: {path} must have been fitted with {name} {_short(value)}, got {_short(former[name])}"
                    )
            if keep:
                self.summaries.append(FitSummary.from_plain({**meta, **former["summary"]}))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"resume: {path} must hold a fit, but: {error!r:.200}") from None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the state of the chunk at work (tensors, meta), once; None: there is none."""
        state, self._state = self._state, None
        return state

    def save_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Save the state of the chunk at work in the place of the last one."""
        about = {"first": self.count, "fit": self.described, **meta}
        self._written(self.folder / STATE, lambda path: save_tensors(path, tensors, about))

    def add(self, params: Params, summary: FitSummary) -> None:
        """Write the modules of a chunk."""
        if len(summary):
            bank = bank_from(self.spec, self.shared, params)
            path = self.folder / f"{self.count:09d}.safetensors"
            meta = self._meta(summary)
            self._written(path, lambda path: save_tensors(path, bank.state_dict(), meta))
        self.summaries.append(summary)
        (self.folder / STATE).unlink(missing_ok=True)

    def finish(self, summary: FitSummary) -> None:
        """Join all parts into the file, and remove them."""
        parts = self.parts
        if not self.finished:
            # Without the time it took: the same fit gives the same bytes.
            meta = self._meta(dataclasses.replace(summary, seconds=0.0))
            self._written(self.file, lambda path: join_banks(path, parts, **meta))
        # Also what a process left that was killed in between.
        killed = [*self.folder.glob(".*.tmp"), *self.file.parent.glob(f".{glob.escape(self.file.name)}.*.tmp")]
        for part in (*parts, self.folder / STATE, *killed):
            part.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _meta(self, summary: FitSummary) -> dict[str, Any]:
        plain = summary.to_plain()
        columns = {name: plain.pop(name) for name in ("names", "about", "psnr")}
        described = {**self.described, "summary": plain}
        return {"spec": to_dict(self.spec), "modules": len(summary), **columns, "fit": described}

    def _written(self, path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
        try:
            write(path)
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in FULL and self.count:
                reason += f" ({self.count} finished fields stay in {self.folder}, each file a bank of its own)"
            raise OSError(error.errno, reason, str(path)) from error


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"
