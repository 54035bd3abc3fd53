"""Fisher scores in Triton, a layer at a time: per point by the identity of an outer product's square, per segment of
points (a ray's share of a module) with the segment's gradient formed in registers. Nothing of size samples x parameters
is stored; squares are taken of float32 sums.

What binds: per point the matrix products, one more than a backward's two a layer; per segment the products too, as many
as a weight gradient's, while a segment has tens of points.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.bank_mlp.triton.functions import encode, module_of, tile_of


@triton.jit
def inverse(f, damping, mask):
    """1 / (f + damping); 0 where that is 0, and beyond the mask."""
    sum = tl.load(f, mask=mask, other=0.0) + damping
    return tl.where(mask & (sum > 0), 1.0 / tl.where(sum > 0, sum, 1.0), 0.0)


@triton.jit
def layer_inputs(
    h, x, rows, live, table, first, IN: tl.constexpr, FEATURES: tl.constexpr, ABOVE: tl.constexpr, COLUMNS: tl.constexpr
):
    """Inputs first ... of a layer, [rows, COLUMNS]: the ABOVE ones of the layer before, filled up to a multiple of
    COLUMNS, then the features."""
    padded: tl.constexpr = (ABOVE + COLUMNS - 1) // COLUMNS * COLUMNS
    if first < padded:
        i = first + tl.arange(0, COLUMNS)
        a = tl.load(h + rows[:, None] * ABOVE + i[None, :], mask=live[:, None] & (i < ABOVE)[None, :], other=0.0)
    else:
        a = encode(x, rows, live, table, first - padded, IN, FEATURES, COLUMNS)
        # The features of a row that is none are not 0 (cosines), and their squares count.
        a = tl.where(live[:, None], a, 0.0)
    return a


@triton.jit
def row_of(first, i, ABOVE: tl.constexpr, BELOW: tl.constexpr, COLUMNS: tl.constexpr):
    """The rows of the weights that belong to `layer_inputs`, and which of them there are."""
    padded: tl.constexpr = (ABOVE + COLUMNS - 1) // COLUMNS * COLUMNS
    above = first < padded
    row = tl.where(above, first, ABOVE + first - padded) + i
    return row, row < tl.where(above, ABOVE, ABOVE + BELOW)


@triton.jit
def point_scores(
    h,
    x,
    d,
    scores,
    inverse_w,
    inverse_b,
    offsets,
    starts,
    table,
    damping,
    modules,
    STEPS: tl.constexpr,
    IN: tl.constexpr,
    FEATURES: tl.constexpr,
    ABOVE: tl.constexpr,
    BELOW: tl.constexpr,
    OUT: tl.constexpr,
    MORE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """scores [N] (+)= a layer's share of every point's own: sum over its parameters of (d a^T)^2 / (F + damping).

    Programs: tiles of points, each with all blocks of the layer, so that a point's score is added up in one order.
    inverse_w, inverse_b: the diagonal Fisher F of the layer's weights and biases.
    """
    for tile in range(tl.program_id(0), tl.load(starts + modules), tl.num_programs(0)):
        module, rows, live = tile_of(offsets, starts, tile, modules, STEPS, ROWS)
        f = inverse_w + module.to(tl.int64) * ((ABOVE + BELOW) * OUT)
        total = tl.zeros((ROWS,), tl.float32)
        padded: tl.constexpr = (ABOVE + COLUMNS - 1) // COLUMNS * COLUMNS
        for first in range(0, padded + BELOW, COLUMNS):
            row, there = row_of(first, tl.arange(0, COLUMNS), ABOVE, BELOW, COLUMNS)
            a = layer_inputs(h, x, rows, live, table, first, IN, FEATURES, ABOVE, COLUMNS)
            q = tl.zeros((ROWS, COLUMNS), tl.float32)
            for out in range(0, OUT, DEPTH):
                o = out + tl.arange(0, DEPTH)
                e = tl.load(d + rows[:, None] * OUT + o[None, :], mask=live[:, None] & (o < OUT)[None, :], other=0.0)
                g = inverse(f + row[None, :] * OUT + o[:, None], damping, (o < OUT)[:, None] & there[None, :])
                q = tl.dot(e * e, g, q, input_precision=PRECISION)
            total += tl.sum(q * a * a, 1)
        for out in range(0, OUT, DEPTH):
            o = out + tl.arange(0, DEPTH)
            e = tl.load(d + rows[:, None] * OUT + o[None, :], mask=live[:, None] & (o < OUT)[None, :], other=0.0)
            g = inverse(inverse_b + module.to(tl.int64) * OUT + o, damping, o < OUT)
            total += tl.sum(e * e * g[None, :], 1)
        if MORE:
            total += tl.load(scores + rows, mask=live, other=0.0)
        tl.store(scores + rows, total, mask=live)


@triton.jit
def sample_sums(
    h,
    x,
    d,
    scores,
    sums,
    squares,
    inverse_w,
    inverse_b,
    offsets,
    segments,
    owned,
    chunks,
    table,
    damping,
    modules,
    samples_a_chunk,
    STEPS: tl.constexpr,
    IN: tl.constexpr,
    FEATURES: tl.constexpr,
    ABOVE: tl.constexpr,
    BELOW: tl.constexpr,
    OUT: tl.constexpr,
    POINTS: tl.constexpr,
    SCORED: tl.constexpr,
    SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A chunk of one module's samples: the sums over it of their gradients and of those squared, float32 [chunks,
    (ABOVE + BELOW + 1) OUT], and with SCORED every sample's score, [blocks, samples], a block's share each.

    POINTS: every point is a sample, whose squares are products of squares; else sample s has the points segments[s] ...
    segments[s + 1] - 1, at least one, and its gradient is formed before it is squared. owned [modules + 1]: the first
    sample of each module.

    Programs: chunks times blocks of [ROWS inputs, COLUMNS outputs], the biases behind the first ones.
    """
    wide = tl.zeros((), tl.int64)
    padded: tl.constexpr = (ABOVE + ROWS - 1) // ROWS * ROWS
    high: tl.constexpr = padded // ROWS + (BELOW + ROWS - 1) // ROWS
    broad: tl.constexpr = (OUT + COLUMNS - 1) // COLUMNS
    size: tl.constexpr = (ABOVE + BELOW + 1) * OUT
    for place in range(tl.program_id(0), tl.load(chunks + modules) * (high * broad), tl.num_programs(0)):
        chunk = place // (high * broad)
        block = place % (high * broad)
        module = module_of(chunks, chunk, modules, STEPS)
        first = (block // broad) * ROWS
        n = (block % broad) * COLUMNS + tl.arange(0, COLUMNS)
        wanted = n < OUT
        row, there = row_of(first, tl.arange(0, ROWS), ABOVE, BELOW, ROWS)
        mask = there[:, None] & wanted[None, :]
        begin = tl.load(owned + module) + (chunk - tl.load(chunks + module)) * (wide + samples_a_chunk)
        end = tl.minimum(begin + samples_a_chunk, tl.load(owned + module + 1))
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        square = tl.zeros((ROWS, COLUMNS), tl.float32)
        bias = tl.zeros((COLUMNS,), tl.float32)
        bias_square = tl.zeros((COLUMNS,), tl.float32)
        if POINTS:
            for point in range(begin, end, DEPTH):
                t = wide + point + tl.arange(0, DEPTH)
                live = t < end
                e = tl.load(d + t[:, None] * OUT + n[None, :], mask=live[:, None] & wanted[None, :], other=0.0)
                a = layer_inputs(h, x, t, live, table, first, IN, FEATURES, ABOVE, ROWS)
                total = tl.dot(tl.trans(a), e, total, input_precision=PRECISION)
                square = tl.dot(tl.trans(a * a), e * e, square, input_precision=PRECISION)
                bias += tl.sum(e, 0)
                bias_square += tl.sum(e * e, 0)
        else:
            if SCORED:
                at = module.to(tl.int64) * ((ABOVE + BELOW) * OUT) + row[:, None] * OUT + n[None, :]
                weight = inverse(inverse_w + at, damping, mask)
                own = wanted & (wide + first == 0)
                bias_weight = inverse(inverse_b + module.to(tl.int64) * OUT + n, damping, own)
            for s in range(begin, end):
                g = tl.zeros((ROWS, COLUMNS), tl.float32)
                c = tl.zeros((COLUMNS,), tl.float32)
                stop = tl.load(segments + s + 1)
                for point in range(tl.load(segments + s), stop, DEPTH):
                    t = wide + point + tl.arange(0, DEPTH)
                    live = t < stop
                    e = tl.load(d + t[:, None] * OUT + n[None, :], mask=live[:, None] & wanted[None, :], other=0.0)
                    a = layer_inputs(h, x, t, live, table, first, IN, FEATURES, ABOVE, ROWS)
                    g = tl.dot(tl.trans(a), e, g, input_precision=PRECISION)
                    c += tl.sum(e, 0)
                if SUMS:
                    total += g
                    square += g * g
                    bias += c
                    bias_square += c * c
                if SCORED:
                    share = tl.sum(g * g * weight) + tl.sum(c * c * bias_weight, 0)
                    tl.store(scores + (wide + block) * tl.load(owned + modules) + s, share)
        if SUMS:
            to = (wide + chunk) * size + row[:, None] * OUT + n[None, :]
            tl.store(sums + to, total, mask=mask)
            tl.store(squares + to, square, mask=mask)
            last = (wide + chunk) * size + (ABOVE + BELOW) * OUT + n
            tl.store(sums + last, bias, mask=wanted & (wide + first == 0))
            tl.store(squares + last, bias_square, mask=wanted & (wide + first == 0))
