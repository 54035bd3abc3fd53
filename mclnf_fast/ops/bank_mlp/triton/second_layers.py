"""The second derivatives' kernels, a layer at a time: activations with their tangents, the gradients of a layer's
inputs in two streams, and those of its weights.

Names: a layer has pre-activations z = h W + b, and along the direction (V, v) of the parameters and that of x the
tangents z' = h' W + h V + v. d are the gradients of z that the first derivative forms; e those of z in the second,
whose share of z' is d.

Compute-bound (estimated): three matrix products where the first derivative has one; two of each three share an operand.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.bank_mlp.triton.encoding import encode_both, features_both
from mclnf_fast.ops.triton.functions import (
    RELU,
    activate,
    block_of,
    chunk_of,
    first_derivative,
    second_derivative,
    size_of,
    store_gradient,
)
from mclnf_fast.ops.triton.products import input_product, rounded


@triton.jit(do_not_specialize=["modules", "coordinates", "features", "above", "below", "outputs", "activation"])
def layer_tangents(
    h,
    ht,
    x,
    along_x,
    y,
    yt,
    derivatives,
    curvatures,
    offsets,
    starts,
    table,
    weight,
    bias,
    along,
    along_bias,
    modules,
    coordinates,
    features,
    above,
    below,
    outputs,
    activation,
    w0,
    LAYER: tl.constexpr,
    ALONG: tl.constexpr,
    ALONG_X: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store y, yt [N, outputs] = a(z) and a'(z) z', from h, ht [N, above] and the `below` features of x along along_x.

    With a curved activation also derivatives, curvatures [N, outputs] = a'(z) and a''(z) z'. ALONG, ALONG_X: whether
    the directions of the parameters and of x are given; else they are zeros. Programs: as `layer_forward`.
    """
    kind: tl.constexpr = h.dtype.element_ty
    KIND = activation if LAYER.activation < 0 else LAYER.activation
    IN = size_of(coordinates, LAYER.coordinates)
    FEATURES = size_of(features, LAYER.features)
    ABOVE = size_of(above, LAYER.above, LAYER.multiple)
    BELOW = size_of(below, LAYER.below)
    OUT = size_of(outputs, LAYER.outputs, LAYER.multiple)
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    blocks = (OUT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(starts + modules) * blocks, tl.num_programs(0)):
        module, rows, live, n, wanted = block_of(offsets, starts, place, modules, ROWS, OUT, COLUMNS)
        k = tl.arange(0, DEPTH)
        w = module.to(tl.int64) * ((ABOVE + BELOW) * OUT) + n[None, :]
        z = tl.zeros((ROWS, COLUMNS), tl.float32)
        zt = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, ABOVE, DEPTH):
            i = first + k
            from_ = rows[:, None] * ABOVE + i[None, :]
            mask = live[:, None] & (i < ABOVE)[None, :]
            mask_w = (i < ABOVE)[:, None] & wanted[None, :]
            b = rounded(tl.load(weight + w + i[:, None] * OUT, mask=mask_w, other=0.0), PRECISION)
            a = rounded(tl.load(h + from_, mask=mask, other=0.0).to(b.dtype), PRECISION)
            z = tl.dot(a, b, z, input_precision=PRECISION)
            at = rounded(tl.load(ht + from_, mask=mask, other=0.0).to(b.dtype), PRECISION)
            zt = tl.dot(at, b, zt, input_precision=PRECISION)
            if ALONG:
                v = rounded(tl.load(along + w + i[:, None] * OUT, mask=mask_w, other=0.0), PRECISION)
                zt = tl.dot(a, v, zt, input_precision=PRECISION)
        for first in range(0, BELOW, DEPTH):
            i = first + k
            mask_w = (i < BELOW)[:, None] & wanted[None, :]
            a, at = encode_both(x, along_x, rows, live, table, first, IN, FEATURES, DEPTH, kind, PRECISION, ALONG_X)
            b = rounded(tl.load(weight + w + (ABOVE + i)[:, None] * OUT, mask=mask_w, other=0.0), PRECISION)
            z = input_product(a, b, z, PRECISION)
            if ALONG_X:
                zt = input_product(at, b, zt, PRECISION)
            if ALONG:
                v = rounded(tl.load(along + w + (ABOVE + i)[:, None] * OUT, mask=mask_w, other=0.0), PRECISION)
                zt = input_product(a, v, zt, PRECISION)
        place_b = module.to(tl.int64) * OUT + n
        z += tl.load(bias + place_b, mask=wanted, other=0.0).to(tl.float32)[None, :]
        if ALONG:
            zt += tl.load(along_bias + place_b, mask=wanted, other=0.0).to(tl.float32)[None, :]
        to = rows[:, None] * OUT + n[None, :]
        mask = live[:, None] & wanted[None, :]
        tl.store(y + to, activate(z, KIND, w0).to(y.dtype.element_ty), mask=mask)
        if KIND > RELU:
            s = first_derivative(z, KIND, w0)
            tl.store(derivatives + to, s.to(derivatives.dtype.element_ty), mask=mask)
            c = second_derivative(z, KIND, w0) * zt
            tl.store(curvatures + to, c.to(curvatures.dtype.element_ty), mask=mask)
            zt = s * zt
        if KIND == RELU:
            zt = tl.where(z > 0, zt, 0.0)
        tl.store(yt + to, zt.to(yt.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["modules", "first_input", "size", "inputs", "outputs", "activation"])
def layer_gradients(
    d,
    e,
    derivatives,
    curvatures,
    g,
    gt,
    offsets,
    starts,
    weight,
    along,
    modules,
    first_input,
    size,
    inputs,
    outputs,
    activation,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    MULTIPLE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ALONG: tl.constexpr,
    MORE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store, from d, e [N, outputs], those of a range of the layer's inputs (`launch.InputRange`): g = d W^T and
    gt = e W^T + d V^T, both [N, size]; MORE: those of features, added to what is there.

    activation: the one that made the inputs, with derivatives and curvatures as `layer_tangents` left them (of relu:
    its outputs, for derivatives): g and gt become those of its pre-activations. Features have no activation.
    INPUTS, OUTPUTS, MULTIPLE, ACTIVATION: as `layer_gradient`.
    """
    COUNT = size_of(size, INPUTS.size, MULTIPLE)
    TOTAL = size_of(inputs, INPUTS.total)
    FIRST = size_of(first_input, INPUTS.first)
    OUT = size_of(outputs, OUTPUTS, MULTIPLE)
    KIND = activation if ACTIVATION < 0 else ACTIVATION
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    blocks = (COUNT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(starts + modules) * blocks, tl.num_programs(0)):
        module, rows, live, n, wanted = block_of(offsets, starts, place, modules, ROWS, COUNT, COLUMNS)
        k = tl.arange(0, DEPTH)
        w = module.to(tl.int64) * (TOTAL * OUT) + (FIRST + n)[None, :] * OUT
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        total_t = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, OUT, DEPTH):
            o = first + k
            from_ = rows[:, None] * OUT + o[None, :]
            mask = live[:, None] & (o < OUT)[None, :]
            mask_w = (o < OUT)[:, None] & wanted[None, :]
            a = tl.load(d + from_, mask=mask, other=0.0)
            b = rounded(tl.load(weight + w + o[:, None], mask=mask_w, other=0.0), PRECISION)
            at = tl.load(e + from_, mask=mask, other=0.0)
            if a.dtype != b.dtype:  # as in `layer_gradient`
                total = input_product(a, b, total, PRECISION)
                total_t = input_product(at, b, total_t, PRECISION)
            else:
                total = tl.dot(rounded(a.to(b.dtype), PRECISION), b, total, input_precision=PRECISION)
                total_t = tl.dot(rounded(at.to(b.dtype), PRECISION), b, total_t, input_precision=PRECISION)
            if ALONG:
                v = rounded(tl.load(along + w + o[:, None], mask=mask_w, other=0.0), PRECISION)
                if a.dtype != b.dtype:
                    total_t = input_product(a, v, total_t, PRECISION)
                else:
                    total_t = tl.dot(rounded(a.to(b.dtype), PRECISION), v, total_t, input_precision=PRECISION)
        to = rows[:, None] * COUNT + n[None, :]
        mask = live[:, None] & wanted[None, :]
        if KIND == RELU:
            open_ = tl.load(derivatives + to, mask=mask, other=0.0) > 0
            total = tl.where(open_, total, 0.0)
            total_t = tl.where(open_, total_t, 0.0)
        if KIND > RELU:
            s = tl.load(derivatives + to, mask=mask, other=0.0).to(tl.float32)
            c = tl.load(curvatures + to, mask=mask, other=0.0).to(tl.float32)
            total_t = s * total_t + c * total
            total = s * total
        if MORE:
            total += tl.load(g + to, mask=mask, other=0.0).to(tl.float32)
            total_t += tl.load(gt + to, mask=mask, other=0.0).to(tl.float32)
        tl.store(g + to, total.to(g.dtype.element_ty), mask=mask)
        tl.store(gt + to, total_t.to(gt.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["modules", "points_per_chunk", "coordinates", "features", "above", "below", "outputs"])
def layer_weight_gradients(
    h,
    ht,
    x,
    along_x,
    d,
    e,
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
    ALONG_X: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store a chunk's share of a layer's gradient, float32 [chunks, (above + below + 1) outputs]: its inputs times e
    plus their tangents times d, and the sums of e behind them. Programs: as `layer_weight_gradient`."""
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
            t = wide + point + tl.arange(0, DEPTH)
            live = t < end
            from_ = t[:, None] * OUT + n[None, :]
            mask = live[:, None] & wanted[None, :]
            e_tile = tl.load(e + from_, mask=mask, other=0.0)
            b = rounded(e_tile.to(multiplied), PRECISION)
            bt = rounded(tl.load(d + from_, mask=mask, other=0.0).to(multiplied), PRECISION)
            if block < upper:
                i = block * ROWS + tl.arange(0, ROWS)
                mask_h = live[:, None] & (i < ABOVE)[None, :]
                from_h = t[:, None] * ABOVE + i[None, :]
                a = rounded(tl.load(h + from_h, mask=mask_h, other=0.0).to(multiplied), PRECISION)
                at = rounded(tl.load(ht + from_h, mask=mask_h, other=0.0).to(multiplied), PRECISION)
                total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
                total = tl.dot(tl.trans(at), bt, total, input_precision=PRECISION)
            else:
                # This branch is a region of its own: `encode_both` would take 55 registers more of half types.
                c = (block - upper) * ROWS + tl.arange(0, ROWS)
                encoded, tangents = features_both(x, along_x, t, live, table, c, IN, FEATURES, kind, ALONG_X)
                total = input_product(tl.trans(encoded), b, total, PRECISION)
                if ALONG_X:
                    total = input_product(tl.trans(tangents), bt, total, PRECISION)
            bias += tl.sum(e_tile.to(tl.float32), 0)
        store_gradient(total, bias, sums, chunk, block, n, wanted, ABOVE, BELOW, OUT, ROWS)
