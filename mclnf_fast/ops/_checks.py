"""Checks of arguments, shared by the ops: each error names the argument, what it must be and what it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_tensor(
    name: str,
    value: object,
    shape: Sequence[int | None] | None = None,
    dtype: torch.dtype | Sequence[torch.dtype] | None = None,
    device: torch.device | None = None,
    what: str = "",
) -> None:
    """Checks that `value` is a tensor of this shape (None: any size), dtype and device.

    `what` names the shape in the message, such as `"[N, in_dim]"`.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: a wrong shape or device.
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


def tensors(name: str, value: object) -> list[Tensor]:
    """A sequence of tensors as a list. Raises TypeError where it is none."""
    if isinstance(value, Tensor) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of tensors, one a layer, got {type(value).__name__}")
    found = list(value)
    for k, tensor in enumerate(found):
        check_tensor(f"{name}[{k}]", tensor)
    return found


def values_can_be_read(*tensors: Tensor) -> bool:
    """Whether values (not only shapes) may be checked: not on an accelerator (a sync), not while tracing."""
    if torch.compiler.is_compiling():
        return False
    return all(t.device.type == "cpu" and type(t) in (Tensor, torch.nn.Parameter) for t in tensors)


def in_transform() -> bool:
    """Whether the call is inside a torch.func transform (grad, vmap, ...), whose tensors are wrappers."""
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None


def check_offsets(name: str, offsets: Tensor, total: int, what: str = "points") -> None:
    """Checks int64 offsets [M + 1] that start at 0, never go down and end at `total`.

    Raises ValueError or TypeError; the values are looked at only where that costs no synchronisation.
    """
    check_tensor(name, offsets, dtype=torch.int64)
    if offsets.dim() != 1 or offsets.numel() < 1:
        raise ValueError(f"{name} must have shape [M + 1], got {list(offsets.shape)}")
    if not values_can_be_read(offsets) or in_transform():
        return
    values = offsets.tolist() if offsets.numel() <= 64 else None
    if values is not None:
        first, last = values[0], values[-1]
        down = next((i for i in range(1, len(values)) if values[i] < values[i - 1]), None)
    else:
        first, last = int(offsets[0]), int(offsets[-1])
        falls = offsets[1:] < offsets[:-1]
        down = int(falls.to(torch.uint8).argmax()) + 1 if bool(falls.any()) else None
    if first != 0:
        raise ValueError(f"{name} must start at 0, got {name}[0] = {first}")
    if down is not None:
        raise ValueError(
            f"{name} must not go down, got {name}[{down - 1}] = {int(offsets[down - 1])} "
            f"> {name}[{down}] = {int(offsets[down])}"
        )
    if last != total:
        raise ValueError(f"{name} must end at the number of {what}, {total}, got {name}[-1] = {last}")
