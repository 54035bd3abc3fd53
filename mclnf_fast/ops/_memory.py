"""The error for a device whose memory is too small: the op, the memory asked for and free, and the remedy."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

GIB = 1 << 30
REMEDY = "fewer points per call (gradients add up over calls), half precision, or a narrower or shallower network"


class DeviceMemoryError(torch.OutOfMemoryError):
    """Raised if a device's memory is too small for the tensors that an op holds beside its results.

    The message names the op, the memory asked for, the memory that was free, and the remedy. `except
    torch.OutOfMemoryError` catches it.
    """


def explained(op: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that turns torch's error of too little memory into `DeviceMemoryError`.

    Its functions take x, offsets and weights first, as the ops over a bank do.
    """

    def around(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except DeviceMemoryError:
                raise
            except torch.OutOfMemoryError as error:
                x, offsets, weights, *_ = args
                raise DeviceMemoryError(_message(op, error, x, offsets, weights)) from error  # type: ignore[arg-type]

        return call

    return around


def _message(op: str, error: Exception, x: Tensor, offsets: Tensor, weights: Sequence[Tensor]) -> str:
    match = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    asked = match.group(1) if match else "memory"
    state = f"on {x.device}"
    if x.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(x.device)
        allocated = torch.cuda.memory_allocated(x.device)
        state = f"{free / GIB:.2f} GiB of {total / GIB:.2f} GiB were free on {x.device}, "
        state += f"tensors held {allocated / GIB:.2f} GiB"
    layers = ", ".join(f"{w.shape[1]} to {w.shape[2]}" for w in weights)
    return (
        f"{op}: {asked} asked for, where {state}; for {x.shape[0]} points of {offsets.shape[0] - 1} modules "
        f"in {x.dtype} with layers of {layers}. Remedy: {REMEDY}"
    )
