"""The registry of ops: which function serves a call, and why not another.

An op is one entry: its backends, best first, each with the function that computes and the one that gives the reason
why it can't serve a device and a dtype. `"auto"` takes the first that can and reports once, in the log, why it passed
the others over; a backend that is asked for by name and can't serve raises. The sizes of a call are no part of the
choice: `python -m benchmarks.rules` over a result of `mclnf-fast bench --suite auto` measures that they need not be.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mclnf_fast.errors import BackendError, InputError
from mclnf_fast.ops._checks import FLOATS, transform_level

Reason = Callable[[torch.device, torch.dtype], str | None]

VARIABLE = "MCLNF_FAST_BACKEND"
NAMES = ("auto", "reference", "cpu", "triton", "cuda")

_log = logging.getLogger("mclnf_fast")
_registry: dict[str, dict[str, Backend]] = {}
_logged: set[tuple[str, str, str]] = set()


@dataclasses.dataclass(frozen=True)
class Backend:
    """One backend of an op.

    reason: why it can't serve a device and a dtype, None if it can. function: what computes the op, with the same
    arguments for all backends of the op; or "module:name", which is imported at the first call (Triton takes a second).
    """

    reason: Reason
    function: Callable[..., Any] | str

    def load(self) -> Callable[..., Any]:
        """Return the function, imported if it was named."""
        return _imported(self.function) if isinstance(self.function, str) else self.function


@functools.cache
def _imported(path: str) -> Callable[..., Any]:
    module, name = path.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


class Op:
    """A registered op: `serving` gives the function for a call."""

    def __init__(self, name: str, passes_transforms: bool) -> None:
        self.name = name
        self._functions: dict[str, Callable[..., Any]] = {}
        self._choose = _chooser(name, passes_transforms, self._functions)

    def serving(self, backend: str | None, device: torch.device, dtype: torch.dtype) -> Callable[..., Any]:
        """Return the function of the backend that serves a call.

        Raises TypeError if `backend` is no string, and as `select` and `select_in_transform`.
        """
        if backend is not None and not isinstance(backend, str):
            raise TypeError(f"backend must be one of {', '.join(NAMES)} or None, got {type(backend).__name__}")
        # In two steps, since a trace takes a name as a constant, but no function.
        return self._functions[self._choose(backend, device, dtype)]


def register(op: str, *, passes_transforms: bool = False, **backends: Backend) -> Op:
    """Enter an op with its backends, in the order in which `"auto"` asks them.

    passes_transforms: whether the compiled backends serve inside a torch.func transform too, of an op that has no
    derivative and refuses transformed tensors itself; else the reference serves there.
    Raises ValueError if a backend has a name that is none of `NAMES`.
    """
    for backend in backends:
        if backend not in NAMES[1:]:
            raise ValueError(f"backend must be one of {', '.join(NAMES[1:])}, got {backend!r}")
    _registry[op] = backends
    return Op(op, passes_transforms)


def registered() -> tuple[str, ...]:
    """Return the names of the registered ops, in order.

    >>> from mclnf_fast import ops
    >>> "bank_mlp" in ops.registered()
    True
    """
    return tuple(_registry)


def backends(op: str) -> tuple[str, ...]:
    """Return the names of the backends of an op, best first.

    >>> from mclnf_fast import ops
    >>> ops.backends("bank_mlp")
    ('cpu', 'triton', 'reference')
    """
    return tuple(_registry[op])


def why_not(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why `backend` can't serve `op` on this device and dtype; None if it can.

    >>> from mclnf_fast import ops
    >>> ops.why_not("march_rays", "triton", torch.device("cpu"), torch.float32)
    'march_rays has no triton backend (it has cuda, cpu, reference)'
    """
    if backend not in _registry[op]:
        return f"{op} has no {backend} backend (it has {', '.join(_registry[op])})"
    return _registry[op][backend].reason(device, dtype)


