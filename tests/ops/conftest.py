"""Fixtures of the op tests: the CUDA kernels on the CPU, and banks for the Triton kernels."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import emulated_cuda
import pytest
import torch
from bank_cases import Case, make

import mclnf_fast as mf


@pytest.fixture(scope="session")
def emulated() -> Any:
    """The namespace of the CUDA ops over the emulation: `emulated.march_rays_fwd(...)` takes CPU tensors and runs the
    kernels of csrc/cuda thread by thread."""
    reason = emulated_cuda.why_not()
    if reason is not None:
        pytest.skip(reason)
    return emulated_cuda.load()


@pytest.fixture
def triton_case(need: Callable[..., str], gpu_or_cpu: str) -> Callable[..., Case]:
    """`triton_case(spec, counts, dtype)`: a bank of `bank_cases.make` on the device of the Triton kernels; it skips the
    test if they cannot serve."""

    def case(spec: mf.FieldSpec, counts: list[int], dtype: torch.dtype = torch.float32) -> Case:
        need("bank_mlp", "triton", dtype, gpu_or_cpu)
        return make(spec, counts, dtype).on(gpu_or_cpu)

    return case


@pytest.fixture(scope="session", autouse=True)
def _record_kernels() -> Iterator[None]:
    """With MCLNF_TRITON_KERNELS=FILE: write there which kernels Triton would compile for these tests."""
    to = os.environ.get("MCLNF_TRITON_KERNELS")
    if to is None:
        yield
        return
    import triton_recorder

    with triton_recorder.recorded() as kernels:
        yield
    triton_recorder.write(pathlib.Path(to), kernels)
