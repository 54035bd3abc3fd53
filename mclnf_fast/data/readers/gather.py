"""Reads the files of a split into `SignalSets`: torn ones skipped with a warning that names them, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mclnf_fast.data.readers.extras import MissingExtraError
from mclnf_fast.data.readers.layouts import PLURAL, Found, Item
from mclnf_fast.data.readers.split import Plan
from mclnf_fast.data.signals import Kind, Signals, SignalSets
from mclnf_fast.errors import InputError

_log = logging.getLogger("mclnf_fast")
THREADS = 4
MOST_BYTES = 8 << 30
SHOWN = 3  # names in a note


@dataclass
class Read:
    """What one file gave: its signals, what was done to them (a few fixed words each), and their rate."""

    values: list[Tensor]
    labels: list[str]  # appended to the file's name, one a signal
    done: list[str] = field(default_factory=list)
    rate: float | None = None


def gather(
    kind: Kind,
    found: Found,
    plan: Plan,
    read: Callable[[Item], Read],
    shape: tuple[int, ...],
    per_file: int,
    strict: bool,
) -> SignalSets:
    """Read all files of `plan` by `read`, whose signals have `shape` [...], at most `per_file` a file.

    Raises:
        InputError: with `strict` the first unusable file; a set whose files are all unusable; more than 8 GiB.
    """
    parts = {"train": plan.train, "validation": plan.validation, "test": plan.test}
    items = [item for part in parts.values() for item in part]
    size = 4 * per_file * len(items) * torch.Size(shape).numel()
    if size > MOST_BYTES:
        raise InputError(
            f"{found.title}: {len(items)} files would take {size / 2**30:.1f} GiB, must be at most "
            f"{MOST_BYTES >> 30}: set a limit (limit=1000), or a smaller size"
        )

    def attempt(item: Item) -> Read | InputError:
        try:
            return read(item)
        except MissingExtraError:
            raise
        except InputError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(attempt, items))
    made: dict[str, list[str]] = {}
    skipped: list[str] = []
    for item, result in zip(items, results, strict=True):
        if isinstance(result, InputError):
            if strict:
                raise result
            skipped.append(item.name)
            _log.warning("skipped %s", result)
        else:
            for what in result.done:
                made.setdefault(what, []).append(item.name)
    at = 0
    for split, part in parts.items():
        outcome = results[at : at + len(part)]
        at += len(part)
        lost = [result for result in outcome if isinstance(result, InputError)]
        if part and len(lost) == len(part) and split != "validation":
            if len(items) == 1:
                raise lost[0]
            raise InputError(f"{found.title}: none of the {len(part)} {PLURAL[kind]} to {split} is usable; {lost[0]}")
    good = [result for result in results if isinstance(result, Read)]
    rates = {result.rate for result in good}
    rate = rates.pop() if len(rates) == 1 else None
    notes = [*found.notes, *plan.notes]
    if skipped:
        notes.append(f"skipped as unusable: {listed(skipped, 20)}")
    notes += [f"{what}: {listed(names)}" for what, names in sorted(made.items())]
    if len(rates) > 0:
        notes.append("the clips have several frame rates: none is kept")
    signals, at = {}, 0
    for split, part in parts.items():
        pairs = zip(part, results[at : at + len(part)], strict=True)
        kept = [(item, result) for item, result in pairs if isinstance(result, Read)]
        at += len(part)
        values = [value for _, result in kept for value in result.values]
        names = tuple(item.name + label for item, result in kept for label in result.labels)
        signals[split] = Signals(kind, names, torch.stack(values) if values else torch.zeros(0, *shape), rate)
    return SignalSets(found.title, signals["train"], signals["validation"], signals["test"], tuple(notes))


def listed(names: list[str], most: int = SHOWN) -> str:
    """The names, the first few and how many more."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
