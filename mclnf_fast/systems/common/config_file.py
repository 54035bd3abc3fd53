"""A configuration by the names of its flags: read from a run folder's config.yaml, changed by presets."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import types
import typing
from collections.abc import Mapping, Sequence
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
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


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


def value_of(config: object, option: Option) -> object:
    """Return the value of an option.

    >>> from mclnf_fast.systems.common.options import SystemConfig
    >>> value_of(SystemConfig(), options_of(SystemConfig)[0]) is None
    True
    """
    for name in option.path:
        config = getattr(config, name)
    return config


def read_config(cls: type[T], file: pathlib.Path, argument: str) -> T:
    """Return the configuration in a YAML file, checked; options that it does not name have their defaults.

    Args:
        cls: of the configuration.
        file: a run's config.yaml, or one that was written by hand.
        argument: the option that names the file, for messages.

    Raises InputError that names the file, and the option if one is wrong.
    """
    return from_plain(cls, read_mapping(file, argument), place=f"{argument}: {file}", required=())


def read_mapping(file: pathlib.Path, argument: str) -> dict[str, object]:
    """Return the mapping in a YAML file.

    Raises InputError that names the argument and the file, if it is none.
    """
    import yaml

    if not file.is_file():
        there = "something else" if file.exists() else "nothing"
        raise InputError(f"{argument}: {file} must be a YAML file, but there is {there}")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{argument}: {file} must be YAML of few levels, but is nested too deeply") from None
    # ValueError and its like: of dates and numbers that look like some and are none.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        raise InputError(f"{argument}: {file} must be YAML, but: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"{argument}: {file} must hold a mapping, got {type(data).__name__}")
    return data


def from_plain(cls: type[T], data: object, place: str = "resume: config.yaml", required: Sequence[str] = ALWAYS) -> T:
    """Return the configuration that `folder.plain` made into plain data, checked.

    Also reads what former versions wrote: options without groups, under old names, and without those that came later,
    which then have their defaults.

    Args:
        cls: of the configuration.
        data: flags or nested groups -> values.
        place: the file, for messages.
        required: flags that must be there.

    Raises InputError if the data are no such configuration.

    >>> from mclnf_fast.systems.common.folder import plain
    >>> from mclnf_fast.systems.common.options import RunOptions
    >>> from_plain(RunOptions, plain(RunOptions(threads=2))).threads
    2
    >>> from_plain(RunOptions, {**plain(RunOptions()), "threads": "two"})
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: resume: config.yaml: threads must be a whole number, got 'two'
    """
    system = getattr(cls, "kind", cls.__name__)
    try:
        config = with_options(cls(), _values(cls, system, data, place, required))
        config.check()
        return config
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{place} must be that of a run of {system}, but: {error!r:.300}") from None


def _values(cls: type, system: str, data: object, place: str, required: Sequence[str]) -> dict[str, object]:
    """Flag -> value of plain data in any layout. Raises KeyError, TypeError if these are of another configuration."""
    if not isinstance(data, Mapping):
        raise TypeError(f"a mapping was expected, got {type(data).__name__}")
    # What is left at the end is no option of this system: a file of another one, or a mistyped key, is refused.
    unread = _flattened(data)  # by path, as files have had it: the flag of an option without groups
    values: dict[str, tuple[Option, object]] = {}
    for option in options_of(cls):
        path = ".".join(option.path).replace("_", "-")
        renamed = old_value(system, option.flag, unread)
        key = next((key for key in (path, option.flag) if key in unread), renamed[0] if renamed else None)
        if key is not None:
            value = unread.pop(key)
            values[option.flag] = (option, renamed[1] if renamed and key == renamed[0] else value)
        elif option.flag in required:
            raise KeyError(option.flag)
    if unread:
        raise TypeError(f"unknown options {', '.join(unread)}")
    return {flag: _read(place, option, value) for flag, (option, value) in values.items()}


def _read(place: str, option: Option, value: object) -> object:
    try:
        return _typed(option.hint, value)
    except TypeError as error:
        raise InputError(f"{place}: {option.flag} must be {error}, got {value!r:.80}") from None


def _flattened(data: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in data.items():
        name = prefix + str(key).replace("_", "-")
        # Options are at most three deep; references of YAML could make a small file as wide as memory.
        deeper = isinstance(value, Mapping) and prefix.count(".") < 3
        flat |= _flattened(value, f"{name}.") if deeper else {name: value}  # type: ignore[arg-type]
    return flat


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", pathlib.Path: "a path"}


def _typed(hint: object, value: object) -> object:
    """Return a value of plain data as the type of its hint. Raises TypeError that names what it must be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _typed(arguments[0], value)
    if origin is typing.Literal:
        if not any(value == a and type(value) is type(a) for a in arguments):
            raise TypeError(f"one of {', '.join(map(str, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _of_union(arguments, value)
    if origin is tuple:
        return _of_tuple(arguments, value)
    if hint is type(None) and value is not None:
        raise TypeError("nothing")
    if hint is pathlib.Path and isinstance(value, str):
        return pathlib.Path(value)
    if hint is float and isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)  # YAML takes 1e-3 for a text
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and hint in _NAMES and type(value) is not hint:
        raise TypeError(_NAMES[hint])
    return value


def _of_union(arguments: Sequence[object], value: object) -> object:
    reasons = []
    for argument in sorted(arguments, key=lambda a: a is not type(None)):
        try:
            return _typed(argument, value)
        except TypeError as error:
            reasons.append(str(error))
    raise TypeError(" or ".join(reason for reason in reasons if reason != "nothing"))


def _of_tuple(arguments: Sequence[object], value: object) -> object:
    if not isinstance(value, list | tuple):
        raise TypeError("a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_typed(arguments[0], item) for item in value)
    if len(value) != len(arguments):
        raise TypeError(f"a list of {len(arguments)}")
    return tuple(_typed(argument, item) for argument, item in zip(arguments, value))
