"""A tile of rays in registers: the part of each inside the box, its bins, and the features of a point on it.

The arithmetic is that of csrc/math/march.h; products and sums may be contracted here, so that a bin whose middle lies
within rounding of a cell's border may fall to the other side. SCENE: `SceneConstants`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.functions import wave

MOST_BINS = tl.constexpr(16777216.0)


@triton.jit
def slab(o, d, aabb, axis, enter, leave, inside, LEVELS: tl.constexpr):
    """Return the interval of the rays cut by one axis of the box of the coarsest level, and whether it meets them."""
    low = tl.load(aabb + axis)
    high = tl.load(aabb + 3 + axis)
    center = 0.5 * (low + high)
    half = 0.5 * (high - low) * (1 << (LEVELS - 1))
    moves = d != 0
    along = tl.where(moves, d, 1.0)
    a = tl.div_rn(center - half - o, along)
    b = tl.div_rn(center + half - o, along)
    enter = tl.where(moves & (tl.minimum(a, b) > enter), tl.minimum(a, b), enter)
    leave = tl.where(moves & (tl.maximum(a, b) < leave), tl.maximum(a, b), leave)
    within = moves | ((center - half <= o) & (o <= center + half))
    return enter, leave, inside & within & (tl.abs(o) < float("inf")) & (tl.abs(d) < float("inf"))


@triton.jit
def interval(ox, oy, oz, dx, dy, dz, aabb, near, far, step, take, SCENE: tl.constexpr):
    """Return t at which the rays of `take` enter and leave, the length of their bins, and their number: 0 for a ray
    that misses the box or is not finite."""
    enter = near + tl.zeros_like(ox)
    leave = far + tl.zeros_like(ox)
    hit = take & ((dx != 0) | (dy != 0) | (dz != 0))
    enter, leave, hit = slab(ox, dx, aabb, 0, enter, leave, hit, SCENE.levels)
    enter, leave, hit = slab(oy, dy, aabb, 1, enter, leave, hit, SCENE.levels)
    enter, leave, hit = slab(oz, dz, aabb, 2, enter, leave, hit, SCENE.levels)
    hit = hit & (leave > enter) & (tl.abs(enter) < float("inf")) & (tl.abs(leave) < float("inf"))
    enter = tl.where(hit, enter, 0.0)
    leave = tl.where(hit, leave, 0.0)
    if SCENE.bins > 0:
        width = tl.div_rn(leave - enter, tl.zeros_like(ox) + SCENE.bins)
        bins = tl.zeros_like(ox) + SCENE.bins
    else:
        width = step + tl.zeros_like(ox)
        bins = tl.ceil(tl.div_rn(leave - enter, width))
        bins = tl.minimum(tl.maximum(bins, 1.0), MOST_BINS)
    return enter, leave, width, tl.where(hit, bins, 0.0).to(tl.int32)


@triton.jit
def edge(k, bins, enter, leave, width):
    """Return edge k of a ray's bins."""
    t = tl.minimum(enter + k.to(tl.float32) * width, leave)
    return tl.where(k == 0, enter, tl.where(k == bins, leave, t))


@triton.jit
def place(u, shrink, SIZE: tl.constexpr):
    """Return the cell along an axis of a point at u of the box scaled by `shrink` to [-1, 1]."""
    cell = (u * shrink + 1.0) * 0.5 * SIZE
    return tl.where(cell > 0, tl.minimum(cell, SIZE - 1.0), 0.0).to(tl.int32)


@triton.jit
def occupied(occupancy, aabb, x, y, z, ask, SCENE: tl.constexpr):
    """Return whether the points lie in occupied cells, of the finest level that contains them."""
    LEVELS: tl.constexpr = SCENE.levels
    ux = (x - 0.5 * (tl.load(aabb) + tl.load(aabb + 3))) / (0.5 * (tl.load(aabb + 3) - tl.load(aabb)))
    uy = (y - 0.5 * (tl.load(aabb + 1) + tl.load(aabb + 4))) / (0.5 * (tl.load(aabb + 4) - tl.load(aabb + 1)))
    uz = (z - 0.5 * (tl.load(aabb + 2) + tl.load(aabb + 5))) / (0.5 * (tl.load(aabb + 5) - tl.load(aabb + 2)))
    most = tl.maximum(tl.maximum(tl.abs(ux), tl.abs(uy)), tl.abs(uz))
    level = tl.zeros_like(ux).to(tl.int32)
    shrink = tl.zeros_like(ux) + 1.0
    for l in tl.static_range(1, LEVELS):
        outside = most > (1 << (l - 1))
        level = tl.where(outside, l, level)
        shrink = tl.where(outside, 1.0 / (1 << l), shrink)
    cell = (level * SCENE.x + place(ux, shrink, SCENE.x)) * SCENE.y + place(uy, shrink, SCENE.y)
    cell = cell * SCENE.z + place(uz, shrink, SCENE.z)
    return tl.load(occupancy + cell, mask=ask, other=0) != 0


@triton.jit
def features(x, y, z, extra, ray, live, table, first, NET: tl.constexpr, KIND: tl.constexpr):
    """Return features first ... of points, float32 [ROWS, features_block], 0 beyond the last: `encode` of coordinates
    in registers.

    extra [R, coordinates - 3]: the coordinates of a ray behind the position.
    """
    FEATURES: tl.constexpr = NET.features
    MORE: tl.constexpr = NET.coordinates - 3
    c = first + tl.arange(0, NET.features_block)
    exists = c < FEATURES
    dim = tl.load(table + c, mask=exists, other=0.0).to(tl.int32)[None, :]
    frequency = tl.load(table + FEATURES + c, mask=exists, other=0.0)[None, :]
    half = tl.load(table + 2 * FEATURES + c, mask=exists, other=0.0)[None, :]
    v = tl.where(dim == 0, x[:, None], tl.where(dim == 1, y[:, None], z[:, None]))
    if MORE > 0:
        behind = live[:, None] & (exists[None, :] & (dim > 2))
        v = tl.where(dim > 2, tl.load(extra + ray[:, None] * MORE + (dim - 3), mask=behind, other=0.0), v)
    v = tl.where(live[:, None] & exists[None, :], v, 0.0)
    return tl.where(half < 0, v, wave(v, frequency, half, KIND))


@triton.jit
def absorbed(s):
    """Return 1 - exp(-s), to the last bits for small s too."""
    p = s * (-1.0 / 5040.0) + 1.0 / 720.0
    p = s * p - 1.0 / 120.0
    p = s * p + 1.0 / 24.0
    p = s * p - 1.0 / 6.0
    p = s * p + 0.5
    return tl.where(tl.abs(s) < 0.25, s - s * s * p, 1.0 - tl.exp(-s))
