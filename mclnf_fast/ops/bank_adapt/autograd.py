"""Shapes and derivative of the compiled inner loop, which walks its steps backwards from their stored starts."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from mclnf_fast.ops._autograd import Joined, direction, join_ops, joined, no_setup, shapes_like, third


def _fwd_fake(weights: list[Tensor], biases: list[Tensor], rates: Tensor, *rest: Any) -> tuple[Any, ...]:
    steps, modules, _ = rates.shape
    adapted = [[t.new_empty(modules, *t.shape[1:]) for t in tensors] for tensors in (weights, biases)]
    parameters = sum(t[0].numel() for t in (*weights, *biases))
    starts = rates.new_empty(modules if rest[-1] else 0, steps - 1, parameters)
    return *adapted, rates.new_empty(steps, modules), starts


def _bwd_fake(weights: list[Tensor], biases: list[Tensor], rates: Tensor, *rest: Any) -> tuple[Any, ...]:
    of_rates = rates.new_empty(rates.shape[0] if rest[-1] else 0, *rates.shape[1:])
    return shapes_like(weights), shapes_like(biases), of_rates


def _fwd_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    weights, biases, rates, x, offsets, target, weight, ids, ids_weight, *ctx.numbers = inputs
    if any(t is not None and t.requires_grad for t in (x, target, weight, ids_weight)):
        raise RuntimeError(
            "mclnf_fast.bank_adapt_fwd: the op is differentiable in weights, biases and rates alone; "
            "learn.meta.adapt differentiates in the samples of a loss too"
        )
    *_, losses, starts = output
    ctx.layers = len(weights)
    ctx.numbers.pop()  # whether the starts are stored
    first_order = ctx.numbers[3]
    ctx.mark_non_differentiable(*((losses, starts) if first_order else (starts,)))
    ctx.set_materialize_grads(False)  # else autograd makes zeros for the starts
    # An alias, so that the graph does not hold itself.
    ctx.save_for_backward(rates, x, offsets, target, weight, ids, ids_weight, starts.detach(), *weights, *biases)


def _fwd_backward(ops: Any, ctx: Any, cot_w: Any, cot_b: Any, cot_losses: Tensor | None, *_: Any) -> tuple[Any, ...]:
    rates, x, offsets, target, weight, ids, ids_weight, starts, *params = ctx.saved_tensors
    weights, biases = params[: ctx.layers], params[ctx.layers :]
    modules, needs_rates = rates.shape[1], ctx.needs_input_grad[2]
    like = [[t.expand(modules, *t.shape[1:]) for t in tensors] for tensors in (weights, biases)]
    samples = x, offsets, target, weight, ids, ids_weight
    cotangents = direction(cot_w, like[0]), direction(cot_b, like[1]), cot_losses
    grad_w, grad_b, grad_rates = ops.bank_adapt_bwd(
        weights, biases, rates, *samples, *ctx.numbers, starts, *cotangents, needs_rates
    )
    rest = (None,) * (len(ctx.numbers) + 7)
    return list(grad_w), list(grad_b), grad_rates if needs_rates else None, *rest


def join(namespace: str) -> None:
    """Join the two ops of a namespace."""
    ops = joined(namespace)
    join_ops(
        namespace,
        Joined("bank_adapt_fwd", _fwd_fake, functools.partial(_fwd_backward, ops), _fwd_setup),
        Joined("bank_adapt_bwd", _bwd_fake, third("bank_adapt"), no_setup),
    )
