"""Frozen dataclasses as JSON data and back, by their type hints.

A figure that was not measured is None. One that is not finite (the PSNR of an exact hit) is written as null too: NaN
and Infinity are no JSON, and other readers refuse the file. Reading takes null, and the NaN and Infinity of earlier
files, as None; so every figure in a record is a finite number or None.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from mclnf_fast.errors import InputError

T = TypeVar("T")


def to_json(value: object) -> object:
    """Return a dataclass, mapping, sequence or scalar as data that `json.dumps` writes as strict JSON.

    Fields that are None, or empty, are left out if that is their default. Raises: TypeError for any other type.

    >>> to_json({3: (1.5, float("inf"))})
    {'3': [1.5, None]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if not _empty(value, f)}
        return {name: to_json(item) for name, item in items.items()}
    if isinstance(value, Mapping):
        return {str(key): to_json(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"value must be a dataclass, mapping, sequence or scalar, got {type(value).__name__}")


def from_json(cls: type[T], data: object, place: str = "metrics.json", *, extra: bool = False) -> T:
    """Return `data` as the dataclass `cls`.

    Args:
        cls: the dataclass; its hints may name dataclasses, `tuple[T, ...]`, `Mapping[str | int, T]`, `T | None`, str,
            int, float, bool, and `object` for data that is taken as it is.
        data: what `json.loads` returned.
        place: the file, for messages.
        extra: ignore fields that `cls` does not have, instead of refusing them.

    Raises: InputError that names the file and the field, if a field is missing, unknown or of another type.

    >>> from mclnf_fast.report.record import Picture
    >>> from_json(Picture, {"kind": "curve", "file": "images/curve.png"})
    Picture(kind='curve', file='images/curve.png', caption='')
    >>> from_json(Picture, {"kind": "curve", "file": 3})
    Traceback (most recent call last):
        ...
    mclnf_fast.errors.InputError: metrics.json: file must be a string, got 3
    """
    result = _Reader(place, extra).dataclass(cls, data, ())
    assert isinstance(result, cls)
    return result


def _empty(value: object, field: dataclasses.Field[object]) -> bool:
    """Return whether a field is None or empty, and is so by default."""
    item = getattr(value, field.name)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    # Only if the default is the same: reading fills in the default, and must give back what was written.
    return (item is None and default is None) or (isinstance(item, tuple | Mapping) and not item and item == default)


@functools.cache
def _hints(cls: type) -> Mapping[str, object]:
    # Resolving the hints of a class costs more than reading one: a record has hundreds of rows of few classes.
    return typing.get_type_hints(cls)


class _Reader:
    """Read values by their hints; in each method, `path` holds the keys that lead to the value in the file."""

    def __init__(self, place: str, extra: bool) -> None:
        self.place, self.extra = place, extra

    def refuse(self, path: Sequence[str], must: str, value: object) -> InputError:
        """Return the error for a value that is not what it must be."""
        # Cut, since the field of a damaged file may hold a whole curve.
        shown = repr(value) if len(repr(value)) <= 40 else f"{type(value).__name__} {repr(value)[:36]}..."
        return InputError(f"{self.place}: {'.'.join(path) or 'the file'} must be {must}, got {shown}")

    def dataclass(self, cls: type, data: object, path: tuple[str, ...]) -> object:
        """Return a mapping as a dataclass."""
        if not isinstance(data, Mapping):
            raise self.refuse(path, "a mapping", data)
        fields, hints = {f.name: f for f in dataclasses.fields(cls)}, _hints(cls)
        unknown = [str(key) for key in data if key not in fields]
        # Refused, since the figures of a misspelled field would silently be missing from every table.
        if unknown and not self.extra:
            raise InputError(f"{self.place}: {'.'.join((*path, unknown[0]))} is no field of {cls.__name__}")
        values: dict[str, object] = {}
        for name, field in fields.items():
            if name in data:
                values[name] = self.value(hints[name], data[name], (*path, name))
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise InputError(f"{self.place}: {'.'.join((*path, name))} is missing")
        return cls(**values)

    def value(self, hint: object, value: object, path: tuple[str, ...]) -> object:
        """Return a value as the type of its hint."""
        if hint is object:
            return value
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            # Only `T | None` occurs. Infinity is None as well: a page that shows it as a number would rank it first.
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                return None
            return self.value(next(a for a in arguments if a is not type(None)), value, path)
        if origin is tuple:
            return self.sequence(arguments, value, path)
        if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
            return self.mapping(arguments, value, path)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self.dataclass(hint, value, path)
        return self.scalar(hint, value, path)

    def sequence(self, arguments: Sequence[object], value: object, path: tuple[str, ...]) -> tuple[object, ...]:
        """Return a list as a tuple."""
        if not isinstance(value, list | tuple):
            raise self.refuse(path, "a list", value)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            hints: Iterable[object] = [arguments[0]] * len(value)
        elif len(value) == len(arguments):
            hints = arguments
        else:
            raise self.refuse(path, f"a list of {len(arguments)}", value)
        return tuple(self.value(h, v, (*path, str(i))) for i, (h, v) in enumerate(zip(hints, value)))

    def mapping(self, arguments: Sequence[object], value: object, path: tuple[str, ...]) -> dict[object, object]:
        """Return a mapping whose keys are strings, or whole numbers written as strings."""
        if not isinstance(value, Mapping):
            raise self.refuse(path, "a mapping", value)
        result: dict[object, object] = {}
        for key, item in value.items():
            if arguments[0] is int and not (str(key).isascii() and str(key).isdigit()):
                raise self.refuse(path, "a mapping from whole numbers", key)
            inner = self.value(arguments[1], item, (*path, str(key)))
            result[int(str(key)) if arguments[0] is int else str(key)] = inner
        return result

    def scalar(self, hint: object, value: object, path: tuple[str, ...]) -> object:
        """Return a string, a number or a truth value; numbers are not taken for truth values or the reverse."""
        if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:  # a whole number of hundreds of digits
                number = math.inf
            if not math.isfinite(number):
                raise self.refuse(path, "a finite number", value)
            return number
        names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
        assert isinstance(hint, type)
        if hint is float or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise self.refuse(path, names[hint], value)
        return value
