"""The definition of marching in plain PyTorch: every ray against every bin.

The arithmetic is written in the order of csrc/math/march.h, operation by operation, so that both return the same
samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MOST_BINS = 1 << 24
"""Most bins of one ray: the largest number up to which float32 counts."""


class Samples(NamedTuple):
    """Samples of a batch of rays, packed by ray and then by t.

    Attributes:
        t_starts: [N], the begin of each sample, in units of its ray's direction.
        t_ends: [N], its end.
        ray_ids: int64 [N], the ray of each sample.
        packed_info: int64 [R, 2], (first sample, count) of each ray.
    """

    t_starts: Tensor
    t_ends: Tensor
    ray_ids: Tensor
    packed_info: Tensor


def march_rays(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor | None,
    aabb: Tensor,
    near: Tensor,
    far: Tensor,
    bins: int,
    step: float,
    stratified: bool,
    seed: int,
    early_stop_eps: float,
) -> Samples:
    """Return the samples of `mclnf_fast.ops.march_rays`: near, far [R], occupancy [L, X, Y, Z]; bins = 0: steps."""
    levels = 1 if occupancy is None else occupancy.shape[0]
    center, half = 0.5 * (aabb[0] + aabb[1]), 0.5 * (aabb[1] - aabb[0])
    enter, leave, hit = _interval(origins, directions, center, half * 2.0 ** (levels - 1), near, far)
    length = torch.where(hit, leave - enter, 0.0)
    if bins > 0:
        count = torch.where(hit, bins, 0)
        width = length / torch.full_like(length, bins)  # division by a number may multiply by its inverse
    else:
        width = torch.full_like(length, step)
        count = torch.where(hit, (length / width).ceil().clamp(1, 2 * MOST_BINS), 0.0).to(torch.int64)
    enter, leave = torch.where(hit, enter, 0.0)[:, None], torch.where(hit, leave, 0.0)[:, None]

    longest = int(count.max()) if count.numel() else 0
    if longest > MOST_BINS:
        raise ValueError(f"step must give at most {MOST_BINS} bins per ray, got {step} for a ray with more")
    k = torch.arange(longest + 1, device=origins.device)
    edges = _edges(enter, leave, width, count, k, seed if stratified else None)
    starts, ends = edges[:, :-1], edges[:, 1:]
    occupied = (k[:-1] < count[:, None]) & (ends > starts)
    if occupancy is not None:
        middle = 0.5 * (starts + ends)
        points = origins[:, None] + directions[:, None] * middle[:, :, None]
        value = occupancy.reshape(-1)[_cells((points - center) * (1.0 / half), occupancy.shape)]
        occupied &= value > 0
        if early_stop_eps > 0:
            depth = torch.where(occupied, value.double() * (ends - starts).double(), 0.0)
            before = torch.cat([depth.new_zeros(depth.shape[0], 1), depth.cumsum(1)], dim=1)[:, :-1]
            occupied &= before <= -math.log(early_stop_eps)
    counts = occupied.sum(1)
    packed_info = torch.stack([counts.cumsum(0) - counts, counts], dim=1)
    return Samples(starts[occupied], ends[occupied], occupied.nonzero()[:, 0], packed_info)


def ray_edges(
    origins: Tensor, directions: Tensor, aabb: Tensor, bins: int, near: float, far: float, seed: Tensor | int | None
) -> Tensor:
    """Return the edges [R, bins + 1] of the bins of each ray as `march_rays` cuts it, all 0 of a ray that misses the
    box: a fixed number, so that nothing waits for the device, and a CUDA graph can hold it.

    Args:
        origins, directions, aabb, bins, near, far: as `march_rays` takes them.
        seed: of the jitter of the edges, also as an int64 tensor [] on the rays' device; None: no jitter.

    >>> rays = torch.tensor([[0.0, 0.0, -2.0], [9.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]] * 2)
    >>> ray_edges(*rays, torch.tensor([[-1.0] * 3, [1.0] * 3]), 2, 0.0, 9.0, None).tolist()
    [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    """
    center, half = 0.5 * (aabb[0] + aabb[1]), 0.5 * (aabb[1] - aabb[0])
    bounds = (origins.new_full(origins.shape[:1], value) for value in (near, far))
    enter, leave, hit = _interval(origins, directions, center, half, *bounds)
    length = torch.where(hit, leave - enter, 0.0)
    width = length / torch.full_like(length, bins)
    enter, leave = torch.where(hit, enter, 0.0)[:, None], torch.where(hit, leave, 0.0)[:, None]
    k = torch.arange(bins + 1, device=origins.device)
    return _edges(enter, leave, width, torch.full_like(hit, bins, dtype=torch.int64), k, seed)


def _edges(enter: Tensor, leave: Tensor, width: Tensor, count: Tensor, k: Tensor, seed: Tensor | int | None) -> Tensor:
    """Return edge k [K] of rays that enter and leave at [R, 1] and have `count` bins [R] of a width [R]: [R, K]."""
    edges = torch.minimum(enter + k.to(enter.dtype) * width[:, None], leave)
    if seed is not None:
        jitter = _jitter(seed, len(enter), k).to(enter.dtype)
        edges = torch.minimum(edges + jitter * torch.minimum(leave - edges, width[:, None]), leave)
    return torch.where(k == 0, enter, torch.where(k == count[:, None], leave, edges))


def _interval(
    origins: Tensor, directions: Tensor, center: Tensor, half: Tensor, near: Tensor, far: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return t at which rays enter and leave the box (by the slabs of the three axes), and whether they meet it."""
    low, high = center - half, center + half
    moves = directions != 0
    a, b = (low - origins) / directions, (high - origins) / directions
    enters = torch.where(moves, torch.minimum(a, b), -math.inf)
    leaves = torch.where(moves, torch.maximum(a, b), math.inf)
    enter = torch.maximum(enters.amax(1), near)
    leave = torch.minimum(leaves.amin(1), far)
    inside = (moves | ((low <= origins) & (origins <= high))).all(1)
    finite = torch.isfinite(origins).all(1) & torch.isfinite(directions).all(1)
    finite &= torch.isfinite(enter) & torch.isfinite(leave)
    return enter, leave, finite & inside & moves.any(1) & (leave > enter)


def _cells(u: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the flat indices of the cells at `u` [..., 3]; the finest level is [-1, 1], each next one twice as
    wide."""
    levels, size = shape[0], torch.tensor(shape[1:], device=u.device)
    most = u.abs().amax(-1)
    level, shrink = torch.zeros_like(most, dtype=torch.int64), torch.ones_like(most)
    for l in range(1, levels):
        outside = most > 2.0 ** (l - 1)
        level, shrink = torch.where(outside, l, level), torch.where(outside, 0.5**l, shrink)
    x = ((u * shrink[..., None] + 1) * 0.5) * size.to(u.dtype)
    x = torch.minimum(torch.where(x > 0, x, 0.0), (size - 1).to(u.dtype)).to(torch.int64)
    return ((level * size[0] + x[..., 0]) * size[1] + x[..., 1]) * size[2] + x[..., 2]


def _jitter(seed: Tensor | int, rays: int, edge: Tensor) -> Tensor:
    """Return numbers of [-1/2, 1/2), [R, edges], from a hash of (seed, ray, edge) in 32-bit integers."""
    mask = 0xFFFFFFFF

    def mix(x: Tensor) -> Tensor:
        x = x ^ (x >> 16)
        x = (x * 0x7FEB352D) & mask
        x = x ^ (x >> 15)
        x = (x * 0x846CA68B) & mask
        return x ^ (x >> 16)

    ray = torch.arange(rays, device=edge.device)
    h = mix(((ray * 0 + seed) + 0x9E3779B9) & mask)
    h = mix(h ^ ((seed >> 32) & mask))
    h = mix(h ^ (ray & mask))
    h = mix(h ^ (ray >> 32))
    bits = mix(h[:, None] ^ edge) >> 8
    return bits.double() * 2.0**-24 - 0.5
