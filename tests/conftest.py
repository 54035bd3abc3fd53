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

# cuBLAS has no fixed order without this, and `poisoned` asks for one; it asks at its first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# The CPU kernels make their results themselves, and `poisoned` does not reach them; they ask at the first one.
os.environ.setdefault("MCLNF_POISON", "1")

from places import here, made_on

from mclnf_fast import ops
from mclnf_fast.ops.triton.precision import multiplying

DATA = pathlib.Path(os.environ.get("MCLNF_FAST_DATA", pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs on a GPU where there is one, and else is interpreted, is also found by `-m gpu`."""
    for item in items:
        if "gpu_or_cpu" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


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
    gives; on the device of the test, unless told another. `auto` always serves."""

    def found(op: str, backend: str, dtype: torch.dtype = torch.float32, device: str | None = None) -> str:
        on = torch.device(device or here())
        reason = None if backend == "auto" else ops.why_not(op, backend, on, dtype)
        if reason is not None:
            pytest.skip(f"{op} on {backend}: {reason}")
        return backend

    return found


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of a test, see `places.devices`: what the test makes without saying where is made there."""
    with made_on(getattr(request, "param", "cpu")) as name:
        yield name


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend of a test, see `places.backends`, on its device."""
    on, name = request.param
    with made_on(on):
        yield name


@pytest.fixture(scope="session")
def gpu_or_cpu() -> str:
    """The device of tests whose kernels are for a GPU: one where it is, else the CPU, where Triton interprets them."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=[False, True], ids=["ieee", "tf32"])
def tf32(request: pytest.FixtureRequest, gpu_or_cpu: str) -> Iterator[bool]:
    """Both kinds of float32 product, whose Triton kernels differ; true where the operands are rounded to 10 bits."""
    with multiplying(request.param):
        yield request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Every `empty` of torch, the ops' outputs included, is full of NaN: what is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    # On a GPU the references take operators of torch's that have no fixed order (a cumulative sum): they may.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
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
