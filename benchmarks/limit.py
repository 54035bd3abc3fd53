"""The limits of the machine at this moment: multiply-adds in registers, and a copy of a large tensor; on a GPU a
large matrix product and a copy (`rates`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter, process_time

import torch

from benchmarks import rates
from mclnf_fast.ops import _library

FMA_SECONDS = 0.008
COPY_BYTES = 1 << 26  # beyond the caches that two cores share

cpu_shares: list[float] = []
"""For every call of `fma`, the share of its threads' time that they had a processor: below 1 somebody else has one."""


def why_no_fma() -> str | None:
    """Return why the limit of multiply-adds is unknown; None if it is known."""
    reason = _library.why_not("cpu")
    if reason is None and not hasattr(torch.ops.mclnf_fast, "cpu_fma_limit"):
        reason = "the compiled library is older than this op; build it again"
    return reason


def fma(seconds: float = FMA_SECONDS) -> float:
    """Return GFLOP/s of multiply-adds, float32, on torch's threads; NaN where unknown. Warm, as the contenders are."""
    if why_no_fma():
        return float("nan")
    torch.ops.mclnf_fast.cpu_fma_limit(seconds / 2)
    begin, cpu = perf_counter(), process_time()
    found: float = torch.ops.mclnf_fast.cpu_fma_limit(seconds)
    cpu_shares.append((process_time() - cpu) / (perf_counter() - begin) / torch.get_num_threads())
    return found


def fma_bf16(seconds: float = FMA_SECONDS) -> float:
    """Return GFLOP/s of bfloat16 dot products; 0 where the instruction set has none, NaN where unknown."""
    return float("nan") if why_no_fma() else torch.ops.mclnf_fast.cpu_fma_limit(seconds, True)


@functools.cache
def _tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(COPY_BYTES // 4), torch.zeros(COPY_BYTES // 4)


def copy() -> float:
    """Return GB/s of `copy_` of 64 MiB, bytes read and bytes written counted once each."""
    source, target = _tensors()
    target.copy_(source)
    begin = perf_counter()
    target.copy_(source)
    return 2 * COPY_BYTES / (perf_counter() - begin) * 1e-9


SCALE = {"fma": 1e-9, "copy": 1e-9, "matmul": 1e-12}
"""Of each kind's unit: GFLOP/s, GB/s, TFLOP/s."""


def meter(kind: str | None, device: str = "cpu", dtype: str = "float32") -> Callable[[], float] | None:
    """Return the limit named by a case: `fma`, `copy`, `matmul` (in the case's dtype), or None."""
    if kind == "matmul":
        return functools.partial(rates.matmul, device, dtype)
    if kind == "copy" and device != "cpu":
        return functools.partial(rates.copy, device)
    return {"fma": fma, "copy": copy, None: None}[kind]


def has(property: str) -> bool:
    """Return whether the machine has what a bar needs: `bf16_dot`, the dot instruction."""
    if property == "bf16_dot":
        return fma_bf16() > 0
    raise ValueError(f"a bar's needs must be bf16_dot, got {property!r}")
