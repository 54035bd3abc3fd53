"""The sums of the Fisher scores in Triton, one launch per layer: its inputs and the gradients of its pre-activations
are read once, for the samples' gradients, their squares and their scores. Nothing of size samples x parameters is
stored.

A sample is a point, whose squares are products of squares and whose score is a matrix product more; or a segment of
points (a ray's share of a module), whose gradient is formed in registers before it is squared in float32.

Bounds (H200): if each point is a sample, memory, then three matrix products of the layer's size. With segments of K
points the four operations per parameter and sample outside the matrix instructions, for K below about 70; then those.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.functions import encode, module_of, size_of
from mclnf_fast.ops.triton.products import input_product, rounded


@triton.jit
def inverse(f, damping, mask):
    """Return 1 / (f + damping); 0 where that is 0, and beyond the mask."""
    damped = tl.load(f, mask=mask, other=0.0).to(tl.float32) + damping
    return tl.where(mask & (damped > 0), 1.0 / tl.where(damped > 0, damped, 1.0), 0.0)


@triton.jit
def square(v):
    """Return v^2 as a matrix product takes it, formed in float32.

    Of bfloat16 values it is rounded to bfloat16, which has float32's range: nothing underflows that would not there,
    and the rounding is half of what v itself carries. Of float16 values it stays float32, multiplied as tf32: as many
    bits, and the range again.
    """
    wide = v.to(tl.float32)
    return (wide * wide).to(tl.bfloat16) if v.dtype == tl.bfloat16 else wide * wide


@triton.jit
def live_features(
    x, rows, live, table, first, IN, FEATURES, COLUMNS: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr
):
    """Return `encode` with zeros in the rows that do not exist: their cosines are not 0, and the squares would
    count."""
    a = encode(x, rows, live, table, first, IN, FEATURES, COLUMNS, KIND, PRECISION)
    return tl.where(live[:, None], a, 0.0)


@triton.jit
def live_outputs(h, rows, live, first, COUNT, STRIDE, COLUMNS: tl.constexpr, PRECISION: tl.constexpr):
    """Return columns first ... of the outputs h of the layer before, rows STRIDE apart, with zeros beyond COUNT."""
    i = first + tl.arange(0, COLUMNS)
    mask = live[:, None] & (i < COUNT)[None, :]
    return rounded(tl.load(h + rows[:, None] * STRIDE + i[None, :], mask=mask, other=0.0), PRECISION)


@triton.jit
def layer_inputs(
    h,
    x,
    rows,
    live,
    table,
    first,
    IN,
    FEATURES,
    ABOVE,
    STRIDE,
    LAYER: tl.constexpr,
    COLUMNS: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return inputs first ... of a layer, [rows, COLUMNS]: the ABOVE ones of the layer before, filled up to a multiple
    of COLUMNS, then the features. float32 if the layer may take features, for `input_product`."""
    padded = (ABOVE + COLUMNS - 1) // COLUMNS * COLUMNS
    if LAYER.below == 0:
        a = live_outputs(h, rows, live, first, ABOVE, STRIDE, COLUMNS, PRECISION)
    elif LAYER.above == 0:
        a = live_features(x, rows, live, table, first, IN, FEATURES, COLUMNS, KIND, PRECISION)
    else:
        if first < padded:
            a = live_outputs(h, rows, live, first, ABOVE, STRIDE, COLUMNS, PRECISION).to(tl.float32)
        else:
            a = live_features(x, rows, live, table, first - padded, IN, FEATURES, COLUMNS, KIND, PRECISION)
    return a


@triton.jit
def weight_gradient(a, e, total, FEATURES: tl.constexpr, PRECISION: tl.constexpr):
    """Return total + a^T e of a layer's inputs a; FEATURES: features may be among them."""
    e = rounded(e, PRECISION)
    if FEATURES:
        total = input_product(tl.trans(a), e, total, PRECISION)
    else:
        total = tl.dot(tl.trans(a), e, total, input_precision=PRECISION)
    return total


@triton.jit
def row_of(first, i, ABOVE, BELOW, COLUMNS: tl.constexpr):
    """Return the rows of the weights that belong to `layer_inputs`, and which of them exist."""
    padded = (ABOVE + COLUMNS - 1) // COLUMNS * COLUMNS
    above = first < padded
    row = tl.where(above, first, ABOVE + first - padded) + i
    return row, row < tl.where(above, ABOVE, ABOVE + BELOW)


