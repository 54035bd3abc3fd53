"""Progress: a bar on a terminal, a line now and then elsewhere, both with the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

from mclnf_fast.report.page.style import duration
from mclnf_fast.systems.common.callbacks.base import Reading

FIRST_LINE, EVERY = 10.0, 30.0  # seconds until the first line without a terminal, and between two of them
LOOK = 0.5  # seconds between two looks at the figures, for which a GPU is waited for


class TimeLeft:
    """Estimate the seconds until all steps are done, from the steps so far.

    The first step is left out, since it pays for what is set up once (threads, compiled kernels, caches), and would
    make the first estimates a hundred times too long.

    Args:
        total: steps in all.
        clock: seconds; None: of this process.

    >>> seconds = iter([0.0, 5.0, 6.0, 8.0])
    >>> left = TimeLeft(10, lambda: next(seconds))
    >>> left.seconds(), left.seconds(), left.seconds(3)
    (None, None, 7.0)
    """

    def __init__(self, total: int, clock: Callable[[], float] | None = None) -> None:
        self.total, self._clock = total, clock or time.monotonic
        self._begun: tuple[int, float] | None = None  # steps and time at the end of the first step
        self.began = self._clock()

    def seconds(self, made: int = 0) -> float | None:
        """Return the estimate after `made` steps; None if there is nothing to estimate from."""
        now = self._clock()
        if self._begun is None:
            self._begun = (made, now) if made else None
            return None
        steps, since = made - self._begun[0], now - self._begun[1]
        return since / steps * (self.total - made) if steps > 0 else None


class Update(Protocol):
    """Takes the number of steps just made, and what returns the figures to show: `loss`, and `psnr` in dB."""

    def __call__(self, steps: int = 1, reading: Reading | None = None) -> object: ...


@contextmanager
def progress(label: str, total: int | None, done: int = 0) -> Iterator[Update]:
    """Show how far a loop is, and yield the function that takes the number of steps just made.

    Args:
        label: what is done.
        total: steps in all; None: unknown, or known to the loop alone.
        done: steps that a former process has made, which count for nothing in the time that is left.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        shape = _BAR if total else None
        with tqdm(total=total, initial=done, desc=label, leave=False, dynamic_ncols=True, bar_format=shape) as bar:
            left, shown, due = TimeLeft((total or 0) - done), "", 0.0

            def update(steps: int = 1, reading: Reading | None = None) -> None:
                nonlocal shown, due
                seconds = left.seconds(int(bar.n) + steps - done) if bar.total else None
                if reading is not None and time.monotonic() >= due:
                    shown, due = _figures(reading()), time.monotonic() + LOOK
                parts = [shown] * bool(shown) + ([time_left(seconds)] if seconds is not None else [])
                if parts:
                    bar.set_postfix_str(", ".join(parts), refresh=False)
                bar.update(steps)  # last: it draws

            yield update
    else:
        yield _Lines(label, total, done)


def _figures(figures: Mapping[str, float]) -> str:
    """Return figures as a bar shows them, such as `loss 1.2e-03, 21.3 dB`."""
    forms = {"loss": "loss {:.2g}", "psnr": "{:.1f} dB"}
    return ", ".join(form.format(figures[name]) for name, form in forms.items() if name in figures)


def time_left(seconds: float) -> str:
    """Return a time in words.

    >>> time_left(7.3)
    '7 s left'
    """
    return f"{seconds:.0f} s left" if seconds < 99.5 else f"{duration(seconds)} left"


_BAR = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"


class _Lines:
    """Print a line now and then: a log of a job without a terminal must not fill with bars."""

    def __init__(self, label: str, total: int | None, done: int) -> None:
        self.label, self.total, self.done, self.made = label, total, done, done
        self.left = TimeLeft((total or 0) - done)
        self.next = self.left.began + FIRST_LINE

    def __call__(self, steps: int = 1, reading: Reading | None = None) -> None:
        self.made += steps
        seconds = self.left.seconds(self.made - self.done)
        now = time.monotonic()
        if now < self.next or (self.total and self.made >= self.total):
            return
        self.next = now + EVERY
        share = f" of {self.total:,}, {100 * self.made // self.total} %" if self.total else " done"
        figures = "" if reading is None else _figures(reading())
        rest = f", {time_left(seconds)}" if self.total and seconds is not None else ""
        # Not among the errors: what a command prints there is the one line that ends it.
        print(f"{self.label}: {self.made:,}{share}{f', {figures}' if figures else ''}{rest}", flush=True)
