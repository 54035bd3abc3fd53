"""Shapes and derivatives of the compiled compositing ops; the formulas are in csrc/math/composite*.h.

`composite_bwd` is itself differentiable, through `composite_bwd_bwd`; the third order is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import Joined, join_ops, no_setup, third

_Optional = Tensor | None
CompositeInputs = tuple[Tensor, Tensor, Tensor, Tensor, _Optional, _Optional]


def forward(inputs: CompositeInputs, early_stop_eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return color, opacity, depth and weights of (density, color, t_starts, t_ends, packed_info, background)."""
    results: tuple[Tensor, Tensor, Tensor, Tensor]
    if torch.compiler.is_compiling():
        results = torch.ops.mclnf_fast.composite_fwd(*inputs, early_stop_eps)
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        results = _Eager.apply(early_stop_eps, *inputs)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            results = torch.ops.mclnf_fast.composite_fwd(*inputs, early_stop_eps)
    return results


class _Eager(torch.autograd.Function):
    """The derivative that is registered below, at a third of the cost of the way through the registration (tens of
    microseconds, which small batches notice)."""

    @staticmethod
    def forward(ctx: Any, early_stop_eps: float, *inputs: _Optional) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            results: tuple[Tensor, ...] = torch.ops.mclnf_fast.composite_fwd(*inputs, early_stop_eps)
        _fwd_setup(ctx, (*inputs, early_stop_eps), results)
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: _Optional) -> tuple[_Optional, ...]:
        return (None, *_gradients(ctx, ctx.needs_input_grad[1:], cotangents))


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


def _gradients(ctx: Any, needs: tuple[bool, ...], cotangents: tuple[_Optional, ...]) -> tuple[_Optional, ...]:
    """Return the gradients of the six inputs that the forward saved."""
    if all(g is None for g in cotangents):
        return (None,) * 6
    _, color, start, end, _, background = needs
    arguments = (*ctx.saved_tensors, *cotangents, ctx.early_stop_eps, color, start or end, background)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        gradients = torch.ops.mclnf_fast.composite_bwd(*arguments)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            gradients = torch.ops.mclnf_fast.composite_bwd(*arguments)
    density_grad, color_grad, start_grad, end_grad, background_grad = gradients
    return (
        density_grad,
        color_grad if color else None,
        start_grad if start else None,
        end_grad if end else None,
        None,
        background_grad if background else None,
    )


def _fwd_backward(ctx: Any, *cotangents: _Optional) -> tuple[_Optional, ...]:
    return (*_gradients(ctx, ctx.needs_input_grad[:6], cotangents), None)


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
    gradients = torch.ops.mclnf_fast.composite_bwd_bwd(*saved, *tangents, ctx.early_stop_eps)
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
