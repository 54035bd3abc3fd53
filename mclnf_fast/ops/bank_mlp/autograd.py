"""Shapes and derivatives of the compiled bank MLP: forward -> backward -> double backward, three ops joined.

The backward is itself differentiable in x, the parameters and the incoming gradient. Its derivative is a directional
derivative: the cotangents of (grad_x, grad_parameters) are a direction in the input space, and the gradient of
`<grad_y, J direction>` follows by forward-over-reverse (Pearlmutter's R-operator), which computes the activations
again: saved, they would cost memory per point and inner step of MAML.

The first backward computes them again too, unless the forward saved them (saved.py). The bits are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import COMPILED, Joined, direction, join_ops, no_setup, shapes_like, third
from mclnf_fast.packing import NetworkHeader


def forward_fake(
    x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], ints: Any, floats: Any
) -> Tensor:
    """Return the shape of `bank_mlp_fwd`."""
    return x.new_empty(x.shape[0], NetworkHeader.of(ints).out_dim)


def _saving_fake(
    x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], ints: Any, floats: Any, values: int
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], NetworkHeader.of(ints).out_dim), x.new_empty(values)


def backward_fake(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    ints: Any,
    floats: Any,
    need_x: bool,
    need_params: bool,
    kept: Tensor | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the shapes of `bank_mlp_bwd`."""
    grad_x = x.new_empty(x.shape[0] if need_x else 0, NetworkHeader.of(ints).in_dim)
    return grad_x, shapes_like(weights, need_params), shapes_like(biases, need_params)


def second_fake(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    tangent_x: Tensor | None,
    tangent_weights: list[Tensor],
    tangent_biases: list[Tensor],
    ints: Any,
    floats: Any,
    need_x: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Return the shapes of `bank_mlp_bwd_bwd`."""
    grad_grad_y = torch.empty_like(grad_y, memory_format=torch.contiguous_format)
    grad_x = x.new_empty(x.shape[0] if need_x else 0, NetworkHeader.of(ints).in_dim)
    return grad_x, shapes_like(weights), shapes_like(biases), grad_grad_y


def save(ctx: Any, x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], *more: Tensor) -> None:
    """Save the arguments of the bank, and more tensors behind the offsets."""
    ctx.layers = len(weights)
    ctx.save_for_backward(x, offsets, *more, *weights, *biases)


def forward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Save what the backward of `bank_mlp_fwd` takes."""
    x, offsets, weights, biases, ctx.ints, ctx.floats = inputs[:6]
    save(ctx, x, offsets, weights, biases)
    ctx.need_params = torch._C._any_requires_grad(*weights, *biases)
    ctx.saved_activations = None


def _saving_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    forward_setup(ctx, inputs, output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else autograd makes zeros as large as the saved activations
    ctx.saved_activations = output[1].detach()


def _fwd_backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    x, offsets, *rest = ctx.saved_tensors
    weights, biases = rest[: ctx.layers], rest[ctx.layers :]
    need_x, need_params = ctx.needs_input_grad[0], ctx.need_params
    saved = ctx.saved_activations
    if torch.is_grad_enabled():
        # The graph goes on (inner steps of MAML, for one): with activations it would grow by them in every step.
        ctx.saved_activations = None
    grad_x, grad_w, grad_b = COMPILED.bank_mlp_bwd(
        x, offsets, weights, biases, grad_y, ctx.ints, ctx.floats, need_x, need_params, saved
    )
    none = [None] * ctx.layers
    return (
        grad_x if need_x else None,
        None,
        list(grad_w) if need_params else none,
        list(grad_b) if need_params else none,
        None,
        None,
    )


def _saving_backward(ctx: Any, grad_y: Tensor | None, grad_saved: Any) -> tuple[Any, ...]:
    if grad_y is None:
        return None, None, [None] * ctx.layers, [None] * ctx.layers, None, None, None
    return (*_fwd_backward(ctx, grad_y), None)


def _bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, offsets, weights, biases, grad_y, ctx.ints, ctx.floats = inputs[:7]
    save(ctx, x, offsets, weights, biases, grad_y)
    ctx.set_materialize_grads(False)


def _bwd_backward(ctx: Any, cot_x: Tensor | None, cot_w: Any, cot_b: Any) -> tuple[Any, ...]:
    x, offsets, grad_y, *rest = ctx.saved_tensors
    weights, biases = rest[: ctx.layers], rest[ctx.layers :]

    tangent_x = None if cot_x is None or cot_x.shape != x.shape else cot_x  # None: zeros
    need_x = ctx.needs_input_grad[0]
    grad_x, grad_w, grad_b, grad_grad_y = COMPILED.bank_mlp_bwd_bwd(
        x,
        offsets,
        weights,
        biases,
        grad_y,
        tangent_x,
        direction(cot_w, weights),
        direction(cot_b, biases),
        ctx.ints,
        ctx.floats,
        need_x,
    )
    return grad_x if need_x else None, None, list(grad_w), list(grad_b), grad_grad_y, None, None, None, None, None


def join() -> None:
    """Give the compiled ops shapes and derivatives."""
    join_ops(
        "mclnf_fast",
        Joined("bank_mlp_fwd", forward_fake, _fwd_backward, forward_setup),
        Joined("bank_mlp_fwd_keep", _saving_fake, _saving_backward, _saving_setup),
        Joined("bank_mlp_bwd", backward_fake, _bwd_backward, _bwd_setup),
        Joined("bank_mlp_bwd_bwd", second_fake, third("bank_mlp"), no_setup),
    )
