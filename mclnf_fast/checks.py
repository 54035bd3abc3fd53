"""Checks of arguments that every room uses: an error names the argument, what it must be and what it was."""

from __future__ import annotations

import math
import numbers
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
        TypeError: not a tensor, one that is not dense (sparse, nested, MKL-DNN), or a wrong dtype.
        ValueError: a wrong shape or device, or a tensor whose memory was freed.

    >>> check_tensor("x", torch.zeros(5, 3), (None, 3), torch.float32)
    >>> check_tensor("x", torch.zeros(5, 2), (None, 3), what="[N, in_dim]")
    Traceback (most recent call last):
    ValueError: x must have shape [N, in_dim] = [*, 3], got [5, 2]
    """
    # All at once: almost every call is right, and a small op has dozens of such checks.
    if not (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_nested
        and (shape is None or value.shape == shape or _fits(value.shape, shape))
        and (dtype is None or value.dtype is dtype or (isinstance(dtype, Sequence) and value.dtype in dtype))
        and (device is None or value.device == device)
    ):
        raise _refusal(name, value, shape, dtype, device, what)
    if not torch.compiler.is_compiling():
        _check_memory(name, value)


def _refusal(
    name: str,
    value: object,
    shape: Sequence[int | None] | None,
    dtype: torch.dtype | Sequence[torch.dtype] | None,
    device: torch.device | None,
    what: str,
) -> Exception:
    """Return the error of a tensor that `check_tensor` refuses."""
    if not isinstance(value, Tensor):
        return TypeError(f"{name} must be a tensor{' ' + what if what else ''}, got {type(value).__name__}")
    if value.layout is not torch.strided or value.is_nested:
        kind = "a nested tensor" if value.is_nested else str(value.layout)
        return TypeError(f"{name} must be a dense tensor (torch.strided), got {kind}")
    if shape is not None and not _fits(value.shape, shape):
        sizes = "[" + ", ".join("*" if s is None else str(s) for s in shape) + "]"
        return ValueError(f"{name} must have shape {what + ' = ' if what else ''}{sizes}, got {list(value.shape)}")
    allowed = (dtype,) if isinstance(dtype, torch.dtype) or dtype is None else tuple(dtype)
    if dtype is not None and value.dtype not in allowed:
        return TypeError(f"{name} must have dtype {' or '.join(map(str, allowed))}, got {value.dtype}")
    return ValueError(f"{name} must be on {device} like the other tensors, got {value.device}")


def _fits(got: Sequence[int], shape: Sequence[int | None]) -> bool:
    return len(got) == len(shape) and all(want is None or want == have for want, have in zip(shape, got))


def _check_memory(name: str, value: Tensor) -> None:
    """Raise ValueError for a tensor whose storage was freed or cut short, which a kernel would read beyond its end.

    Sharding (FSDP) and offloading free storages under their tensors.
    """
    try:
        room = value.untyped_storage().nbytes()
    except NotImplementedError:  # a wrapper, which has none: of torch.func, or a subclass
        return
    if room >= value.nbytes:
        return
    last = value.storage_offset() + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride()))
    if room < (last + 1) * value.element_size():  # an expanded tensor has more numbers than memory
        raise ValueError(f"{name} must have memory, but its storage was freed or cut short to {room} bytes")


def check_number(
    name: str, value: object, least: float = -math.inf, below: float = math.inf, *, finite: bool = True
) -> float:
    """Return `value` as a float if it is a number of at least `least` and below `below`.

    Args:
        name: of the argument, for the message.
        value: an int or a float, or another real number (numpy's); no bool, no tensor, no NaN.
        least, below: the range; infinite: no bound.
        finite: whether infinity is refused.

    Raises:
        TypeError: no number.
        ValueError: out of range.

    >>> check_number("eps", 0, 0.0)
    0.0
    >>> check_number("eps", "no")
    Traceback (most recent call last):
    TypeError: eps must be a number, got 'no'
    """
    # The test for every kind of real number (numpy's) takes microseconds, so it comes last.
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        raise TypeError(f"{name} must be a number, got {_short(value)}")
    number = float(value)
    inside = least <= number < below if below < math.inf else least <= number
    if inside and (math.isfinite(number) or not finite):
        return number
    bounds = [] if least == -math.inf else [f"at least {least:g}"]
    bounds += [] if below == math.inf else [f"below {below:g}"]
    if finite and below == math.inf:
        bounds.insert(0, "finite")
    raise ValueError(f"{name} must be {' and '.join(bounds) or 'a number'}, got {value}")


def check_no_nan(name: str, value: Tensor) -> None:
    """Raise ValueError if a value is NaN, if values can be read without a wait for a device.

    >>> check_no_nan("near", torch.tensor([0.0, math.inf]))
    """
    if not values_can_be_read(value) or not value.numel():
        return
    # A sum that is a number proves that all are, at a fraction of the cost of a test of each; inf - inf does not.
    if math.isnan(float(value.sum())) and bool(value.isnan().any()):
        place = value.isnan().nonzero()[0].tolist()
        raise ValueError(f"{name} must hold no NaN, got one at {place}")


def check_bool(name: str, value: object) -> bool:
    """Return `value` if it is True or False: a string such as "no" would count as true. Raises TypeError.

    >>> check_bool("stratified", True)
    True
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {_short(value)}")
    return value


def _short(value: object) -> str:
    """Return a value for a message: a tensor or an array by its type alone."""
    text = repr(value) if isinstance(value, str | int | float | tuple | list | None) else type(value).__name__
    return text if len(text) <= 60 else type(value).__name__


def check_tensors(name: str, value: object) -> list[Tensor]:
    """Return a sequence of tensors as a list. Raises TypeError if it is none.

    >>> len(check_tensors("weights", (torch.zeros(2), torch.zeros(3))))
    2
    """
    if isinstance(value, Tensor) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of tensors, one per layer, got {type(value).__name__}")
    tensors = list(value)
    for k, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}[{k}] must be a tensor, got {type(tensor).__name__}")
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
    if len(tensors) == 1:  # without a generator, which costs as much as the question
        return tensors[0].is_cpu and type(tensors[0]) in (Tensor, torch.nn.Parameter)
    return all(t.device.type == "cpu" and type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
