"""Checks of arguments that every room uses: an error names the argument, what it must be and what it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def check_positive_int(value: int, name: str) -> int:
    """Return `value` if it is an int of at least 1. Raises: TypeError, ValueError.

    >>> check_positive_int(3, "steps")
    3
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def check_unit_interval(value: float, name: str) -> float:
    """Return `value` as a float if 0 <= value < 1. Raises: ValueError.

    >>> check_unit_interval(0, "momentum")
    0.0
    """
    if not 0.0 <= float(value) < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
    return float(value)


def check_tensor(
    name: str,
    value: object,
    shape: Sequence[int | None] | None = None,
    dtype: torch.dtype | Sequence[torch.dtype] | None = None,
    device: torch.device | None = None,
    what: str = "",
) -> None:
    """Check that `value` is a tensor of this shape (None: any size), dtype and device.

    Args:
        name: of the argument, for the message.
        value: the argument.
        shape: the sizes, None for any; None: any shape.
        dtype: one, or those allowed; None: any.
        device: None: any.
        what: the shape in words for the message, such as `"[N, in_dim]"`.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: a wrong shape or device.

    >>> check_tensor("x", torch.zeros(5, 3), (None, 3), torch.float32)
    >>> check_tensor("x", torch.zeros(5, 2), (None, 3), what="[N, in_dim]")
    Traceback (most recent call last):
    ValueError: x must have shape [N, in_dim] = [*, 3], got [5, 2]
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor{' ' + what if what else ''}, got {type(value).__name__}")
    if shape is not None:
        got = tuple(value.shape)
        if len(got) != len(shape) or any(want is not None and want != have for want, have in zip(shape, got)):
            sizes = "[" + ", ".join("*" if s is None else str(s) for s in shape) + "]"
            raise ValueError(f"{name} must have shape {what + ' = ' if what else ''}{sizes}, got {list(got)}")
    if dtype is not None:
        allowed = (dtype,) if isinstance(dtype, torch.dtype) else tuple(dtype)
        if value.dtype not in allowed:
            raise TypeError(f"{name} must have dtype {' or '.join(map(str, allowed))}, got {value.dtype}")
    if device is not None and value.device != device:
        raise ValueError(f"{name} must be on {device} like the other tensors, got {value.device}")


def check_tensors(name: str, value: object) -> list[Tensor]:
    """Return a sequence of tensors as a list. Raises TypeError if it is none.

    >>> len(check_tensors("weights", (torch.zeros(2), torch.zeros(3))))
    2
    """
    if isinstance(value, Tensor) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of tensors, one per layer, got {type(value).__name__}")
    tensors = list(value)
    for k, tensor in enumerate(tensors):
        check_tensor(f"{name}[{k}]", tensor)
    return tensors


def values_can_be_read(*tensors: Tensor) -> bool:
    """Return whether values, and not only shapes, may be checked.

    Not on an accelerator, where looking would wait for the device, nor while torch.compile traces, nor inside the
    wrappers of torch.func.

    >>> values_can_be_read(torch.zeros(2)), values_can_be_read(torch.zeros(2, device="meta"))
    (True, False)
    """
    if torch.compiler.is_compiling():
        return False
    return all(t.device.type == "cpu" and type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
