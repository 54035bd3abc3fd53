"""The definition of the traversal in plain PyTorch: all rays together, one step or cell after the other.

The arithmetic is written in the order of csrc/math/traverse.h, operation by operation, so that both return the same
samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.ops.march.reference import MOST_BINS


class Traversal(NamedTuple):
    """Samples of a batch of rays, packed by ray and then by t, and where each ray stopped.

    Attributes:
        t_starts: [N], the begin of each sample, in units of its ray's direction.
        t_ends: [N], its end.
        ray_ids: int64 [N], the ray of each sample.
        packed_info: int64 [R, 2], (first sample, count) of each ray.
        stops: [R], where the next sample of each ray would begin.
    """

    t_starts: Tensor
    t_ends: Tensor
    ray_ids: Tensor
    packed_info: Tensor
    stops: Tensor


class _Rays(NamedTuple):
    """What the steps of the traversal look at: cells [G, X, Y, Z], size [3], boxes [G, 3], enters, exits [R, G]."""

    origins: Tensor
    directions: Tensor
    cells: Tensor
    size: Tensor
    low: Tensor
    high: Tensor
    enters: Tensor
    exits: Tensor
    hits: Tensor
    last: Tensor  # [R], where the traversal ends
    slack: Tensor  # [R], what is nearer than this is the same place as far as cells are concerned


def traverse_grids(
    origins: Tensor,
    directions: Tensor,
    mask: Tensor | None,
    cells: Tensor,
    aabbs: Tensor,
    enters: Tensor,
    exits: Tensor,
    hits: Tensor,
    near: Tensor,
    far: Tensor,
    step: float,
    cone: float,
    limit: int,
) -> Traversal:
    """Return the samples of `mclnf_fast.ops.traverse_grids`: step = 0: a sample per cell; limit = 0: no limit."""
    count, dtype = origins.shape[0], origins.dtype
    first = torch.where(hits, enters, math.inf).amin(1).maximum(near)
    last = torch.where(hits, exits, -math.inf).amax(1).minimum(far)
    slack = (near.abs() + last).abs() * (1e-6 if dtype == torch.float32 else 1e-15)
    size = torch.tensor(cells.shape[1:], dtype=dtype, device=origins.device)
    rays = _Rays(origins, directions, cells, size, aabbs[:, :3], aabbs[:, 3:], enters, exits, hits, last, slack)
    open_ = first.isfinite() & last.isfinite() & near.isfinite() & (first < last)
    open_ = open_ if mask is None else open_ & mask
    number = torch.zeros_like(near, dtype=torch.float64)
    start = near.to(torch.float64)
    if step > 0 and cone <= 0:
        steps = torch.where(open_, (last.to(torch.float64) - first.to(torch.float64)) / step, 0.0)
        if bool((steps > MOST_BINS).any()):
            raise ValueError(f"step must give at most {MOST_BINS} steps per ray, got {step} for a ray with more")
        before = ((first.to(torch.float64) - start) / step).floor() - 2.0
        number = torch.where(open_, before.clamp_min(0.0), 0.0)
    left = near if step <= 0 or cone > 0 else (start + number * step).to(dtype)
    left = torch.where(open_, first if step <= 0 else left, near)
    stops, taken = left.clone(), torch.zeros(count, dtype=torch.int64, device=origins.device)
    lefts, rights, kept = [], [], []
    while bool(open_.any()):
        if step <= 0:
            right = _next_crossing(rays, left)
        elif cone <= 0:
            right = (start + (number + 1.0) * step).to(dtype)
        else:
            right = left + (left * cone).clamp(step, 1e10)
        middle = 0.5 * (left + right)
        over = (middle >= last) | ((right <= left) if step <= 0 or cone > 0 else torch.zeros_like(open_))
        stops = torch.where(open_ & over, left, stops)
        open_ = open_ & ~over
        keep = open_ & (right > left) & (middle >= first)
        keep = keep & _occupied(rays, middle)
        lefts.append(left)
        rights.append(right)
        kept.append(keep)
        taken = taken + keep
        if limit > 0:
            full = keep & (taken == limit)
            stops = torch.where(full, right, stops)
            open_ = open_ & ~full
        left, number = right, number + 1.0
    packed_info = torch.stack([taken.cumsum(0) - taken, taken], 1)
    if not kept:
        return Traversal(near.new_empty(0), near.new_empty(0), taken.new_empty(0), packed_info, stops)
    chosen = torch.stack(kept, 1)  # [R, K]: by ray, then by t
    starts, ends = torch.stack(lefts, 1)[chosen], torch.stack(rights, 1)[chosen]
    return Traversal(starts, ends, chosen.nonzero()[:, 0], packed_info, stops)


def _grid_at(rays: _Rays, t: Tensor, slack: Tensor | float) -> Tensor:
    """Return the first grid that holds the points at t, [R]; the number of grids if none does."""
    at = (t + slack)[:, None]
    inside = rays.hits & (rays.enters <= at) & (at < rays.exits)
    some = torch.cat([inside, torch.ones_like(inside[:, :1])], 1)
    return some.to(torch.uint8).argmax(1)


def _occupied(rays: _Rays, t: Tensor) -> Tensor:
    grids = rays.cells.shape[0]
    grid = _grid_at(rays, t, 0.0)
    held = grid < grids
    grid = grid.clamp_max(grids - 1)
    low = rays.low[grid]
    per_t = rays.size / (rays.high[grid] - low)
    x = ((rays.origins + rays.directions * t[:, None]) - low) * per_t
    x = torch.where(x > 0, x, 0.0).minimum(rays.size - 1).to(torch.int64)
    return held & rays.cells[grid, x[:, 0], x[:, 1], x[:, 2]]


def _next_crossing(rays: _Rays, t: Tensor) -> Tensor:
    """Return the next t behind `t` at which each ray passes from one cell to another."""
    grids, behind = rays.cells.shape[0], (t + rays.slack)[:, None]
    grid = _grid_at(rays, t, rays.slack)[:, None]
    above = rays.hits & (torch.arange(grids, device=t.device) < grid) & (rays.enters > behind)
    following = torch.where(above, rays.enters, math.inf).amin(1).minimum(rays.last)
    held, grid = grid[:, 0] < grids, grid[:, 0].clamp_max(grids - 1)
    low, forward = rays.low[grid], rays.directions > 0
    length = (rays.high[grid] - low) / rays.size
    plane = (((rays.origins + rays.directions * t[:, None]) - low) / length).floor()
    plane = torch.where(forward, plane, plane + 1)
    crossing = torch.full_like(plane, math.inf)
    for _ in range(3):
        at = ((low + plane * length) - rays.origins) / rays.directions
        fits = (at > behind) & (plane > 0) & (plane < rays.size) & (rays.directions != 0)
        crossing = torch.where(fits & crossing.isinf(), at, crossing)
        plane = torch.where(forward, plane + 1, plane - 1)
    inside = crossing.amin(1).minimum(rays.exits.gather(1, grid[:, None])[:, 0])
    return torch.where(held, following.minimum(inside), following)
