"""Reads the files of a split into `SignalSets`; unusable ones are skipped with a warning, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mclnf_fast.data.readers.decoding.extras import MissingExtraError
from mclnf_fast.data.readers.layouts import PLURAL, DataFile, Layout
from mclnf_fast.data.readers.split import FileSplit
from mclnf_fast.data.signals import SignalKind, Signals, SignalSets
from mclnf_fast.errors import InputError

_log = logging.getLogger("mclnf_fast")
THREADS = 4
MOST_BYTES = 8 << 30  # of all signals; above it a run dies on a laptop without any message
NAMES_SHOWN = 3  # in a note


@dataclass
class FileSignals:
    """The signals of one file.

    Attributes:
        values: one tensor per signal.
        labels: text added to the file's name, one per signal.
        changes: notes on the changes to them, in a few fixed words each, so that files can be listed by them.
        rate: samples or frames per second; None: unknown.

    >>> FileSignals([torch.zeros(4, 1)], [""]).changes
    []
    """

    values: list[Tensor]
    labels: list[str]
    changes: list[str] = field(default_factory=list)
    rate: float | None = None


def gather(
    kind: SignalKind,
    layout: Layout,
    split: FileSplit,
    read: Callable[[DataFile], FileSignals],
    shape: tuple[int, ...],
    per_file: int,
    strict: bool,
) -> SignalSets:
    """Read all files of a split.

    Args:
        kind: of the signals.
        layout: title and notes of the data.
        split: files of each set.
        read: function of a file that returns its signals, each of `shape`, at most `per_file`.
        shape: [...] of one signal.
        per_file: largest number of signals per file.
        strict: raise for the first unusable file instead of skipping it.

    Raises:
        InputError: with `strict` an unusable file; a set to train or test on whose files are all unusable; more than
            8 GiB.
        MissingExtraError: a package that reads these files is not installed.

    >>> from pathlib import Path
    >>> files = [DataFile(Path(name), name) for name in ("a.wav", "b.wav")]
    >>> layout, split = Layout("two", {"all": files}), FileSplit(files[:1], [], files[1:], [])
    >>> def read(file):
    ...     return FileSignals([torch.zeros(4, 1)], [""], rate=8.0)
    >>> sets = gather("audio", layout, split, read, shape=(4, 1), per_file=1, strict=False)
    >>> sets.test.names, sets.test.rate
    (('b.wav',), 8.0)
    """
    sets = {"train": split.train, "validation": split.validation, "test": split.test}
    files = [file for members in sets.values() for file in members]
    # Checked before anything is read: float32 values of all files are in memory at once.
    size = 4 * per_file * len(files) * torch.Size(shape).numel()
    if size > MOST_BYTES:
        raise InputError(
            f"{layout.title}: {len(files)} files would take {size / 2**30:.1f} GiB, must be at most "
            f"{MOST_BYTES >> 30}: set a limit (limit=1000), or a smaller size"
        )

    # Errors are returned and not raised: one corrupt file of 10,000 must not end the work of the other threads.
    def attempt(file: DataFile) -> FileSignals | InputError:
        try:
            return read(file)
        except MissingExtraError:
            raise
        except InputError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(attempt, files))
    changed: dict[str, list[str]] = {}
    skipped: list[str] = []
    # In the order of the files and not of the threads, so that warnings and notes are the same in every run.
    for file, result in zip(files, results, strict=True):
        if isinstance(result, InputError):
            if strict:
                raise result
            skipped.append(file.name)
            _log.warning("skipped %s", result)
        else:
            for change in result.changes:
                changed.setdefault(change, []).append(file.name)
    by_set = {}
    begin = 0
    for name, members in sets.items():
        by_set[name] = results[begin : begin + len(members)]
        begin += len(members)
        errors = [result for result in by_set[name] if isinstance(result, InputError)]
        # A run can do without a validation curve, but not without a set to train or to test on that was asked for.
        if members and len(errors) == len(members) and name != "validation":
            if len(files) == 1:
                raise errors[0]
            raise InputError(
                f"{layout.title}: none of the {len(members)} {PLURAL[kind]} to {name} is usable; {errors[0]}"
            )
    rates = {result.rate for result in results if isinstance(result, FileSignals)}
    rate = rates.pop() if len(rates) == 1 else None
    notes = [*layout.notes, *split.notes]
    if skipped:
        notes.append(f"skipped as unusable: {listed(skipped, 20)}")
    notes += [f"{change}: {listed(names)}" for change, names in sorted(changed.items())]
    if len(rates) > 0:
        notes.append("the clips have several frame rates: none is kept")
    signals = {}
    for name, members in sets.items():
        pairs = zip(members, by_set[name], strict=True)
        usable = [(file, result) for file, result in pairs if isinstance(result, FileSignals)]
        values = [value for _, result in usable for value in result.values]
        names = tuple(file.name + label for file, result in usable for label in result.labels)
        signals[name] = Signals(
            kind, names, torch.stack(values) if values else torch.zeros(0, *shape, dtype=torch.float32), rate
        )
    return SignalSets(layout.title, signals["train"], signals["validation"], signals["test"], tuple(notes))


def listed(names: list[str], most: int = NAMES_SHOWN) -> str:
    """Return the first `most` names, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
