"""Builds the parts on a procedural car's body: wheels, lights, grille, plates, mirrors, handles, a wing."""

from __future__ import annotations

import numpy as np

from mclnf_fast.data.graphics.mesh import Mesh
from mclnf_fast.data.graphics.mesh_parts import box, ellipsoid, turned
from mclnf_fast.data.procedural.cars.body import BLACK, Outline
from mclnf_fast.data.procedural.cars.plan import CarPlan

TIRE = np.array((0.012, 0.012, 0.014))
LAMP = np.array((0.80, 0.82, 0.80))
RED = np.array((0.55, 0.015, 0.02))
AMBER = np.array((0.80, 0.26, 0.03))
PLATE = np.array((0.75, 0.75, 0.70))


def wheels(car: CarPlan) -> list[Mesh]:
    """Return four wheels on the ground.

    >>> from mclnf_fast.data.procedural.cars.plan import draw_car
    >>> len(wheels(draw_car(0, 0)))
    4
    """
    line = Outline(car)
    steps = car.spokes * 6
    r, half = car.wheel, 0.5 * min(0.205 + 0.12 * (car.wheel - 0.30), 0.25)
    # From the inner side over the tread to the hub on the outer side, which faces +y here.
    profile = np.array(
        [
            (0.30 * r, -half), (0.93 * r, -half), (r, -0.78 * half), (r, 0.78 * half), (0.94 * r, half),
            (0.69 * r, 0.98 * half), (0.66 * r, 0.72 * half), (0.20 * r, 0.84 * half), (0.15 * r, 0.98 * half),
        ]
    )  # fmt: skip
    colors = np.empty((len(profile) - 1, steps, 3))
    colors[:] = TIRE
    colors[5] = car.rim
    open_part = np.arange(steps) % 6 >= 3
    colors[6] = np.where(open_part[:, None], BLACK, car.rim)
    colors[7] = car.rim
    parts = []
    for axle in (car.front_axle, car.rear_axle):
        x, y = float(line.x(axle)), float(line.half(axle)) - 0.025 - half
        for sign in (1.0, -1.0):
            turned_to = profile if sign > 0 else (profile * np.array((1.0, -1.0)))[::-1]
            paint = colors if sign > 0 else colors[::-1]
            parts.append(turned(turned_to, paint, (x, sign * y, r), steps))
    return parts


def front(car: CarPlan) -> list[Mesh]:
    """Return headlights, grille, intake and plate.

    >>> from mclnf_fast.data.procedural.cars.plan import draw_car
    >>> len(front(draw_car(0, 0))) > 3
    True
    """
    line = Outline(car)
    parts = []
    low, high = line.bumper, car.nose
    tall = 0.19 if car.style in ("pick-up", "van", "suv") else 0.14
    top = low + 0.55 * (high - low)
    nose, wide = float(line.x(0.0)), float(line.half(0.0))
    round_lamps = car.spokes == 5 and car.style in ("hatchback", "sports", "suv", "pick-up")
    for sign in (1.0, -1.0):
        if round_lamps:
            center = (nose - 0.07, sign * 0.76 * wide, top - 0.06)
            parts.append(ellipsoid(center, (0.12, 0.115, 0.115), LAMP))
            continue
        y0, y1 = sorted((sign * 0.54 * wide, sign * 1.0 * wide))
        parts.append(box((nose - 0.16, y0, top - tall), (nose + 0.010, y1, top), LAMP, 0.03))
        beside = float(line.half(0.22 / car.length)) + 0.006
        y0, y1 = sorted((sign * 0.9 * wide, sign * beside))
        parts.append(box((nose - 0.27, y0, top - 0.8 * tall), (nose - 0.15, y1, top - 0.25 * tall), AMBER))
    # The grille reaches up into the rounding of the hood's edge, no farther back than that.
    mouth = float(line.x(_reach(line, low + 0.06, 0.0, 0.12)))
    parts.append(box((mouth - 0.03, -0.48 * wide, low - 0.07), (nose + 0.008, 0.48 * wide, low + 0.05), BLACK, 0.02))
    foot = car.clearance + 0.08
    parts.append(box((nose - 0.2, -0.66 * wide, foot), (nose + 0.010, 0.66 * wide, foot + 0.10), 1.5 * BLACK, 0.03))
    bar = 0.5 * (foot + 0.10 + low - 0.05)
    parts.append(box((nose - 0.1, -0.26, bar - 0.055), (nose + 0.02, 0.26, bar + 0.055), PLATE))
    return parts


def rear(car: CarPlan) -> list[Mesh]:
    """Return tail lights, plate and the bumper's strip.

    >>> from mclnf_fast.data.procedural.cars.plan import draw_car
    >>> len(rear(draw_car(0, 0))) >= 4
    True
    """
    line = Outline(car)
    parts = []
    tail, w = float(line.x(1.0)), float(line.half(1.0))
    top = line.tail - 0.02
    upright = car.style in ("van", "pick-up", "estate", "suv")
    tall, broad = (0.30, 0.16) if upright else (0.15, 0.40)
    for sign in (1.0, -1.0):
        y0, y1 = sorted((sign * (0.985 * w - broad), sign * 0.985 * w))
        parts.append(box((tail - 0.014, y0, top - tall), (tail + 0.16, y1, top), RED, 0.03))
    bar = top - 0.5 * tall - 0.06
    parts.append(box((tail - 0.018, -0.26, bar - 0.055), (tail + 0.1, 0.26, bar + 0.055), PLATE))
    foot = car.clearance + 0.10
    parts.append(box((tail - 0.012, -0.9 * w, foot), (tail + 0.1, 0.9 * w, foot + 0.11), 1.5 * BLACK, 0.03))
    if car.spoiler and car.style == "sports":
        z, x, span = car.deck, float(line.x(0.965)), 0.80 * 0.5 * car.width
        for sign in (1.0, -1.0):
            y = sign * 0.7 * span
            parts.append(box((x - 0.05, y - 0.03, z - 0.08), (x + 0.05, y + 0.03, z + 0.15), car.trim))
        parts.append(box((x - 0.14, -span, z + 0.13), (x + 0.12, span, z + 0.17), car.paint, 0.04))
    return parts


def sides(car: CarPlan) -> list[Mesh]:
    """Return mirrors and door handles.

    >>> from mclnf_fast.data.procedural.cars.plan import draw_car
    >>> len(sides(draw_car(0, 0))) >= 4
    True
    """
    line = Outline(car)
    parts = []
    f = car.screen_base + 0.35 * (car.screen_top - car.screen_base) + 0.02
    w = 0.5 * car.width
    mirror = BLACK if car.trim.mean() < car.paint.mean() * 0.5 else car.paint
    seams = line.seams()
    for sign in (1.0, -1.0):
        center = (float(line.x(f)), sign * (w + 0.03), car.belt + 0.07)
        parts.append(ellipsoid(center, (0.075, 0.11, 0.07), mirror))
        for end in seams[1:]:
            g = end - 0.17 / car.length
            z = float(line.top(g)) - 0.20
            y0, y1 = sorted((sign * 0.9 * float(line.half(g)), sign * (float(line.half(g)) * 0.985 + 0.022)))
            x = float(line.x(g))
            parts.append(box((x - 0.08, y0, z - 0.014), (x + 0.08, y1, z + 0.014), BLACK))
    return parts


def _reach(line: Outline, z: float, low: float, high: float) -> float:
    """Return the least share of the length in [low, high] at which the middle line is as high as `z`."""
    f = np.linspace(low, high, 241)
    tall = line.top(f) >= z
    return float(f[int(tall.argmax())]) if bool(tall.any()) else high
