"""A wide network layer by layer: forward, the gradient of a layer's inputs, the gradient of its weights.

Every kernel takes a layer as `launch.LayerConstants` and its blocks as `launch.BlockSize`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.functions import (
    activate,
    block_of,
    chunk_of,
    encode,
    first_derivative,
    store_gradient,
)
from mclnf_fast.ops.triton.products import input_product, rounded


@triton.jit(do_not_specialize=["modules"])
def layer_forward(
    h,
    x,
    y,
    derivatives,
    offsets,
    starts,
    table,
    weight,
    bias,
    modules,
    LAYER: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store y [N, outputs] = a((h [N, above], the `below` features of x) W + b); with SAVE derivatives [N, outputs] =
    a' of the same.

    Programs: tiles of points times blocks of columns of outputs, the blocks of a tile next to each other so that its
    inputs stay in the cache.
    """
    kind: tl.constexpr = weight.dtype.element_ty
    ABOVE: tl.constexpr = LAYER.above
    BELOW: tl.constexpr = LAYER.below
    OUT: tl.constexpr = LAYER.outputs
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    blocks: tl.constexpr = (OUT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(starts + modules) * blocks, tl.num_programs(0)):
        module, rows, live, n, wanted = block_of(offsets, starts, place, modules, ROWS, OUT, COLUMNS)
        k = tl.arange(0, DEPTH)
        w = weight + module.to(tl.int64) * ((ABOVE + BELOW) * OUT) + n[None, :]
        z = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, ABOVE, DEPTH):
            i = first + k
            a = tl.load(h + rows[:, None] * ABOVE + i[None, :], mask=live[:, None] & (i < ABOVE)[None, :], other=0.0)
            b = tl.load(w + i[:, None] * OUT, mask=(i < ABOVE)[:, None] & wanted[None, :], other=0.0)
            z = tl.dot(rounded(a, PRECISION), rounded(b, PRECISION), z, input_precision=PRECISION)
        for first in range(0, BELOW, DEPTH):
            i = first + k
            a = encode(x, rows, live, table, first, LAYER.coordinates, LAYER.features, DEPTH, kind, PRECISION)
            b = tl.load(w + (ABOVE + i)[:, None] * OUT, mask=(i < BELOW)[:, None] & wanted[None, :], other=0.0)
            z = input_product(a, rounded(b, PRECISION), z, PRECISION)
        z += tl.load(bias + module.to(tl.int64) * OUT + n, mask=wanted, other=0.0).to(tl.float32)[None, :]
        to = rows[:, None] * OUT + n[None, :]
        mask = live[:, None] & wanted[None, :]
        tl.store(y + to, activate(z, LAYER.activation, LAYER.w0).to(y.dtype.element_ty), mask=mask)
        if SAVE:
            s = first_derivative(z, LAYER.activation, LAYER.w0)
            tl.store(derivatives + to, s.to(derivatives.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["modules"])
def layer_gradient(
    d,
    derivatives,
    g,
    offsets,
    starts,
    weight,
    modules,
    INPUTS: tl.constexpr,
    OUT: tl.constexpr,
    ACTIVATED: tl.constexpr,
    MORE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store g [N, count] = derivatives (d [N, OUT] W^T) for a range of the layer's inputs (`launch.InputRange`).

    ACTIVATED: the inputs come from an activation with the derivatives [N, count]; features have none. MORE: the inputs
    are features, whose gradients are added to what is there.
    """
    COUNT: tl.constexpr = INPUTS.size
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    blocks: tl.constexpr = (COUNT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(starts + modules) * blocks, tl.num_programs(0)):
        module, rows, live, n, wanted = block_of(offsets, starts, place, modules, ROWS, COUNT, COLUMNS)
        k = tl.arange(0, DEPTH)
        w = weight + module.to(tl.int64) * (INPUTS.total * OUT) + (INPUTS.first + n)[None, :] * OUT
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, OUT, DEPTH):
            o = first + k
            a = tl.load(d + rows[:, None] * OUT + o[None, :], mask=live[:, None] & (o < OUT)[None, :], other=0.0)
            b = tl.load(w + o[:, None], mask=(o < OUT)[:, None] & wanted[None, :], other=0.0)
            if a.dtype != b.dtype:  # of the last layer, which nothing has rounded
                total = input_product(a, rounded(b, PRECISION), total, PRECISION)
            else:
                a = rounded(a.to(b.dtype), PRECISION)
                total = tl.dot(a, rounded(b, PRECISION), total, input_precision=PRECISION)
        to = rows[:, None] * COUNT + n[None, :]
        mask = live[:, None] & wanted[None, :]
        if ACTIVATED:
            total *= tl.load(derivatives + to, mask=mask, other=0.0).to(tl.float32)
        if MORE:
            total += tl.load(g + to, mask=mask, other=0.0).to(tl.float32)
        tl.store(g + to, total.to(g.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["modules", "points_per_chunk"])
def layer_weight_gradient(
    h,
    x,
    d,
    sums,
    offsets,
    chunks,
    table,
    modules,
    points_per_chunk,
    LAYER: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store a chunk's share of a layer's gradient, float32 [chunks, (above + below + 1) outputs]: the products of its
    inputs with d [N, outputs], and the sums of d behind them.

    Programs: chunks times blocks of [rows inputs, columns outputs]; a chunk's points go by `depth` at a time, and their
    order is that of memory.
    """
    # The first layer of a network of several has d in the weights' type.
    kind: tl.constexpr = h.dtype.element_ty if LAYER.above > 0 else d.dtype.element_ty
    ABOVE: tl.constexpr = LAYER.above
    BELOW: tl.constexpr = LAYER.below
    OUT: tl.constexpr = LAYER.outputs
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    wide = tl.zeros((), tl.int64)
    above: tl.constexpr = (ABOVE + ROWS - 1) // ROWS
    high: tl.constexpr = above + (BELOW + ROWS - 1) // ROWS
    broad: tl.constexpr = (OUT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(chunks + modules) * (high * broad), tl.num_programs(0)):
        chunk, block, n, wanted, begin, end = chunk_of(
            offsets, chunks, place, modules, points_per_chunk, high, OUT, COLUMNS
        )
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        bias = tl.zeros((COLUMNS,), tl.float32)
        for point in range(begin, end, DEPTH):
            rows = tl.arange(0, DEPTH)
            t = wide + point + rows
            live = t < end
            e = tl.load(d + t[:, None] * OUT + n[None, :], mask=live[:, None] & wanted[None, :], other=0.0)
            b = rounded(e.to(kind), PRECISION)
            if block < above:
                i = block * ROWS + tl.arange(0, ROWS)
                mask = live[:, None] & (i < ABOVE)[None, :]
                # `to`: h of a first layer, which has no such block, are the points.
                a = rounded(tl.load(h + t[:, None] * ABOVE + i[None, :], mask=mask, other=0.0).to(kind), PRECISION)
                total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
            else:
                here = x + (wide + point) * LAYER.coordinates
                first = (block - above) * ROWS
                features = encode(
                    here, rows, live, table, first, LAYER.coordinates, LAYER.features, ROWS, kind, PRECISION
                )
                total = input_product(tl.trans(features), b, total, PRECISION)
            bias += tl.sum(e.to(tl.float32), 0)
        store_gradient(total, bias, sums, chunk, block, n, wanted, LAYER, ROWS)
