"""The second derivative of a bank by the Triton kernels: forward-over-reverse, a layer at a time (Pearlmutter's
R-operator).

It works over a bounded number of points at a time, so that its memory does not grow with them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops.bank_mlp.triton.second_layers import layer_gradients, layer_tangents, layer_weight_gradients
from mclnf_fast.ops.bank_mlp.triton.sweeps import through_encoding
from mclnf_fast.ops.triton import launch, table
from mclnf_fast.ops.triton.bank import Bank, LayerSums, finish, layer_chunks, totals
from mclnf_fast.ops.triton.error import SquaredError
from mclnf_fast.packing import Activation


@dataclasses.dataclass
class Direction:
    """The direction along which the first derivative is differentiated; a missing part is zeros."""

    x: Tensor | None
    """[N, inputs]."""
    weights: tuple[Tensor, ...] = ()
    biases: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        self.x = None if self.x is None else self.x.contiguous()
        self.weights = tuple(t.contiguous() for t in self.weights)
        self.biases = tuple(t.contiguous() for t in self.biases)


@dataclasses.dataclass
class Saved:
    """The tensors that the forward saves for the reverse, one [N, out] per layer; derivatives and curvatures of curved
    activations alone."""

    outputs: list[Tensor]
    tangents: list[Tensor]
    derivatives: list[Tensor]
    curvatures: list[Tensor]


def _shape(bank: Bank) -> tuple[table.Shape, int, dict[str, Any]]:
    """Return the tile, an upper bound of the tiles, and the options of the kernels that work on them."""
    rows, depth = table.SECOND[bank.kind]
    large, small = (dataclasses.replace(table.LAYER, rows=r) for r in (rows, table.SMALL_TILE))
    shape, tiles = bank.tile((large, small))
    block = launch.BlockSize(shape.rows, table.LAYER_COLUMNS, depth)
    # Not those of a tuned table: `tune` does not time these kernels.
    options = {"BLOCK": block, "num_warps": table.LAYER.warps, "num_stages": table.LAYER.stages}
    return shape, tiles, options


def _forward(bank: Bank, along: Direction) -> Saved:
    net, x = bank.net, bank.x
    shape, tiles, options = _shape(bank)
    starts = bank.starts(shape.rows)
    saved = Saved([], [], [], [])
    for l, (_, out) in enumerate(net.shapes):
        curved = bank.points if Activation(net.activation_of(l)).curved else 0
        for outputs in (saved.outputs, saved.tangents):
            outputs.append(bank.saved(bank.points, l))
        for factors in (saved.derivatives, saved.curvatures):  # in a half type they would be most of the error
            factors.append(x.new_empty(curved, out))
        layer_tangents[bank.grid(tiles * -(-out // table.LAYER_COLUMNS), shape)](
            saved.outputs[l - 1] if l > 0 else bank.weights[-1],  # in their type, and not read
            saved.tangents[l - 1] if l > 0 else bank.weights[-1],
            x,
            x if along.x is None else along.x,
            saved.outputs[l],
            saved.tangents[l],
            saved.derivatives[l],
            saved.curvatures[l],
            bank.offsets,
            starts,
            bank.columns,
            bank.weights[l],
            bank.biases[l],
            along.weights[l] if along.weights else bank.weights[l],
            along.biases[l] if along.biases else bank.biases[l],
            **net.sizes(l)._asdict(),
            activation=net.activation_of(l),
            w0=net.w0,
            LAYER=net.layer(l),
            ALONG=bool(along.weights),
            ALONG_X=along.x is not None,
            **bank.shared,
            **options,
        )
    return saved


def second(
    bank: Bank,
    output_gradient: Tensor | SquaredError,
    along: Direction,
    grad_x: Tensor | None,
    grads: list[Tensor],
    grad_grad_y: Tensor | None,
) -> None:
    """Fill the gradients of <first derivative, direction>: of x in grad_x [N, inputs], of the parameters in grads (for
    each layer its weights and its biases), and of output_gradient [N, outputs] in grad_grad_y. N above 0."""
    net = bank.net
    saved = 2 * sum(
        out * (2 if Activation(net.activation_of(l)).curved else 1) for l, (_, out) in enumerate(net.shapes)
    )
    pieces = bank.pieces(saved + 4 * net.width + 2 * net.features)
    sums = totals(grads, len(pieces))
    for points, piece in pieces:
        _piece(
            piece,
            output_gradient[points] if isinstance(output_gradient, Tensor) else output_gradient.piece(points),
            dataclasses.replace(along, x=None if along.x is None else along.x[points]),
            None if grad_x is None else grad_x[points],
            sums,
            None if grad_grad_y is None else grad_grad_y[points],
            points.start > 0,
        )
    finish(grads, sums)


def _piece(
    bank: Bank,
    output_gradient: Tensor | SquaredError,
    along: Direction,
    grad_x: Tensor | None,
    grads: list[Tensor],
    grad_grad_y: Tensor | None,
    more: bool,
) -> None:
    net, x = bank.net, bank.x
    saved = _forward(bank, along)
    if grad_grad_y is not None:
        grad_grad_y.copy_(saved.tangents[-1])
    shape, tiles, tile_options = _shape(bank)
    starts = bank.starts(shape.rows)
    chunks, most, per_chunk = layer_chunks(bank)
    if isinstance(output_gradient, Tensor):
        factors = None
        d, e = output_gradient, torch.zeros_like(output_gradient)
    else:
        factors = output_gradient.factors
        d, e = output_gradient.gradient(bank, saved.outputs[-1], saved.tangents[-1], chunks, per_chunk, more)
    if Activation(net.output_activation).curved:
        d, e = d * saved.derivatives[-1], e * saved.derivatives[-1] + d * saved.curvatures[-1]
    elif net.output_activation:
        d, e = (torch.where(saved.outputs[-1] > 0, t, 0) for t in (d, e))
    asked = bank.points if grad_x is not None else 0
    features = [x.new_zeros(asked, net.features, dtype=torch.float32) for _ in range(2)]

    def inputs_gradient(l: int, inputs: launch.InputRange, kind: int, to: list[Tensor], into_features: bool) -> None:
        above = l - 1 if l > 0 else 0
        layer_gradients[bank.grid(tiles * -(-inputs.size // table.LAYER_COLUMNS), shape)](
            d,
            e,
            saved.derivatives[above] if Activation(kind).curved else saved.outputs[above],
            saved.curvatures[above],
            *to,
            bank.offsets,
            starts,
            bank.weights[l],
            along.weights[l] if along.weights else bank.weights[l],
            **net.inputs_gradient(inputs, net.shapes[l][1]),
            activation=kind,
            ACTIVATION=kind if net.known else -1,
            ALONG=bool(along.weights),
            MORE=into_features,  # which add up over the layers that take them
            **bank.shared,
            **tile_options,
        )

    block, gradients = bank.weight_gradient_block(), LayerSums(bank, chunks, most, factors, more)
    for l in reversed(range(net.layers)):
        sums = gradients.of_layer(l)
        layer_weight_gradients[bank.grid(most * launch.weight_gradient_blocks(net, l, block.rows), shape)](
            saved.outputs[l - 1] if l > 0 else bank.weights[-1],  # in their type, and not read
            saved.tangents[l - 1] if l > 0 else bank.weights[-1],
            x,
            x if along.x is None else along.x,
            d,
            e,
            sums,
            bank.offsets,
            chunks,
            bank.columns,
            bank.weights[l],
            points_per_chunk=per_chunk,
            **net.sizes(l)._asdict(),
            LAYER=net.layer(l, activated=False),
            ALONG_X=along.x is not None,
            BLOCK=block,
            **bank.shared,
            **bank.layer_options,
        )
        gradients.add(sums, grads[2 * l], grads[2 * l + 1])
        if grad_x is not None and net.below(l):
            inputs_gradient(l, net.inputs_below(l), Activation.NONE.value, features, True)
        if l > 0:
            to = [bank.saved_gradient(bank.points, l - 1) for _ in range(2)]
            inputs_gradient(l, net.inputs_above(l), net.activation, to, False)
            d, e = to
    gradients.finish()
    if grad_x is not None:
        through_encoding(bank, along.x, features[0], features[1], grad_x)
