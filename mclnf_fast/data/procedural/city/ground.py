"""Paints the ground of a district: asphalt, markings, crossings, curbs, pavements, parks, plazas and yards.

Each edge is blurred over the sample's own footprint, so a thin line keeps its mean brightness from far away and does
not flicker between views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.data.procedural.city.district import (
    CELL,
    MAIN_ROAD,
    MAIN_WALK,
    PARK,
    PLAZA,
    SIDE_ROAD,
    SIDE_WALK,
    District,
)


def _linear(r: float, g: float, b: float) -> Tensor:
    return torch.tensor([r, g, b], dtype=torch.float32) ** 2.2


ASPHALT, SIDE_ASPHALT = _linear(0.33, 0.33, 0.35), _linear(0.37, 0.37, 0.38)
PAVEMENT, CURB, PAINT = _linear(0.67, 0.65, 0.62), _linear(0.80, 0.79, 0.76), _linear(0.90, 0.90, 0.87)
GRASS, PATH, WATER = _linear(0.42, 0.55, 0.28), _linear(0.76, 0.70, 0.58), _linear(0.30, 0.45, 0.55)
TILE, YARD, LAWN = _linear(0.74, 0.68, 0.60), _linear(0.56, 0.54, 0.49), _linear(0.46, 0.55, 0.34)


def pulses(x: Tensor, share: Tensor | float, blur: Tensor) -> Tensor:
    """Return the mean of a train of unit pulses over [x - blur/2, x + blur/2].

    The train has period 1, `share` of it on, centered at 0.5.

    >>> pulses(torch.tensor([0.5, 0.0]), 0.5, torch.tensor([0.1, 0.1])).round(decimals=4).tolist()
    [1.0, 0.0]
    """
    # A pulse train over a footprint of no width would be 0 / 0.
    blur = blur.clamp_min(1e-3)
    start = 0.5 - 0.5 * torch.as_tensor(share, dtype=torch.float32)

    def area(position: Tensor) -> Tensor:
        whole = position.floor()
        rest = position - whole - start
        return whole * share + torch.minimum(rest.clamp_min(0.0), torch.as_tensor(share, dtype=torch.float32))

    return (area(x + 0.5 * blur) - area(x - 0.5 * blur)) / blur


def within(margin: Tensor, blur: Tensor) -> Tensor:
    """Return the share of a footprint of width `blur` on the positive side of an edge at distance `margin`.

    >>> within(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.5, 0.5, 0.5])).tolist()
    [0.0, 0.5, 1.0]
    """
    return (margin / blur + 0.5).clamp(0.0, 1.0)


def _paint(color: Tensor, over: Tensor, share: Tensor) -> Tensor:
    """Return `share` [N] of the color `over` laid on `color`."""
    return color + share[:, None] * (over - color)


def ground_color(district: District, x: Tensor, y: Tensor, blur: Tensor) -> Tensor:
    """Return the ground's color, linear light [N, 3], at `x`, `y` [N] seen with footprints `blur` [N], all in meters.

    >>> from mclnf_fast.data import make_district
    >>> ground_color(make_district(0, (1, 1)), torch.zeros(2), torch.zeros(2), torch.ones(2)).shape
    torch.Size([2, 3])
    """
    blur = blur.clamp_min(0.02)
    shape = district.lots.shape
    gx, gy = (x - district.origin[0]) / CELL, (y - district.origin[1]) / CELL
    ix, iy = gx.floor(), gy.floor()
    u, v = (gx - ix) * CELL, (gy - iy) * CELL
    # Beyond the ring the pattern repeats, so that the horizon is no empty plane.
    cell = (ix.to(torch.int64) % shape[0]) * shape[1] + iy.to(torch.int64) % shape[1]
    side = district.side_streets.reshape(-1, 2)[cell]
    right, upper = u > side[:, 0], v > side[:, 1]
    kind = district.lots.reshape(-1)[cell * 4 + right + 2 * upper]
    color = _lots(u, v, side, right, upper, kind, blur)

    main_u, main_v = torch.minimum(u, CELL - u), torch.minimum(v, CELL - v)
    side_u, side_v = (u - side[:, 0]).abs(), (v - side[:, 1]).abs()

    def streets(main: float, minor: float) -> Tensor:
        margin = torch.maximum(main - torch.minimum(main_u, main_v), minor - torch.minimum(side_u, side_v))
        return within(margin, blur)

    color = _paint(color, PAVEMENT, streets(MAIN_WALK, SIDE_WALK))
    color = _paint(color, CURB, streets(MAIN_ROAD + 0.5, SIDE_ROAD + 0.4))
    color = _paint(color, SIDE_ASPHALT, streets(MAIN_ROAD, SIDE_ROAD))
    color = _paint(color, ASPHALT, within(MAIN_ROAD - torch.minimum(main_u, main_v), blur))
    return _paint(color, PAINT, _markings(u, v, main_u, main_v, side_u, side_v, blur) * 0.85)


def _markings(
    u: Tensor, v: Tensor, main_u: Tensor, main_v: Tensor, side_u: Tensor, side_v: Tensor, blur: Tensor
) -> Tensor:
    """Return the share [N] of white paint: center lines, lane dashes and zebra crossings."""
    paint = torch.zeros_like(u)
    along_v, along_u = (v, main_u, main_v, side_v, side_u), (u, main_v, main_u, side_u, side_v)
    for along, across, junction, turning, cross_street in (along_v, along_u):
        clear = within(junction - 16.0, blur) * within(turning - 6.0, blur)
        lines = within(0.22 - across, blur) + within(0.14 - (across - 4.0).abs(), blur) * pulses(
            along / 8.0, 0.5, blur / 8.0
        )
        zebra = within(1.75 - (junction - 11.0).abs(), blur) * pulses(across / 1.6, 0.5, blur / 1.6)
        paint = paint + (lines * clear + zebra) * within(MAIN_ROAD - 0.3 - across, blur)
        # The street inside the cell that runs along the same axis.
        clear = within(junction - 16.0, blur) * within(turning - 8.0, blur)
        dashes = within(0.14 - cross_street, blur) * pulses(along / 6.0, 0.5, blur / 6.0) * clear
        zebra = within(1.5 - (junction - 10.8).abs(), blur) * pulses(cross_street / 1.4, 0.5, blur / 1.4)
        paint = paint + (dashes + zebra) * within(SIDE_ROAD - 0.3 - cross_street, blur)
    return paint.clamp(0.0, 1.0)


def _lots(u: Tensor, v: Tensor, side: Tensor, right: Tensor, upper: Tensor, use: Tensor, blur: Tensor) -> Tensor:
    """Return the color [N, 3] of the land between the streets."""
    low_u = torch.where(right, side[:, 0] + SIDE_WALK, MAIN_WALK)
    high_u = torch.where(right, CELL - MAIN_WALK, side[:, 0] - SIDE_WALK)
    low_v = torch.where(upper, side[:, 1] + SIDE_WALK, MAIN_WALK)
    high_v = torch.where(upper, CELL - MAIN_WALK, side[:, 1] - SIDE_WALK)
    half_u, half_v = 0.5 * (high_u - low_u), 0.5 * (high_v - low_v)
    a, b = (u - low_u) / half_u - 1.0, (v - low_v) / half_v - 1.0
    half = torch.minimum(half_u, half_v)
    # Bent waves instead of noise: they need no table, and points can be evaluated in any batches.
    patches = torch.sin(u * 0.31 + 1.3 * torch.sin(v * 0.17)) * torch.sin(v * 0.27 + 1.1 * torch.sin(u * 0.13))

    yard = _paint(YARD.expand(len(u), 3), LAWN, within(patches * 6.0, blur))
    grass = GRASS * (1.0 + 0.16 * patches)[:, None]
    radius = (a * a + b * b).sqrt()
    paths = torch.maximum(1.5 - (a.abs() - b.abs()).abs() * half, 1.6 - (radius - 0.62).abs() * half)
    grass = _paint(grass, PATH, within(paths, blur))
    pond = (0.42 - radius) * half
    grass = _paint(_paint(grass, PATH, within(pond + 1.4, blur)), WATER, within(pond, blur))
    check = (pulses(u / 8.0, 0.5, blur / 8.0) - 0.5) * (pulses(v / 8.0, 0.5, blur / 8.0) - 0.5) * 4.0
    plaza = TILE * (1.0 + 0.13 * check)[:, None]
    color = torch.where((use == PARK)[:, None], grass, yard)
    return torch.where((use == PLAZA)[:, None], plaza, color)
