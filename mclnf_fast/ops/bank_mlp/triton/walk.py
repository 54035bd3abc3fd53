"""The walk of a training step and of the Fisher scores in Triton: a tile of points goes forward and back once, and the
outputs of the hidden layers and the gradients of all layers' pre-activations go to memory, where the kernels that sum
over points (`layer_weight_gradient`, `sample_sums`) read them once.

No sum of the size of the parameters is touched here, so tiles are large and few values are live at a time, whatever the
depth: where `fused_backward` reads and writes its sums once per tile, 5 KB per point of width 64 and 4 hidden layers,
this writes 1.1 KB and the sums, which stay in registers over all tiles of a chunk, read as much.

Memory-bound (estimated), and close behind that by the matrix products of a forward and of a backward to the
activations.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.functions import (
    NONE,
    RELU,
    activate,
    encode_in_blocks,
    first_derivative,
    next_inputs,
    tile_of,
)
from mclnf_fast.ops.triton.products import layer_pre_activations, matrix, rounded


@triton.jit
def put(to, rows, value, live, COUNT: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """Store value [ROWS, COLUMNS] as rows of a matrix in memory, COUNT columns and STRIDE apart."""
    n = tl.arange(0, COLUMNS)
    address = to + rows[:, None] * STRIDE + n[None, :]
    tl.store(address, value.to(to.dtype.element_ty), mask=live[:, None] & (n < COUNT)[None, :])


@triton.jit
def get(source, rows, live, COUNT: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the values that `put` has stored; 0 elsewhere."""
    n = tl.arange(0, COLUMNS)
    address = source + rows[:, None] * STRIDE + n[None, :]
    return tl.load(address, mask=live[:, None] & (n < COUNT)[None, :], other=0.0)


@triton.jit
def layer_before(
    g,
    w,
    saved,
    derivatives,
    rows,
    live,
    module,
    NET: tl.constexpr,
    LAYER: tl.constexpr,
    STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the gradients of the pre-activations of the layer before LAYER, whose outputs are saved: a'(z) (g W^T)."""
    inputs: tl.constexpr = NET.width + NET.features * ((NET.skips >> LAYER) & 1)
    outputs: tl.constexpr = NET.outputs if NET.layers - 1 == LAYER else NET.width
    outputs_pad: tl.constexpr = NET.outputs_pad if NET.layers - 1 == LAYER else NET.width_pad
    above = matrix(w, module, 0, NET.width, inputs, outputs, NET.width_pad, outputs_pad, PRECISION)
    g = tl.dot(rounded(g.to(above.dtype), PRECISION), tl.trans(above), input_precision=PRECISION)
    if NET.activation == RELU:
        g = tl.where(get(saved, rows, live, NET.width, STRIDE, NET.width_pad) > 0, g, 0.0)
    if NET.activation > RELU:
        g = g * get(derivatives, rows, live, NET.width, STRIDE, NET.width_pad).to(tl.float32)
    return g


@triton.jit(do_not_specialize=["modules"])
def fused_walk(
    x,
    grad_y,
    saved,
    derivatives,
    gradients,
    offsets,
    starts,
    table,
    weights,
    biases,
    modules,
    NET: tl.constexpr,
    WIDTH_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
    weight=None,
    errors=None,
    LOSS: tl.constexpr = False,
    WEIGHTED: tl.constexpr = False,
):
    """Store the hidden layers' outputs and the gradients of all layers' pre-activations of <grad_y [N, outputs], f(x)>.

    LOSS: those of the squared error weight [N] |f(x) - grad_y|^2, grad_y being its target (WEIGHTED unset: of weight
    1), and in errors [tiles] its sums.

    saved: layers - 1 times [N, width], the outputs. gradients: layers times [N, out]. Rows lie WIDTH_STRIDE apart, the
    last gradients' OUT_STRIDE. derivatives: layers - 1 times [.., width], ROWS rows per program: memory of its own for
    the derivatives of the activations (relu's are read off `saved`).
    """
    kind: tl.constexpr = weights[NET.layers - 1].dtype.element_ty
    LAYERS: tl.constexpr = NET.layers
    wide = tl.zeros((), tl.int64)  # turns a loop's variable into an offset beyond 2^31
    for tile in range(tl.program_id(0), tl.load(starts + modules), tl.num_programs(0)):
        module, begin, rows, live = tile_of(offsets, starts, tile, modules, ROWS)
        own = (wide + tl.program_id(0)) * ROWS
        points = x + begin * NET.coordinates
        encoded = encode_in_blocks(points, rows, live, table, NET, kind, PRECISION)
        n = tl.arange(0, NET.outputs_pad)
        mask = live[:, None] & (n < NET.outputs)[None, :]
        h = 0
        z = 0
        for l in tl.static_range(LAYERS):
            if l < LAYERS - 1 or NET.output_activation != NONE or LOSS:
                if kind != tl.float32 and l > 0 and (NET.skips >> l) & 1:  # as in `fused_forward`
                    encoded = encode_in_blocks(points, rows, live, table, NET, kind, PRECISION)
                z = layer_pre_activations(h, encoded, weights[l], biases[l], module, NET, l, PRECISION)
                if l < LAYERS - 1:
                    h = next_inputs(z, NET.activation, NET.w0, kind, PRECISION)
                    put(saved[l] + begin * WIDTH_STRIDE, rows, h, live, NET.width, WIDTH_STRIDE, NET.width_pad)
                    if NET.activation > RELU:
                        derivative = first_derivative(z, NET.activation, NET.w0)
                        put(
                            derivatives[l] + own * WIDTH_STRIDE,
                            rows,
                            derivative,
                            live,
                            NET.width,
                            WIDTH_STRIDE,
                            NET.width_pad,
                        )
        to = begin * NET.outputs + rows[:, None] * NET.outputs + n[None, :]
        g = tl.load(grad_y + to, mask=mask, other=0.0).to(tl.float32)
        if LOSS:
            g = tl.where(mask, activate(z, NET.output_activation, NET.w0) - g, 0.0)
            weighted = g
            if WEIGHTED:
                weighted = g * tl.load(weight + begin + rows, mask=live, other=0.0)[:, None]
            tl.store(errors + tile, tl.sum(weighted * g))
            g = 2.0 * weighted
        if NET.output_activation != NONE:
            g = tl.where(mask, g * first_derivative(z, NET.output_activation, NET.w0), 0.0)
        tl.debug_barrier()  # other threads wrote the values that are read back now
        for back in tl.static_range(LAYERS):
            put(
                gradients[LAYERS - 1 - back] + begin * (OUT_STRIDE if back == 0 else WIDTH_STRIDE),
                rows,
                g,
                live,
                NET.outputs if back == 0 else NET.width,
                OUT_STRIDE if back == 0 else WIDTH_STRIDE,
                NET.outputs_pad if back == 0 else NET.width_pad,
            )
            if back < LAYERS - 1:
                g = layer_before(
                    g,
                    weights[LAYERS - 1 - back],
                    saved[LAYERS - 2 - back] + begin * WIDTH_STRIDE,
                    derivatives[LAYERS - 2 - back] + own * WIDTH_STRIDE,
                    rows,
                    live,
                    module,
                    NET,
                    LAYERS - 1 - back,
                    WIDTH_STRIDE,
                    PRECISION,
                )
        tl.debug_barrier()  # and the next tile overwrites the derivatives
