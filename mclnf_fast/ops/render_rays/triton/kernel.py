"""Rays in, pixels out, in one kernel: a program keeps a tile of rays in registers and evaluates one sample of each side
by side; the place of a ray that is over goes to the next ray of its module.

Bounds (H100 class): what the bank's fused forward is bound by, the encoding's sines and the matrix products of the kept
samples; beside them 17 values a ray in registers and no traffic but the occupancy's bytes, 24 bytes a ray in and 20
out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.render_rays.triton.rays import absorbed, edge, features, interval, occupied
from mclnf_fast.ops.triton.functions import activate, layer_sums, module_of

PROBES = tl.constexpr(4)  # bins that a ray passes at a time in search of an occupied one


@triton.jit
def network(
    encoded,
    module,
    weights,
    biases,
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
    PRECISION: tl.constexpr,
):
    """The module's outputs for features [ROWS, FEATURES_PAD], float32 [ROWS, OUT_PAD]: the layers of `fused_forward`,
    which takes fewer registers where its own stand in it."""
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
        h = activate(z, ACTIVATION, W0).to(encoded.dtype)
    y = tl.zeros((encoded.shape[0], OUT_PAD), tl.float32)
    if tl.num_programs(0) > 0:  # always, as in `fused_forward`: the last layer shares out its narrow tile apart
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
        y = activate(last, OUTPUT, W0)
    return y


@triton.jit
def give_back(
    over,
    ray,
    seen,
    last,
    gained,
    deep,
    far_end,
    background,
    color,
    opacity,
    depth,
    OUT: tl.constexpr,
    OUT_PAD: tl.constexpr,
    BACKGROUND: tl.constexpr,
    LAST: tl.constexpr,
):
    """Writes the pixels of the rays that are over. seen [ROWS, OUT_PAD]: colours from column 1 on."""
    n = tl.arange(0, OUT_PAD)
    colored = (n > 0) & (n < OUT)
    mask = over[:, None] & colored[None, :]
    through = 1.0 - gained
    if LAST:
        seen += through[:, None] * last
        deep += through * far_end
    if BACKGROUND == 1:
        seen += through[:, None] * tl.load(background + n - 1, mask=colored, other=0.0)[None, :]
    if BACKGROUND == 2:
        seen += through[:, None] * tl.load(
            background + ray[:, None] * (OUT - 1) + (n - 1)[None, :], mask=mask, other=0.0
        )
    tl.store(color + ray[:, None] * (OUT - 1) + (n - 1)[None, :], seen, mask=mask)
    tl.store(opacity + ray, gained, mask=over)
    tl.store(depth + ray, deep, mask=over)


@triton.jit
def render(
    origins,
    directions,
    extra,
    aabb,
    occupancy,
    background,
    color,
    opacity,
    depth,
    offsets,
    starts,
    table,
    weights,
    biases,
    near,
    far,
    step,
    most_raw,
    most_depth,
    modules,
    rays_a_chunk,
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
    BINS: tl.constexpr,
    LEVELS: tl.constexpr,
    X: tl.constexpr,
    Y: tl.constexpr,
    Z: tl.constexpr,
    BACKGROUND: tl.constexpr,
    LAST: tl.constexpr,
    DENSITY: tl.constexpr,
    COLOR: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """color [R, OUT - 1], opacity [R] and depth [R] of the rays. Chunk c of `starts` [modules + 1] holds rays_a_chunk
    rays of one module, which one program works through; a program takes every num_programs-th chunk.

    A ray's samples are added up in their order and no row of a matrix product depends on another row, so that its pixel
    does not depend on who its neighbours were. BINS 0: bins of length `step`; X = 0: everything is occupied; BACKGROUND
    1: one for all, 2: one a ray; LAST: what is seen last stands behind."""
    wide = tl.zeros((), tl.int64)
    for chunk in range(tl.program_id(0), tl.load(starts + modules), tl.num_programs(0)):
        module = module_of(starts, chunk, modules, STEPS)
        next = tl.load(offsets + module) + (chunk - tl.load(starts + module)) * (wide + rays_a_chunk)
        end = tl.minimum(next + rays_a_chunk, tl.load(offsets + module + 1))
        none = tl.zeros((ROWS,), tl.float32)
        ray = tl.zeros((ROWS,), tl.int64)
        live = none > 0  # has a ray
        ready = none > 0  # and a sample at bin k
        ox, oy, oz = none, none, none
        dx, dy, dz = none, none, none
        enter, leave, width = none, none, none
        k = tl.zeros((ROWS,), tl.int32)
        bins = tl.zeros((ROWS,), tl.int32)
        thick, gained, deep, far_end = none, none, none, none  # optical depth; the sums of weights and of their depths
        seen = tl.zeros((ROWS, OUT_PAD), tl.float32)
        last = tl.zeros((ROWS, OUT_PAD), tl.float32)
        running = next < end
        while running:
            over = live & (k >= bins) & (ready == 0)
            free = over | (live == 0)
            if tl.sum(free.to(tl.int32)) > 0:
                give_back(
                    over, ray, seen, last, gained, deep, far_end, background, color, opacity, depth, OUT, OUT_PAD,
                    BACKGROUND, LAST,
                )  # fmt: skip
                new = next + tl.cumsum(free.to(tl.int32), 0) - 1
                take = free & (new < end)
                next += tl.sum(take.to(tl.int32))
                live = (live & (over == 0)) | take
                ray = tl.where(take, new, ray)
                ox = tl.load(origins + ray * 3, mask=take, other=0.0) + tl.where(take, 0.0, ox)
                oy = tl.load(origins + ray * 3 + 1, mask=take, other=0.0) + tl.where(take, 0.0, oy)
                oz = tl.load(origins + ray * 3 + 2, mask=take, other=0.0) + tl.where(take, 0.0, oz)
                dx = tl.load(directions + ray * 3, mask=take, other=0.0) + tl.where(take, 0.0, dx)
                dy = tl.load(directions + ray * 3 + 1, mask=take, other=0.0) + tl.where(take, 0.0, dy)
                dz = tl.load(directions + ray * 3 + 2, mask=take, other=0.0) + tl.where(take, 0.0, dz)
                began, ended, long, count = interval(ox, oy, oz, dx, dy, dz, aabb, near, far, step, take, BINS, LEVELS)
                enter = tl.where(take, began, enter)
                leave = tl.where(take, ended, leave)
                width = tl.where(take, long, width)
                bins = tl.where(take, count, bins)
                k = tl.where(take, 0, k)
                thick = tl.where(take, 0.0, thick)
                gained = tl.where(take, 0.0, gained)
                deep = tl.where(take, 0.0, deep)
                far_end = tl.where(take, 0.0, far_end)
                seen = tl.where(take[:, None], 0.0, seen)
                last = tl.where(take[:, None], 0.0, last)
            for _ in tl.static_range(PROBES if X > 0 else 1):
                ask = live & (ready == 0) & (k < bins)
                begin = edge(k, bins, enter, leave, width)
                stop = edge(k + 1, bins, enter, leave, width)
                kept = ask & (stop > begin)
                if X > 0:
                    t = 0.5 * (begin + stop)
                    kept = kept & occupied(
                        occupancy, aabb, ox + dx * t, oy + dy * t, oz + dz * t, kept, LEVELS, X, Y, Z
                    )
                ready = ready | kept
                k += (ask & (kept == 0)).to(tl.int32)
            found = tl.sum(ready.to(tl.int32))
            waiting = tl.sum((live & (ready == 0)).to(tl.int32))
            # Full enough, or as full as it gets.
            if (found > 0) & ((found * 4 >= ROWS * 3) | (waiting == 0)):
                begin = edge(k, bins, enter, leave, width)
                stop = edge(k + 1, bins, enter, leave, width)
                t = 0.5 * (begin + stop)
                encoded = features(
                    ox + dx * t, oy + dy * t, oz + dz * t, extra, ray, ready, table, IN, FEATURES, FEATURES_PAD
                )
                y = network(
                    encoded.to(weights[0].dtype.element_ty), module, weights, biases, OUT, FEATURES, WIDTH, LAYERS,
                    SKIPS, ACTIVATION, OUTPUT, W0, FEATURES_PAD, WIDTH_PAD, OUT_PAD, PRECISION,
                )  # fmt: skip
                raw = tl.sum(tl.where((tl.arange(0, OUT_PAD) == 0)[None, :], y, 0.0), 1)
                s = activate(tl.where(raw > most_raw, most_raw, raw), DENSITY, W0) * (stop - begin)
                # A place without a sample holds anything, infinity and NaN as well.
                w = tl.where(ready, tl.exp(-thick) * absorbed(s), 0.0)
                colors = tl.where(ready[:, None], activate(y, COLOR, W0), 0.0)
                seen += w[:, None] * colors
                gained += w
                deep += w * t
                if LAST:
                    last = tl.where(ready[:, None], colors, last)
                    far_end = tl.where(ready, stop, far_end)
                thick += tl.where(ready, s, 0.0)
                k += ready.to(tl.int32)
                k = tl.where(ready & (thick > most_depth), bins, k)
                ready = ready & (waiting < 0)  # none
            running = tl.sum(live.to(tl.int32)) > 0
