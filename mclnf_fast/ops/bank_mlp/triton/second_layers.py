"""The second derivatives' kernels, a layer at a time: activations with their tangents, the gradients of a layer's
inputs in two streams, those of its weights, and the way back through the encoding.

Names: a layer has sums z = h W + b, and along the direction (V, v) of the parameters and that of x the tangents
z' = h' W + h V + v. d are the gradients of z that the first derivative forms; e those of z in the second, whose share
of z' is d.

What binds: matrix products, three where the first derivative has one; two of each three share an operand.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.encoding import encode_both
from mclnf_fast.ops.triton.functions import RELU, activate, curvature, module_of, slope, tile_of


@triton.jit
def layer_tangents(
    h,
    ht,
    x,
    along_x,
    y,
    yt,
    slopes,
    curves,
    offsets,
    starts,
    table,
    weight,
    bias,
    along,
    along_bias,
    modules,
    STEPS: tl.constexpr,
    IN: tl.constexpr,
    FEATURES: tl.constexpr,
    ABOVE: tl.constexpr,
    BELOW: tl.constexpr,
    OUT: tl.constexpr,
    KIND: tl.constexpr,
    W0: tl.constexpr,
    ALONG: tl.constexpr,
    ALONG_X: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y, yt [N, OUT] = a(z) and a'(z) z', from h, ht [N, ABOVE] and the BELOW features of x along along_x; with a bent
    activation slopes, curves [N, OUT] = a'(z) and a''(z) z'. ALONG, ALONG_X: whether the directions of the parameters
    and of x are given; zeros else.

    Programs: as `layer_forward`.
    """
    kind = x.dtype.element_ty
    blocks: tl.constexpr = (OUT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(starts + modules) * blocks, tl.num_programs(0)):
        tile = place // blocks
        module, rows, live = tile_of(offsets, starts, tile, modules, STEPS, ROWS)
        n = (place % blocks) * COLUMNS + tl.arange(0, COLUMNS)
        wanted = n < OUT
        k = tl.arange(0, DEPTH)
        w = module.to(tl.int64) * ((ABOVE + BELOW) * OUT) + n[None, :]
        z = tl.zeros((ROWS, COLUMNS), tl.float32)
        zt = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, ABOVE, DEPTH):
            i = first + k
            from_ = rows[:, None] * ABOVE + i[None, :]
            mask = live[:, None] & (i < ABOVE)[None, :]
            mask_w = (i < ABOVE)[:, None] & wanted[None, :]
            a = tl.load(h + from_, mask=mask, other=0.0)
            b = tl.load(weight + w + i[:, None] * OUT, mask=mask_w, other=0.0)
            z = tl.dot(a, b, z, input_precision=PRECISION)
            zt = tl.dot(tl.load(ht + from_, mask=mask, other=0.0), b, zt, input_precision=PRECISION)
            if ALONG:
                v = tl.load(along + w + i[:, None] * OUT, mask=mask_w, other=0.0)
                zt = tl.dot(a, v, zt, input_precision=PRECISION)
        for first in range(0, BELOW, DEPTH):
            i = first + k
            mask_w = (i < BELOW)[:, None] & wanted[None, :]
            a, at = encode_both(x, along_x, rows, live, table, first, IN, FEATURES, DEPTH, ALONG_X)
            b = tl.load(weight + w + (ABOVE + i)[:, None] * OUT, mask=mask_w, other=0.0)
            z = tl.dot(a.to(kind), b, z, input_precision=PRECISION)
            if ALONG_X:
                zt = tl.dot(at.to(kind), b, zt, input_precision=PRECISION)
            if ALONG:
                v = tl.load(along + w + (ABOVE + i)[:, None] * OUT, mask=mask_w, other=0.0)
                zt = tl.dot(a.to(kind), v, zt, input_precision=PRECISION)
        own = module.to(tl.int64) * OUT + n
        z += tl.load(bias + own, mask=wanted, other=0.0).to(tl.float32)[None, :]
        if ALONG:
            zt += tl.load(along_bias + own, mask=wanted, other=0.0).to(tl.float32)[None, :]
        to = rows[:, None] * OUT + n[None, :]
        mask = live[:, None] & wanted[None, :]
        tl.store(y + to, activate(z, KIND, W0).to(kind), mask=mask)
        if KIND > RELU:
            s = slope(z, KIND, W0)
            tl.store(slopes + to, s.to(kind), mask=mask)
            tl.store(curves + to, (curvature(z, KIND, W0) * zt).to(kind), mask=mask)
            zt = s * zt
        if KIND == RELU:
            zt = tl.where(z > 0, zt, 0.0)
        tl.store(yt + to, zt.to(kind), mask=mask)


