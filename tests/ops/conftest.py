"""Fixtures of the op tests: the CUDA kernels on the CPU."""

from __future__ import annotations

from typing import Any

import emulated_cuda
import pytest


@pytest.fixture(scope="session")
def emulated() -> Any:
    """The namespace of the CUDA ops over the emulation: `emulated.march_rays_fwd(...)` takes CPU tensors and runs the
    kernels of csrc/cuda thread by thread."""
    reason = emulated_cuda.why_not()
    if reason is not None:
        pytest.skip(reason)
    return emulated_cuda.load()
