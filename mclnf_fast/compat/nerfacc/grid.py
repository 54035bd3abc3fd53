"""Rays and boxes, and the traversal of rays through grids of occupied cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.checks import check_no_nan, check_number, check_tensor, values_can_be_read
from mclnf_fast.compat.nerfacc.data_specs import RayIntervals, RaySamples


@torch.no_grad()
def ray_aabb_intersect(
    rays_o: Tensor,
    rays_d: Tensor,
    aabbs: Tensor,
    near_plane: float = -math.inf,
    far_plane: float = math.inf,
    miss_value: float = math.inf,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where each ray enters and leaves each box, [R, G] each, and whether it meets it in front of its origin.

    Args:
        rays_o: [R, 3], origins.
        rays_d: [R, 3], directions; axes of 0 are fine.
        aabbs: [G, 6], lowest and highest corner of each box.
        near_plane: the results are clamped to near_plane ... far_plane.
        far_plane: see near_plane.
        miss_value: both results of a miss.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    >>> rays = torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    >>> ray_aabb_intersect(*rays, torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]]))
    (tensor([[1.]]), tensor([[3.]]), tensor([[True]]))
    """
    rays_o, rays_d, aabbs = checked_rays(rays_o, rays_d, aabbs)
    origins, directions = rays_o[:, None], rays_d[:, None]  # [R, 1, 3]
    low, high = aabbs[:, :3], aabbs[:, 3:]
    along = directions == 0  # the ray stays on this side of both planes, or between them
    between = (low <= origins) & (origins <= high)
    first, second = (low - origins) / directions, (high - origins) / directions
    enters = torch.where(along, -math.inf, torch.minimum(first, second)).amax(-1)
    exits = torch.where(along, math.inf, torch.maximum(first, second)).amin(-1)
    hits = (enters <= exits) & (exits > 0) & (between | ~along).all(-1) & ~along.all(-1)
    enters, exits = enters.clamp(near_plane, far_plane), exits.clamp(near_plane, far_plane)
    return torch.where(hits, enters, miss_value), torch.where(hits, exits, miss_value), hits


_ray_aabb_intersect = ray_aabb_intersect  # the original has a second, slower one


