"""What the shapes and derivatives of compiled ops share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from mclnf_fast.ops import _library


class Joined(NamedTuple):
    """An op with its shape function and, if it has them, its derivative and what the forward saves for that."""

    name: str
    fake: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    setup: Callable[..., Any] | None = None


def join_ops(namespace: str, *ops: Joined) -> None:
    """Give ops of a namespace their shapes and derivatives; when they are imported, so that a trace meets finished ops.

    Nothing is done without the compiled library that defines those of `mclnf_fast`.
    """
    if namespace == "mclnf_fast" and not _library.available("cpu"):
        return
    for op in ops:
        torch.library.register_fake(f"{namespace}::{op.name}", op.fake)
        if op.backward is not None:
            torch.library.register_autograd(f"{namespace}::{op.name}", op.backward, setup_context=op.setup)


def no_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Save nothing, for an op without a derivative."""


def third(op: str) -> Callable[..., NoReturn]:
    """Return the derivative of a second derivative: a RuntimeError, since the compiled backends end there."""

    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"mclnf_fast.{op}: third derivatives are not implemented in the compiled backends; use backend='reference'"
        )

    return refuse


def shapes_like(tensors: list[Tensor], needed: bool = True) -> list[Tensor]:
    """Return unset tensors of these shapes, or none of them."""
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors] if needed else []


def direction(cotangents: Any, like: list[Tensor]) -> list[Tensor]:
    """Return the cotangents of a list of outputs as tangents; zeros for a missing one."""
    if not cotangents:
        return [torch.zeros_like(t) for t in like]
    return [torch.zeros_like(t) if c is None else c for c, t in zip(cotangents, like)]
