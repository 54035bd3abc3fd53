"""Rays in, pixels out, in one kernel: a program keeps a tile of rays in registers and evaluates one sample of each side
by side; the place of a ray that is over goes to the next ray of its module.

Bounds (H100 class): those of the bank's fused forward, the encoding's sines and the matrix products of the samples;
beside them 17 values per ray in registers and no traffic but the occupancy's bytes, 24 bytes per ray in and 20 out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.render_rays.triton.rays import absorbed, edge, features, interval, occupied
from mclnf_fast.ops.triton.functions import activate, module_of, next_inputs
from mclnf_fast.ops.triton.products import layer_pre_activations

PROBES = tl.constexpr(4)  # bins that a ray passes at a time in search of an occupied one


@triton.jit
def features_in_blocks(point, table, NET: tl.constexpr, KIND: tl.constexpr):
    """Return all features of points as a tuple of blocks [ROWS, features_block]; point: what `features` takes of it."""
    BLOCK: tl.constexpr = NET.features_block
    x, y, z, extra, ray, live = point
    blocks = ()
    for k in tl.static_range(NET.features_pad // BLOCK):
        if tl.float32 == KIND:
            block = features(x, y, z, extra, ray, live, table, k * BLOCK, NET, KIND)
        else:
            block = tl.zeros((x.shape[0], BLOCK), tl.float32)
            if tl.num_programs(0) > 0:  # always, as in `encode`: 460 bytes of spills less at width 128 with a skip
                block = features(x, y, z, extra, ray, live, table, k * BLOCK, NET, KIND)
        blocks = blocks + (block,)  # noqa: RUF005 - Triton knows no star
    return blocks


@triton.jit
def network(point, table, module, weights, biases, NET: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr):
    """Return the module's outputs at points (`features_in_blocks`), float32 [ROWS, outputs_pad]: the layers of
    `fused_forward`, which takes fewer registers if its own stand in it."""
    OUT_PAD: tl.constexpr = NET.outputs_pad
    encoded = features_in_blocks(point, table, NET, KIND)
    h = 0
    for l in tl.static_range(NET.layers - 1):
        if tl.float32 != KIND and l > 0 and (NET.skips >> l) & 1:
            encoded = features_in_blocks(point, table, NET, KIND)
        z = layer_pre_activations(h, encoded, weights[l], biases[l], module, NET, l, PRECISION)
        h = next_inputs(z, NET.activation, NET.w0, KIND, PRECISION)
    y = tl.zeros((encoded[0].shape[0], OUT_PAD), tl.float32)
    if tl.num_programs(0) > 0:  # always, as in `fused_forward`: the last layer shares out its narrow tile apart
        last = layer_pre_activations(
            h, encoded, weights[NET.layers - 1], biases[NET.layers - 1], module, NET, NET.layers - 1, PRECISION
        )
        y = activate(last, NET.output_activation, NET.w0)
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
    pixels,
    OUT: tl.constexpr,
    OUT_PAD: tl.constexpr,
    BACKGROUND: tl.constexpr,
    LAST: tl.constexpr,
):
    """Store the pixels (color, opacity, depth) of the rays that are over. seen [ROWS, OUT_PAD]: colors from column 1
    on."""
    color, opacity, depth = pixels
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
def next_samples(
    ray_state,
    live,
    ready,
    k,
    bins,
    occupancy,
    aabb,
    SCENE: tl.constexpr,
):
    """Return `ready` and k of rays that looked at one bin more in search of a sample."""
    ox, oy, oz, dx, dy, dz, enter, leave, width = ray_state
    ask = live & (ready == 0) & (k < bins)
    begin = edge(k, bins, enter, leave, width)
    stop = edge(k + 1, bins, enter, leave, width)
    sampled = ask & (stop > begin)
    if SCENE.x > 0:
        t = 0.5 * (begin + stop)
        sampled = sampled & occupied(occupancy, aabb, ox + dx * t, oy + dy * t, oz + dz * t, sampled, SCENE)
    ready = ready | sampled
    k += (ask & (sampled == 0)).to(tl.int32)
    return ready, k


@triton.jit(do_not_specialize=["modules", "rays_per_chunk"])
def render(
    rays,
    scene,
    pixels,
    offsets,
    starts,
    table,
    weights,
    biases,
    limits,
    modules,
    rays_per_chunk,
    NET: tl.constexpr,
    SCENE: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store pixels: color [R, outputs - 1], opacity [R] and depth [R] of the rays.

    rays: origins, directions and what the network takes behind the position. scene: box, occupancy and background, with
    the constants SCENE (`SceneConstants`). limits: near, far, step, largest raw density, largest optical depth. Chunk c
    of `starts` [modules + 1] holds rays_per_chunk rays of one module, which one program works through; a program takes
    every num_programs-th chunk.

    A ray's samples are added up in their order and no row of a matrix product depends on another row, so that its pixel
    does not depend on its neighbors.
    """
    origins, directions, extra = rays
    aabb, occupancy, background = scene
    kind: tl.constexpr = weights[NET.layers - 1].dtype.element_ty
    near, far, step, max_raw, max_depth = limits
    OUT_PAD: tl.constexpr = NET.outputs_pad
    wide = tl.zeros((), tl.int64)
    for chunk in range(tl.program_id(0), tl.load(starts + modules), tl.num_programs(0)):
        module = module_of(starts, chunk, modules)
        next = tl.load(offsets + module) + (chunk - tl.load(starts + module)) * (wide + rays_per_chunk)
        end = tl.minimum(next + rays_per_chunk, tl.load(offsets + module + 1))
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
                    over, ray, seen, last, gained, deep, far_end, background, pixels, NET.outputs, OUT_PAD,
                    SCENE.background, SCENE.last,
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
                began, ended, long, count = interval(ox, oy, oz, dx, dy, dz, aabb, near, far, step, take, SCENE)
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
            for _ in tl.static_range(PROBES if SCENE.x > 0 else 1):
                ray_state = (ox, oy, oz, dx, dy, dz, enter, leave, width)
                ready, k = next_samples(ray_state, live, ready, k, bins, occupancy, aabb, SCENE)
            samples = tl.sum(ready.to(tl.int32))
            waiting = tl.sum((live & (ready == 0)).to(tl.int32))
            # Full enough, or as full as it gets.
            if (samples > 0) & ((samples * 4 >= ROWS * 3) | (waiting == 0)):
                begin = edge(k, bins, enter, leave, width)
                stop = edge(k + 1, bins, enter, leave, width)
                t = 0.5 * (begin + stop)
                point = (ox + dx * t, oy + dy * t, oz + dz * t, extra, ray, ready)
                y = network(point, table, module, weights, biases, NET, kind, PRECISION)
                raw = tl.sum(tl.where((tl.arange(0, OUT_PAD) == 0)[None, :], y, 0.0), 1)
                s = activate(tl.where(raw > max_raw, max_raw, raw), SCENE.density, NET.w0) * (stop - begin)
                # A place without a sample may hold anything, infinity and NaN as well.
                w = tl.where(ready, tl.exp(-thick) * absorbed(s), 0.0)
                colors = tl.where(ready[:, None], activate(y, SCENE.color, NET.w0), 0.0)
                seen += w[:, None] * colors
                gained += w
                deep += w * t
                if SCENE.last:
                    last = tl.where(ready[:, None], colors, last)
                    far_end = tl.where(ready, stop, far_end)
                thick += tl.where(ready, s, 0.0)
                k += ready.to(tl.int32)
                k = tl.where(ready & (thick > max_depth), bins, k)
                ready = ready & (waiting < 0)  # none
            running = tl.sum(live.to(tl.int32)) > 0