def passed_over(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why `"auto"` does not take `backend`; None if it may.

    A backend that serves only to check another is taken by name alone.

    >>> from mclnf_fast import ops
    >>> ops.passed_over("bank_mlp", "reference", torch.device("cpu"), torch.float32) is None
    True
    """
    reason = why_not(op, backend, device, dtype)
    if reason is None and backend == "triton" and device.type == "cpu":
        return "Triton interprets there, for checks: ask for it by name"
    return reason


def select(op: str, backend: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """Return the name of the backend that serves a call.

    Args:
        op: name of the op.
        backend: a name of `NAMES`; None means the environment variable MCLNF_FAST_BACKEND, or `"auto"`
            without it. `"auto"` given by name asks the variable too, so that one variable sets the default
            of every call.
        device: of the tensors.
        dtype: of the tensors.

    Raises:
        InputError (a ValueError): an unknown name.
        BackendError: a backend asked for by name can't serve; the message has the reason and the remedy.

    >>> from mclnf_fast import ops
    >>> ops.select("bank_mlp", "reference", torch.device("cpu"), torch.float32)
    'reference'
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
        _log_once((op, name, device.type), "%s: %s passed over on %s: %s", op, name, device, reason)
    raise BackendError(f"{op}: no backend serves {dtype} on {device}")


def select_in_transform(op: str, backend: str | None) -> str:
    """Return the name of the backend inside a torch.func transform or forward-mode differentiation, which only
    PyTorch's own operators pass through.

    That is the reference. Raises BackendError if another backend is asked for by name.
    """
    if backend in (None, "auto"):
        backend = os.environ.get(VARIABLE, "auto")
    if backend not in ("auto", "reference"):
        raise BackendError(
            f"{op}: backend {backend!r} can't serve a call inside a torch.func transform (grad, vmap, jvp, ...) or "
            "torch.autograd.forward_ad. Remedy: use backend='auto' or 'reference', or torch.autograd.grad"
        )
    if backend == "auto":
        text = "%s: reference taken inside a torch.func transform or forward_ad: compiled ops do not pass it"
        _log_once((op, "transform", ""), text, op)
    return "reference"


def _log_once(key: tuple[str, str, str], text: str, *values: object) -> None:
    if key not in _logged:
        _logged.add(key)
        _log.info(text, *values)


def _chooser(
    op: str, passes_transforms: bool, functions: dict[str, Callable[..., Any]]
) -> Callable[[str | None, torch.device, torch.dtype], str]:
    """Return `select` and `select_in_transform` for one op, as a call whose result a trace takes as a constant: the
    installation does not change while a process runs. The function of each backend that it names is put into
    `functions`.

    For that reason each answer is saved as well: a search takes longer than an op of a few microseconds.
    """
    answers: dict[tuple[str | None, str | None, torch.device, torch.dtype, bool], str] = {}

    def choose(backend: str | None, device: torch.device, dtype: torch.dtype) -> str:
        # Asked here, and so of the transforms inside a trace too: there a compiled op would drop a tangent in silence.
        transformed = not passes_transforms and transform_level()
        key = (backend, os.environ.get(VARIABLE), device, dtype, transformed)
        name = answers.get(key)
        if name is None:
            name = select_in_transform(op, backend) if transformed else select(op, backend, device, dtype)
            answers[key] = name
            functions[name] = _registry[op][name].load()
        return name

    # What torch.compiler.assume_constant_result sets; calling that would import the compiler, 1.6 s at every import.
    vars(choose)["_dynamo_marked_constant"] = True
    return choose


def cpu_library(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason that most compiled CPU kernels share."""
    from mclnf_fast.ops import _library

    if device.type not in ("cpu", "meta"):  # of tensors without values its ops know the shapes
        return f"it works on CPU tensors, got {device}"
    if dtype not in FLOATS:
        return f"it works on floating-point tensors, got {dtype}"
    return _library.why_not("cpu")


def cpu_widens(dtype: torch.dtype) -> bool:
    """Return whether the CPU kernels multiply weights of a half type as float32: all but bfloat16 on a processor with a
    fast dot product of its pairs."""
    return dtype == torch.float16 or (dtype == torch.bfloat16 and not torch.ops.mclnf_fast.cpu_bf16_dot())


# As `_chooser`: a trace takes the answer as a constant.
vars(cpu_widens)["_dynamo_marked_constant"] = True


def cuda_library(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason that the compiled CUDA kernels share."""
    from mclnf_fast.ops import _library

    if device.type != "cuda":
        return f"it works on CUDA tensors, got {device}"
    return _library.why_not("cuda")


def by_dtype(reason: Reason, dtypes: Sequence[torch.dtype]) -> Reason:
    """Return the reason of a compiled library behind that of the dtype, of an op that takes some dtypes alone."""

    def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
        if dtype not in dtypes:
            names = " and ".join(str(d).removeprefix("torch.") for d in dtypes)
            return f"it works on {names} parameters, got {dtype}"
        return reason(device, dtype)

    return why_not


def always(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None: the reference serves every call."""
    return None
