"""The forward and the first derivative of a bank by the Triton kernels: fused where a network fits the registers, else
a layer at a time.

The gradients of the parameters alone, a training step, come from a fused walk forward and back whose activations go to
memory and from sums over points that stay in registers (`walk`). Whoever wants those of the points too gets them from
`fused_backward`, which keeps the activations of a tile and adds each tile's sums to memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mclnf_fast.ops.bank_mlp.triton.backward import fused_backward
from mclnf_fast.ops.bank_mlp.triton.encoding import features_gradient
from mclnf_fast.ops.bank_mlp.triton.forward import fused_forward
from mclnf_fast.ops.bank_mlp.triton.walk import fused_walk
from mclnf_fast.ops.triton import launch, table
from mclnf_fast.ops.triton.bank import (
    Bank,
    LayerSums,
    Sums,
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
from mclnf_fast.packing import Activation


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
        bank.starts(shape.rows),
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
    if shapes is None or grad_x is None or isinstance(output_gradient, SquaredError):
        _by_layers(bank, output_gradient, grad_x, grads)
    else:
        _fused(bank, shapes, output_gradient, grad_x, grads)


def _fused(bank: Bank, shapes: table.ShapePair, output_gradient: Tensor, grad_x: Tensor, grads: list[Tensor]) -> None:
    net, x = bank.net, bank.x
    shape, tiles = bank.tile(shapes)
    per_chunk = launch.tiles_per_chunk(tiles)
    most = launch.most_tiles(bank.points, bank.modules, shape.rows * per_chunk)
    chunks = bank.starts(shape.rows * per_chunk)
    sums = torch.empty(most if grads else 0, net.parameters, dtype=torch.float32, device=x.device)
    fused_backward[bank.grid(most, shape)](
        x,
        output_gradient,
        grad_x,
        sums,
        bank.offsets,
        bank.starts(shape.rows),
        chunks,
        bank.columns,
        bank.weights,
        bank.biases,
        tiles_per_chunk=per_chunk,
        NET=net.constants(),
        NEED_PARAMETERS=bool(grads),
        ROWS=shape.rows,
        **bank.shared,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    parts, column = [], 0
    for grad in grads:
        parts.append(Sums(sums, column, grad))
        column += grad[0].numel()
    reduce(bank, parts, chunks)


def walk_shapes(bank: Bank) -> table.ShapePair | None:
    """Return the tiles of the walk through a bank; None if it goes layer by layer."""
    return table.walk_shapes(bank.kind, bank.net, architecture(bank.x.device))


def walk(
    bank: Bank, shapes: table.ShapePair, output_gradient: Tensor | SquaredError, aligned: int = 1, more: bool = False
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield what `backward_sweep` does, from one launch. Rows of the tensors lie a multiple of `aligned` values apart.
    The losses are added up on the way; `more`: to what is there."""
    net, x = bank.net, bank.x
    shape, tiles = bank.tile(shapes)
    grid = bank.grid(tiles, shape)
    starts = bank.starts(shape.rows)
    error = output_gradient if isinstance(output_gradient, SquaredError) else None

    def matrices(rows: int, count: int, dtype: torch.dtype, width: int = net.width) -> tuple[Tensor, ...]:
        return tuple(x.new_empty(rows, -(-width // aligned) * aligned, dtype=dtype) for _ in range(count))

    hidden = net.layers - 1
    saved = matrices(bank.points, hidden, bank.dtype)
    gradients = (
        *matrices(bank.points, min(hidden, 1), torch.float32),
        *matrices(bank.points, hidden - 1, bank.dtype),
        *matrices(bank.points, 1, torch.float32, net.outputs),
    )
    curved = Activation(net.activation).curved
    derivatives = matrices(grid[0] * shape.rows, hidden, bank.dtype) if curved else saved
    errors = x.new_empty(tiles if error is not None else 0, dtype=torch.float32)
    fused_walk[grid](
        x,
        output_gradient.target if isinstance(output_gradient, SquaredError) else output_gradient,
        saved or (x,),  # an empty tuple is no argument
        derivatives or (x,),
        gradients,
        bank.offsets,
        starts,
        bank.columns,
        bank.weights,
        bank.biases,
        NET=net.constants(),
        WIDTH_STRIDE=-(-net.width // aligned) * aligned,
        OUT_STRIDE=gradients[-1].stride(0),
        ROWS=shape.rows,
        weight=x if error is None or error.weight is None else error.weight,
        errors=errors,
        LOSS=error is not None,
        WEIGHTED=error is not None and error.weight is not None,
        **bank.shared,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    if error is not None:
        error.reduce(bank, errors, starts, more)
    for l in reversed(range(net.layers)):
        yield l, saved[l - 1] if l > 0 else x, gradients[l]


def _by_layers(bank: Bank, output_gradient: Tensor | SquaredError, grad_x: Tensor | None, grads: list[Tensor]) -> None:
    net = bank.net
    shapes = walk_shapes(bank) if grad_x is None else None
    values = 2 * sum(out for _, out in net.shapes)
    if shapes is None:
        values += 2 * net.width + net.features
    else:  # in float32's; fewer pieces are fewer launches
        values = values * bank.dtype.itemsize // 4
    pieces = bank.pieces(values)
    sums = totals(grads, len(pieces))
    for points, piece in pieces:
        piece_gradient = (
            output_gradient[points] if isinstance(output_gradient, Tensor) else output_gradient.piece(points)
        )
        grad_here = None if grad_x is None else grad_x[points]
        _piece_by_layers(piece, shapes, piece_gradient, grad_here, sums, points.start > 0)
    finish(grads, sums)


def _piece_by_layers(
    bank: Bank,
    shapes: table.ShapePair | None,
    output_gradient: Tensor | SquaredError,
    grad_x: Tensor | None,
    grads: list[Tensor],
    more: bool,
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

    if shapes is None:
        sweep = backward_sweep(bank, begin, features)
    else:
        sweep = walk(bank, shapes, output_gradient, more=more)
    block, gradients = bank.weight_gradient_block(), LayerSums(bank, chunks, most, factors, more)
    for l, h, d in sweep:
        if not grads:
            continue
        sums = gradients.of_layer(l)
        layer_weight_gradient[bank.grid(most * launch.weight_gradient_blocks(net, l, block.rows), shape)](
            h if l > 0 else bank.weights[-1],  # in their type, and not read
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
        gradients.add(sums, grads[2 * l], grads[2 * l + 1])
    gradients.finish()
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
