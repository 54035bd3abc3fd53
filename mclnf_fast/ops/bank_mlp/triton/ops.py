"""The ops that launch the Triton kernels, `mclnf_fast_triton::bank_mlp_fwd`, `bank_mlp_bwd` and `bank_mlp_bwd_bwd`: on
CUDA tensors, and on CPU tensors where Triton interprets (TRITON_INTERPRET=1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops import _memory
from mclnf_fast.ops._autograd import Joined, direction, join_ops, joined, no_setup, shapes_like, third
from mclnf_fast.ops.bank_mlp.autograd import backward_fake, forward_fake, forward_setup, save, second_fake
from mclnf_fast.ops.bank_mlp.triton import sweeps
from mclnf_fast.ops.bank_mlp.triton.second import Direction, second
from mclnf_fast.ops.triton import launch, plain
from mclnf_fast.ops.triton.bank import Bank
from mclnf_fast.ops.triton.define import NAMESPACE, define
from mclnf_fast.spec import FieldSpec

Gradients = tuple[Tensor, list[Tensor], list[Tensor]]


def interleaved(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Return for each layer its weights and its biases, as the sweeps take them."""
    return [t for pair in zip(weights, biases) for t in pair]


def zeroed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Set the tensors to zero, in place, and return them."""
    return [t.zero_() for t in tensors]


@_memory.explained("bank_mlp, forward")
def forward(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    ints: list[int],
    floats: list[float],
) -> Tensor:
    """Return y [N, out_dim]; arguments as `bank_mlp_fwd`."""
    net = launch.network(ints, floats)
    if x.shape[0] == 0:
        return x.new_empty(0, net.outputs)
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    with bank.on_device():
        return sweeps.forward(bank)


@_memory.explained("bank_mlp, backward")
def backward(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    grad_y: Tensor,
    ints: list[int],
    floats: list[float],
    need_x: bool,
    need_params: bool,
) -> Gradients:
    """Return the gradients of <grad_y, y>: of x, [0, in_dim] unless asked for, of the weights and of the biases."""
    net = launch.network(ints, floats)
    grad_x = x.new_empty(x.shape[0] if need_x else 0, net.inputs)
    grad_w, grad_b = shapes_like(list(weights), need_params), shapes_like(list(biases), need_params)
    if x.shape[0] == 0 or not (need_x or need_params):
        return grad_x, zeroed(grad_w), zeroed(grad_b)
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    with bank.on_device():
        sweeps.backward(bank, grad_y.contiguous(), grad_x if need_x else None, interleaved(grad_w, grad_b))
    return grad_x, grad_w, grad_b


def _forward_op(
    x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], ints: list[int], floats: list[float]
) -> Tensor:
    return forward(x, offsets, weights, biases, ints, floats)


def _backward_op(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    ints: list[int],
    floats: list[float],
    need_x: bool,
    need_params: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return backward(x, offsets, weights, biases, grad_y, ints, floats, need_x, need_params)


@_memory.explained("bank_mlp, second derivative")
def _second_op(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    tangent_x: Tensor | None,
    tangent_weights: list[Tensor],
    tangent_biases: list[Tensor],
    ints: list[int],
    floats: list[float],
    need_x: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Return the gradients of <grad_x, tangent_x> + <grad_weights, tangent_weights> + <grad_biases, tangent_biases>: of
    x, [0, in_dim] unless asked for, of the weights, of the biases and of grad_y. A missing tangent, or an empty list:
    zeros."""
    net = launch.network(ints, floats)
    grad_x = x.new_empty(x.shape[0] if need_x else 0, net.inputs)
    grad_w, grad_b = shapes_like(weights), shapes_like(biases)
    grad_grad_y = torch.empty_like(grad_y, memory_format=torch.contiguous_format)
    if x.shape[0] == 0:
        return grad_x, zeroed(grad_w), zeroed(grad_b), grad_grad_y
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    along = Direction(tangent_x, tuple(tangent_weights), tuple(tangent_biases))
    with bank.on_device():
        grads = interleaved(grad_w, grad_b)
        second(bank, grad_y.contiguous(), along, grad_x if need_x else None, grads, grad_grad_y)
    return grad_x, grad_w, grad_b, grad_grad_y


define("bank_mlp_fwd", _forward_op)
define("bank_mlp_bwd", _backward_op)
define("bank_mlp_bwd_bwd", _second_op)
_OPS = joined(NAMESPACE)


def _forward_backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    x, offsets, *rest = ctx.saved_tensors
    need_x, need_params = ctx.needs_input_grad[0], ctx.need_params
    weights, biases = rest[: ctx.layers], rest[ctx.layers :]
    grad_x, grad_w, grad_b = _OPS.bank_mlp_bwd(
        x, offsets, weights, biases, grad_y, ctx.ints, ctx.floats, need_x, need_params
    )
    none = [None] * ctx.layers
    return grad_x if need_x else None, None, grad_w or none, grad_b or none, None, None


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, offsets, weights, biases, grad_y, ctx.ints, ctx.floats, ctx.need_x, ctx.need_params = inputs
    save(ctx, x, offsets, weights, biases, grad_y)
    ctx.set_materialize_grads(False)


def _backward_backward(ctx: Any, cot_x: Tensor | None, cot_w: Any, cot_b: Any) -> tuple[Any, ...]:
    x, offsets, grad_y, *rest = ctx.saved_tensors
    weights, biases = rest[: ctx.layers], rest[ctx.layers :]
    need_x = ctx.needs_input_grad[0]
    directed = ctx.need_params and any(c is not None for c in (*(cot_w or ()), *(cot_b or ())))
    along = [direction(c, t) if directed else [] for c, t in ((cot_w, weights), (cot_b, biases))]
    tangent_x = cot_x if ctx.need_x else None
    grad_x, grad_w, grad_b, grad_grad_y = _OPS.bank_mlp_bwd_bwd(
        x, offsets, weights, biases, grad_y, tangent_x, *along, ctx.ints, ctx.floats, need_x
    )
    return grad_x if need_x else None, None, grad_w, grad_b, grad_grad_y, None, None, None, None


join_ops(
    NAMESPACE,
    Joined("bank_mlp_fwd", forward_fake, _forward_backward, forward_setup),
    Joined("bank_mlp_bwd", backward_fake, _backward_backward, _backward_setup),
    Joined("bank_mlp_bwd_bwd", second_fake, third("bank_mlp"), no_setup),
)


def bank_mlp(x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], spec: FieldSpec) -> Tensor:
    """Evaluate as `mf.ops.bank_mlp` by the Triton kernels."""
    x, spec = plain.without_spherical(x, spec)
    return _OPS.bank_mlp_fwd(x, offsets, weights, biases, *spec.packed)
