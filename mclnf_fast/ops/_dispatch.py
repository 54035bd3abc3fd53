"""Which backend serves a call: a value, never an import effect.

Every op registers its backends, best first, each with a function that says why it can't serve a device and
a dtype. `"auto"` takes the first that can and says once, in the log, why it passed the others over; a
backend asked for by name that can't serve raises. That it asks for no sizes is measured: see
`python -m benchmarks.rules` over a result of `mclnf-fast bench --suite auto`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import torch

from mclnf_fast.errors import BackendError, InputError

WhyNot = Callable[[torch.device, torch.dtype], str | None]

VARIABLE = "MCLNF_FAST_BACKEND"
NAMES = ("auto", "reference", "cpu", "triton", "cuda")

_log = logging.getLogger("mclnf_fast")
_registry: dict[str, dict[str, WhyNot]] = {}
_said: set[tuple[str, str, str]] = set()


def register(op: str, backend: str, why_not: WhyNot) -> None:
    """Declares a backend of an op; the order of the calls is the order in which `"auto"` asks."""
    if backend not in NAMES[1:]:
        raise ValueError(f"backend must be one of {', '.join(NAMES[1:])}, got {backend!r}")
    _registry.setdefault(op, {})[backend] = why_not


def ops() -> tuple[str, ...]:
    """The registered ops, in order."""
    return tuple(_registry)


def backends(op: str) -> tuple[str, ...]:
    """The backends of an op, best first."""
    return tuple(_registry[op])


def why_not(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why `backend` can't serve `op` on this device and dtype; None where it can."""
    if backend not in _registry[op]:
        return f"{op} has no {backend} backend (it has {', '.join(_registry[op])})"
    return _registry[op][backend](device, dtype)


def passed_over(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why `"auto"` does not take `backend`; None where it can. What serves for checks alone is taken by name alone."""
    reason = why_not(op, backend, device, dtype)
    if reason is None and backend == "triton" and device.type == "cpu":
        return "Triton interprets there, for checks: ask for it by name"
    return reason


def select(op: str, backend: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that serves this call.

    Args:
        op: name of the op.
        backend: a name of `NAMES`; None means the environment variable MCLNF_FAST_BACKEND, or `"auto"`
            without it. `"auto"` given by name asks the variable too, so that one variable sets the default
            of every call.

    Raises:
        ValueError: an unknown name.
        BackendError: a backend asked for by name can't serve; the message has the reason and the remedy.
    """
    source = "backend"
    if backend is None or backend == "auto":
        backend, source = os.environ.get(VARIABLE, "auto"), f"the environment variable {VARIABLE}"
    if backend not in NAMES:
        raise InputError(f"{source} must be one of {', '.join(NAMES)}, got {backend!r}")
    if backend != "auto":
        reason = why_not(op, backend, device, dtype)
        if reason is not None:
            others = [b for b in _registry[op] if passed_over(op, b, device, dtype) is None]
            raise BackendError(
                f"{op}: backend {backend!r} (from {source}) can't serve {dtype} on {device}: {reason}. "
                f"Remedy: use backend='auto' or one of: {', '.join(others)}"
            )
        return backend
    for name in _registry[op]:
        reason = passed_over(op, name, device, dtype)
        if reason is None:
            return name
        if (op, name, device.type) not in _said:
            _said.add((op, name, device.type))
            _log.info("%s: %s passed over on %s: %s", op, name, device, reason)
    raise BackendError(f"{op}: no backend serves {dtype} on {device}")


def select_in_transform(op: str, backend: str | None) -> str:
    """`select` inside a torch.func transform, which only PyTorch's own operators pass through: the reference.

    Raises BackendError where another backend is asked for by name.
    """
    if backend in (None, "auto"):
        backend = os.environ.get(VARIABLE, "auto")
    if backend not in ("auto", "reference"):
        raise BackendError(
            f"{op}: backend {backend!r} can't serve a call inside a torch.func transform (grad, vmap, ...). "
            "Remedy: use backend='auto' or 'reference', or torch.autograd.grad"
        )
    if backend == "auto" and (op, "transform", "") not in _said:
        _said.add((op, "transform", ""))
        _log.info("%s: reference taken inside a torch.func transform: compiled ops do not pass it", op)
    return "reference"


def selector(op: str) -> Callable[[str | None, torch.device, torch.dtype], str]:
    """`select` for one op, as a call whose result a trace takes as a constant: what is installed does not change.

    For that reason each answer is kept: calls of a few microseconds notice the search.
    """
    known: dict[tuple[str | None, str | None, torch.device, torch.dtype], str] = {}

    def choose(backend: str | None, device: torch.device, dtype: torch.dtype) -> str:
        key = (backend, os.environ.get(VARIABLE), device, dtype)
        found = known.get(key)
        if found is None:
            found = known[key] = select(op, backend, device, dtype)
        return found

    # What torch.compiler.assume_constant_result sets; calling that would import the compiler, 1.6 s at every import.
    vars(choose)["_dynamo_marked_constant"] = True
    return choose


def cpu_library(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason that most compiled CPU kernels share."""
    from mclnf_fast.ops import _library

    if device.type != "cpu":
        return f"it works on CPU tensors, got {device}"
    if dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        return f"it works on floating-point tensors, got {dtype}"
    return _library.why_not("cpu")


def cuda_library(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason that the compiled CUDA kernels share."""
    from mclnf_fast.ops import _library

    if device.type != "cuda":
        return f"it works on CUDA tensors, got {device}"
    return _library.why_not("cuda")


def always(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reference serves every call."""
    return None
