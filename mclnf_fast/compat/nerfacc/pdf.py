"""Searches in sorted edges along rays, and sampling of a distribution that is known at the edges."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast.checks import check_bool, check_tensor
from mclnf_fast.compat.nerfacc.data_specs import RayIntervals, RaySamples
from mclnf_fast.compat.nerfacc.pack import INDICES

FLAT = 1e-10  # less probability than this between two edges: the middle is taken


@torch.no_grad()
def searchsorted(
    sorted_sequence: RayIntervals | RaySamples, values: RayIntervals | RaySamples
) -> tuple[Tensor, Tensor]:
    """Return the neighbors of values among the sorted values of their rays, int64 like `values.vals` each.

    `sorted[left] <= value < sorted[right]`; outside the range both are the nearest two. Of dense values [R, S] the
    results count within the ray, of packed ones [N] within the flat tensor.

    Args:
        sorted_sequence: dense or packed (then with `packed_info`), at least one value for each ray that is asked for.
        values: dense, or packed with `packed_info` or `ray_indices`.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    >>> rays = torch.tensor([[0, 2], [2, 3]])
    >>> edges = RayIntervals(torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0]), packed_info=rays)
    >>> searchsorted(edges, RaySamples(torch.tensor([0.5, 1.5, 2.5]), ray_indices=torch.tensor([0, 1, 1])))
    (tensor([0, 3, 3]), tensor([1, 4, 4]))
    """
    keys, asked = sorted_sequence.vals, values.vals
    check_tensor("sorted_sequence.vals", keys)
    check_tensor("values.vals", asked, None, keys.dtype, keys.device)
    if keys.dim() > 1 and asked.dim() > 1:
        if keys.shape[:-1] != asked.shape[:-1] or not keys.shape[-1]:
            raise ValueError(
                "sorted_sequence.vals must be [R, S], with the rays of values.vals and S of at least 1, got "
                f"{list(keys.shape)} for {list(asked.shape)}"
            )
        found = torch.searchsorted(keys[..., :-1].contiguous(), asked.contiguous(), right=True)
        return (found - 1).clamp_min(0), found
    first, count = _segments("sorted_sequence", sorted_sequence)
    rays = _rays_of("values", values)
    if bool((count[rays] == 0).any()):
        raise ValueError("sorted_sequence must hold a value for each ray of values, got a ray without")
    first = first[rays]
    last = first + count[rays] - 1
    found = _search(keys.reshape(-1), first, last, asked.reshape(-1))
    left = torch.maximum(found - 1, first)
    if asked.dim() > 1:
        left, found = left - first, found - first
    return left.reshape(asked.shape), found.reshape(asked.shape)


@torch.no_grad()
def importance_sampling(
    intervals: RayIntervals, cdfs: Tensor, n_intervals_per_ray: Tensor | int, stratified: bool = False
) -> tuple[RayIntervals, RaySamples]:
    """Return intervals and samples at equal steps of a distribution along each ray.

    With n intervals, the samples lie where the distribution has the value `c_0 + (k + b) (c_1 - c_0) / n`, from the
    value c_0 at the first edge of the ray to c_1 at the last; b is 0.5, or one random number per ray. The edges lie in
    the middle of neighbors, the outer ones as far beyond the outer samples, within the ray. One interval alone is the
    whole ray.

    Args:
        intervals: the edges, dense [R, E], or packed [N] with `packed_info`.
        cdfs: like `intervals.vals`: the distribution at the edges, rising along a ray. It need not begin at 0 or end
            at 1.
        n_intervals_per_ray: n, or int [R]: another one for each ray.
        stratified: whether b is random (torch's generator).

    Returns:
        RayIntervals and RaySamples: dense [R, n + 1] and [R, n], or, of a tensor of numbers, packed. The samples of a
        ray without edges are 0.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    >>> edges, cdfs = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 0.5, 1.0]])
    >>> intervals, samples = importance_sampling(RayIntervals(edges), cdfs, 2)
    >>> intervals.vals, samples.vals
    (tensor([[0., 1., 2.]]), tensor([[0.5000, 1.5000]]))
    """
    vals = intervals.vals
    check_tensor("intervals.vals", vals, None, (torch.float32, torch.float64))
    check_tensor("cdfs", cdfs, tuple(vals.shape), vals.dtype, vals.device, "like intervals.vals")
    check_bool("stratified", stratified)
    first, count = _segments("intervals", intervals)
    rays = first.shape[0]
    bias = torch.rand(rays, dtype=vals.dtype, device=vals.device) if stratified else vals.new_full((rays,), 0.5)
    last = first + count - 1
    if isinstance(n_intervals_per_ray, Tensor):
        check_tensor("n_intervals_per_ray", n_intervals_per_ray, (rays,), INDICES, vals.device, "[R]")
        return _packed_samples(intervals, cdfs, n_intervals_per_ray.to(torch.int64), bias)
    n = n_intervals_per_ray
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n_intervals_per_ray must be an int of at least 1, or a tensor [R], got {n!r}")
    numbers = torch.arange(n, device=vals.device)
    if vals.dim() > 1 and vals.shape[-1]:
        edges, distribution = vals.reshape(rays, vals.shape[-1]), cdfs.reshape(rays, vals.shape[-1])
        low, high = distribution[:, :1], distribution[:, -1:]
        wanted = low + (numbers + bias[:, None]) * ((high - low) / n)
        right = torch.searchsorted(distribution[:, :-1].contiguous(), wanted, right=True)
        left = (right - 1).clamp_min(0)
        of_edges = (distribution.gather(1, left), distribution.gather(1, right))
        samples = _between(of_edges, (edges.gather(1, left), edges.gather(1, right)), wanted)
        ends = edges[:, :1], edges[:, -1:]
    else:
        ray = torch.arange(rays, device=vals.device).repeat_interleave(n)
        samples = _sample(vals, cdfs, (first, last), ray, numbers.repeat(rays), vals.new_full((rays,), n), bias)
        samples = samples.reshape(rays, n)
        ends = _at(vals, first, count > 0)[:, None], _at(vals, last, count > 0)[:, None]
    middles = (samples[:, 1:] + samples[:, :-1]) * 0.5
    lower = torch.maximum(samples[:, :1] - (middles[:, :1] - samples[:, :1]), ends[0]) if n > 1 else ends[0]
    upper = torch.minimum(samples[:, -1:] + (samples[:, -1:] - middles[:, -1:]), ends[1]) if n > 1 else ends[1]
    batch = vals.shape[:-1] if vals.dim() > 1 else (rays,)
    edges = torch.cat([lower, middles, upper], dim=1)
    return RayIntervals(edges.reshape(*batch, n + 1)), RaySamples(samples.reshape(*batch, n))


def _packed_samples(
    intervals: RayIntervals, cdfs: Tensor, numbers: Tensor, bias: Tensor
) -> tuple[RayIntervals, RaySamples]:
    """Return packed intervals and samples, int64 numbers [R] of them."""
    vals, (first, count) = intervals.vals.reshape(-1), _segments("intervals", intervals)
    starts = numbers.cumsum(0) - numbers
    ray = torch.arange(numbers.shape[0], device=vals.device).repeat_interleave(numbers)
    number = torch.arange(ray.shape[0], device=vals.device) - starts[ray]
    samples = _sample(vals, cdfs, (first, first + count - 1), ray, number, numbers.to(vals.dtype), bias)
    edge_counts = numbers + (numbers > 0)
    edge_starts = edge_counts.cumsum(0) - edge_counts
    edges = vals.new_empty(ray.shape[0] + int((numbers > 0).sum()))
    is_first, is_last = number == 0, number == numbers[ray] - 1
    following = torch.cat([samples[1:], samples[:1]])  # of a ray's last sample, another's first: not looked at
    before = torch.cat([samples[-1:], samples[:-1]])
    low, high = (_at(vals, i, count > 0)[ray] for i in (first, first + count - 1))
    lower = torch.where(is_last, low, torch.maximum(samples - (following - samples) * 0.5, low))
    upper = torch.where(is_first, high, torch.minimum(samples + (samples - before) * 0.5, high))
    place = edge_starts[ray] + number
    edges[place] = torch.where(is_first, lower, (samples + before) * 0.5)
    edges[place[is_last] + 1] = upper[is_last]
    is_left, is_right = (torch.ones_like(edges, dtype=torch.bool) for _ in range(2))
    is_right[place[is_first]] = False
    is_left[place[is_last] + 1] = False
    edge_rays = torch.arange(numbers.shape[0], device=vals.device).repeat_interleave(edge_counts)
    return (
        RayIntervals(edges, torch.stack([edge_starts, edge_counts], 1), edge_rays, is_left, is_right),
        RaySamples(samples, torch.stack([starts, numbers], 1), ray),
    )


def _sample(
    vals: Tensor, cdfs: Tensor, ends: tuple[Tensor, Tensor], ray: Tensor, number: Tensor, n: Tensor, bias: Tensor
) -> Tensor:
    """Return sample `number` of `ray`, both [N], of flat edges; ends: the first and last edge of each ray."""
    vals, cdfs, (first, last) = vals.reshape(-1), cdfs.reshape(-1), ends
    some = last >= first
    low = _at(cdfs, first, some)
    step = (_at(cdfs, last, some) - low) / n
    wanted = low[ray] + (number + bias[ray]) * step[ray]
    right = _search(cdfs, first[ray], last[ray], wanted)
    left = torch.maximum(right - 1, first[ray])
    some = some[ray]
    of_edges = (_at(cdfs, left, some), _at(cdfs, right, some))
    return _between(of_edges, (_at(vals, left, some), _at(vals, right, some)), wanted)


def _between(cdfs: tuple[Tensor, Tensor], edges: tuple[Tensor, Tensor], wanted: Tensor) -> Tensor:
    """Return where the distribution, linear between two edges, has the wanted value."""
    rise = cdfs[1] - cdfs[0]
    inside = edges[0] + (wanted - cdfs[0]) * ((edges[1] - edges[0]) / rise)
    return torch.where(rise < FLAT, (edges[0] + edges[1]) * 0.5, inside)


def _at(flat: Tensor, index: Tensor, some: Tensor) -> Tensor:
    """Return the values at an index, 0 if there is none."""
    if not flat.numel():
        return flat.new_zeros(index.shape)
    return torch.where(some, flat[torch.where(some, index, 0)], 0.0)


def _search(flat: Tensor, first: Tensor, last: Tensor, asked: Tensor) -> Tensor:
    """Return the first place of first ... last - 1 whose value is above the one asked for, or `last`; all [N]."""
    low, high = first, torch.maximum(last, first)
    rounds = int((high - low).max()).bit_length() if low.numel() else 0
    for _ in range(rounds):
        middle = (low + high) // 2
        above, searching = flat[middle.clamp_max(flat.shape[0] - 1)] > asked, low < high
        high = torch.where(searching & above, middle, high)
        low = torch.where(searching & ~above, middle + 1, low)
    return low


def _segments(name: str, segments: RayIntervals | RaySamples) -> tuple[Tensor, Tensor]:
    """Return the first place and the number of the values of each ray in the flat tensor, int64 [R]."""
    vals = segments.vals
    if vals.dim() > 1:
        rays, size = math.prod(vals.shape[:-1]), vals.shape[-1]
        first = torch.arange(rays, device=vals.device) * size
        return first, torch.full_like(first, size)
    check_tensor(f"{name}.packed_info", segments.packed_info, (None, 2), INDICES, vals.device, "[R, 2]")
    assert segments.packed_info is not None
    first, count = segments.packed_info.to(torch.int64).unbind(1)
    return first, count


def _rays_of(name: str, segments: RayIntervals | RaySamples) -> Tensor:
    """Return the ray of each value, int64 [N]."""
    vals = segments.vals
    if vals.dim() == 1 and segments.ray_indices is not None:
        check_tensor(f"{name}.ray_indices", segments.ray_indices, tuple(vals.shape), INDICES, vals.device, "[N]")
        return segments.ray_indices.to(torch.int64)
    count = _segments(name, segments)[1]
    rays = torch.arange(count.shape[0], device=vals.device).repeat_interleave(count)
    if rays.shape[0] != vals.numel():
        raise ValueError(f"{name}.packed_info must count the {vals.numel()} values, got {rays.shape[0]} in all")
    return rays


def _sample_from_weighted(
    bins: Tensor,
    weights: Tensor,
    num_samples: int,
    stratified: bool = False,
    vmin: float | Tensor = -math.inf,
    vmax: float | Tensor = math.inf,
) -> tuple[Tensor, Tensor]:
    """Return edges [..., S + 1] and samples [..., S] of a histogram: bins [..., B + 1], weights [..., B]."""
    cdfs = torch.cat([torch.zeros_like(weights[..., :1]), weights.cumsum(-1)], -1)
    intervals, samples = importance_sampling(RayIntervals(bins), cdfs / cdfs[..., -1:], num_samples, stratified)
    edges = intervals.vals
    edges = torch.cat([edges[..., :1].clamp_min(vmin), edges[..., 1:-1], edges[..., -1:].clamp_max(vmax)], -1)
    return edges, samples.vals
