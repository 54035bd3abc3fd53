"""The bank's forward in Triton: encoding and all layers of a tile of points, activations in registers.

Bounds (H100 class): at width 64 with the encoding fused, the sine's polynomial and the matrix product take about as
long as each other; the weights of a tile come from the second-level cache, 33 KB a tile of 128 points.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.functions import activate, encode, layer_sums, tile_of


@triton.jit
def fused_forward(
    x,
    y,
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
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y [N, OUT] = f(x [N, IN]). Tile t of `starts` [modules + 1] holds ROWS points of one module; a program takes
    every num_programs-th one."""
    kind = x.dtype.element_ty
    for tile in range(tl.program_id(0), tl.load(starts + modules), tl.num_programs(0)):
        module, rows, live = tile_of(offsets, starts, tile, modules, STEPS, ROWS)
        encoded = encode(x, rows, live, table, 0, IN, FEATURES, FEATURES_PAD).to(kind)
        h = encoded
        for l in tl.static_range(LAYERS - 1):
            z = layer_sums(
                h,
                encoded,
                weights[l],
                biases[l],
                module,
                FEATURES if l == 0 else WIDTH,
                FEATURES * ((SKIPS >> l) & 1),
                WIDTH,
                FEATURES_PAD if l == 0 else WIDTH_PAD,
                FEATURES_PAD,
                WIDTH_PAD,
                PRECISION,
            )
            h = activate(z, ACTIVATION, W0).to(kind)
        # A branch that is always taken, as in `add_outer`: else the compiler shares out all layers as suits the last,
        # whose tile is narrow, and warps beyond the rows of a small tile repeat what others do. That the outputs are
        # stored in it as well keeps the kernel at 128 registers on sm_90, not 182: two programs a multiprocessor.
        if tl.num_programs(0) > 0:
            last = layer_sums(
                h,
                encoded,
                weights[LAYERS - 1],
                biases[LAYERS - 1],
                module,
                FEATURES if LAYERS == 1 else WIDTH,
                FEATURES * ((SKIPS >> (LAYERS - 1)) & 1),
                OUT,
                FEATURES_PAD if LAYERS == 1 else WIDTH_PAD,
                FEATURES_PAD,
                OUT_PAD,
                PRECISION,
            )
            n = tl.arange(0, OUT_PAD)
            value = activate(last, OUTPUT, W0).to(kind)
            tl.store(y + rows[:, None] * OUT + n[None, :], value, mask=live[:, None] & (n < OUT)[None, :])