@torch.no_grad()
def traverse_grids(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor | None = None,
    far_planes: Tensor | None = None,
    step_size: float = 1e-3,
    cone_angle: float = 0.0,
    traverse_steps_limit: int | None = None,
    over_allocate: bool = False,
    rays_mask: Tensor | None = None,
    t_sorted: Tensor | None = None,
    t_indices: Tensor | None = None,
    hits: Tensor | None = None,
) -> tuple[RayIntervals, RaySamples, Tensor]:
    """Return the occupied parts of rays as intervals and as samples, and where each ray stopped, [R].

    `ops.traverse_grids` says what a sample is. Not differentiable.

    Args:
        rays_o: [R, 3], origins.
        rays_d: [R, 3], directions.
        binaries: bool [G, X, Y, Z], whether cells are occupied; a grid covers those behind it.
        aabbs: [G, 6], the box of each grid.
        near_planes: [R], where rays begin; None: 0.
        far_planes: [R], where they end; None: nowhere.
        step_size: length of a step; 0 or below: a sample per cell.
        cone_angle: growth of the steps with t.
        traverse_steps_limit: most samples of a ray; None, 0 or below: any number.
        over_allocate: whether the results have room for `traverse_steps_limit` samples of each ray, whose places are
            marked by `is_valid`, `is_left` and `is_right`. packed_info then counts the valid places alone.
        rays_mask: bool [R], which rays are traversed; None: all.
        t_sorted: [R, 2 G], with the two others: where rays enter and leave the boxes, sorted; None: computed.
        t_indices: int64 [R, 2 G], the places of these among the G entries and the G exits.
        hits: bool [R, G], whether the boxes are met.

    Returns:
        RayIntervals, RaySamples (`vals` are the middles), and the t at which the next sample of each ray would begin.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    >>> rays = torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    >>> cells, box = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]])
    >>> intervals, samples, stops = traverse_grids(*rays, cells, box, step_size=1.0)
    >>> intervals.vals.tolist(), samples.vals.tolist(), stops.tolist()
    ([1.0, 2.0, 3.0], [1.5, 2.5], [3.0])
    """
    rays_o, rays_d, aabbs = checked_rays(rays_o, rays_d, aabbs)
    rays, grids, device = rays_o.shape[0], aabbs.shape[0], rays_o.device
    check_tensor("binaries", binaries, (grids, None, None, None), torch.bool, device, "[G, X, Y, Z]")
    near, far = (
        check_plane("near_planes", near_planes, 0.0, rays_o),
        check_plane("far_planes", far_planes, math.inf, rays_o),
    )
    if rays_mask is not None:
        check_tensor("rays_mask", rays_mask, (rays,), torch.bool, device, "[R]")
    step, cone = max(check_number("step_size", step_size), 0.0), check_number("cone_angle", cone_angle, 0.0)
    if traverse_steps_limit is not None and (
        isinstance(traverse_steps_limit, bool) or not isinstance(traverse_steps_limit, int)
    ):
        raise TypeError(f"traverse_steps_limit must be an int or None, got {traverse_steps_limit!r}")
    limit = max(traverse_steps_limit or 0, 0)
    if over_allocate and limit == 0:
        raise ValueError(f"traverse_steps_limit must be above 0 with over_allocate, got {traverse_steps_limit!r}")
    if t_sorted is None or t_indices is None or hits is None:
        enters, exits, hits = ray_aabb_intersect(rays_o, rays_d, aabbs)
    else:
        check_tensor("t_sorted", t_sorted, (rays, 2 * grids), rays_o.dtype, device, "[R, 2 G]")
        check_tensor("t_indices", t_indices, (rays, 2 * grids), torch.int64, device, "[R, 2 G]")
        check_tensor("hits", hits, (rays, grids), torch.bool, device, "[R, G]")
        enters, exits = torch.empty_like(t_sorted).scatter_(1, t_indices, t_sorted).split(grids, dim=1)
    found = ops.traverse_grids(
        rays_o, rays_d, binaries, aabbs, enters, exits, hits, near, far,
        step=step, cone=cone, limit=limit, mask=rays_mask,
    )  # fmt: skip
    intervals, samples = _intervals(found), _samples(found)
    if over_allocate:
        mask = torch.ones_like(near, dtype=torch.bool) if rays_mask is None else rays_mask
        intervals, samples = _spread_out(intervals, samples, mask, limit)
    return intervals, samples, found.stops


def check_plane(name: str, plane: Tensor | None, value: float, rays_o: Tensor) -> Tensor:
    """Return a plane [R] like the origins of the rays, `value` for None. Raises TypeError or ValueError.

    >>> check_plane("near_planes", None, 0.0, torch.zeros(2, 3))
    tensor([0., 0.])
    """
    if plane is None:
        return torch.full_like(rays_o[:, 0], value)
    check_tensor(name, plane, (rays_o.shape[0],), None, rays_o.device, "[R]")
    if name == "near_planes" and values_can_be_read(plane) and not bool(plane.isfinite().all()):
        raise ValueError(f"{name} must be finite, got infinity or NaN")
    return plane.to(rays_o.dtype)


