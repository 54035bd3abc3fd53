"""Places the cameras of a procedural city: aerial, oblique and even over a block's whole cell.

A block's views depend on its own cell only: from the height of the tallest roof down to the ground, every ray stays
inside the cell expanded by `EXPAND` about its center. Lengths are meters, angles degrees.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mclnf_fast.data.procedural.city.style import Flight
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, cat_cameras, look_at
from mclnf_fast.render.lenses.views import check_pinhole

EXPAND = 1.15  # enough to look at a cell's corners from the side, without the neighbors' roofs
CITY_ALTITUDE = (360.0, 460.0)
FLIGHT = Flight()


def expanded(box: Tensor, factor: float = EXPAND) -> Tensor:
    """Return `box` [2, 3] with its x and y sides scaled by `factor` about the center; z stays.

    >>> expanded(torch.tensor([[0.0, 0.0, 0.0], [10.0, 10.0, 5.0]]), 2.0).tolist()
    [[-5.0, -5.0, 0.0], [15.0, 15.0, 5.0]]
    """
    result = box.clone()
    center, half = 0.5 * (box[0, :2] + box[1, :2]), 0.5 * (box[1, :2] - box[0, :2])
    result[0, :2], result[1, :2] = center - factor * half, center + factor * half
    return result


def views_inside(cameras: Cameras, box: Tensor) -> Tensor:
    """Return whether all rays of each view stay inside `box` [2, 3] in x and y while they are inside it in z; bool [V].

    The four corner rays decide: their crossings of a level plane span a convex region with all others inside it, and a
    segment between two points of a convex cell stays in the cell.

    >>> box = torch.tensor([[0.0, 0.0, 0.0], [200.0, 200.0, 45.0]])
    >>> views_inside(block_views(box, 2, (8, 6), seed=0), expanded(box)).tolist()
    [True, True]
    """
    _, directions = cameras.corner_rays()
    crossings = _crossings(cameras, box)
    return (directions[..., 2] < -1e-3).all(1) & ((crossings >= box[0, :2]) & (crossings <= box[1, :2])).all(2).all(1)


def sees(cameras: Cameras, points: Tensor) -> Tensor:
    """Return whether each view's picture holds each of `points` [P, 3] (nothing hides anything here); bool [V, P].

    >>> box = torch.tensor([[0.0, 0.0, 0.0], [200.0, 200.0, 45.0]])
    >>> sees(block_views(box, 2, (8, 6), seed=0), torch.tensor([[100.0, 100.0, 900.0]])).tolist()
    [[False], [False]]
    """
    check_pinhole(cameras, "sees")
    local = torch.einsum("vkj,vpk->vpj", cameras.c2w[:, :, :3], points[None] - cameras.centers[:, None])
    depth = (-local[..., 2]).clamp_min(1e-6)
    x = cameras.cx[:, None] + cameras.fx[:, None] * local[..., 0] / depth
    y = cameras.cy[:, None] - cameras.fy[:, None] * local[..., 1] / depth
    inside = (x >= 0) & (x <= cameras.width) & (y >= 0) & (y <= cameras.height)
    return inside & (local[..., 2] < 0)


def _candidates(
    box: Tensor,
    pitch: tuple[float, float],
    flight: Flight,
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
) -> tuple[Cameras, Tensor]:
    """Return random cameras that look at points of `box`, and their headings [count] in radians.

    Of `flight`, its pitches are left to the caller.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float32)

    # The target is drawn and not the position, so that the ground is covered evenly whatever the pitch.
    spread = box[1, :2] - box[0, :2]
    target = torch.stack(
        [box[0, k] + spread[k] * torch.rand(count, generator=generator, dtype=torch.float32) for k in (0, 1)], 1
    )
    target = torch.cat([target, torch.zeros(count, 1, dtype=torch.float32)], 1)
    heading, down = uniform(0.0, 2 * math.pi), torch.deg2rad(uniform(*pitch))
    height = uniform(*flight.altitude)
    back = height / torch.tan(down)
    position = target + torch.stack([-back * torch.cos(heading), -back * torch.sin(heading), height], 1)
    roll = torch.deg2rad(uniform(-4.0, 4.0))
    focal = 0.5 * size[0] / math.tan(math.radians(flight.field_of_view / 2))
    focals = torch.full((count,), focal, dtype=torch.float32)
    cx, cy = (
        torch.full((count,), size[0] / 2, dtype=torch.float32),
        torch.full((count,), size[1] / 2, dtype=torch.float32),
    )
    return Cameras(look_at(position, target, roll), focals, focals, cx, cy, *size), heading


def _crossings(cameras: Cameras, box: Tensor) -> Tensor:
    """Return the points at which corner rays cross the lower and upper plane of `box`, or start below: [V, 8, 2]."""
    origins, directions = cameras.corner_rays()
    crossings = []
    for level in (box[0, 2], box[1, 2]):
        length = ((level - origins[..., 2]) / directions[..., 2].clamp_max(-1e-3)).clamp_min(0.0)
        crossings.append(origins[..., :2] + length[..., None] * directions[..., :2])
    return torch.cat(crossings, 1)


def _fitted(cameras: Cameras, limits: Tensor, generator: torch.Generator) -> tuple[Cameras, Tensor]:
    """Move each camera sideways to a random place from which its rays keep inside `limits`; return the ids that can.

    A seventh of the room beyond either end is drawn too and clamped to that end: without it, few views would reach the
    cell's corners.
    """
    crossings = _crossings(cameras, limits)
    low, high = limits[0, :2] - crossings.amin(1), limits[1, :2] - crossings.amax(1)
    place = (torch.rand(len(cameras), 2, generator=generator, dtype=torch.float32) * 1.28 - 0.14).clamp(0.002, 0.998)
    pose = cameras.c2w.clone()
    pose[:, :2, 3] += low + (high - low) * place
    moved = replace(cameras, c2w=pose)
    return moved, ((high > low).all(1) & views_inside(moved, limits)).nonzero()[:, 0]


