"""Shapes and derivatives of the compiled compositing ops; the formulas are in csrc/math/composite*.h.

`composite_bwd` is itself differentiable, through `composite_bwd_bwd`; the third order is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import COMPILED, Joined, join_ops, no_setup, third

_Optional = Tensor | None


def _rays(density: Tensor, packed_info: _Optional) -> int:
    return density.shape[0] if packed_info is None else packed_info.shape[0]


def _fwd_fake(
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    packed_info: _Optional,
    background: _Optional,
    early_stop_eps: float,
) -> tuple[Tensor, ...]:
    rays = _rays(density, packed_info)
    by_ray = density.new_empty(rays)
    weights = density.new_empty(density.shape)
    return density.new_empty(rays, color.shape[-1]), by_ray, torch.empty_like(by_ray), weights


def _bwd_fake(
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    packed_info: _Optional,
    background: _Optional,
    grad_color: _Optional,
    grad_opacity: _Optional,
    grad_depth: _Optional,
    grad_weights: _Optional,
    early_stop_eps: float,
    need_color: bool,
    need_t: bool,
    need_background: bool,
) -> tuple[Tensor, ...]:
    t_shape = density.shape if need_t else (0,)
    return (
        density.new_empty(density.shape),
        density.new_empty(color.shape if need_color else (0,)),
        density.new_empty(t_shape),
        density.new_empty(t_shape),
        density.new_empty(background.shape if need_background and background is not None else (0,)),
    )


def _bwd_bwd_fake(
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    packed_info: _Optional,
    background: _Optional,
    *others: Any,
) -> tuple[Tensor, ...]:
    rays = _rays(density, packed_info)
    shapes = (
        density.shape,
        color.shape,
        density.shape,
        density.shape,
        (0,) if background is None else background.shape,
        (rays, color.shape[-1]),
        (rays,),
        (rays,),
        density.shape,
    )
    return tuple(density.new_empty(shape) for shape in shapes)


def _fwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.early_stop_eps = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)  # the kernels skip an output that nobody used


def _fwd_backward(ctx: Any, *cotangents: _Optional) -> tuple[_Optional, ...]:
    if all(g is None for g in cotangents):
        return (None,) * 7
    _, color, start, end, _, background, _ = ctx.needs_input_grad
    density_grad, color_grad, start_grad, end_grad, background_grad = COMPILED.composite_bwd(
        *ctx.saved_tensors, *cotangents, ctx.early_stop_eps, color, start or end, background
    )
    return (
        density_grad,
        color_grad if color else None,
        start_grad if start else None,
        end_grad if end else None,
        None,
        background_grad if background else None,
        None,
    )


def _bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.early_stop_eps, *ctx.needs = inputs[10:]
    ctx.save_for_backward(*inputs[:10])
    ctx.set_materialize_grads(False)


def _bwd_backward(ctx: Any, *tangents: _Optional) -> tuple[_Optional, ...]:
    need_color, need_t, need_background = ctx.needs
    formed = (True, need_color, need_t, need_t, need_background)  # the others are empty placeholders
    tangents = tuple(v if used else None for v, used in zip(tangents, formed))
    if all(v is None for v in tangents):
        return (None,) * 14
    saved = ctx.saved_tensors
    gradients = COMPILED.composite_bwd_bwd(*saved, *tangents, ctx.early_stop_eps)
    by_input, by_cotangent = list(gradients[:5]), gradients[5:]
    by_input.insert(4, None)
    # Tensors that were not given have no gradient: background and the cotangents may be None.
    grads = [g if t is not None else None for g, t in zip((*by_input, *by_cotangent), saved)]
    return (*grads, None, None, None, None)


def join() -> None:
    """Give the compiled ops shapes and derivatives."""
    join_ops(
        "mclnf_fast",
        Joined("composite_fwd", _fwd_fake, _fwd_backward, _fwd_setup),
        Joined("composite_bwd", _bwd_fake, _bwd_backward, _bwd_setup),
        Joined("composite_bwd_bwd", _bwd_bwd_fake, third("composite"), no_setup),
    )
