"""Where a test runs: an op's backends on the CPU, and where there is a GPU the same tests there."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily

from mclnf_fast import ops

FOLDER = str(pathlib.Path(__file__).parent)
MAKERS = frozenset(
    getattr(torch, name)
    for name in ("arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint")
) | {torch.randn, torch.randperm, torch.scalar_tensor, torch.tensor, torch.zeros}

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"))
"""Marks of a test that runs on a GPU alone."""


def backends(op: str, reference: bool = True, auto: bool = False) -> pytest.MarkDecorator:
    """A test of an op, once for each place: the reference (unless `reference` is false) and the compiled backend on the
    CPU, and the same on a GPU; with `auto` that name as well. Pairs of device and backend that the op does not register
    are none."""
    found = []
    for device in ("cpu", "cuda"):
        own = [name for name in ops.backends(op) if name in {"cpu": ("cpu",), "cuda": ("triton", "cuda")}[device]]
        for name in [*(["reference"] if reference else []), *own, *(["auto"] if auto else [])]:
            marks = gpu if device == "cuda" else ()
            found.append(pytest.param((device, name), id=name if device == "cpu" else f"{name}-gpu", marks=marks))
    return pytest.mark.parametrize("backend", found, indirect=True)


whole = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(("cpu", "reference"), id="reference"),
        pytest.param(("cpu", "cpu"), id="cpu"),
        pytest.param(("cuda", "reference"), id="reference-gpu", marks=gpu),
        pytest.param(("cuda", "auto"), id="auto-gpu", marks=gpu),
    ],
    indirect=True,
)
"""A test of several ops at once: on a GPU no backend but the reference serves all of them."""


def devices(test: Callable[..., None]) -> Callable[..., None]:
    """A test that names no backend: on the CPU, and on a GPU."""
    each = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)], indirect=True)
    return pytest.mark.usefixtures("device")(each(test))


class Made(TorchFunctionMode):
    """What a test makes without saying where is made on its device. What the engine makes is left alone, so that an
    engine that forgets its device shows."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in MAKERS or kwargs.get("device") is not None or not _by_a_test(sys._getframe(1)):
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:  # which draws on its own device: the same values everywhere
            return func(*args, **kwargs).to(self.device)
        return func(*args, **kwargs, device=self.device)


def _by_a_test(frame: Any) -> bool:
    return frame.f_code.co_filename.startswith(FOLDER)


def unaided() -> contextlib.AbstractContextManager[Any]:
    """Within it a test says itself where it makes what it makes: torch.compile would trace the help."""
    return contextlib.nullcontext() if here() == "cpu" else _pop_mode_temporarily()


_here = ["cpu"]


def here() -> str:
    """The device of the test that runs."""
    return _here[-1]


@contextlib.contextmanager
def made_on(device: str) -> Iterator[str]:
    """What a test makes is made there."""
    _here.append(device)
    try:
        with contextlib.nullcontext() if device == "cpu" else Made(device):
            yield device
    finally:
        _here.pop()


def put(value: Any) -> Any:
    """Tensors that were made at import, also within lists, tuples and dictionaries, on the test's device."""
    if isinstance(value, torch.Tensor):
        return value if value.device.type == "meta" else value.to(here())
    if isinstance(value, dict):
        return {k: put(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(put(v) for v in value)
    return value


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """PyTorch's default dtype is another one within."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
