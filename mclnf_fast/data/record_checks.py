"""Checks that several records of this package share, so that one mistake has one message."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mclnf_fast.errors import InputError


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first of `names` that occurred before, or None when all of them differ.

    >>> first_repeated(["a", "b", "a"])
    'a'
    """
    # Membership in a set takes no time; a list of 200,000 names would be searched 200,000 times, for minutes.
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def check_unique_names(owner: str, names: Iterable[str]) -> None:
    """Raise `InputError` when two of `names` are the same; `owner` begins the message.

    >>> check_unique_names("cars", ["a", "b"])
    """
    repeated = first_repeated(names)
    if repeated is not None:
        raise InputError(f"{owner}: names must be unique, {repeated!r} stands twice")


def check_near_far(near: float, far: float) -> None:
    """Raise `InputError` unless `near` and `far` (scene units) are finite and 0 <= near < far.

    >>> check_near_far(2.0, 6.0)
    """
    if not (math.isfinite(near) and math.isfinite(far) and 0 <= near < far):
        raise InputError(f"near, far: must be finite and 0 <= near < far, were {near!r} and {far!r}")
