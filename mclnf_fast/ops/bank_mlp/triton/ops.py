"""The ops that launch the Triton kernels, `mclnf_fast_triton::bank_mlp_fwd` and `bank_mlp_bwd`: on CUDA tensors, and on
CPU tensors where Triton interprets (TRITON_INTERPRET=1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from mclnf_fast.ops import _memory
from mclnf_fast.ops.bank_mlp.triton import launch, plain, table
from mclnf_fast.ops.bank_mlp.triton.backward import fused_backward
from mclnf_fast.ops.bank_mlp.triton.bank import Bank, backward_walk, layer_shape, layers, reduce
from mclnf_fast.ops.bank_mlp.triton.forward import fused_forward
from mclnf_fast.ops.bank_mlp.triton.layers import layer_outer
from mclnf_fast.spec import FieldSpec


@_memory.explained("bank_mlp, forward")
def forward(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    ints: list[int],
    floats: list[float],
) -> Tensor:
    """y [N, out_dim]; arguments as `bank_mlp_fwd`."""
    net = launch.network(ints, floats)
    if x.shape[0] == 0:
        return x.new_empty(0, net.outputs)
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    with bank.on_device():
        shapes = bank.table.forward_shapes(bank.kind, net.widest)
        if shapes is None:
            return layers(bank, keep=False)[0][-1]
        y = x.new_empty(bank.points, net.outputs)
        shape, tiles = bank.tile(shapes)
        fused_forward[bank.grid(tiles, shape)](
            bank.x,
            y,
            bank.offsets,
            launch.starts(bank.counts, shape.rows),
            bank.columns,
            bank.weights,
            bank.biases,
            ROWS=shape.rows,
            **bank.shared,
            **net.constants(),
            num_warps=shape.warps,
            num_stages=shape.stages,
        )
        return y


Gradients = tuple[Tensor, list[Tensor], list[Tensor]]


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
    """Gradients of <grad_y, y>: of x, [0, in_dim] unless asked for, of the weights and of the biases."""
    net = launch.network(ints, floats)
    grad_x = x.new_empty(x.shape[0] if need_x else 0, net.inputs)
    grad_w = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (weights if need_params else ())]
    grad_b = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (biases if need_params else ())]
    if x.shape[0] == 0 or not (need_x or need_params):
        return grad_x, [t.zero_() for t in grad_w], [t.zero_() for t in grad_b]
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    with bank.on_device():
        shapes = bank.table.backward_shapes(bank.kind, net.widest, net.held)
        if shapes is None:
            _layers_backward(bank, grad_y.contiguous(), grad_x if need_x else None, grad_w, grad_b)
        else:
            _fused_backward(bank, shapes, grad_y.contiguous(), grad_x if need_x else None, grad_w, grad_b)
    return grad_x, grad_w, grad_b


def _fused_backward(
    bank: Bank,
    shapes: tuple[table.Shape, table.Shape],
    grad_y: Tensor,
    grad_x: Tensor | None,
    grad_w: list[Tensor],
    grad_b: list[Tensor],
) -> None:
    net = bank.net
    shape, tiles = bank.tile(shapes)
    per_chunk = launch.tiles_a_chunk(tiles)
    most = launch.most_tiles(bank.points, bank.modules, shape.rows * per_chunk)
    chunks = launch.starts(bank.counts, shape.rows * per_chunk)
    sums = torch.empty(most if grad_w else 0, net.parameters, dtype=torch.float32, device=bank.x.device)
    fused_backward[bank.grid(most, shape)](
        bank.x,
        grad_y,
        bank.x if grad_x is None else grad_x,
        sums,
        bank.offsets,
        launch.starts(bank.counts, shape.rows),
        chunks,
        bank.columns,
        bank.weights,
        bank.biases,
        tiles_a_chunk=per_chunk,
        IN_PAD=launch.padded(net.inputs),
        PARAMETERS=net.parameters,
        NEED_X=grad_x is not None,
        NEED_PARAMETERS=bool(grad_w),
        ROWS=shape.rows,
        **bank.shared,
        **net.constants(),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    at = 0
    for grads in zip(grad_w, grad_b):
        for grad in grads:
            reduce(bank, sums, chunks, at, grad)
            at += grad[0].numel()


def _layers_backward(
    bank: Bank, grad_y: Tensor, grad_x: Tensor | None, grad_w: list[Tensor], grad_b: list[Tensor]
) -> None:
    net, x = bank.net, bank.x
    features = x.new_zeros(x.shape[0], net.features, dtype=torch.float32) if grad_x is not None else None
    shape, tiles = layer_shape(bank)
    per_chunk = launch.tiles_a_chunk(tiles) * shape.rows
    most = launch.most_tiles(bank.points, bank.modules, per_chunk)
    chunks = launch.starts(bank.counts, per_chunk)
    side, options = bank.outer()
    for l, h, d in backward_walk(bank, grad_y, features):
        if not grad_w:
            continue
        rows, out = net.shapes[l]
        sums = torch.empty(most, (rows + 1) * out, dtype=torch.float32, device=x.device)
        layer_outer[bank.grid(most * launch.outer_blocks(net, l, side), shape)](
            h,
            x,
            d,
            sums,
            bank.offsets,
            chunks,
            bank.columns,
            points_a_chunk=per_chunk,
            IN=net.inputs,
            FEATURES=net.features,
            ABOVE=net.width if l > 0 else 0,
            BELOW=net.below(l),
            OUT=out,
            **bank.shared,
            **options,
        )
        reduce(bank, sums, chunks, 0, grad_w[l])
        reduce(bank, sums, chunks, rows * out, grad_b[l])
    if grad_x is not None and features is not None:
        grad_x.copy_(plain.encode_backward(net, x, features))


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


_forward = custom_op("mclnf_fast_triton::bank_mlp_fwd", _forward_op, mutates_args=())
_backward = custom_op("mclnf_fast_triton::bank_mlp_bwd", _backward_op, mutates_args=())


@_forward.register_fake
def _(x: Tensor, offsets: Tensor, weights: Any, biases: Any, ints: Any, floats: Any) -> Tensor:
    return x.new_empty(x.shape[0], ints[1])


@_backward.register_fake
def _(
    x: Tensor,
    offsets: Tensor,
    weights: Any,
    biases: Any,
    grad_y: Tensor,
    ints: Any,
    floats: Any,
    need_x: bool,
    need_params: bool,
) -> Gradients:
    def like(tensors: Any) -> list[Tensor]:
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors] if need_params else []

    return x.new_empty(x.shape[0] if need_x else 0, ints[0]), like(weights), like(biases)


def _save(ctx: Any, x: Tensor, offsets: Tensor, weights: Any, biases: Any, *more: Tensor) -> None:
    ctx.layers = len(weights)
    ctx.save_for_backward(x, offsets, *more, *weights, *biases)


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *bank, ctx.ints, ctx.floats = inputs
    _save(ctx, *bank)
    ctx.need_params = any(t.requires_grad for t in (*bank[2], *bank[3]))


def _forward_backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    x, offsets, *rest = ctx.saved_tensors
    need_x, need_params = ctx.needs_input_grad[0], ctx.need_params
    weights, biases = rest[: ctx.layers], rest[ctx.layers :]
    found = _backward(x, offsets, weights, biases, grad_y, ctx.ints, ctx.floats, need_x, need_params)
    none = [None] * ctx.layers
    return found[0] if need_x else None, None, found[1] or none, found[2] or none, None, None


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, offsets, weights, biases, grad_y, ctx.ints, ctx.floats, ctx.need_x, ctx.need_params = inputs
    _save(ctx, x, offsets, weights, biases, grad_y)


def _backward_backward(ctx: Any, cot_x: Tensor, cot_w: Any, cot_b: Any) -> tuple[Any, ...]:
    """By PyTorch's operators: the kernels have no second derivative of their own yet."""
    x, offsets, grad_y, *rest = ctx.saved_tensors
    net = launch.network(ctx.ints, ctx.floats)
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, grad_y, *rest)]
        x, grad_y, *rest = leaves
        y = plain.evaluate(net, x, offsets, rest[: ctx.layers], rest[ctx.layers :])
        wanted = ([x] if ctx.need_x else []) + (rest if ctx.need_params else [])
        first = torch.autograd.grad(y, wanted, grad_y, create_graph=True)
        along = ([cot_x] if ctx.need_x else []) + ([*cot_w, *cot_b] if ctx.need_params else [])
        product = sum((f * c).sum() for f, c in zip(first, along))
        found = torch.autograd.grad(product, leaves, materialize_grads=True)
    return (
        found[0],
        None,
        list(found[2 : 2 + ctx.layers]),
        list(found[2 + ctx.layers :]),
        found[1],
        None,
        None,
        None,
        None,
    )


_forward.register_autograd(_forward_backward, setup_context=_forward_setup)
_backward.register_autograd(_backward_backward, setup_context=_backward_setup)


def bank_mlp(x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], spec: FieldSpec) -> Tensor:
    """`mf.ops.bank_mlp` by the Triton kernels."""
    x, spec = plain.without_spherical(x, spec)
    return torch.ops.mclnf_fast_triton.bank_mlp_fwd(x, offsets, weights, biases, *spec.packed)
