"""The forms in which a bank takes points and the module of each, as those that its ops take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor

Offsets = Tensor | Sequence[int]
Ids = Tensor | Sequence[int] | int


class Points(NamedTuple):
    """Points [N, in_dim] with offsets or ids, or [M, n, in_dim] with neither; `lead` is the shape that the results have
    in front of their last dimension, None: that of x."""

    x: Tensor
    offsets: Tensor | None
    module_ids: Tensor | None
    lead: torch.Size | None = None


def plain_points(x: Tensor, offsets: Offsets | None, module_ids: Ids | None, modules: int, in_dim: int) -> Points:
    """Return points as the ops of a bank take them.

    Args:
        x: [N, in_dim] with offsets; [..., in_dim] with ids; with neither [M, ..., in_dim], or for one module
            [..., in_dim].
        offsets: int64 or int32 [M + 1], or a list.
        module_ids: int64 or int32 [...], a list, or the id of all points.
        modules: M.
        in_dim: coordinates of a point.

    Raises:
        TypeError, ValueError: both are given, or a shape or type is another one, naming the argument.

    >>> plain_points(torch.rand(4, 5, 2), None, None, 1, 2).x.shape
    torch.Size([1, 20, 2])
    """
    if offsets is not None:
        if module_ids is not None:
            raise ValueError("give offsets or module_ids, not both")
        if isinstance(x, Tensor) and not (isinstance(offsets, Tensor) and offsets.dtype == torch.int64):
            offsets = _indices("offsets", offsets, x.device)
        return Points(x, offsets, None)
    check_tensor("x", x)
    if module_ids is None:
        if x.dim() == 3 and x.shape[0] == modules:
            return Points(x, None, None)
        if x.dim() > 3 and x.shape[0] == modules:
            return Points(x.flatten(1, -2), None, None, x.shape[:-1])
        if modules == 1 and x.dim():
            check_tensor("x", x, (*[None] * (x.dim() - 1), in_dim), what="[..., in_dim]")
            return Points(x.reshape(1, math.prod(x.shape[:-1]), in_dim), None, None, x.shape[:-1])
        raise ValueError(
            f"x must have shape [M, n, in_dim] = [{modules}, *, {in_dim}] "
            f"if neither offsets nor module_ids is given, got {list(x.shape)}"
        )
    if x.dim() == 2 and isinstance(module_ids, Tensor) and module_ids.dtype == torch.int64:
        return Points(x, None, module_ids)
    check_tensor("x", x, (*[None] * max(x.dim() - 1, 1), in_dim), what="[..., in_dim]")
    lead = x.shape[:-1]
    if isinstance(module_ids, int) and not isinstance(module_ids, bool):
        ids = torch.full((math.prod(lead),), module_ids, dtype=torch.int64, device=x.device)
    else:
        ids = _indices("module_ids", module_ids, x.device)
        check_tensor("module_ids", ids, lead, torch.int64, x.device, "[...] like the points")
    return Points(x.reshape(math.prod(lead), in_dim), None, ids.reshape(math.prod(lead)), lead)


def _indices(name: str, value: object, device: torch.device) -> Tensor:
    """Return int64 indices from int32 ones or a list."""
    if isinstance(value, Tensor):
        return value.long() if value.dtype == torch.int32 else value
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be an int64 tensor, an int32 one or a list of ints, got {type(value).__name__}")
    try:
        found = torch.tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must hold ints, got {value!r:.80}") from error
    if found.numel() and found.dtype != torch.int64:
        raise TypeError(f"{name} must hold ints, got {value!r:.80}")
    return found.long()
