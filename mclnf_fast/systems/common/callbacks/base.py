"""Callbacks: objects whose methods a run calls when it begins, after each step, and when it has ended."""

from __future__ import annotations

import atexit
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mclnf_fast.report.record import Record
    from mclnf_fast.systems.common.options import SystemConfig

Reading = Callable[[], Mapping[str, float]]
"""Returns what was measured last: "loss" of a mini-batch, "psnr" in dB of what was scored; waits for the device."""


@dataclass(frozen=True)
class Watched:
    """A step that was made, or several in one call.

    Attributes:
        label: what is learned, as at the progress bar, such as `block_2 (2/4) mim`.
        step: steps made so far, of `total`.
        reading: returns what was measured last. On a GPU it waits for the device: do not call it after each step.
    """

    label: str
    step: int
    total: int
    reading: Reading
    new: int = 1
    """Steps since the callback was told the last time."""

    def due(self, points: int = 200) -> bool:
        """Return whether one of about `points` steps that are evenly spread is among the new ones, or the last is.

        >>> [k for k in range(1, 9) if Watched("", k, 8, dict).due(points=3)]
        [2, 4, 6, 8]
        """
        every = max(1, self.total // points)
        return self.step // every > (self.step - self.new) // every or self.step == self.total


class Callback:
    """Base of callbacks: a run calls these methods, all of which do nothing.

    They must not change the run, which would no longer resume to the same bits. An exception of theirs ends the run,
    which can be resumed.

    >>> class Print(Callback):
    ...     def step(self, watched: Watched) -> None:
    ...         if watched.due(points=2):
    ...             print(watched.label, watched.step, watched.reading().get("loss"))
    >>> with calling(Print()):
    ...     pass  # run_city(config), or any other system
    """

    def begin(self, config: SystemConfig, folder: pathlib.Path) -> None:
        """A run begins, or goes on, with these options in this folder; its data are not read yet."""

    def step(self, watched: Watched) -> None:
        """A step, or several in one call, were made of meta-training, learning or fine-tuning."""

    def end(self, record: Record | None) -> None:
        """The run has ended: `record` is the content of its metrics.json; None if it was stopped."""


_outside: list[Callback] = []  # of the `with calling(...)` that this process is in


@contextmanager
def calling(*callbacks: Callback) -> Iterator[None]:
    """Have the runs in this block call these objects, whatever their system."""
    _outside.extend(callbacks)
    try:
        yield
    finally:
        for callback in callbacks:
            _outside.remove(callback)
            if callback in _called:  # an exception has ended its run
                _called.remove(callback)
                callback.end(None)


_called: list[Callback] = []  # of the run in progress


def begin_callbacks(callbacks: Sequence[Callback], config: SystemConfig, folder: pathlib.Path) -> None:
    """Tell callbacks that a run begins.

    >>> begin_callbacks([], None, pathlib.Path())
    """
    for callback in callbacks:
        _called.append(callback)
        callback.begin(config, folder)


@atexit.register
def end_callbacks(record: Record | None = None) -> None:
    """Tell the callbacks of the run in progress that it has ended; without a record: that it was stopped.

    >>> end_callbacks()
    """
    while _called:
        _called.pop(0).end(record)


def current() -> tuple[Callback, ...]:
    """Return the callbacks of the blocks that this process is in.

    >>> with calling(Callback()):
    ...     print(len(current()))
    1
    """
    return tuple(_outside)