def checked_rays(rays_o: Tensor, rays_d: Tensor, aabbs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rays and boxes in the dtype of the origins, or in float32."""
    check_tensor("rays_o", rays_o, (None, 3), what="[R, 3]")
    check_tensor("rays_d", rays_d, tuple(rays_o.shape), None, rays_o.device, "[R, 3]")
    check_tensor("aabbs", aabbs, (None, 6), None, rays_o.device, "[G, 6]")
    for name, t in (("rays_o", rays_o), ("rays_d", rays_d), ("aabbs", aabbs)):
        check_no_nan(name, t)
    dtype = torch.float64 if rays_o.dtype == torch.float64 else torch.float32
    return rays_o.to(dtype), rays_d.to(dtype), aabbs.to(dtype)


def _samples(found: ops.Traversal) -> RaySamples:
    middles = (found.t_starts + found.t_ends) * 0.5
    return RaySamples(middles, found.packed_info, found.ray_ids, torch.ones_like(found.ray_ids, dtype=torch.bool))


def _intervals(found: ops.Traversal) -> RayIntervals:
    """Return the edges of the samples; a sample that begins where the one before it ends shares the edge."""
    starts, ends, rays = found.t_starts, found.t_ends, found.ray_ids
    apart = torch.ones_like(rays, dtype=torch.bool)
    apart[1:] = (rays[1:] != rays[:-1]) | (starts[1:] != ends[:-1])
    lefts = apart.cumsum(0)  # edges that are left ones alone, up to each sample
    right = torch.arange(rays.shape[0], device=rays.device) + lefts
    edges = starts.new_empty(rays.shape[0] + int(apart.sum()))
    edges[right - 1], edges[right] = starts, ends
    ray_indices = torch.empty_like(edges, dtype=torch.int64)
    ray_indices[right - 1], ray_indices[right] = rays, rays
    is_left = torch.zeros_like(edges, dtype=torch.bool)
    is_right = is_left.clone()
    is_left[right - 1], is_right[right] = True, True
    first, count = found.packed_info.unbind(1)
    before = torch.cat([lefts.new_zeros(1), lefts])
    counts = count + before[first + count] - before[first]
    return RayIntervals(edges, torch.stack([counts.cumsum(0) - counts, counts], 1), ray_indices, is_left, is_right)


def _spread_out(
    intervals: RayIntervals, samples: RaySamples, mask: Tensor, limit: int
) -> tuple[RayIntervals, RaySamples]:
    """Return both with room for `limit` samples, and twice as many edges, of each ray of the mask."""

    def places(packed_info: Tensor | None, rays: Tensor | None, room: int) -> tuple[Tensor, int]:
        assert packed_info is not None
        assert rays is not None
        rooms = mask.to(torch.int64) * room
        number = torch.arange(rays.shape[0], device=rays.device) - packed_info[rays, 0]
        return (rooms.cumsum(0) - rooms)[rays] + number, int(rooms.sum())

    def spread(t: Tensor | None, place: Tensor, size: int) -> Tensor:
        assert t is not None
        return t.new_zeros(size).index_copy_(0, place, t)

    edge, edges = places(intervals.packed_info, intervals.ray_indices, 2 * limit)
    sample, room = places(samples.packed_info, samples.ray_indices, limit)
    of_edges = (intervals.ray_indices, intervals.is_left, intervals.is_right)
    return (
        RayIntervals(
            spread(intervals.vals, edge, edges), intervals.packed_info, *(spread(t, edge, edges) for t in of_edges)
        ),
        RaySamples(
            spread(samples.vals, sample, room),
            samples.packed_info,
            spread(samples.ray_indices, sample, room),
            spread(samples.is_valid, sample, room),
        ),
    )


def _enlarge_aabb(aabb: Tensor, factor: float) -> Tensor:
    """Return a box [6] scaled about its center."""
    center, half = (aabb[:3] + aabb[3:]) / 2, (aabb[3:] - aabb[:3]) / 2 * factor
    return torch.cat([center - half, center + half])


def _query(x: Tensor, data: Tensor, base_aabb: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values at points [N, 3] of nested grids [G, X, Y, Z], 0 outside, and whether a grid holds them.

    Grid k spans the box [6] scaled by 2^k about its center, and covers those behind it.
    """
    grids, size = data.shape[0], torch.tensor(data.shape[1:], device=x.device)
    centered = (x - base_aabb[:3]) / (base_aabb[3:] - base_aabb[:3]) - 0.5  # within +-0.5: in the first
    level = torch.zeros_like(x[:, 0], dtype=torch.int64)
    for k in range(grids):
        level = level + (centered.abs().amax(-1) > 0.5 * 2**k)
    inside, level = level < grids, level.clamp_max(grids - 1)
    unit = centered / (2.0**level)[:, None] + 0.5
    cell = (unit * size).to(torch.int64).clamp_min(0).minimum(size - 1)
    return data[level, cell[:, 0], cell[:, 1], cell[:, 2]] * inside, inside
