"""Shapes and derivatives of the compiled squared error: loss -> gradient -> Hessian product, three ops joined.

The first op forms the gradients of the losses beside the losses (all modules' at once: they share no parameter), so
its backward only scales them. The gradient is differentiable in the parameters and in the cotangent of the losses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import Joined, direction, join_ops, joined, no_setup, shapes_like, third


def gradients_like(tensors: list[Tensor], needed: bool) -> list[Tensor]:
    """Return unset gradients of the losses before a cotangent scales them, which are out of half types' range."""
    return [
        torch.empty_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in shapes_like(tensors, needed)
    ]


def _fwd_fake(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    target: Tensor,
    weight: Tensor | None,
    ints: Any,
    floats: Any,
    mean: bool,
    need_params: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    loss = x.new_empty(weights[0].shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
    return loss, gradients_like(weights, need_params), gradients_like(biases, need_params)


def _gradients_fake(
    x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], *rest: Any
) -> tuple[list[Tensor], list[Tensor]]:
    return shapes_like(weights), shapes_like(biases)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, offsets, weights, biases, target, weight, *_ = inputs
    if any(t is not None and t.requires_grad for t in (x, target, weight)):
        raise RuntimeError(
            "mclnf_fast.bank_mse_fwd: the compiled op is differentiable in weights and biases alone; "
            "mclnf_fast.ops.bank_mse takes the steps one by one if x, target or sample_weight requires a gradient"
        )
    ctx.layers, ctx.dtypes = len(weights), [t.dtype for t in (*weights, *biases)]
    ctx.save_for_backward(x, offsets, target, weight, *weights, *biases)


def _saved(ctx: Any) -> tuple[Any, ...]:
    x, offsets, target, weight, *rest = ctx.saved_tensors
    return x, offsets, rest[: ctx.layers], rest[ctx.layers :], target, weight


def _fwd_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _setup(ctx, inputs, output)
    ctx.ints, ctx.floats, ctx.mean, _ = inputs[6:]
    _, grad_w, grad_b = output
    ctx.mark_non_differentiable(*grad_w, *grad_b)
    ctx.set_materialize_grads(False)  # else autograd makes zeros as large as these
    # Aliases, so that the graph does not hold itself.
    ctx.known = [t.detach() for t in grad_w], [t.detach() for t in grad_b]


Scale = Callable[[list[Tensor], Tensor, list[torch.dtype]], list[Tensor]]


def scale(gradients: list[Tensor], by: Tensor, dtypes: list[torch.dtype]) -> list[Tensor]:
    """Return every module's gradients times its factor, of these types, in the list: each tensor is freed before the
    next is scaled."""
    for k, dtype in enumerate(dtypes):
        gradients[k] = (gradients[k] * by.view(-1, *([1] * (gradients[k].dim() - 1)))).to(dtype)
    return gradients


def _fwd_backward(ops: Any, scale: Scale, ctx: Any, cotangent: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if cotangent is None:
        return None, None, [None] * ctx.layers, [None] * ctx.layers, *(None,) * 6
    known_w, known_b = ctx.known
    # They serve once. Saved for a second backward they would stay with the graph, in every inner step of MAML.
    ctx.known = [], []
    if known_w and not torch.is_grad_enabled() and type(cotangent) is Tensor:
        # On a GPU the comparison with 1 would wait for the device, which costs more than the product.
        known = [*known_w, *known_b]
        as_they_are = cotangent.device.type == "cpu" and ctx.dtypes == [t.dtype for t in known]
        if not as_they_are or not bool((cotangent == 1).all()):
            known_w, known_b = [], []
            known = scale(known, cotangent, ctx.dtypes)
            known_w, known_b = known[: ctx.layers], known[ctx.layers :]
    else:
        known_w, known_b = ops.bank_mse_bwd(*_saved(ctx), cotangent, known_w, known_b, ctx.ints, ctx.floats, ctx.mean)
    return None, None, list(known_w), list(known_b), *(None,) * 6


def _bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _setup(ctx, inputs, output)
    ctx.ints, ctx.floats, ctx.mean = inputs[9:]
    ctx.cotangent, ctx.known = inputs[6], len(inputs[7])
    ctx.set_materialize_grads(False)


def _bwd_backward(ops: Any, ctx: Any, cot_w: Any, cot_b: Any) -> tuple[Any, ...]:
    bank = _saved(ctx)
    weights, biases = bank[2:4]

    net = ctx.ints, ctx.floats, ctx.mean
    along = direction(cot_w, weights), direction(cot_b, biases)
    grad_w, grad_b = ops.bank_mse_bwd_bwd(*bank, ctx.cotangent, *along, *net)
    grad_cotangent = None
    if ctx.needs_input_grad[6]:  # <gradient of loss_m, direction_m>
        _, loss_w, loss_b = ops.bank_mse_fwd(*bank, *net, True)
        pairs = zip((*loss_w, *loss_b), (*along[0], *along[1]))
        grad_cotangent = torch.stack([(g * v).flatten(1).sum(1) for g, v in pairs]).sum(0)
    none = [None] * ctx.known
    return None, None, list(grad_w), list(grad_b), None, None, grad_cotangent, none, none, None, None, None


def join(namespace: str, scale: Scale = scale) -> None:
    """Join the three ops of a namespace; `scale` is how known gradients are scaled there."""
    ops = joined(namespace)
    join_ops(
        namespace,
        Joined("bank_mse_fwd", _fwd_fake, functools.partial(_fwd_backward, ops, scale), _fwd_setup),
        Joined("bank_mse_bwd", _gradients_fake, functools.partial(_bwd_backward, ops), _bwd_setup),
        Joined("bank_mse_bwd_bwd", _gradients_fake, third("bank_mse"), no_setup),
    )
