"""Shapes and derivatives of the compiled grid encodings; the formulas are in csrc/math/grid.h.

`grid_encode_bwd` is itself differentiable, through `grid_encode_bwd_bwd`; the third order is not.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mclnf_fast.ops._autograd import COMPILED, Joined, join_ops, no_setup, third
from mclnf_fast.packing import GridHeader


def _fwd_fake(x: Tensor, offsets: Tensor, tables: Tensor, ints: Any, floats: Any) -> Tensor:
    return x.new_empty(x.shape[0], GridHeader.of(ints).outputs)


def _bwd_fake(
    x: Tensor,
    offsets: Tensor,
    tables: Tensor,
    grad_y: Tensor,
    ints: Any,
    floats: Any,
    need_x: bool,
    need_tables: bool,
) -> tuple[Tensor, Tensor]:
    modules = tables.shape[0] if need_tables else 0
    return x.new_empty(x.shape[0] if need_x else 0, x.shape[1]), x.new_empty(modules, *tables.shape[1:])


def _bwd_bwd_fake(
    x: Tensor,
    offsets: Tensor,
    tables: Tensor,
    grad_y: Tensor,
    tangent_x: Tensor | None,
    tangent_tables: Tensor | None,
    ints: Any,
    floats: Any,
    need_x: bool,
    need_tables: bool,
    need_grad_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    first = _bwd_fake(x, offsets, tables, grad_y, ints, floats, need_x, need_tables)
    return *first, x.new_empty(x.shape[0] if need_grad_y else 0, grad_y.shape[1])


def _fwd_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, offsets, tables, ctx.ints, ctx.floats = inputs
    ctx.save_for_backward(x, offsets, tables)


def _fwd_backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    x, _, tables = ctx.needs_input_grad[:3]
    grad_x, grad_tables = COMPILED.grid_encode_bwd(*ctx.saved_tensors, grad_y, ctx.ints, ctx.floats, x, tables)
    return grad_x if x else None, None, grad_tables if tables else None, None, None


def _bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.ints, ctx.floats, ctx.need_x, ctx.need_tables = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)  # a direction in the tables' space is as large as they are, and usually none


def _bwd_backward(ctx: Any, tangent_x: Tensor | None, tangent_tables: Tensor | None) -> tuple[Any, ...]:
    tangent_x = tangent_x if ctx.need_x else None  # a gradient that was not needed is an empty placeholder
    tangent_tables = tangent_tables if ctx.need_tables else None
    if tangent_x is None and tangent_tables is None:
        return (None,) * 8
    x, _, tables, grad_y = ctx.needs_input_grad[:4]
    tables = tables and tangent_x is not None  # grad_tables does not depend on the tables
    gradients = COMPILED.grid_encode_bwd_bwd(
        *ctx.saved_tensors, tangent_x, tangent_tables, ctx.ints, ctx.floats, x, tables, grad_y
    )
    grad_x, grad_tables, grad_grad_y = (g if needed else None for g, needed in zip(gradients, (x, tables, grad_y)))
    return grad_x, None, grad_tables, grad_grad_y, None, None, None, None


def join() -> None:
    """Give the compiled ops shapes and derivatives."""
    join_ops(
        "mclnf_fast",
        Joined("grid_encode_fwd", _fwd_fake, _fwd_backward, _fwd_setup),
        Joined("grid_encode_bwd", _bwd_fake, _bwd_backward, _bwd_setup),
        Joined("grid_encode_bwd_bwd", _bwd_bwd_fake, third("grid_encode"), no_setup),
    )
