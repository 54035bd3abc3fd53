"""A configuration by the names of its flags: read from a run folder's config.yaml, changed by presets."""

from __future__ import annotations

import dataclasses
import pathlib
import typing
from collections.abc import Mapping
from typing import Protocol, TypeVar

from tyro.conf import OmitArgPrefixes

from mclnf_fast.errors import InputError
from mclnf_fast.systems.common.renamed import old_value


class Checked(Protocol):
    """A configuration: a dataclass that checks itself."""

    def check(self) -> None: ...


T = TypeVar("T", bound=Checked)
D = TypeVar("D")
Values = Mapping[str, object]
"""Flag without dashes -> value."""
WITHOUT_PREFIX = typing.get_args(OmitArgPrefixes[int])[1]
# Written by every version: without them a mapping is no config.yaml, and defaults would make one of anything.
ALWAYS = ("out", "quick", "resume", "threads", "backend")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: where it is in its configuration, its flag without dashes, its type."""

    path: tuple[str, ...]
    flag: str
    hint: object


def options_of(config: type, path: tuple[str, ...] = (), prefix: str = "") -> list[Option]:
    """Return the options of a configuration, groups within it included.

    >>> from mclnf_fast.systems.common.options import SystemConfig
    >>> [option.flag for option in options_of(SystemConfig)][:3]
    ['out', 'quick', 'resume']
    """
    options = []
    hints = typing.get_type_hints(config, include_extras=True)
    for item in dataclasses.fields(config):
        hint, marks = hints[item.name], []
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
        here = (*path, item.name)
        if dataclasses.is_dataclass(hint):
            inside = prefix if WITHOUT_PREFIX in marks else f"{prefix}{item.name.replace('_', '-')}."
            options += options_of(hint, here, inside)  # type: ignore[arg-type]  # a class, since it is a hint
        else:
            names = (name for mark in marks if (name := getattr(mark, "name", None)))
            options.append(Option(here, prefix + next(names, item.name.replace("_", "-")), hint))
    return options


def with_options(config: D, values: Values) -> D:
    """Return the configuration with the options of these flags changed.

    Raises KeyError if there is no such flag.

    >>> from mclnf_fast.systems.common.options import SystemConfig
    >>> with_options(SystemConfig(), {"quick": True, "threads": 2}).run.threads
    2
    """
    # Frozen dataclasses all the way down, so that each change builds the groups on its path anew.
    paths = {option.flag: option.path for option in options_of(type(config))}
    for flag, value in values.items():
        config = _replaced(config, paths[flag], value)
    return config


def _replaced(group: D, path: tuple[str, ...], value: object) -> D:
    name, *rest = path
    changed = _replaced(getattr(group, name), tuple(rest), value) if rest else value
    return dataclasses.replace(group, **{name: changed})  # type: ignore[type-var]  # a dataclass, or it has no path


def from_plain(cls: type[T], data: object) -> T:
    """Return the configuration that `folder.plain` made into plain data, checked.

    Also reads what former versions wrote: options without groups, under old names, and without those that came later,
    which then have their defaults.

    Raises InputError if the data are no such configuration.

    >>> from mclnf_fast.systems.common.folder import plain
    >>> from mclnf_fast.systems.common.options import RunOptions
    >>> from_plain(RunOptions, plain(RunOptions(threads=2))).threads
    2
    """
    system = getattr(cls, "kind", cls.__name__)
    try:
        config = with_options(cls(), _values(cls, system, data))
        config.check()
        return config
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"resume: config.yaml must be that of a run of {system}, but: {error!r}") from None


def _values(cls: type, system: str, data: object) -> dict[str, object]:
    """Flag -> value of plain data in any layout. Raises KeyError, TypeError if these are of another configuration."""
    if not isinstance(data, Mapping):
        raise TypeError(f"a mapping was expected, got {type(data).__name__}")
    # What is left at the end is no option of this system: a file of another one, or a mistyped key, is refused.
    unread = _flattened(data)  # by path, as files have had it: the flag of an option without groups
    values: dict[str, object] = {}
    for option in options_of(cls):
        path = ".".join(option.path).replace("_", "-")
        renamed = old_value(system, option.flag, unread)
        key = next((key for key in (path, option.flag) if key in unread), renamed[0] if renamed else None)
        if key is not None:
            value = unread.pop(key)
            values[option.flag] = _typed(option.hint, renamed[1] if renamed and key == renamed[0] else value)
        elif option.flag in ALWAYS:
            raise KeyError(option.flag)
    if unread:
        raise TypeError(f"unknown options {', '.join(unread)}")
    return values


def _flattened(data: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in data.items():
        name = prefix + str(key).replace("_", "-")
        flat |= _flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _typed(hint: object, value: object) -> object:
    """Paths and tuples as such: YAML has texts and lists."""
    if value is not None and (hint is pathlib.Path or pathlib.Path in typing.get_args(hint)):
        return pathlib.Path(str(value))
    return tuple(value) if isinstance(value, list) else value
