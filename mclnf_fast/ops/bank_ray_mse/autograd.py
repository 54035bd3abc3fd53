"""Shapes and derivatives of the compiled squared error of rays.

The op forms the gradients of the losses beside the losses, so that its backward only scales them. A backward that is to
be differentiated again takes the plain steps instead, which have a second derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import COMPILED, Joined, join_ops, shapes_like
from mclnf_fast.ops.bank_mse.autograd import scale
from mclnf_fast.ops.bank_ray_mse.reference import ray_errors
from mclnf_fast.shading import Shading


def packed(shading: Shading, dtype: torch.dtype) -> tuple[bool, bool, bool, bool, float]:
    """Return a shading as the numbers that the compiled op takes for outputs of a dtype."""
    exponential, last_behind = shading.density_activation == "exp", shading.background == "last_sample"
    largest = shading.max_raw_density_in(dtype)
    return last_behind, shading.detach_last_density, exponential, shading.density_first, largest


def _unpacked(last_behind: bool, detach: bool, exponential: bool, density_first: bool, max_raw: float) -> Shading:
    """Return the shading of `packed` numbers; its background is the op's own tensor, unless the last sample is it."""
    return Shading(
        "exp" if exponential else "relu",
        density_first,
        max_raw,
        background="last_sample" if last_behind else "black",
        detach_last_density=detach,
    )


def _fake(x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], *rest: Any) -> Any:
    need = rest[-1]
    return x.new_empty(weights[0].shape[0]), shapes_like(weights, need), shapes_like(biases, need)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, offsets, weights, biases, *others, ints, floats = inputs[:12]
    if any(t is not None and t.requires_grad for t in (x, *others)):
        raise RuntimeError(
            "mclnf_fast.bank_ray_mse_fwd: the compiled op is differentiable in weights and biases alone; "
            "mclnf_fast.ops.bank_ray_mse takes the steps one by one if anything else requires a gradient"
        )
    ctx.layers, ctx.net, ctx.shading, ctx.mean = len(weights), (ints, floats), inputs[12:17], inputs[17]
    ctx.save_for_backward(x, offsets, *others, *weights, *biases)
    _, grad_w, grad_b = output
    ctx.mark_non_differentiable(*grad_w, *grad_b)
    ctx.set_materialize_grads(False)  # else autograd makes zeros as large as these
    # Aliases, so that the graph does not hold itself.
    ctx.known = [t.detach() for t in grad_w], [t.detach() for t in grad_b]


def _backward(ctx: Any, cotangent: Tensor | None, *_: Any) -> tuple[Any, ...]:
    none = (None,) * 15
    if cotangent is None:
        return None, None, [None] * ctx.layers, [None] * ctx.layers, *none
    known_w, known_b = ctx.known
    ctx.known = [], []  # they serve once
    differentiable = torch.is_grad_enabled()
    if known_w and not differentiable:
        if type(cotangent) is not Tensor or not bool((cotangent == 1).all()):  # a traced one has no values
            for known in (known_w, known_b):
                scale(known, cotangent, [t.dtype for t in known])
        return None, None, known_w, known_b, *none
    x, offsets, rays, ray_offsets, widths, target, ray_weight, background, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    with torch.enable_grad():
        if not differentiable:
            weights, biases = ([t.detach().requires_grad_() for t in part] for part in (weights, biases))
        raw = COMPILED.bank_mlp_fwd(x, offsets, weights, biases, *ctx.net)
        batch = (rays, ray_offsets, widths, target, ray_weight, background)
        loss = ray_errors(raw, *batch, _unpacked(*ctx.shading), ctx.mean, "cpu")
        asked = [t for t in (*weights, *biases) if t.requires_grad]
        formed = iter(torch.autograd.grad(loss, asked, cotangent, create_graph=differentiable))
        grads = [next(formed) if t.requires_grad else None for t in (*weights, *biases)]
    return None, None, grads[: ctx.layers], grads[ctx.layers :], *none


def join() -> None:
    """Give the compiled op its shapes and derivative."""
    join_ops("mclnf_fast", Joined("bank_ray_mse_fwd", _fake, _backward, _setup))
