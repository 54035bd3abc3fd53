"""A wide network layer by layer: forward, the gradient of a layer's inputs, the gradient of its weights.

Every kernel takes a layer as `launch.LayerConstants`, which it is compiled for, and `launch.LayerSizes`, numbers of the
launch, and its blocks as `launch.BlockSize`. Widths that are multiples of 64 are constants; no other width compiles a
kernel.
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
    size_of,
    store_gradient,
)
from mclnf_fast.ops.triton.products import input_product, rounded


@triton.jit(do_not_specialize=["modules", "coordinates", "features", "above", "below", "outputs", "activation"])
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
    coordinates,
    features,
    above,
    below,
    outputs,
    activation,
    w0,
    LAYER: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store y [N, outputs] = a((h [N, above], the `below` features of x) W + b); with SAVE derivatives [N, outputs] =
    a' of the same. h has the bank's type, which the weights of the first layer, that does not read it, may not have.

    Programs: tiles of points times blocks of columns of outputs, the blocks of a tile next to each other so that its
    inputs stay in the cache.
    """
    kind: tl.constexpr = h.dtype.element_ty
    IN = size_of(coordinates, LAYER.coordinates)
    FEATURES = size_of(features, LAYER.features)
    ABOVE = size_of(above, LAYER.above, LAYER.multiple)
    BELOW = size_of(below, LAYER.below)
    OUT = size_of(outputs, LAYER.outputs, LAYER.multiple)
    KIND = activation if LAYER.activation < 0 else LAYER.activation
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    blocks = (OUT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(starts + modules) * blocks, tl.num_programs(0)):
        module, rows, live, n, wanted = block_of(offsets, starts, place, modules, ROWS, OUT, COLUMNS)
        k = tl.arange(0, DEPTH)
        w = weight + module.to(tl.int64) * ((ABOVE + BELOW) * OUT) + n[None, :]
        z = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, ABOVE, DEPTH):
            i = first + k
            a = tl.load(h + rows[:, None] * ABOVE + i[None, :], mask=live[:, None] & (i < ABOVE)[None, :], other=0.0)
            b = tl.load(w + i[:, None] * OUT, mask=(i < ABOVE)[:, None] & wanted[None, :], other=0.0)
            z = tl.dot(rounded(a.to(b.dtype), PRECISION), rounded(b, PRECISION), z, input_precision=PRECISION)
        for first in range(0, BELOW, DEPTH):
            i = first + k
            a = encode(x, rows, live, table, first, IN, FEATURES, DEPTH, kind, PRECISION)
            b = tl.load(w + (ABOVE + i)[:, None] * OUT, mask=(i < BELOW)[:, None] & wanted[None, :], other=0.0)
            z = input_product(a, rounded(b, PRECISION), z, PRECISION)
        z += tl.load(bias + module.to(tl.int64) * OUT + n, mask=wanted, other=0.0).to(tl.float32)[None, :]
        to = rows[:, None] * OUT + n[None, :]
        mask = live[:, None] & wanted[None, :]
        tl.store(y + to, activate(z, KIND, w0).to(y.dtype.element_ty), mask=mask)
        if SAVE:
            s = first_derivative(z, KIND, w0)
            tl.store(derivatives + to, s.to(derivatives.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["modules", "first_input", "size", "inputs", "outputs"])
def layer_gradient(
    d,
    derivatives,
    g,
    offsets,
    starts,
    weight,
    modules,
    first_input,
    size,
    inputs,
    outputs,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    MULTIPLE: tl.constexpr,
    ACTIVATED: tl.constexpr,
    MORE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store g [N, size] = derivatives (d [N, outputs] W^T) for a range of the layer's inputs (`launch.InputRange`).

    ACTIVATED: the inputs come from an activation with the derivatives [N, size]; features have none. MORE: the inputs
    are features, whose gradients are added to what is there. INPUTS, OUTPUTS: the sizes, if the kernel is compiled for
    them, or -1, and MULTIPLE is what size and outputs are multiples of.
    """
    COUNT = size_of(size, INPUTS.size, MULTIPLE)
    TOTAL = size_of(inputs, INPUTS.total)
    FIRST = size_of(first_input, INPUTS.first)
    OUT = size_of(outputs, OUTPUTS, MULTIPLE)
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    blocks = (COUNT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(starts + modules) * blocks, tl.num_programs(0)):
        module, rows, live, n, wanted = block_of(offsets, starts, place, modules, ROWS, COUNT, COLUMNS)
        k = tl.arange(0, DEPTH)
        w = weight + module.to(tl.int64) * (TOTAL * OUT) + (FIRST + n)[None, :] * OUT
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


@triton.jit(do_not_specialize=["modules", "points_per_chunk", "coordinates", "features", "above", "below", "outputs"])
def layer_weight_gradient(
    h,
    x,
    d,
    sums,
    offsets,
    chunks,
    table,
    weight,
    modules,
    points_per_chunk,
    coordinates,
    features,
    above,
    below,
    outputs,
    LAYER: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store a chunk's share of a layer's gradient, float32 [chunks, (above + below + 1) outputs]: the products of its
    inputs with d [N, outputs], and the sums of d behind them. h as in `layer_forward`; weight gives its type alone.

    Programs: chunks times blocks of [rows inputs, columns outputs]; a chunk's points go by `depth` at a time, and their
    order is that of memory.
    """
    kind: tl.constexpr = h.dtype.element_ty
    multiplied: tl.constexpr = weight.dtype.element_ty
    IN = size_of(coordinates, LAYER.coordinates)
    FEATURES = size_of(features, LAYER.features)
    ABOVE = size_of(above, LAYER.above, LAYER.multiple)
    BELOW = size_of(below, LAYER.below)
    OUT = size_of(outputs, LAYER.outputs, LAYER.multiple)
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    wide = tl.zeros((), tl.int64)
    upper = (ABOVE + ROWS - 1) // ROWS
    high = upper + (BELOW + ROWS - 1) // ROWS
    broad = (OUT + COLUMNS - 1) // COLUMNS
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
            b = rounded(e.to(multiplied), PRECISION)
            if block < upper:
                i = block * ROWS + tl.arange(0, ROWS)
                mask = live[:, None] & (i < ABOVE)[None, :]
                a = tl.load(h + t[:, None] * ABOVE + i[None, :], mask=mask, other=0.0)
                a = rounded(a.to(multiplied), PRECISION)  # `to`: of a first layer, which has no such block
                total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
            else:
                here = x + (wide + point) * IN
                encoded = encode(here, rows, live, table, (block - upper) * ROWS, IN, FEATURES, ROWS, kind, PRECISION)
                total = input_product(tl.trans(encoded), b, total, PRECISION)
            bias += tl.sum(e.to(tl.float32), 0)
        store_gradient(total, bias, sums, chunk, block, n, wanted, ABOVE, BELOW, OUT, ROWS)
