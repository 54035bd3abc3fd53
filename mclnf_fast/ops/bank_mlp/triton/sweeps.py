"""The forward and the first derivative of a bank by the Triton kernels: fused where a network fits the registers, else
a layer at a time over a bounded number of points."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops.bank_mlp.triton.backward import fused_backward
from mclnf_fast.ops.bank_mlp.triton.forward import fused_forward
from mclnf_fast.ops.triton import launch, table
from mclnf_fast.ops.triton.bank import (
    Bank,
    backward_walk,
    finish,
    layer_chunks,
    layer_shape,
    layers,
    reduce,
    totals,
)
from mclnf_fast.ops.triton.encoding import features_gradient
from mclnf_fast.ops.triton.error import SquaredError
from mclnf_fast.ops.triton.layers import layer_outer
from mclnf_fast.ops.triton.tiles import architecture


def forward(bank: Bank) -> Tensor:
    """y [N, outputs]; N above 0."""
    net = bank.net
    shapes = bank.table.forward_shapes(bank.kind, net.widest)
    shapes = table.in_tensor_memory(shapes, net.products, architecture(bank.x.device))
    if shapes is None:
        pieces = bank.pieces(sum(out for _, out in net.shapes))
        found = [layers(piece, keep=False)[0][-1] for _, piece in pieces]
        return found[0] if len(found) == 1 else torch.cat(found)
    y = bank.x.new_empty(bank.points, net.outputs)
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


def backward(bank: Bank, start: Tensor | SquaredError, grad_x: Tensor | None, grads: list[Tensor]) -> None:
    """The gradients of <start, f(x)>, start being [N, outputs], or of the losses: of x in grad_x [N, inputs], and of
    the parameters in grads, for each layer its weights and its biases, or empty. N above 0."""
    shapes = bank.table.backward_shapes(bank.kind, bank.net.widest, bank.net.held)
    if shapes is None:
        _by_layers(bank, start, grad_x, grads)
    else:
        _fused(bank, shapes, start, grad_x, grads)


def _fused(
    bank: Bank,
    shapes: tuple[table.Shape, table.Shape],
    start: Tensor | SquaredError,
    grad_x: Tensor | None,
    grads: list[Tensor],
) -> None:
    net, x = bank.net, bank.x
    shape, tiles = bank.tile(shapes)
    per_chunk = launch.tiles_a_chunk(tiles)
    most = launch.most_tiles(bank.points, bank.modules, shape.rows * per_chunk)
    chunks = launch.starts(bank.counts, shape.rows * per_chunk)
    sums = torch.empty(most if grads else 0, net.parameters, dtype=torch.float32, device=x.device)
    error = start if isinstance(start, SquaredError) else None
    errors = torch.empty(0 if error is None else most, dtype=torch.float32, device=x.device)
    fused_backward[bank.grid(most, shape)](
        x,
        start.target if isinstance(start, SquaredError) else start,
        x if grad_x is None else grad_x,
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
        NEED_PARAMETERS=bool(grads),
        ROWS=shape.rows,
        weight=x if error is None or error.weight is None else error.weight,
        errors=errors,
        LOSS=error is not None,
        WEIGHTED=error is not None and error.weight is not None,
        **bank.shared,
        **net.constants(),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    at = 0
    for grad in grads:
        reduce(bank, sums, chunks, at, grad, None if error is None else error.factors)
        at += grad[0].numel()
    if error is not None:
        error.reduce(bank, errors, chunks, more=False)


def _by_layers(bank: Bank, start: Tensor | SquaredError, grad_x: Tensor | None, grads: list[Tensor]) -> None:
    net = bank.net
    pieces = bank.pieces(2 * sum(out for _, out in net.shapes) + 2 * net.width + net.features)
    found = totals(grads, len(pieces))
    for points, piece in pieces:
        own = start[points] if isinstance(start, Tensor) else start.piece(points)
        _piece_by_layers(piece, own, None if grad_x is None else grad_x[points], found, points.start > 0)
    finish(grads, found)


def _piece_by_layers(
    bank: Bank, start: Tensor | SquaredError, grad_x: Tensor | None, grads: list[Tensor], more: bool
) -> None:
    net, x = bank.net, bank.x
    features = x.new_zeros(x.shape[0], net.features, dtype=torch.float32) if grad_x is not None else None
    shape, _ = layer_shape(bank)
    chunks, most, per_chunk = layer_chunks(bank)
    factors = start.factors if isinstance(start, SquaredError) else None

    def begin(y: Tensor) -> Tensor:
        if isinstance(start, Tensor):
            return start
        return start.gradient(bank, y, None, chunks, per_chunk, more)[0]

    side, options = bank.outer()
    for l, h, d in backward_walk(bank, begin, features):
        if not grads:
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
        reduce(bank, sums, chunks, 0, grads[2 * l], factors, more)
        reduce(bank, sums, chunks, rows * out, grads[2 * l + 1], factors, more)
    if grad_x is not None and features is not None:
        through_encoding(bank, None, features, features, grad_x)


def through_encoding(bank: Bank, along_x: Tensor | None, g: Tensor, gt: Tensor, grad_x: Tensor) -> None:
    """grad_x [N, inputs] from the gradients of the features, float32 [N, features] (`features_gradient`)."""
    columns = min(64, launch.padded(bank.net.inputs))
    blocks = -(-bank.points // table.LAYER.rows) * -(-bank.net.inputs // columns)
    features_gradient[bank.grid(blocks, table.LAYER)](
        bank.x,
        bank.x if along_x is None else along_x,
        g,
        gt,
        grad_x,
        bank.columns,
        bank.points,
        IN=bank.net.inputs,
        FEATURES=bank.net.features,
        ALONG_X=along_x is not None,
        ROWS=table.LAYER.rows,
        COLUMNS=columns,
        DEPTH=table.LAYER_DEPTH,
        num_warps=table.LAYER.warps,
    )
