"""The device of a case: whether it is there, how its work is timed, and how it multiplies float32."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from benchmarks import timing
from benchmarks.contender import Contender
from mclnf_fast.ops.triton.precision import multiplying

OLDEST = (8, 0)
FLUSH_BYTES = 1 << 28  # several times the second-level cache of any GPU yet
MOST_RUNS = 200  # in a slot
AHEAD = (1, 4, 16, 64, 256)  # buffers of that size written before a run, until the host has queued all of it by then
ALONE_TIMES = 5
LONG = 4.0  # seconds of a round that is made once
SHORT = 0.05  # seconds of a run that is made so often for these


def unfit(device: str) -> str | None:
    """Return why cases of `device` can't run here: what they need and what was found. None where they can."""
    if device == "cpu":
        return None
    needs = f"needs a CUDA GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer and a torch that is built for it"
    if not torch.cuda.is_available():
        cuda = torch.version.cuda
        found = f"is built for CUDA {cuda} but sees no GPU" if cuda else "is a build without CUDA"
        return f"{needs}; torch {torch.__version__} {found}"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        return f"{needs}; {torch.cuda.get_device_name()} has {capability[0]}.{capability[1]}"
    return None


def synchronize(device: str) -> None:
    """Wait for the device: a host clock may be read after it."""
    if device == "cuda":
        torch.cuda.synchronize()


def clock(device: str) -> dict[str, Any]:
    """How `timing.in_turn` times contenders on a device."""
    return {"slot": slot, "most": MOST_RUNS, "long": LONG} if device == "cuda" else {}


@functools.cache
def _flushed() -> torch.Tensor:
    return torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")


def slot(contender: Contender, times: int) -> float:
    """Return the seconds of a run, the median of `times`, by events on the stream.

    Before each run a buffer larger than the second-level cache is written, outside of what is timed: what the run
    before it, or another contender, left there serves nobody. While that goes on the host is already queueing the run,
    so a contender of few launches is timed without them, and one that can't launch as fast as the device works, or that
    waits for the device, has its waiting counted.
    """
    torch.cuda.synchronize()
    warm_until = perf_counter() + timing.WARM
    while True:
        contender.run()
        torch.cuda.synchronize()  # else the host would queue runs for as long as the device needs for hundreds
        if perf_counter() >= warm_until:
            break
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(times)]
    for begin, end in events:
        _flushed().zero_()
        begin.record()
        contender.run()
        end.record()
    torch.cuda.synchronize()
    return timing.median([begin.elapsed_time(end) * 1e-3 for begin, end in events]) / contender.share


def alone(contender: Contender, seconds: float) -> dict[str, Any]:
    """Return `host_us`, microseconds in which the host queues a run, and `device_seconds`, what it takes on the device
    if the host has queued all of it before the device begins (median and samples); None if the host can't: a run that
    waits for the device, or has more launches than the queue holds.

    seconds: of a run, about. The device is kept busy meanwhile by writing the buffer of `slot` several times.
    """
    times, ahead = (ALONE_TIMES, AHEAD) if seconds <= SHORT else (1, AHEAD[-1:])
    torch.cuda.synchronize()
    host: list[float] = []  # of the first round: a queue that is full makes the host wait
    for buffers in ahead:
        device, all_queued = [], True
        for _ in range(times):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            for _ in range(buffers):
                _flushed().zero_()
            begin.record()
            started = perf_counter()
            contender.run()
            if buffers == ahead[0]:
                host.append(perf_counter() - started)
            all_queued = all_queued and not begin.query()
            end.record()
            torch.cuda.synchronize()
            device.append(begin.elapsed_time(end) * 1e-3 / contender.share)
        if all_queued:
            break
    return {
        "host_us": timing.median(host) / contender.share * 1e6,
        "device_seconds": {"median": timing.median(device), "samples": device} if all_queued else None,
    }


def precision(tf32: bool | None) -> contextlib.AbstractContextManager[None]:
    """Whether float32 is multiplied as tf32, by torch and by us; None leaves it as it is."""
    return contextlib.nullcontext() if tf32 is None else multiplying(tf32)


def held(run: Callable[[], Any], tf32: bool) -> Callable[[], Any]:
    """`run` under that precision."""

    def under() -> Any:
        with precision(tf32):
            return run()

    return under
