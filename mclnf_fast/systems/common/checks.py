"""Checks and architectures that several systems share."""

from __future__ import annotations

import dataclasses
import re

import torch

from mclnf_fast.errors import InputError
from mclnf_fast.spec import FieldSpec


def check_device(name: str) -> None:
    """Raises InputError where PyTorch has no such device, or it is neither the CPU nor a CUDA device."""
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(f"device must be cpu, cuda or cuda:N, got {name!r}")
    if name == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        has = f"torch {torch.__version__} sees {count} CUDA devices"
        raise InputError(f"device must be one that is there, got {name!r}: {has}")


def wide_spec(spec: FieldSpec, parameters: int) -> FieldSpec:
    """The architecture with the width that comes closest to `parameters` in all."""
    candidates = (dataclasses.replace(spec, width=w) for w in range(8, 2049))
    return min(candidates, key=lambda s: abs(s.num_parameters - parameters))