@triton.jit
def layer_gradients(
    d,
    e,
    slopes,
    curves,
    g,
    gt,
    offsets,
    starts,
    weight,
    along,
    modules,
    STEPS: tl.constexpr,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    INPUTS: tl.constexpr,
    OUT: tl.constexpr,
    KIND: tl.constexpr,
    ALONG: tl.constexpr,
    MORE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """From d, e [N, OUT] to those of the layer's inputs FIRST ... FIRST + COUNT - 1 of INPUTS: g = d W^T and
    gt = e W^T + d V^T, both [N, COUNT]; MORE: added to what is there.

    KIND: the activation that made the inputs, with slopes and curves as `layer_tangents` left them (of relu: its
    outputs, for slopes): g and gt become those of its sums. No activation for features.
    """
    blocks: tl.constexpr = (COUNT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(starts + modules) * blocks, tl.num_programs(0)):
        tile = place // blocks
        module, rows, live = tile_of(offsets, starts, tile, modules, STEPS, ROWS)
        n = (place % blocks) * COLUMNS + tl.arange(0, COLUMNS)
        wanted = n < COUNT
        k = tl.arange(0, DEPTH)
        w = module.to(tl.int64) * (INPUTS * OUT) + (FIRST + n)[None, :] * OUT
        one = tl.zeros((ROWS, COLUMNS), tl.float32)
        two = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, OUT, DEPTH):
            o = first + k
            from_ = rows[:, None] * OUT + o[None, :]
            mask = live[:, None] & (o < OUT)[None, :]
            mask_w = (o < OUT)[:, None] & wanted[None, :]
            a = tl.load(d + from_, mask=mask, other=0.0)
            b = tl.load(weight + w + o[:, None], mask=mask_w, other=0.0)
            one = tl.dot(a, b, one, input_precision=PRECISION)
            two = tl.dot(tl.load(e + from_, mask=mask, other=0.0), b, two, input_precision=PRECISION)
            if ALONG:
                v = tl.load(along + w + o[:, None], mask=mask_w, other=0.0)
                two = tl.dot(a, v, two, input_precision=PRECISION)
        at = rows[:, None] * COUNT + n[None, :]
        mask = live[:, None] & wanted[None, :]
        if KIND == RELU:
            open_ = tl.load(slopes + at, mask=mask, other=0.0) > 0
            one = tl.where(open_, one, 0.0)
            two = tl.where(open_, two, 0.0)
        if KIND > RELU:
            s = tl.load(slopes + at, mask=mask, other=0.0).to(tl.float32)
            c = tl.load(curves + at, mask=mask, other=0.0).to(tl.float32)
            two = s * two + c * one
            one = s * one
        if MORE:
            one += tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
            two += tl.load(gt + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(g + at, one.to(g.dtype.element_ty), mask=mask)
        tl.store(gt + at, two.to(gt.dtype.element_ty), mask=mask)


@triton.jit
def layer_outers(
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
    modules,
    points_a_chunk,
    STEPS: tl.constexpr,
    IN: tl.constexpr,
    FEATURES: tl.constexpr,
    ABOVE: tl.constexpr,
    BELOW: tl.constexpr,
    OUT: tl.constexpr,
    ALONG_X: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A chunk's share of a layer's gradient, float32 [chunks, (ABOVE + BELOW + 1) OUT]: its inputs times e plus their
    tangents times d, and the sums of e behind them. Programs: as `layer_outer`."""
    kind = x.dtype.element_ty
    wide = tl.zeros((), tl.int64)
    above: tl.constexpr = (ABOVE + ROWS - 1) // ROWS
    high: tl.constexpr = above + (BELOW + ROWS - 1) // ROWS
    broad: tl.constexpr = (OUT + COLUMNS - 1) // COLUMNS
    for place in range(tl.program_id(0), tl.load(chunks + modules) * (high * broad), tl.num_programs(0)):
        chunk = place // (high * broad)
        block = (place // broad) % high
        module = module_of(chunks, chunk, modules, STEPS)
        n = (place % broad) * COLUMNS + tl.arange(0, COLUMNS)
        wanted = n < OUT
        begin = tl.load(offsets + module) + (chunk - tl.load(chunks + module)) * (wide + points_a_chunk)
        end = tl.minimum(begin + points_a_chunk, tl.load(offsets + module + 1))
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        bias = tl.zeros((COLUMNS,), tl.float32)
        for point in range(begin, end, DEPTH):
            t = wide + point + tl.arange(0, DEPTH)
            live = t < end
            from_ = t[:, None] * OUT + n[None, :]
            mask = live[:, None] & wanted[None, :]
            two = tl.load(e + from_, mask=mask, other=0.0)
            if block < above:
                i = block * ROWS + tl.arange(0, ROWS)
                mask_h = live[:, None] & (i < ABOVE)[None, :]
                a = tl.load(h + t[:, None] * ABOVE + i[None, :], mask=mask_h, other=0.0)
                at = tl.load(ht + t[:, None] * ABOVE + i[None, :], mask=mask_h, other=0.0)
            else:
                at_first = (block - above) * ROWS
                a, at = encode_both(x, along_x, t, live, table, at_first, IN, FEATURES, ROWS, ALONG_X)
                a = a.to(kind)
                at = at.to(kind)
            total = tl.dot(tl.trans(a), two, total, input_precision=PRECISION)
            if ABOVE > 0 or ALONG_X:
                one = tl.load(d + from_, mask=mask, other=0.0)
                total = tl.dot(tl.trans(at), one, total, input_precision=PRECISION)
            bias += tl.sum(two.to(tl.float32), 0)
        own = sums + (wide + chunk) * ((ABOVE + BELOW + 1) * OUT)
        i = tl.arange(0, ROWS)
        first = tl.where(block < above, block * ROWS, ABOVE + (block - above) * ROWS)
        stop = tl.where(block < above, ABOVE, ABOVE + BELOW)
        to = own + (first + i)[:, None] * OUT + n[None, :]
        tl.store(to, total, mask=(first + i < stop)[:, None] & wanted[None, :])
        tl.store(own + (ABOVE + BELOW) * OUT + n, bias, mask=wanted & (wide + block == 0))
