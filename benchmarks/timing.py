"""Times contenders in turn: round after round, each warm for a slot, the machine's limit between every two."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter, sleep

from benchmarks.contender import Contender

SLOT = 0.05  # seconds that a contender is timed at a stretch at least
WARM = (
    0.01  # seconds that it runs before, untimed, and one run at least: the caches, the memory and the threads' places
)
#              that the contender before it left behind are no part of its time
PAUSE = 0.02  # seconds after a slot
LEAST, MOST = 3, 60  # rounds


@dataclasses.dataclass
class Series:
    """Of one contender, a value per round: seconds of one run of the whole problem, and the limit measured just before
    and just after (their mean; NaN if there is none)."""

    seconds: list[float]
    limits: list[float]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile, by linear interpolation."""
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return at(0.25), at(0.5), at(0.75)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return quartiles(values)[1]


def ratio(over: Series, under: Series) -> float:
    """Return the median over the rounds of `over`'s time by `under`'s of the same round: a drift is in both."""
    return median([a / b for a, b in zip(over.seconds, under.seconds, strict=True)])


def _settle() -> None:
    """End the effects of a contender with its slot. Threads of its own stop spinning (JAX's took a fifth of the
    limit that was measured next), and memory that it has freed goes back to the system: malloc does that at some later
    free, in the slot of another contender, and it takes 16 to 28 ms for a hundred megabytes."""
    sleep(PAUSE)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def brief() -> Iterator[None]:
    """Slots of a millisecond, for dry runs: nobody reads their figures."""
    global SLOT, WARM, PAUSE
    before = SLOT, WARM, PAUSE
    SLOT, WARM, PAUSE = 1e-3, 0.0, 0.0
    try:
        yield
    finally:
        SLOT, WARM, PAUSE = before


def _slot(contender: Contender, times: int) -> float:
    warm_until = perf_counter() + WARM
    while True:
        contender.run()
        if perf_counter() >= warm_until:
            break
    begin = perf_counter()
    for _ in range(times):
        contender.run()
    taken = (perf_counter() - begin) / times / contender.share
    _settle()
    return taken


Slot = Callable[[Contender, int], float]


def in_turn(
    contenders: Sequence[Contender],
    seconds: float,
    meter: Callable[[], float] | None = None,
    least: int = LEAST,
    slot: Slot | None = None,
    most: int | None = None,
    long: float = float("inf"),
) -> dict[str, Series]:
    """Time contenders in turn and return a series per contender. The order shifts by one each round, so that none
    always follows the same one.

    Args:
        seconds: time budget of a contender; sets the number of rounds, `least` at least.
        meter: measures the limit; called between every two slots.
        slot: (contender, times) -> seconds of a run; None: by the host's clock. most: of `times`; None: no bound.
        long: seconds of a round above which there is one alone, whatever `least`.
    """
    slot = slot or _slot
    times: dict[str, int] = {}
    cost = 0.0
    for contender in contenders:  # the check has run each of them once: compiled, loaded
        took = slot(contender, 1) * contender.share
        times[contender.name] = min(max(1, round(SLOT / max(took, 1e-7))), most or sys.maxsize)
        cost += took * (times[contender.name] + 1)
    rounds = min(max(int(seconds * len(contenders) / cost), 1 if cost > long else least), MOST)
    found = {c.name: Series([], []) for c in contenders}
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for k in range(rounds):
            shift = k % len(contenders)
            before = meter() if meter else float("nan")
            for contender in (*contenders[shift:], *contenders[:shift]):
                found[contender.name].seconds.append(slot(contender, times[contender.name]))
                after = meter() if meter else float("nan")
                found[contender.name].limits.append((before + after) / 2)
                before = after
            gc.collect()
    finally:
        if was_enabled:
            gc.enable()
    return found
