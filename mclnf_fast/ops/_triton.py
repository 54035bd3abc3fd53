"""Whether Triton kernels can serve a call, decided without the import of Triton, which takes a second."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

OLDEST = (8, 0)
INTERPRET = "TRITON_INTERPRET"


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Return whether Triton runs its kernels on the CPU, number by number, to check them."""
    return os.environ.get(INTERPRET) == "1"


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason that the Triton kernels share; None if they can serve."""
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it works on float32, float16 and bfloat16 tensors, got {dtype}"
    if device.type not in ("cpu", "cuda"):
        return f"it works on CUDA tensors, got {device}"
    if device.type == "cpu" and not interpreted():
        return f"it works on CUDA tensors, got cpu (to check the kernels there, slowly, set {INTERPRET}=1)"
    if not _installed():
        return "triton is not installed (pip install triton)"
    if device.type == "cpu":
        return "Triton's interpreter multiplies no bfloat16 matrices" if dtype == torch.bfloat16 else None
    if interpreted():
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        name = torch.cuda.get_device_name(device)
        return f"it needs compute capability {OLDEST[0]}.{OLDEST[1]}, {name} has {capability[0]}.{capability[1]}"
    return None
