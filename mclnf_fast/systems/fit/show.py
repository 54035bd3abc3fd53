"""What `mclnf-fast fit` prints: a bar with fields per second, and a histogram of PSNR."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mclnf_fast.learn.fit import FitProgress, FitSummary
from mclnf_fast.systems.common.progress import time_left

EVERY = 30.0  # seconds between two lines without a terminal
WIDTH = 80
ROWS = 12  # of a histogram, at most
SHOWN = 5  # faulty and skipped signals that are named


@contextmanager
def shown_progress() -> Iterator[Callable[[FitProgress], None]]:
    """Show how far a fit is: a bar on a terminal, a line now and then elsewhere."""
    begun = time.monotonic()
    first: list[float] = []  # what a former process has made

    def line(now: FitProgress) -> str:
        first[:] = first or [now.done]
        made, seconds = now.done - first[0], time.monotonic() - begun
        parts = [f"{now.done:.1f} of {now.total} fields" if now.total else f"{now.done:.1f} fields"]
        if made > 0 and seconds > 1:
            parts.append(f"{made / seconds:.3g} fields/s")
            if now.total:
                parts.append(time_left(max(0.0, (now.total - now.skipped - now.done) * seconds / made)))
        if math.isfinite(now.psnr):
            parts.append(f"mean {now.psnr:.1f} dB")
        return ", ".join(parts)

    if sys.stderr is not None and sys.stderr.isatty():
        from tqdm import tqdm

        shape = "{desc}: {percentage:3.0f}% |{bar}| {postfix}"
        with tqdm(total=1.0, desc="fit", leave=False, dynamic_ncols=True, bar_format=shape) as bar:

            def update(now: FitProgress) -> None:
                bar.n = min(1.0, (now.done + now.skipped) / now.total) if now.total else 0.0
                bar.set_postfix_str(line(now), refresh=True)

            yield update
    else:
        due = [begun + EVERY]

        def print_line(now: FitProgress) -> None:
            text = line(now)
            if time.monotonic() >= due[0]:
                due[0] = time.monotonic() + EVERY
                print(f"fit: {text}", flush=True)

        yield print_line


def histogram(values: Sequence[float], width: int = WIDTH) -> str:
    """Return the numbers of values in equal ranges of whole dB, a bar each, in so many columns.

    >>> print(histogram([20.2, 20.9, 21.5], 40))
    20 ... 21 dB |####################| 2
    21 ... 22 dB |##########          | 1
    """
    known = sorted(value for value in values if math.isfinite(value))
    if not known:
        return "no PSNR"
    low, high = math.floor(known[0]), math.floor(known[-1]) + 1
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step <= ROWS - 1)
    low = low // step * step
    counts = [0] * (math.floor((known[-1] - low) / step) + 1)
    for value in known:
        counts[math.floor((value - low) / step)] += 1
    heads = [f"{low + k * step} ... {low + (k + 1) * step} dB" for k in range(len(counts))]
    head, number = max(map(len, heads)), len(str(max(counts)))
    room = width - head - number - 4
    # Half a mark for what is there at all: an empty range must not look like one with a field.
    bars = ["#" * max(1 if count else 0, round(room * count / max(counts))) for count in counts]
    rows = [f"{h:>{head}} |{bar:<{room}}| {count}" for h, bar, count in zip(heads, bars, counts)]
    return "\n".join(row.rstrip() for row in rows)


def report(summary: FitSummary) -> str:
    """Return what came of a fit as lines of at most 80 columns."""
    known = [(value, name) for value, name in zip(summary.psnr.tolist(), summary.names) if math.isfinite(value)]
    lines = [histogram([value for value, _ in known])]
    if known:
        value, name = min(known)
        mean = sum(value for value, _ in known) / len(known)
        lines.append(f"PSNR of {len(known)} fields: mean {mean:.2f} dB, worst {value:.2f} dB")
        lines.append(_cut(f"worst: {name}"))
    for m, reason in list(summary.faults.items())[:SHOWN]:
        lines.append(_cut(f"module {m} ({summary.names[m]}): {reason}"))
    lines += _rest(len(summary.faults), "faulty")
    for skipped in summary.skipped[:SHOWN]:
        lines.append(_cut(f"skipped {skipped.name}: {skipped.reason}"))
    lines += _rest(len(summary.skipped), "skipped")
    lines += [f"note: {note}" for note in summary.notes]
    return "\n".join(lines)


def _rest(count: int, what: str) -> list[str]:
    return [f"and {count - SHOWN} more {what}"] if count > SHOWN else []


def _cut(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."
