"""Progress: a bar on a terminal, a line now and then elsewhere, both with the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from mclnf_fast.report.page.style import duration

FIRST_LINE, EVERY = 10.0, 30.0  # seconds until the first line without a terminal, and between two of them


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


@contextmanager
def progress(label: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Show how far a loop is, and yield the function that takes the number of steps just made.

    Args:
        label: what is done.
        total: steps in all; None: unknown, or known to the loop alone.
        done: steps that a former process has made, which count for nothing in the time that is left.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        shape = _BAR if total else None
        with tqdm(total=total, initial=done, desc=label, leave=False, dynamic_ncols=True, bar_format=shape) as bar:
            left = TimeLeft((total or 0) - done)

            def update(steps: int = 1) -> None:
                bar.update(steps)
                seconds = left.seconds(int(bar.n) - done) if bar.total else None
                if seconds is not None:
                    bar.set_postfix_str(_rest(seconds), refresh=False)

            yield update
    else:
        yield _Lines(label, total, done)


def _rest(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < 99.5 else f"{duration(seconds)} left"


_BAR = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"


class _Lines:
    """Print a line now and then: a log of a job without a terminal must not fill with bars."""

    def __init__(self, label: str, total: int | None, done: int) -> None:
        self.label, self.total, self.done, self.made = label, total, done, done
        self.left = TimeLeft((total or 0) - done)
        self.next = self.left.began + FIRST_LINE

    def __call__(self, steps: int = 1) -> None:
        self.made += steps
        seconds = self.left.seconds(self.made - self.done)
        now = time.monotonic()
        if now < self.next or (self.total and self.made >= self.total):
            return
        self.next = now + EVERY
        share = f" of {self.total:,}, {100 * self.made // self.total} %" if self.total else " done"
        rest = f", {_rest(seconds)}" if self.total and seconds is not None else ""
        # Not among the errors: what a command prints there is the one line that ends it.
        print(f"{self.label}: {self.made:,}{share}{rest}", flush=True)
