"""The walk of the Fisher scores in Triton: a tile of points goes forward and back once, and the outputs of the hidden
layers and the gradients of all layers' sums go to memory, where `kernels.sample_sums` reads them once.

No sum of the size of the parameters is touched here, so tiles are large and few values are held at a time, whatever the
depth: where the bank's backward reads and writes its sums once a tile, 5 KB a point of width 64 and 4 hidden layers,
this is 1.1 KB written here and as much read there.

What binds: those bytes, and close behind them the matrix products of a forward and of a backward to the activations.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.functions import RELU, activate, encode, layer_sums, matrix, slope, tile_of


@triton.jit
def put(to, rows, value, live, COUNT: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows of a matrix in memory, COUNT columns and STRIDE apart, from value [ROWS, COLUMNS]."""
    n = tl.arange(0, COLUMNS)
    at = to + rows[:, None] * STRIDE + n[None, :]
    tl.store(at, value.to(to.dtype.element_ty), mask=live[:, None] & (n < COUNT)[None, :])


@triton.jit
def get(source, rows, live, COUNT: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """What `put` has put; 0 elsewhere."""
    n = tl.arange(0, COLUMNS)
    at = source + rows[:, None] * STRIDE + n[None, :]
    return tl.load(at, mask=live[:, None] & (n < COUNT)[None, :], other=0.0)


@triton.jit
def layer_before(
    g,
    w,
    kept,
    slopes,
    rows,
    own,
    live,
    module,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    INPUTS: tl.constexpr,
    OUT: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    OUT_PAD: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of the sums of the layer before, whose outputs are kept: a'(z) (g W^T)."""
    above = matrix(w, module, 0, WIDTH, INPUTS, OUT, WIDTH_PAD, OUT_PAD)
    g = tl.dot(g.to(above.dtype), tl.trans(above), input_precision=PRECISION)
    if ACTIVATION == RELU:
        g = tl.where(get(kept, rows, live, WIDTH, STRIDE, WIDTH_PAD) > 0, g, 0.0)
    if ACTIVATION > RELU:
        g = g * get(slopes, own, live, WIDTH, STRIDE, WIDTH_PAD).to(tl.float32)
    return g


@triton.jit
def fused_walk(
    x,
    grad_y,
    kept,
    slopes,
    gradients,
    offsets,
    starts,
    table,
    weights,
    biases,
    modules,
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
    WIDTH_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """kept, LAYERS - 1 times [N, WIDTH]: the outputs of the hidden layers. gradients, LAYERS times [N, out]: those of
    all layers' sums, of <grad_y [N, OUT], f(x)>. Rows lie WIDTH_STRIDE apart, the last gradients' OUT_STRIDE.

    slopes, LAYERS - 1 times [.., WIDTH], ROWS rows a program: its own memory for the derivatives of the activations
    (relu's are read off kept).
    """
    kind = x.dtype.element_ty
    wide = tl.zeros((), tl.int64)  # turns a loop's variable into an offset beyond 2^31
    for tile in range(tl.program_id(0), tl.load(starts + modules), tl.num_programs(0)):
        module, rows, live = tile_of(offsets, starts, tile, modules, STEPS, ROWS)
        own = (wide + tl.program_id(0)) * ROWS + tl.arange(0, ROWS)
        encoded = encode(x, rows, live, table, 0, IN, FEATURES, FEATURES_PAD).to(kind)
        n = tl.arange(0, OUT_PAD)
        mask = live[:, None] & (n < OUT)[None, :]
        g = tl.load(grad_y + rows[:, None] * OUT + n[None, :], mask=mask, other=0.0).to(tl.float32)
        h = encoded
        for l in tl.static_range(LAYERS):
            if l < LAYERS - 1 or OUTPUT != 0:
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
                    g = tl.where(mask, g * slope(z, OUTPUT, W0), 0.0)
                else:
                    h = activate(z, ACTIVATION, W0).to(kind)
                    put(kept[l], rows, h, live, WIDTH, WIDTH_STRIDE, WIDTH_PAD)
                    if ACTIVATION > RELU:
                        put(slopes[l], own, slope(z, ACTIVATION, W0), live, WIDTH, WIDTH_STRIDE, WIDTH_PAD)
        tl.debug_barrier()  # what is read back now was written by other threads
        for back in tl.static_range(LAYERS):
            put(
                gradients[LAYERS - 1 - back],
                rows,
                g,
                live,
                OUT if back == 0 else WIDTH,
                OUT_STRIDE if back == 0 else WIDTH_STRIDE,
                OUT_PAD if back == 0 else WIDTH_PAD,
            )
            if back < LAYERS - 1:
                g = layer_before(
                    g,
                    weights[LAYERS - 1 - back],
                    kept[LAYERS - 2 - back],
                    slopes[LAYERS - 2 - back],
                    rows,
                    own,
                    live,
                    module,
                    WIDTH,
                    WIDTH_STRIDE,
                    WIDTH + FEATURES * ((SKIPS >> (LAYERS - 1 - back)) & 1),
                    OUT if back == 0 else WIDTH,
                    WIDTH_PAD,
                    OUT_PAD if back == 0 else WIDTH_PAD,
                    ACTIVATION,
                    PRECISION,
                )
        tl.debug_barrier()  # and the slopes are overwritten by the next tile
