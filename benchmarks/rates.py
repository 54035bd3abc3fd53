"""The limits of a GPU at this moment: a large matrix product in a dtype, and a large copy.

They run on a CPU too, small, so that a suite's plumbing can be tried without a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter

import torch

from benchmarks import device as devices
from benchmarks import timing

SIDE = {"float32": 4096, "float64": 4096}  # about 3 ms each on a GPU that multiplies them without matrix instructions
LOW_SIDE = 8192  # 1.4 ms at 800 TFLOP/s
COPY_BYTES = 1 << 30
CPU_SIDE, CPU_COPY_BYTES = 128, 1 << 20
TIMES = 3

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def _seconds(run: Callable[[], object], device: str) -> float:
    """Return the median of `TIMES` runs, after one that warms up."""
    run()
    found = []
    for _ in range(TIMES):
        if device == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            found.append(begin.elapsed_time(end) * 1e-3)
        else:
            started = perf_counter()
            run()
            found.append(perf_counter() - started)
    return timing.median(found)


@functools.lru_cache(maxsize=1)  # 1 GiB in tf32: those of the case at hand
def _factors(device: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return random factors, since a product of zeros is faster; scaled so that sums stay in float16's range."""
    side = CPU_SIDE if device == "cpu" else SIDE.get(dtype, LOW_SIDE)
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator, device=device) * side**-0.25 for _ in range(2))
    kind = DTYPES[dtype]
    return a.to(kind), b.to(kind), torch.empty(side, side, dtype=kind, device=device)


def matmul(device: str, dtype: str) -> float:
    """Return TFLOP/s of a square matrix product in a dtype (`tf32`: float32, multiplied as tf32), through torch."""
    a, b, out = _factors(device, dtype)
    with devices.precision(dtype == "tf32"):
        seconds = _seconds(lambda: torch.mm(a, b, out=out), device)
    return 2.0 * a.shape[0] ** 3 / seconds * 1e-12


@functools.cache
def _tensors(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    size = (CPU_COPY_BYTES if device == "cpu" else COPY_BYTES) // 4
    return torch.randn(size, device=device), torch.empty(size, device=device)


def copy(device: str) -> float:
    """Return GB/s of `copy_` of 1 GiB, bytes read and bytes written counted once each."""
    source, target = _tensors(device)
    seconds = _seconds(lambda: target.copy_(source), device)
    return 2 * source.numel() * 4 / seconds * 1e-9
