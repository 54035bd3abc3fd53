"""Shared by all tests: backends that skip with their reason, poisoned memory, where the real data lies."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator

import pytest
import torch

# Where there is no GPU, Triton's kernels are interpreted; it asks when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from mclnf_fast.ops import _dispatch

DATA = pathlib.Path(os.environ.get("MCLNF_FAST_DATA", pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread_a_worker() -> None:
    """Workers that run side by side would wait for each other's threads, at every small operation."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def need() -> Callable[..., str]:
    """`need(op, backend)` gives the backend's name, or skips with the reason that `mclnf_fast.info()`
    gives."""

    def found(op: str, backend: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> str:
        reason = _dispatch.why_not(op, backend, torch.device(device), dtype)
        if reason is not None:
            pytest.skip(f"{op} on {backend}: {reason}")
        return backend

    return found


@pytest.fixture(scope="session")
def gpu_or_cpu() -> str:
    """The device of tests whose kernels are for a GPU: one where it is, else the CPU, where Triton interprets them."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=[False, True], ids=["ieee", "tf32"])
def tf32(request: pytest.FixtureRequest, gpu_or_cpu: str) -> Iterator[bool]:
    """Both kinds of float32 product, whose Triton kernels differ; true where the result is rounded to 10 bits. The
    interpreter multiplies exactly in both."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param and gpu_or_cpu == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Every `empty` of torch, the ops' outputs included, is full of NaN: what is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], pathlib.Path]:
    """`shared_data("nerf_city/...")` gives a path below the folder of real data, or skips where it is
    missing."""

    def found(name: str) -> pathlib.Path:
        if not (DATA / name).exists():
            pytest.skip(f"real data {name} is missing (set MCLNF_FAST_DATA to the folder that holds it)")
        return DATA / name

    return found
