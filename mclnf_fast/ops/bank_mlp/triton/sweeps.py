"""The forward and the first derivative of a bank by the Triton kernels: fused where a network fits the registers, else
a layer at a time over a bounded number of points."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops.bank_mlp.triton.backward import fused_backward
from mclnf_fast.ops.bank_mlp.triton.encoding import features_gradient
from mclnf_fast.ops.bank_mlp.triton.forward import fused_forward
from mclnf_fast.ops.triton import launch, table
from mclnf_fast.ops.triton.bank import (
    Bank,
    backward_sweep,
    finish,
    layer_chunks,
    layer_shape,
    layers,
    reduce,
    totals,
)
from mclnf_fast.ops.triton.error import SquaredError
from mclnf_fast.ops.triton.layers import layer_weight_gradient
from mclnf_fast.ops.triton.tiles import architecture


def forward(bank: Bank) -> Tensor:
    """Return y [N, outputs]; N above 0."""
    net = bank.net
    shapes = bank.table.forward_shapes(bank.kind, net.widest)
    shapes = table.in_tensor_memory(shapes, net.products, architecture(bank.x.device))
    if shapes is None:
        pieces = bank.pieces(sum(out for _, out in net.shapes))
        outputs = [layers(piece, save=False)[0][-1] for _, piece in pieces]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
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
        NET=net.constants(),
        ROWS=shape.rows,
        **bank.shared,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return y


def backward(bank: Bank, output_gradient: Tensor | SquaredError, grad_x: Tensor | None, grads: list[Tensor]) -> None:
    """Fill the gradients of <output_gradient [N, outputs], f(x)>, or of the losses: of x in grad_x [N, inputs], and of
    the parameters in grads, for each layer its weights and its biases, or empty. N above 0."""
    shapes = bank.table.backward_shapes(bank.kind, bank.net.widest, bank.net.saved)
    if shapes is None:
        _by_layers(bank, output_gradient, grad_x, grads)
    else:
        _fused(bank, shapes, output_gradient, grad_x, grads)


def _fused(
    bank: Bank,
    shapes: table.ShapePair,
    output_gradient: Tensor | SquaredError,
    grad_x: Tensor | None,
    grads: list[Tensor],
) -> None:
    net, x = bank.net, bank.x
    shape, tiles = bank.tile(shapes)
    per_chunk = launch.tiles_per_chunk(tiles)
    most = launch.most_tiles(bank.points, bank.modules, shape.rows * per_chunk)
    chunks = launch.starts(bank.counts, shape.rows * per_chunk)
    sums = torch.empty(most if grads else 0, net.parameters, dtype=torch.float32, device=x.device)
    error = output_gradient if isinstance(output_gradient, SquaredError) else None
    errors = torch.empty(0 if error is None else most, dtype=torch.float32, device=x.device)
    fused_backward[bank.grid(most, shape)](
        x,
        output_gradient.target if isinstance(output_gradient, SquaredError) else output_gradient,
        x if grad_x is None else grad_x,
        sums,
        bank.offsets,
        launch.starts(bank.counts, shape.rows),
        chunks,
        bank.columns,
        bank.weights,
        bank.biases,
        tiles_per_chunk=per_chunk,
        NET=net.constants(),
        NEED_X=grad_x is not None,
        NEED_PARAMETERS=bool(grads),
        ROWS=shape.rows,
        weight=x if error is None or error.weight is None else error.weight,
        errors=errors,
        LOSS=error is not None,
        WEIGHTED=error is not None and error.weight is not None,
        **bank.shared,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    column = 0
    for grad in grads:
        reduce(bank, sums, chunks, column, grad, None if error is None else error.factors)
        column += grad[0].numel()
    if error is not None:
        error.reduce(bank, errors, chunks, more=False)


def _by_layers(bank: Bank, output_gradient: Tensor | SquaredError, grad_x: Tensor | None, grads: list[Tensor]) -> None:
    net = bank.net
    pieces = bank.pieces(2 * sum(out for _, out in net.shapes) + 2 * net.width + net.features)
    sums = totals(grads, len(pieces))
    for points, piece in pieces:
        piece_gradient = (
            output_gradient[points] if isinstance(output_gradient, Tensor) else output_gradient.piece(points)
        )
        _piece_by_layers(piece, piece_gradient, None if grad_x is None else grad_x[points], sums, points.start > 0)
    finish(grads, sums)


def _piece_by_layers(
    bank: Bank, output_gradient: Tensor | SquaredError, grad_x: Tensor | None, grads: list[Tensor], more: bool
) -> None:
    net, x = bank.net, bank.x
    features = x.new_zeros(x.shape[0], net.features, dtype=torch.float32) if grad_x is not None else None
    shape, _ = layer_shape(bank)
    chunks, most, per_chunk = layer_chunks(bank)
    factors = output_gradient.factors if isinstance(output_gradient, SquaredError) else None

    def begin(y: Tensor) -> Tensor:
        if isinstance(output_gradient, Tensor):
            return output_gradient
        return output_gradient.gradient(bank, y, None, chunks, per_chunk, more)[0]

    block = bank.weight_gradient_block()
    for l, h, d in backward_sweep(bank, begin, features):
        if not grads:
            continue
        rows, out = net.shapes[l]
        sums = torch.empty(most, (rows + 1) * out, dtype=torch.float32, device=x.device)
        layer_weight_gradient[bank.grid(most * launch.weight_gradient_blocks(net, l, block.rows), shape)](
            h if l > 0 else bank.weights[l],  # in their type, and not read
            x,
            d,
            sums,
            bank.offsets,
            chunks,
            bank.columns,
            bank.weights[l],
            points_per_chunk=per_chunk,
            **net.sizes(l)._asdict(),
            LAYER=net.layer(l, activated=False),
            BLOCK=block,
            **bank.shared,
            **bank.layer_options,
        )
        reduce(bank, sums, chunks, 0, grads[2 * l], factors, more)
        reduce(bank, sums, chunks, rows * out, grads[2 * l + 1], factors, more)
    if grad_x is not None and features is not None:
        through_encoding(bank, None, features, features, grad_x)


def through_encoding(bank: Bank, along_x: Tensor | None, g: Tensor, gt: Tensor, grad_x: Tensor) -> None:
    """Fill grad_x [N, inputs] from the gradients of the features, float32 [N, features] (`features_gradient`)."""
    columns = launch.columns(bank.net.inputs)
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
        BLOCK=launch.BlockSize(table.LAYER.rows, columns, table.LAYER_DEPTH),
        num_warps=table.LAYER.warps,
    )