@triton.jit(
    do_not_specialize=[
        "modules",
        "samples_per_chunk",
        "coordinates",
        "features",
        "above",
        "below",
        "outputs",
        "h_stride",
        "d_stride",
    ],
    do_not_specialize_on_alignment=["scores"],  # a layer's share of them begins anywhere
)
def sample_sums(
    h,
    x,
    d,
    scores,
    sums,
    squares,
    fisher_w,
    fisher_b,
    segments,
    owned,
    chunks,
    table,
    w,
    damping,
    modules,
    samples_per_chunk,
    coordinates,
    features,
    above,
    below,
    outputs,
    h_stride,
    d_stride,
    LAYER: tl.constexpr,
    STRIDES: tl.constexpr,
    POINTS: tl.constexpr,
    SCORED: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store the sums of a chunk of one module's samples.

    With SUMS those of their gradients and of those squared, float32 [chunks, (above + below + 1) outputs] each; with
    SCORED every sample's score by the Fisher (fisher_w, fisher_b), float32 [blocks, samples], a block's share each.

    h [N, above], d [N, outputs]: rows h_stride and d_stride apart (STRIDES, if the kernel is compiled for them); h as
    in `layer_forward`, w gives its type alone. POINTS: every point is a sample; else sample s has the points
    segments[s] ... segments[s + 1] - 1, at least one. owned [modules + 1]: the first sample of each module. PRECISION:
    how float32 is multiplied.

    Programs: chunks times blocks of [rows inputs, columns outputs], the biases behind the first ones; the blocks of a
    chunk next to each other, so that the caches hold its inputs.
    """
    IN = size_of(coordinates, LAYER.coordinates)
    FEATURES = size_of(features, LAYER.features)
    ABOVE = size_of(above, LAYER.above, LAYER.multiple)
    BELOW = size_of(below, LAYER.below)
    OUT = size_of(outputs, LAYER.outputs, LAYER.multiple)
    H_STRIDE = size_of(h_stride, STRIDES[0], LAYER.multiple)
    D_STRIDE = size_of(d_stride, STRIDES[1], LAYER.multiple)
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    kind: tl.constexpr = h.dtype.element_ty
    multiplied: tl.constexpr = w.dtype.element_ty
    wide = tl.zeros((), tl.int64)
    high = (ABOVE + ROWS - 1) // ROWS + (BELOW + ROWS - 1) // ROWS
    broad = (OUT + COLUMNS - 1) // COLUMNS
    size = (ABOVE + BELOW + 1) * OUT
    for place in range(tl.program_id(0), tl.load(chunks + modules) * (high * broad), tl.num_programs(0)):
        chunk = place // (high * broad)
        block = place % (high * broad)
        module = module_of(chunks, chunk, modules)
        first = (block // broad) * ROWS
        n = (block % broad) * COLUMNS + tl.arange(0, COLUMNS)
        wanted = n < OUT
        row, exists = row_of(first, tl.arange(0, ROWS), ABOVE, BELOW, ROWS)
        mask = exists[:, None] & wanted[None, :]
        begin = tl.load(owned + module) + (chunk - tl.load(chunks + module)) * (wide + samples_per_chunk)
        end = tl.minimum(begin + samples_per_chunk, tl.load(owned + module + 1))
        shares = scores + (wide + block) * tl.load(owned + modules)
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        square_total = tl.zeros((ROWS, COLUMNS), tl.float32)
        bias = tl.zeros((COLUMNS,), tl.float32)
        bias_square = tl.zeros((COLUMNS,), tl.float32)
        if SCORED:
            place_w = module.to(tl.int64) * ((ABOVE + BELOW) * OUT) + row[:, None] * OUT + n[None, :]
            weight = inverse(fisher_w + place_w, damping, mask)
            last = wanted & (wide + first == 0)
            operand = rounded(weight.to(tl.bfloat16 if multiplied == tl.bfloat16 else tl.float32), PRECISION)
            bias_weight = inverse(fisher_b + module.to(tl.int64) * OUT + n, damping, last)
        if POINTS:
            for point in range(begin, end, DEPTH):
                t = wide + point + tl.arange(0, DEPTH)
                live = t < end
                e = tl.load(d + t[:, None] * D_STRIDE + n[None, :], mask=live[:, None] & wanted[None, :], other=0.0)
                a = layer_inputs(
                    h, x, t, live, table, first, IN, FEATURES, ABOVE, H_STRIDE, LAYER, ROWS, kind, PRECISION
                )
                e_square = rounded(square(e.to(multiplied)), PRECISION)
                e_wide = e.to(tl.float32)
                if SUMS:
                    total = weight_gradient(a, e.to(multiplied), total, LAYER.below != 0, PRECISION)
                    a_square = rounded(square(a).to(e_square.dtype), PRECISION)
                    square_total = tl.dot(tl.trans(a_square), e_square, square_total, input_precision=PRECISION)
                    bias += tl.sum(e_wide, 0)
                    bias_square += tl.sum(e_wide * e_wide, 0)
                if SCORED:
                    q = tl.dot(e_square, tl.trans(operand), input_precision=PRECISION)
                    a_wide = a.to(tl.float32)
                    share = tl.sum(q * a_wide * a_wide, 1) + tl.sum(e_wide * e_wide * bias_weight[None, :], 1)
                    tl.store(shares + t, share, mask=live)
        else:
            for s in range(begin, end):
                g = tl.zeros((ROWS, COLUMNS), tl.float32)
                c = tl.zeros((COLUMNS,), tl.float32)
                stop = tl.load(segments + s + 1)
                for point in range(tl.load(segments + s), stop, DEPTH):
                    t = wide + point + tl.arange(0, DEPTH)
                    live = t < stop
                    e = tl.load(d + t[:, None] * D_STRIDE + n[None, :], mask=live[:, None] & wanted[None, :], other=0.0)
                    a = layer_inputs(
                        h, x, t, live, table, first, IN, FEATURES, ABOVE, H_STRIDE, LAYER, ROWS, kind, PRECISION
                    )
                    g = weight_gradient(a, e.to(multiplied), g, LAYER.below != 0, PRECISION)
                    c += tl.sum(e.to(tl.float32), 0)
                if SUMS:
                    total += g
                    square_total += g * g
                    bias += c
                    bias_square += c * c
                if SCORED:
                    share = tl.sum(g * g * weight) + tl.sum(c * c * bias_weight, 0)
                    tl.store(shares + s, share)
        if SUMS:
            to = (wide + chunk) * size + row[:, None] * OUT + n[None, :]
            tl.store(sums + to, total, mask=mask)
            tl.store(squares + to, square_total, mask=mask)
            to_bias = (wide + chunk) * size + (ABOVE + BELOW) * OUT + n
            tl.store(sums + to_bias, bias, mask=wanted & (wide + first == 0))
            tl.store(squares + to_bias, bias_square, mask=wanted & (wide + first == 0))


@triton.jit(do_not_specialize=["modules", "size", "outputs", "scaled"])
def reduce_samples(
    sums,
    squares,
    chunks,
    owned,
    scale,
    grad_w,
    grad_b,
    mean_w,
    mean_b,
    modules,
    size,
    outputs,
    scaled,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store a layer's gradients, of weights [modules, size - outputs] and biases [modules, outputs], and the means of
    the squares over a module's samples, from the chunks' sums [chunks, size]: in their order, CHUNKS at a time. scaled:
    of values that were `scale` [1] times too large."""
    blocks = (size + BLOCK - 1) // BLOCK
    wide = tl.zeros((), tl.int64)
    for place in range(tl.program_id(0), modules * blocks, tl.num_programs(0)):
        module = place // blocks
        i = (place % blocks) * BLOCK + tl.arange(0, BLOCK)
        c = tl.arange(0, CHUNKS)
        total = tl.zeros((BLOCK,), tl.float32)
        mean = tl.zeros((BLOCK,), tl.float32)
        end = tl.load(chunks + module + 1)
        for chunk in range(tl.load(chunks + module), end, CHUNKS):
            place_c = (wide + chunk + c)[:, None] * size + i[None, :]
            mask = (chunk + c < end)[:, None] & (i < size)[None, :]
            total += tl.sum(tl.load(sums + place_c, mask=mask, other=0.0), 0)
            mean += tl.sum(tl.load(squares + place_c, mask=mask, other=0.0), 0)
        factor = 1.0 / tl.load(scale, mask=scaled > 0, other=1.0)
        total *= factor
        mean = mean * factor * factor
        samples = tl.load(owned + module + 1) - tl.load(owned + module)
        mean = mean / tl.maximum(samples, 1).to(tl.float32)
        to_w = (wide + module) * (size - outputs) + i
        to_b = (wide + module) * outputs + i - (size - outputs)
        is_w = i < size - outputs
        is_b = (i < size) & (i >= size - outputs)
        kind = grad_w.dtype.element_ty
        tl.store(grad_w + to_w, total.to(kind), mask=is_w)
        tl.store(grad_b + to_b, total.to(kind), mask=is_b)
        tl.store(mean_w + to_w, mean.to(mean_w.dtype.element_ty), mask=is_w)
        tl.store(mean_b + to_b, mean.to(mean_w.dtype.element_ty), mask=is_b)
