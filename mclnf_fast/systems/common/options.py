"""A run's options as plain data and back, and what a command line says of one before all are read."""

from __future__ import annotations

import dataclasses
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from mclnf_fast.errors import InputError

T = TypeVar("T")


def from_plain(cls: type[T], data: Any) -> T:
    """A configuration from what `folder.plain` made of it. Raises InputError where that is no such configuration."""
    try:
        config: T = _read(cls, data)
        config.check()  # type: ignore[attr-defined]
        return config
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        name = getattr(cls, "kind", cls.__name__)
        raise InputError(f"resume: config.yaml must be that of a run of {name}, but: {error!r}") from None


def _read(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{f.name: _read(hints[f.name], value[f.name]) for f in dataclasses.fields(hint)})  # type: ignore[operator]
    kinds = typing.get_args(hint)
    if value is not None and (hint is pathlib.Path or pathlib.Path in kinds):
        return pathlib.Path(value)
    return tuple(value) if isinstance(value, list) else value


def given_option(words: Sequence[str], name: str, default: str) -> str:
    """What a command line says of `--name VALUE` or `--name=VALUE`, the last time it does."""
    value = default
    for k, word in enumerate(words):
        if word == f"--{name}" and k + 1 < len(words):
            value = words[k + 1]
        elif word.startswith(f"--{name}="):
            value = word.partition("=")[2]
    return value
