"""The bank's backward in Triton: activations computed again, gradients of the parameters summed in a fixed order.

A chunk is a run of tiles of one module, cut by the sizes of the problem alone. Its program keeps the chunk's sums in
float32 memory of its own, which stays in the second-level cache; `reduce_chunks` then adds up a module's chunks in
their order. So the bits do not depend on which program ran when, or where.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.encoding import wave_slope
from mclnf_fast.ops.triton.functions import RELU, activate, encode, layer_sums, matrix, module_of, slope
from mclnf_fast.ops.triton.reduce import add_to


@triton.jit
def add_outer(
    sums, h, d, first, rows, more, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr
):
    """Rows first ... first + rows - 1 of a layer's weight gradient: h^T d, added to the sums [.., OUT]."""
    k = tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    # A branch that is always taken: in a region of its own the compiler shares out this product's tile among the warps
    # by itself. Beside the others it takes them for a chain and gives all the tile of one, which repeats the work of
    # those with few rows in every warp.
    if tl.num_programs(0) > 0:
        value = tl.dot(tl.trans(h), d, input_precision=PRECISION)
        mask = (k < rows)[:, None] & (n < OUT)[None, :]
        add_to(sums + (first + k)[:, None] * OUT + n[None, :], value, mask, more)


@triton.jit
def layer_backward(
    at,
    g,
    ge,
    h,
    slopes,
    encoded,
    w,
    module,
    more,
    FIRST: tl.constexpr,
    ABOVE: tl.constexpr,
    BELOW: tl.constexpr,
    OUT: tl.constexpr,
    ABOVE_PAD: tl.constexpr,
    BELOW_PAD: tl.constexpr,
    OUT_PAD: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NEED_X: tl.constexpr,
    NEED_PARAMETERS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One layer: from the gradients g of its sums to its share of the parameters' gradients, in front of `at`, to those
    of the sums of the layer before and to the features' (ge). h, slopes: its inputs and the derivatives that made them;
    FIRST: the inputs are the features. Returns where the share begins, and the two."""
    d = g.to(h.dtype)
    at -= (ABOVE + BELOW + 1) * OUT
    if NEED_PARAMETERS:
        add_outer(at, h, d, 0, ABOVE, more, OUT, ABOVE_PAD, OUT_PAD, PRECISION)
        if BELOW > 0:
            add_outer(at, encoded, d, ABOVE, BELOW, more, OUT, BELOW_PAD, OUT_PAD, PRECISION)
        o = tl.arange(0, OUT_PAD)
        add_to(at + (ABOVE + BELOW) * OUT + o, tl.sum(g, 0), o < OUT, more)
    if BELOW > 0 and NEED_X:
        below = matrix(w, module, ABOVE, BELOW, ABOVE + BELOW, OUT, BELOW_PAD, OUT_PAD)
        ge = tl.dot(d, tl.trans(below), ge, input_precision=PRECISION)
    if FIRST:
        if NEED_X:
            above = matrix(w, module, 0, ABOVE, ABOVE + BELOW, OUT, ABOVE_PAD, OUT_PAD)
            ge = tl.dot(d, tl.trans(above), ge, input_precision=PRECISION)
    else:
        above = matrix(w, module, 0, ABOVE, ABOVE + BELOW, OUT, ABOVE_PAD, OUT_PAD)
        g = tl.dot(d, tl.trans(above), input_precision=PRECISION)
        if ACTIVATION == RELU:
            g = tl.where(h > 0, g, 0.0)
        if ACTIVATION > RELU:
            g = g * slopes
    return at, g, ge


@triton.jit
def fused_backward(
    x,
    grad_y,
    grad_x,
    sums,
    offsets,
    starts,
    chunks,
    table,
    weights,
    biases,
    modules,
    tiles_a_chunk,
    STEPS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    SKIPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    OUTPUT: tl.constexpr,
    W0: tl.constexpr,
    FEATURES_PAD: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    OUT_PAD: tl.constexpr,
    IN_PAD: tl.constexpr,
    PARAMETERS: tl.constexpr,
    NEED_X: tl.constexpr,
    NEED_PARAMETERS: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
    weight=None,
    errors=None,
    LOSS: tl.constexpr = False,
    WEIGHTED: tl.constexpr = False,
):
    """The gradients of <grad_y [N, OUT], f(x)>: grad_x [N, IN], and a chunk's sums [PARAMETERS], layer after layer,
    weights before biases. chunks [modules + 1]: where a module's chunks begin.

    LOSS: those of the squared error weight [N] |f(x) - grad_y|^2, grad_y being its target (WEIGHTED unset: of weight
    1), and in errors [chunks] its sums.
    """
    kind = x.dtype.element_ty
    wide = tl.zeros((), tl.int64)  # turns a loop's variable into an offset beyond 2^31
    for chunk in range(tl.program_id(0), tl.load(chunks + modules), tl.num_programs(0)):
        module = module_of(chunks, chunk, modules, STEPS)
        first = (chunk - tl.load(chunks + module)) * tiles_a_chunk
        tiles = tl.load(starts + module + 1) - tl.load(starts + module)
        own = sums + (wide + chunk) * PARAMETERS
        end = tl.load(offsets + module + 1)
        error = 0.0
        for tile in range(first, tl.minimum(first + tiles_a_chunk, tiles)):
            more = wide + tile > first
            rows = tl.load(offsets + module) + (wide + tile) * ROWS + tl.arange(0, ROWS)
            live = rows < end
            encoded = encode(x, rows, live, table, 0, IN, FEATURES, FEATURES_PAD).to(kind)
            h = encoded
            hs = (encoded,)
            slopes = (0,)
            for l in tl.static_range(LAYERS):
                if l < LAYERS - 1 or OUTPUT != 0 or LOSS:
                    z = layer_sums(
                        h,
                        encoded,
                        weights[l],
                        biases[l],
                        module,
                        FEATURES if l == 0 else WIDTH,
                        FEATURES * ((SKIPS >> l) & 1),
                        OUT if l == LAYERS - 1 else WIDTH,
                        FEATURES_PAD if l == 0 else WIDTH_PAD,
                        FEATURES_PAD,
                        OUT_PAD if l == LAYERS - 1 else WIDTH_PAD,
                        PRECISION,
                    )
                    if l == LAYERS - 1:
                        slopes = slopes + (slope(z, OUTPUT, W0),)
                    else:
                        h = activate(z, ACTIVATION, W0).to(kind)
                        hs = hs + (h,)
                        if ACTIVATION > RELU:  # relu's is read off h
                            slopes = slopes + (slope(z, ACTIVATION, W0),)
                        else:
                            slopes = slopes + (0,)
            n = tl.arange(0, OUT_PAD)
            mask = live[:, None] & (n < OUT)[None, :]
            g = tl.load(grad_y + rows[:, None] * OUT + n[None, :], mask=mask, other=0.0).to(tl.float32)
            if LOSS:
                g = tl.where(mask, activate(z, OUTPUT, W0).to(kind).to(tl.float32) - g, 0.0)
                share = g
                if WEIGHTED:
                    share = g * tl.load(weight + rows, mask=live, other=0.0).to(tl.float32)[:, None]
                error += tl.sum(share * g)
                g = 2.0 * share
            if OUTPUT != 0:
                g = tl.where(mask, g * slopes[LAYERS], 0.0)
            ge = tl.zeros((ROWS, FEATURES_PAD), tl.float32)
            at = own + PARAMETERS
            for back in tl.static_range(LAYERS):
                at, g, ge = layer_backward(
                    at,
                    g,
                    ge,
                    hs[LAYERS - 1 - back],
                    slopes[LAYERS - 1 - back],
                    encoded,
                    weights[LAYERS - 1 - back],
                    module,
                    more,
                    back == LAYERS - 1,
                    FEATURES if back == LAYERS - 1 else WIDTH,
                    FEATURES * ((SKIPS >> (LAYERS - 1 - back)) & 1),
                    OUT if back == 0 else WIDTH,
                    FEATURES_PAD if back == LAYERS - 1 else WIDTH_PAD,
                    FEATURES_PAD,
                    OUT_PAD if back == 0 else WIDTH_PAD,
                    ACTIVATION,
                    NEED_X,
                    NEED_PARAMETERS,
                    PRECISION,
                )
            if NEED_X:
                encode_backward(x, grad_x, ge, rows, live, table, IN, FEATURES, FEATURES_PAD, IN_PAD)
            tl.debug_barrier()  # the next tile's sums are read by other threads than those that wrote them
        if LOSS:
            tl.store(errors + chunk, error)


@triton.jit
def encode_backward(
    x,
    grad_x,
    ge,
    rows,
    live,
    table,
    IN: tl.constexpr,
    FEATURES: tl.constexpr,
    COLUMNS: tl.constexpr,
    IN_PAD: tl.constexpr,
):
    """grad_x [.., IN] = the gradients ge [ROWS, COLUMNS] of the features, through the encoding."""
    c = tl.arange(0, COLUMNS)
    there = c < FEATURES
    dim = tl.load(table + c, mask=there, other=0.0).to(tl.int32)
    frequency = tl.load(table + FEATURES + c, mask=there, other=0.0)[None, :]
    half = tl.load(table + 2 * FEATURES + c, mask=there, other=0.0)[None, :]
    mask = live[:, None] & there[None, :]
    v = tl.load(x + rows[:, None] * IN + dim[None, :], mask=mask, other=0.0).to(tl.float32)
    g = tl.where(mask, ge * wave_slope(v, frequency, half), 0.0)
    i = tl.arange(0, IN_PAD)
    pick = tl.where((dim[:, None] == i[None, :]) & there[:, None], 1.0, 0.0)
    total = tl.dot(g, pick, input_precision="ieee")
    to = grad_x + rows[:, None] * IN + i[None, :]
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=live[:, None] & (i < IN)[None, :])
