"""Builds the cabin of a procedural car: rings from the belt up to the roof, with windows between pillars."""

from __future__ import annotations

import numpy as np

from mclnf_fast.data.graphics.mesh import Mesh
from mclnf_fast.data.graphics.mesh_parts import box, loft
from mclnf_fast.data.procedural.cars.body import BLACK, Outline
from mclnf_fast.data.procedural.cars.plan import CarPlan

PILLAR = 0.075  # meters
# Share of the cabin's height and how far the ring is drawn in (a share of its half width).
LEVELS = ((-0.12, 0.0), (0.0, 0.0), (0.11, 0.0), (0.84, 0.0), (0.93, 0.02), (0.975, 0.07), (1.0, 0.17), (1.015, 0.5))
GLASS = (2,)  # strips between levels that have windows


def cabin(car: CarPlan) -> list[Mesh]:
    """Return the meshes of the cabin, closed, and of the parts on its roof.

    >>> from mclnf_fast.data.procedural.cars.plan import draw_car
    >>> cabin(draw_car(0, 0))[0].closed
    True
    """
    line = Outline(car)
    pillars = _pillars(car)
    rings = []
    base = car.belt - 0.02
    tall = car.height - base
    for share, inset in LEVELS:
        lean = min(max(share, 0.0), 1.0)
        front = float(line.x(car.screen_base + (car.screen_top - car.screen_base) * lean))
        rear = float(line.x(car.rear_base + (car.roof_end - car.rear_base) * lean))
        wide = (0.925 - 0.02 * (car.style == "sports")) * 0.5 * car.width * (1.0 - car.taper * lean)
        pull = inset * wide
        ring = _ring(front - pull, rear + pull, wide - pull, pillars, car)
        rings.append(np.concatenate([ring, np.full((len(ring), 1), base + tall * share)], 1))
    glass = _windows(car, len(pillars))
    pillar_paint = BLACK if car.dark_pillars and not car.blind_van else car.paint
    colors = np.empty((len(LEVELS) - 1, len(glass), 3))
    for k in range(len(LEVELS) - 1):
        roof = k > max(GLASS)
        colors[k] = car.roof if roof else car.paint
        if k in GLASS:
            colors[k] = np.where(glass[:, None], car.glass, pillar_paint)
    grid = np.stack(rings)
    parts = [loft(grid, colors, np.stack([car.paint, car.roof]), crease=30.0)]
    return parts + _roof_parts(car, grid)


def _pillars(car: CarPlan) -> list[tuple[float, float]]:
    """Return the pillars within the side windows, as (begin, end) shares of the windows' length."""
    if car.style == "van":
        return [(0.30, 0.335), (0.64, 0.675)]
    if car.style in ("estate", "suv"):
        return [(0.37, 0.405), (0.70, 0.745)]
    if car.style == "pick-up":
        return [] if car.doors == 1 else [(0.52, 0.57)]
    if car.style == "sports":
        return [(0.66, 0.76)]
    return [(0.47, 0.515)] if car.doors == 2 else [(0.55, 0.595)]


def _ring(front: float, rear: float, wide: float, pillars: list[tuple[float, float]], car: CarPlan) -> np.ndarray:
    """Return a ring [P, 2] (x, y) from the windshield's middle over the left side to the rear window's and back."""
    bow = 0.16 if car.style != "van" else 0.12
    back = 0.05
    front_end, rear_end = (
        front - bow - PILLAR,
        rear + back + PILLAR * (1.6 if car.style in ("hatchback", "saloon") else 1.2),
    )
    if rear_end > front_end - 0.2:
        middle = 0.5 * (front_end + rear_end)
        front_end, rear_end = middle + 0.1, middle - 0.1
    edges = [0.0, *(end for pillar in pillars for end in pillar), 1.0]
    side = [(front_end + (rear_end - front_end) * t, wide * (1.0 - 0.05 * t * t)) for t in edges]
    left = [
        (front, 0.0), (front - 0.012, 0.22 * wide), (front - 0.28 * bow, 0.55 * wide),
        (front - 0.85 * bow, 0.9 * wide),
        *side,
        (rear + back, 0.86 * wide), (rear + 0.25 * back, 0.5 * wide), (rear, 0.22 * wide), (rear, 0.0),
    ]  # fmt: skip
    points = np.array(left)
    return np.concatenate([points, points[-2:0:-1] * np.array((1.0, -1.0))])


def _windows(car: CarPlan, pillars: int) -> np.ndarray:
    """Return which strips between the ring's points are glass, bool [P]."""
    side = [True, *([False, True] * pillars)]
    if car.style == "sports":
        side[-1] = False
    if car.blind_van:
        side[1:] = [False] * (len(side) - 1)
    rear = not car.blind_van
    left = [True, True, True, False, *side, False, rear, rear, rear]
    return np.array([*left, *left[::-1]])


def _roof_parts(car: CarPlan, grid: np.ndarray) -> list[Mesh]:
    """Return rails, a spoiler, a stripe, a taxi's sign: those that the car has."""
    edge = grid[5]  # the roof's shoulder
    front, rear, wide, z = edge[:, 0].max(), edge[:, 0].min(), edge[:, 1].max(), edge[0, 2]
    parts = []
    if car.rails:
        for sign in (-1.0, 1.0):
            y = sign * 0.93 * wide
            parts.append(box((rear + 0.15, y - 0.025, z), (front - 0.45, y + 0.025, z + 0.075), 2.5 * BLACK, 0.02))
    if car.spoiler and car.style != "sports":
        parts.append(box((rear - 0.20, -0.86 * wide, z - 0.035), (rear + 0.15, 0.86 * wide, z + 0.025), car.roof, 0.05))
    if car.stripe is not None:
        flat, top = grid[-2], grid[-1, 0, 2]
        y = 0.20 * 0.5 * car.width
        parts.append(box((flat[:, 0].min() + 0.06, -y, z), (flat[:, 0].max() - 0.06, y, top + 0.006), car.stripe))
    if car.sign:
        x, top = 0.6 * front + 0.4 * rear, car.height
        yellow = np.array((0.85, 0.60, 0.05))
        parts.append(box((x - 0.10, -0.30, top - 0.01), (x + 0.10, 0.30, top + 0.17), yellow, 0.04))
    return parts
