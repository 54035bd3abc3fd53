"""The one table of options that were renamed: taken with a warning on a command line, or refused if their values have
changed too, and understood in a run folder's config.yaml."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mclnf_fast.errors import InputError

_log = logging.getLogger("mclnf_fast")
SIGNALS = ("image", "video", "audio")
RAYS = ("single-view", "photos")
STARTS = (*RAYS, "image-start", "ct")


@dataclass(frozen=True)
class Renamed:
    """An option's old and new name, as flags without their dashes, in these systems; `values`: old value -> new."""

    old: str
    new: str
    systems: tuple[str, ...]
    values: Mapping[str, object] = field(default_factory=dict)


def _rows(systems: tuple[str, ...], *pairs: tuple[str, str]) -> list[Renamed]:
    return [Renamed(old, new, systems) for old, new in pairs]


_ADAPT = ("lr", "lr-end", "memory", "ewc-lam", "ewc-online", "ewc-decay", "fast-layers", "batch")
_JOINT = ("steps", "inner-steps", "inner-lr", "outer-lr", "grad-clip")
RENAMED = (
    Renamed("start", "init", ("city",), {"city": "meta", "none": "random"}),
    *_rows(("city",), ("fim", "fim.use"), *((f"fim-{key}", f"fim.{key}") for key in ("kind", "source", "form"))),
    *_rows(("city",), *((key, f"fim.{key}") for key in ("lam", "mix", "refresh"))),
    *_rows(("city",), *((key, f"adapt.{key}") for key in _ADAPT)),
    *_rows(("city",), *((f"wide.{key}", f"meta-joint.{key}") for key in _JOINT)),
    # "oml" has become a default of its own, meta-joint.oml-first-order.
    Renamed("wide.first-order", "meta-joint.first-order", ("city",), {"none": False, "oml": False, "all": True}),
    *_rows(("city",), ("meta.rays", "meta.batch"), ("wide.rays", "meta-joint.batch")),
    *_rows(SIGNALS, ("fim-inner", "meta.fim-inner"), ("fim-outer", "meta.fim-outer")),
    *_rows(SIGNALS, ("meta.signals", "meta.tasks"), ("starts", "init-from")),
    *_rows((*RAYS, "ct"), ("starts", "initializations")),
    *_rows(STARTS, ("meta.objects", "meta.tasks")),
    *_rows(RAYS, ("meta-rays", "meta.batch"), ("lr", "adapt.lr"), ("rays", "adapt.batch")),
    *_rows(("single-view",), ("compat", "convention"), ("optimizer", "adapt.optimizer"), ("lr-end", "adapt.lr-end")),
    *_rows(("city", *RAYS), ("bins", "samples-per-ray")),
)


def _old_names(system: str, flags: Sequence[str]) -> dict[str, Renamed]:
    # Only names that are options no more, of options that there are: a name may mean something else in another system.
    return {row.old: row for row in RENAMED if system in row.systems and row.old not in flags and row.new in flags}


def _name(word: str) -> str:
    """Return the name in a flag as the option parser reads it: with = or without, and with either of _ and -."""
    return word[2:].partition("=")[0].replace("_", "-")


def with_new_names(system: str, flags: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return a command line with new names for old ones that only the name has changed of, each with a warning.

    Args:
        system: name of the system, as on the command line.
        flags: its options of today: a name that is one of them is not old.
        words: the command line.

    >>> with_new_names("ct", ["steps", "initializations"], ["--starts", "meta"])
    ['--initializations', 'meta']
    """
    table, result = _old_names(system, flags), []
    for word in words:
        row = table.get(_name(word)) if word.startswith("--") else None
        if row is not None and not row.values:
            _log.warning("--%s has been renamed: use --%s", row.old, row.new)
            word = f"--{row.new}" + "".join(word.partition("=")[1:])
        result.append(word)
    return result


def refuse_renamed(system: str, flags: Sequence[str], words: Sequence[str]) -> None:
    """Raise InputError if a command line uses an old name, with the new one.

    Args:
        system: name of the system, as on the command line.
        flags: its options of today: a name that is one of them is not old.
        words: the command line.

    >>> refuse_renamed("ct", ["steps", "initializations"], ["--starts", "meta"])
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: --starts has been renamed: use --initializations
    """
    table = _old_names(system, flags)
    for word in words:
        if not word.startswith("--"):
            continue
        name = _name(word)
        row = table.get(name) or table.get(name.removeprefix("no-"))
        if row is not None:
            values = "".join(f"; {old} is now {new}" for old, new in row.values.items())
            raise InputError(f"--{name} has been renamed: use --{row.new}{values}")


def old_value(system: str, flag: str, options: Mapping[str, object]) -> tuple[str, object] | None:
    """Return the old name of an option and its value, renamed too, in options by their old flags; None if unset.

    >>> old_value("city", "init", {"start": "none"})
    ('start', 'random')
    """
    for row in RENAMED:
        if row.new == flag and system in row.systems and row.old in options:
            value = options[row.old]
            return row.old, row.values.get(value, value) if isinstance(value, str) else value
    return None


def refuse_unknown(system: str, flags: Sequence[str], words: Sequence[str]) -> None:
    """Raise InputError if a command line has an option that the system has not, with the nearest ones.

    >>> refuse_unknown("ct", ["fim.use"], ["--fim", "sample"])
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: run ct has no option --fim; it has --fim.use (see mclnf-fast run ct --help)
    """
    for word in words:
        name = word[2:].partition("=")[0].replace("_", "-")
        known = name in ("help", *flags) or re.sub(r"(^|\.)no-", r"\1", name) in flags
        if not word.startswith("--") or known or name.startswith("tyro-"):  # tyro's own: shell completion
            continue
        near = [flag for flag in flags if flag.startswith(f"{name}.")] or difflib.get_close_matches(name, flags)
        listed = f"; it has {', '.join(f'--{flag}' for flag in near)}" if near else ""
        raise InputError(f"run {system} has no option --{name}{listed} (see mclnf-fast run {system} --help)")
