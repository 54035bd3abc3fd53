"""Checks of options and architectures that several systems share."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import torch

from mclnf_fast.errors import InputError
from mclnf_fast.info import info
from mclnf_fast.ops.bank_fit import PrecisionName
from mclnf_fast.spec import FieldSpec


def check_device(name: str) -> None:
    """Raise InputError if PyTorch has no such device, or it is neither the CPU nor a CUDA device.

    >>> check_device("cpu")
    """
    # Asked of PyTorch before anything is learned: a wrong number would only fail at the first tensor, minutes later.
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(f"device must be cpu, cuda or cuda:N, got {name!r}")
    if name == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        seen = f"torch {torch.__version__} sees {count} CUDA devices"
        raise InputError(f"device must be one that is there, got {name!r}: {seen}")


def check_precision(precision: PrecisionName, device: str, backend: str) -> None:
    """Raise InputError if the device has no products of numbers in this format.

    The reference rounds to half types on every device: it defines what they give, and is slow.

    >>> check_precision("fp32", "cpu", "auto")
    >>> check_precision("bf16", "cpu", "reference")
    >>> check_precision("tf32", "cpu", "auto")
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: precision must be fp32 on this CPU, got tf32: GPUs alone multiply it
    """
    if precision == "fp32" or device != "cpu":
        return
    if precision == "tf32":
        raise InputError("precision must be fp32 on this CPU, got tf32: GPUs alone multiply it")
    if backend == "reference" or (precision == "bf16" and info()["bf16_dot"]):
        return
    lacks = "it has no fast dot product of bf16 pairs" if precision == "bf16" else "no CPU kernel multiplies it"
    raise InputError(
        f"precision must be fp32 on this CPU, got {precision}: {lacks} (backend reference rounds to it, slowly)"
    )


def check_at_least(lowest: int, **options: int | None) -> None:
    """Raise InputError if an option is set and below `lowest`; None stands for "not set".

    >>> check_at_least(1, steps=3, limit=None)
    >>> check_at_least(1, hidden_layers=0)
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: hidden-layers must be at least 1, got 0
    """
    for name, value in options.items():
        if value is not None and value < lowest:
            raise InputError(f"{name.replace('_', '-')} must be at least {lowest}, got {value}")


def check_positive(**options: float | None) -> None:
    """Raise InputError if an option is set and not a finite number above 0.

    >>> check_positive(scale=None, sigma=30.0)
    """
    for name, value in options.items():
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name.replace('_', '-')} must be above 0 and finite, got {value}")


def check_rates(name: str, rates: Sequence[float]) -> None:
    """Raise InputError if there are no rates, one is not above 0 and finite, or one stands twice.

    >>> check_rates("rates", (10.0, 3.0))
    """
    if not rates or len(set(rates)) < len(rates) or not all(0 < rate < math.inf for rate in rates):
        listed = ", ".join(map(str, rates)) or "none"
        raise InputError(f"{name} must be different numbers above 0 and finite, got {listed}")


def check_seed(seed: int) -> None:
    """Raise InputError if a seed does not lie in 0 ... 2^31 - 1.

    >>> check_seed(0)
    """
    # Step seeds are products of the seed with a prime; from 2^31 on they would wrap within 64 bits.
    if not 0 <= seed < 1 << 31:
        raise InputError(f"seed must lie in 0 ... 2147483647, got {seed}")


def wide_spec(spec: FieldSpec, parameters: int) -> FieldSpec:
    """Return the architecture with the width that comes closest to `parameters` in all.

    >>> module = FieldSpec(2, 3, width=32, hidden_layers=2)
    >>> wide_spec(module, 4 * module.num_parameters).width
    67
    """
    # By trial: parameters grow with the square of the width, plus terms of the encoding, and 2041 trials take a blink.
    candidates = (dataclasses.replace(spec, width=w) for w in range(8, 2049))
    return min(candidates, key=lambda s: abs(s.num_parameters - parameters))
