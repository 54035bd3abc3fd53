"""The bank's forward in Triton: encoding and all layers of a tile of points, activations in registers.

Bounds (H100 class): at width 64 with the encoding fused, the sine's polynomial and the matrix product take about as
long as each other; the weights of a tile come from the second-level cache, 33 KB per tile of 128 points.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.functions import activate, encode_in_blocks, next_inputs, tile_of
from mclnf_fast.ops.triton.products import layer_pre_activations


@triton.jit(do_not_specialize=["modules"])
def fused_forward(
    x,
    y,
    offsets,
    starts,
    table,
    weights,
    biases,
    modules,
    NET: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store y [N, outputs] = f(x [N, coordinates]).

    Tile t of `starts` [modules + 1] holds ROWS points of one module; a program takes every num_programs-th one.
    """
    kind: tl.constexpr = weights[NET.layers - 1].dtype.element_ty
    REFORMED: tl.constexpr = PRECISION == "tf32" and NET.features > NET.features_block
    for tile in range(tl.program_id(0), tl.load(starts + modules), tl.num_programs(0)):
        module, begin, rows, live = tile_of(offsets, starts, tile, modules, ROWS)
        points = x + begin * NET.coordinates
        encoded = encode_in_blocks(points, rows, live, table, NET, kind, PRECISION)
        h = 0
        for l in tl.static_range(NET.layers - 1):
            # Features that come in again are formed again if their sines are cheap, or registers do not hold them.
            if l > 0 and (NET.skips >> l) & 1 and (kind != tl.float32 or REFORMED):
                encoded = encode_in_blocks(points, rows, live, table, NET, kind, PRECISION)
            z = layer_pre_activations(h, encoded, weights[l], biases[l], module, NET, l, PRECISION)
            h = next_inputs(z, NET.activation, NET.w0, kind, PRECISION)
        # A branch that is always taken, as in `add_weight_gradient`: else the compiler shares out all layers as suits
        # the last, whose tile is narrow, and warps beyond the rows of a small tile repeat what others do. That the
        # outputs are stored in it as well keeps the kernel at 128 registers on sm_90, not 182: two programs per
        # multiprocessor.
        if tl.num_programs(0) > 0:
            last = layer_pre_activations(
                h, encoded, weights[NET.layers - 1], biases[NET.layers - 1], module, NET, NET.layers - 1, PRECISION
            )
            n = tl.arange(0, NET.outputs_pad)
            value = activate(last, NET.output_activation, NET.w0)
            to = y + begin * NET.outputs + rows[:, None] * NET.outputs + n[None, :]
            tl.store(to, value, mask=live[:, None] & (n < NET.outputs)[None, :])