def block_views(box: Tensor, count: int, size: tuple[int, int], seed: int, flight: Flight = FLIGHT) -> Cameras:
    """Return `count` views of the block with the box `box` [2, 3] (meters), pictures of `size` (width, height) pixels.

    Random views that keep inside the expanded cell are picked one by one for the gain of each: ground seen rarely so
    far, or never from that side. Uniform random views would leave corners that no picture shows. Another seed gives
    other views of the same distribution. `flight`: their heights, pitches and field of view.

    Raises:
        InputError: a negative count, or no view fits (a box too small for the altitudes used).

    >>> len(block_views(torch.tensor([[0.0, 0.0, 0.0], [200.0, 200.0, 45.0]]), 3, (8, 6), seed=0))
    3
    """
    if count < 0:
        raise InputError(f"count: must be a number of views >= 0, was {count}")
    generator = torch.Generator().manual_seed(seed)
    limits = expanded(box)
    shares = torch.tensor([share for _, _, share in flight.pitches], dtype=torch.float32)
    # Every band gets its rounded share; largest remainders fill up.
    # Counts and not probabilities: with 14 views, chance would leave some blocks without a view from above.
    quota = (shares * count).floor().to(torch.int64)
    order = torch.argsort(shares * count - quota, descending=True, stable=True)
    quota[order[: count - int(quota.sum())]] += 1
    steps = (torch.arange(16, dtype=torch.float32) + 0.5) / 16
    grid = torch.cartesian_prod(steps, steps) * (box[1, :2] - box[0, :2]) + box[0, :2]
    grid = torch.cat([grid, torch.zeros(len(grid), 1, dtype=torch.float32)], 1)
    coverage = torch.zeros(len(grid), 5, dtype=torch.float32)  # from four sides and from above
    chosen = []
    for band, (low, high, _) in enumerate(flight.pitches):
        if not int(quota[band]):
            continue
        pools, sides, fitting = [], [], 0
        for _ in range(20):
            cameras, heading = _candidates(limits, (low, high), flight, 400, size, generator)
            cameras, keep = _fitted(cameras, limits, generator)
            side = torch.full_like(heading, 4) if low >= 80.0 else torch.div(heading, math.pi / 2).floor().clamp(0, 3)
            pools.append(cameras[keep])
            sides.append(side[keep].to(torch.int64))
            fitting += len(keep)
            if fitting >= max(100, 5 * int(quota[band])):
                break
        if fitting < int(quota[band]):
            raise InputError(f"box: too small for {count} views, only {fitting} fit at pitches {low:g} to {high:g}")
        pool, side = cat_cameras(pools), torch.cat(sides)
        cover = sees(pool, grid).to(torch.float32)
        free = torch.ones(len(pool), dtype=torch.float32)
        for _ in range(int(quota[band])):
            novelty = 1.0 / (1.0 + coverage) ** 2
            rare = 0.5 / (1.0 + coverage.sum(1)) ** 2
            gain = (cover * (novelty.T[side] + rare)).sum(1) / (cover.sum(1) + 1.0).sqrt()
            best = int((gain * free).argmax())
            free[best] = 0.0
            coverage[:, side[best]] += cover[best]
            chosen.append(pool[best : best + 1])
    if not chosen:
        return _candidates(limits, flight.pitches[0][:2], flight, 1, size, generator)[0][0:0]
    joined = cat_cameras(chosen)
    # In random order: a run that takes only the first views must not get one band of pitches.
    return joined[torch.randperm(count, generator=generator)]


def city_views(boxes: Tensor, count: int, size: tuple[int, int], seed: int, ring: float) -> Cameras:
    """Return `count` high views that see the center of each block and nothing beyond `ring` meters of them.

    Args:
        boxes: [B, 2, 3], the blocks' boxes, meters.
        count: number of views.
        size: (width, height) of a picture, pixels.
        seed: seed of the views.
        ring: meters around the blocks that may be seen.

    Raises:
        InputError: no such view was found (more blocks than one picture from these altitudes holds).

    >>> boxes = torch.tensor([[[0.0, 0.0, 0.0], [200.0, 200.0, 45.0]]])
    >>> len(city_views(boxes, 2, (8, 6), seed=0, ring=195.0))
    2
    """
    generator = torch.Generator().manual_seed(seed)
    box = torch.stack([boxes[:, 0].amin(0), boxes[:, 1].amax(0)])
    limits = box.clone()
    limits[0, :2] -= ring
    limits[1, :2] += ring
    middle, half = 0.5 * (box[0] + box[1]), 0.15 * (box[1] - box[0])
    targets = torch.stack([middle - half, middle + half])
    centers = boxes.mean(1)
    centers[:, 2] = 0.0
    # Higher for larger districts, or no picture would hold all of their centers.
    scale = max(1.0, float((box[1] - box[0])[:2].max()) / 400.0)
    flight = Flight((CITY_ALTITUDE[0] * scale, CITY_ALTITUDE[1] * scale))
    pools, fitting = [], 0
    for _ in range(120):
        cameras, _ = _candidates(targets, (48.0, 80.0), flight, 500, size, generator)
        pools.append(cameras[(views_inside(cameras, limits) & sees(cameras, centers).all(1)).nonzero()[:, 0]])
        fitting += len(pools[-1])
        if fitting >= count:
            return cat_cameras(pools)[:count]
    raise InputError(f"boxes: {len(boxes)} blocks are too many for one picture, only {fitting} of {count} views fit")
