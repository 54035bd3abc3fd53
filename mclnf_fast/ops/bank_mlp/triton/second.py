"""The second derivative of a bank by the Triton kernels: forward-over-reverse, a layer at a time (Pearlmutter's
R-operator), over a bounded number of points at a time, so that its memory does not grow with them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops.bank_mlp.triton.second_layers import layer_gradients, layer_outers, layer_tangents
from mclnf_fast.ops.bank_mlp.triton.sweeps import through_encoding
from mclnf_fast.ops.triton import launch, table
from mclnf_fast.ops.triton.bank import (
    LAYER_OPTIONS,
    Bank,
    finish,
    layer_chunks,
    reduce,
    totals,
)
from mclnf_fast.ops.triton.error import SquaredError
from mclnf_fast.packing import Activation


@dataclasses.dataclass
class Direction:
    """Along which the first derivative is derived; what is missing is zeros."""

    x: Tensor | None
    """[N, inputs]."""
    weights: tuple[Tensor, ...] = ()
    biases: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        self.x = None if self.x is None else self.x.contiguous()
        self.weights = tuple(t.contiguous() for t in self.weights)
        self.biases = tuple(t.contiguous() for t in self.biases)


@dataclasses.dataclass
class Kept:
    """What the forward leaves for the reverse, one tensor [N, out] a layer; slopes and curves of bent activations."""

    outputs: list[Tensor]
    tangents: list[Tensor]
    slopes: list[Tensor]
    curves: list[Tensor]


def _sizes(bank: Bank, l: int) -> dict[str, int]:
    net = bank.net
    sizes = {"IN": net.inputs, "FEATURES": net.features, "BELOW": net.below(l), "OUT": net.shapes[l][1]}
    return {**sizes, "ABOVE": net.width if l > 0 else 0}


def _shape(bank: Bank) -> tuple[table.Shape, int, dict[str, Any]]:
    """The tile, the most tiles that there are, and the options of the kernels that work on them."""
    rows, depth = table.SECOND[bank.kind]
    large, small = (dataclasses.replace(table.LAYER, rows=r) for r in (rows, table.SMALL_TILE))
    shape, tiles = bank.tile((large, small))
    return shape, tiles, {**LAYER_OPTIONS, "DEPTH": depth, "ROWS": shape.rows}


def _forward(bank: Bank, along: Direction) -> Kept:
    net, x = bank.net, bank.x
    shape, tiles, options = _shape(bank)
    starts = launch.starts(bank.counts, shape.rows)
    kept = Kept([], [], [], [])
    for l, (_, out) in enumerate(net.shapes):
        kind = net.activation_of(l)
        for tensors, points in (
            (kept.outputs, bank.points),
            (kept.tangents, bank.points),
            (kept.slopes, bank.points if Activation(kind).curved else 0),
            (kept.curves, bank.points if Activation(kind).curved else 0),
        ):
            tensors.append(x.new_empty(points, out))
        layer_tangents[bank.grid(tiles * -(-out // table.LAYER_COLUMNS), shape)](
            kept.outputs[l - 1] if l > 0 else x,
            kept.tangents[l - 1] if l > 0 else x,
            x,
            x if along.x is None else along.x,
            kept.outputs[l],
            kept.tangents[l],
            kept.slopes[l],
            kept.curves[l],
            bank.offsets,
            starts,
            bank.columns,
            bank.weights[l],
            bank.biases[l],
            along.weights[l] if along.weights else bank.weights[l],
            along.biases[l] if along.biases else bank.biases[l],
            KIND=kind,
            W0=net.w0,
            ALONG=bool(along.weights),
            ALONG_X=along.x is not None,
            **_sizes(bank, l),
            **bank.shared,
            **options,
        )
    return kept


def second(
    bank: Bank,
    start: Tensor | SquaredError,
    along: Direction,
    grad_x: Tensor | None,
    grads: list[Tensor],
    grad_grad_y: Tensor | None,
) -> None:
    """The gradients of <first derivative, direction>: of x in grad_x [N, inputs], of the parameters in grads (for each
    layer its weights and its biases), and of start [N, outputs] in grad_grad_y. N above 0."""
    net = bank.net
    kept = 2 * sum(out * (2 if Activation(net.activation_of(l)).curved else 1) for l, (_, out) in enumerate(net.shapes))
    pieces = bank.pieces(kept + 4 * net.width + 2 * net.features)
    found = totals(grads, len(pieces))
    for points, piece in pieces:
        _piece(
            piece,
            start[points] if isinstance(start, Tensor) else start.piece(points),
            dataclasses.replace(along, x=None if along.x is None else along.x[points]),
            None if grad_x is None else grad_x[points],
            found,
            None if grad_grad_y is None else grad_grad_y[points],
            points.start > 0,
        )
    finish(grads, found)


def _piece(
    bank: Bank,
    start: Tensor | SquaredError,
    along: Direction,
    grad_x: Tensor | None,
    grads: list[Tensor],
    grad_grad_y: Tensor | None,
    more: bool,
) -> None:
    net, x = bank.net, bank.x
    kept = _forward(bank, along)
    if grad_grad_y is not None:
        grad_grad_y.copy_(kept.tangents[-1])
    shape, tiles, tile_options = _shape(bank)
    starts = launch.starts(bank.counts, shape.rows)
    chunks, most, per_chunk = layer_chunks(bank)
    if isinstance(start, Tensor):
        factors = None
        d, e = start, torch.zeros_like(start)
    else:
        factors = start.factors
        d, e = start.gradient(bank, kept.outputs[-1], kept.tangents[-1], chunks, per_chunk, more)
    if Activation(net.output_activation).curved:
        d, e = d * kept.slopes[-1], e * kept.slopes[-1] + d * kept.curves[-1]
    elif net.output_activation:
        d, e = (torch.where(kept.outputs[-1] > 0, t, 0) for t in (d, e))
    asked = bank.points if grad_x is not None else 0
    features = [x.new_zeros(asked, net.features, dtype=torch.float32) for _ in range(2)]

    def inputs_of(l: int, first: int, count: int, kind: int, to: list[Tensor], into_features: bool) -> None:
        above = l - 1 if l > 0 else 0
        layer_gradients[bank.grid(tiles * -(-count // table.LAYER_COLUMNS), shape)](
            d,
            e,
            kept.slopes[above] if Activation(kind).curved else kept.outputs[above],
            kept.curves[above],
            *to,
            bank.offsets,
            starts,
            bank.weights[l],
            along.weights[l] if along.weights else bank.weights[l],
            FIRST=first,
            COUNT=count,
            INPUTS=net.shapes[l][0],
            OUT=net.shapes[l][1],
            KIND=kind,
            ALONG=bool(along.weights),
            MORE=into_features,  # which add up over the layers that take them
            **bank.shared,
            **tile_options,
        )

    side, options = bank.outer()
    for l in reversed(range(net.layers)):
        rows, out = net.shapes[l]
        sums = torch.empty(most, (rows + 1) * out, dtype=torch.float32, device=x.device)
        layer_outers[bank.grid(most * launch.outer_blocks(net, l, side), shape)](
            kept.outputs[l - 1] if l > 0 else x,
            kept.tangents[l - 1] if l > 0 else x,
            x,
            x if along.x is None else along.x,
            d,
            e,
            sums,
            bank.offsets,
            chunks,
            bank.columns,
            points_a_chunk=per_chunk,
            ALONG_X=along.x is not None,
            **_sizes(bank, l),
            **bank.shared,
            **options,
        )
        reduce(bank, sums, chunks, 0, grads[2 * l], factors, more)
        reduce(bank, sums, chunks, rows * out, grads[2 * l + 1], factors, more)
        if grad_x is not None and net.below(l):
            inputs_of(l, net.width if l > 0 else 0, net.features, 0, features, True)
        if l > 0:
            to = [x.new_empty(bank.points, net.width) for _ in range(2)]
            inputs_of(l, 0, net.width, net.activation, to, False)
            d, e = to
    if grad_x is not None:
        through_encoding(bank, along.x, features[0], features[1], grad_x)
