"""Fixtures of the op tests: the CUDA kernels on the CPU, and banks for the Triton kernels."""

from __future__ import annotations

from collections.abc import Callable
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
