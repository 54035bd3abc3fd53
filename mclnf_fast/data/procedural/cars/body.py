"""Builds the lower body of a procedural car: sections along its length, wheel arches, and a pick-up's bed."""

from __future__ import annotations

import math

import numpy as np

from mclnf_fast.data.graphics.mesh import Mesh
from mclnf_fast.data.graphics.mesh_parts import box, loft
from mclnf_fast.data.procedural.cars.plan import CarPlan, linear

ARCH_GAP = 0.055  # meters between a tire and its arch
SEAM = 0.02  # width of the gap around a door, meters
BLACK = linear(np.array((0.09, 0.09, 0.10)))
BED = (0.045, 0.025)  # meters behind the cabin and before the tail
SIDES = ("under", "sill", "lower", "side", "upper", "shoulder", "top", "middle")


class Outline:
    """Heights and widths of the lower body by the share `f` of the length from the nose, meters.

    >>> from mclnf_fast.data.procedural.cars.plan import draw_car
    >>> line = Outline(draw_car(0, 0))
    >>> bool(line.low(0.5) < line.top(0.5))
    True
    """

    def __init__(self, car: CarPlan) -> None:
        self.car = car
        self.bumper = car.clearance + 0.62 * (
            car.nose - car.clearance
        )  # height at which the rounding of the nose begins
        self.tail = 0.93 * car.deck if car.rear_base < 0.93 else 0.90 * car.belt

    def x(self, f: np.ndarray | float) -> np.ndarray:
        """Return the position along the car, the nose at +length / 2."""
        return np.asarray(self.car.length * (0.5 - f))

    def top(self, f: np.ndarray | float) -> np.ndarray:
        """Return the height of the middle line: nose, hood, beneath the cabin, trunk, tail."""
        car, f = self.car, np.asarray(f, float)
        ends = car.rear_base < 0.93 and car.style != "pick-up"
        tail = car.deck - (0.03 if ends else 0.0)
        height = np.interp(
            f,
            [0.0, 0.5 * car.screen_base, car.screen_base, min(car.screen_base + 0.1, 0.5), car.rear_base, 1.0],
            [car.nose, 0.62 * car.hood + 0.38 * car.nose + 0.012, car.hood, car.belt, car.deck, tail],
        )
        front = (1.0 - f * car.length / car.round_nose).clip(0.0, 1.0)
        back = (1.0 - (1.0 - f) * car.length / (0.12 if ends else 0.08)).clip(0.0, 1.0)
        height = height - (car.nose - self.bumper) * (1.0 - np.sqrt(1.0 - front**2))
        return np.asarray(height - (car.deck - self.tail) * (1.0 - np.sqrt(1.0 - back**2)))

    def half(self, f: np.ndarray | float) -> np.ndarray:
        """Return half the width."""
        car, f = self.car, np.asarray(f, float)
        boxy = car.style in ("van", "pick-up")
        front = (1.0 - f / 0.24).clip(0.0, 1.0)
        back = (1.0 - (1.0 - f) / 0.22).clip(0.0, 1.0)
        share = 1.0 - (0.09 if boxy else 0.14) * front**2.0 - (0.03 if boxy else 0.09) * back**2.2
        corner = np.maximum((1.0 - f * car.length / 0.16).clip(0.0), (1.0 - (1.0 - f) * car.length / 0.10).clip(0.0))
        return np.asarray(0.5 * car.width * (share - 0.07 * corner**2))

    def low(self, f: np.ndarray | float) -> np.ndarray:
        """Return the height of the lower edge: the sill, higher in the wheel arches."""
        car, f = self.car, np.asarray(f, float)
        ends = np.maximum((1.0 - f / 0.05).clip(0.0), (1.0 - (1.0 - f) / 0.06).clip(0.0))
        height = car.clearance + 0.07 * ends
        for axle in (car.front_axle, car.rear_axle):
            away = (f - axle) * car.length
            reach = (car.wheel + ARCH_GAP) ** 2 - away**2
            height = np.maximum(height, np.where(reach > 0, car.wheel + np.sqrt(reach.clip(0.0)), 0.0))
        return np.asarray(height)

    def arch(self, axle: float) -> tuple[float, float]:
        """Return the shares at which the arch about `axle` begins and ends."""
        radius = self.car.wheel + ARCH_GAP
        reach = math.sqrt(max(radius**2 - (self.car.wheel - self.car.clearance) ** 2, 0.0)) / self.car.length
        return axle - reach, axle + reach

    def bed(self) -> tuple[float, float] | None:
        """Return the shares at which a pick-up's bed begins and ends; None for another car."""
        if self.car.style != "pick-up":
            return None
        return self.car.rear_base + BED[0] / self.car.length + 0.015, 1.0 - (BED[1] + 0.03) / self.car.length

    def seams(self) -> list[float]:
        """Return the middles of the gaps between and around the doors."""
        car = self.car
        front = max(car.screen_base + 0.02, self.arch(car.front_axle)[1] + 0.01)
        back = min(car.rear_base, self.arch(car.rear_axle)[0]) - 0.005
        if car.style == "pick-up":
            back = min(back, car.rear_base - 0.01)
        if car.style == "sports" or car.blind_van or (car.doors == 1 and car.style != "pick-up"):
            back = min(back, front + 1.32 / car.length)
        return [front, *([0.5 * (front + back)] if car.doors == 2 else []), back]


def body(car: CarPlan) -> list[Mesh]:
    """Return the meshes of the lower body and of the insides of its wheel arches.

    >>> from mclnf_fast.data.procedural.cars.plan import draw_car
    >>> len(body(draw_car(0, 0)))
    3
    """
    line = Outline(car)
    stations = _stations(car, line)
    rings = np.stack([_section(car, line, float(f)) for f in stations])
    bed = line.bed()
    paint = {
        "under": BLACK, "sill": car.trim, "lower": car.trim if car.style in ("suv", "pick-up") else car.paint,
        "side": car.paint, "upper": car.paint, "shoulder": car.paint, "top": car.paint,
        "middle": car.paint if car.stripe is None else car.stripe,
    }  # fmt: skip
    half = np.stack([paint[name] for name in SIDES])
    colors = np.repeat(np.concatenate([half, half[::-1]])[None], len(stations) - 1, 0)
    middle = 0.5 * (stations[1:] + stations[:-1])
    for k, f in enumerate(middle):
        if any(abs(f - seam) * car.length < 0.5 * SEAM for seam in line.seams()):
            colors[k, 2:5] = colors[k, -5:-2] = 0.25 * car.paint
        if bed is not None and bed[0] < f < bed[1]:
            colors[k, 6:10] = BLACK * 2.0
    # Nose to tail is along -x, and a ring's direction is seen from beyond the last.
    order = np.arange(rings.shape[1])[::-1]
    rings = np.roll(rings[:, order], 1, 1)
    colors = colors[:, ::-1]
    parts = [loft(rings, colors, np.stack([car.paint, car.paint]), crease=35.0)]
    for axle in (car.front_axle, car.rear_axle):
        x, inner = float(line.x(axle)), 0.5 * car.width * 0.60
        reach = car.wheel + ARCH_GAP + 0.01
        # Below the hood, which is low over the front wheels of a sports car.
        top = min(car.wheel + reach, float(line.top(np.array(line.arch(axle))).min()) - 0.09)
        parts.append(box((x - reach, -inner, car.clearance), (x + reach, inner, top), BLACK))
    return parts


def _stations(car: CarPlan, line: Outline) -> np.ndarray:
    """Return the shares at which the body is cut into sections, ascending."""
    shares = [np.linspace(0.0, 1.0, 21), np.array([0.5 * car.screen_base, car.screen_base, car.rear_base])]
    round_front, round_back = car.round_nose / car.length, 0.12 / car.length
    rounding = 1.0 - np.cos(np.linspace(0.0, math.pi / 2, 6))
    shares += [round_front * rounding, 1.0 - round_back * rounding]
    for axle in (car.front_axle, car.rear_axle):
        begin, end = line.arch(axle)
        spacing = 0.5 - 0.5 * np.cos(np.linspace(0.0, math.pi, 15))
        shares += [begin + (end - begin) * spacing, np.array([begin - 1e-4, end + 1e-4])]
    seam = 0.5 * SEAM / car.length
    for f in line.seams():
        shares += [np.array([f - seam, f + seam])]
    bed = line.bed()
    if bed is not None:
        shares += [np.array([bed[0] - 1e-4, bed[0], bed[1], bed[1] + 1e-4])]
    stations = np.unique(np.concatenate(shares).clip(0.0, 1.0))
    return stations[np.concatenate([[True], np.diff(stations) > 5e-5])]


def _section(car: CarPlan, line: Outline, f: float) -> np.ndarray:
    """Return the section at `f`, [16, 3]: from the middle of the underside up the left (+y) side and down the right."""
    w, low, top = float(line.half(f)), float(line.low(f)), float(line.top(f))
    crown = 0.055 + 0.03 * max(0.0, 1.0 - f / car.screen_base)
    shoulder = top - crown
    waist = car.clearance + 0.52 * (shoulder - car.clearance)
    shape = [
        (0.0, low), (0.90 * w, low), (0.965 * w, low + 0.05), (1.0 * w, waist), (0.985 * w, shoulder - 0.05),
        (0.945 * w, shoulder + 0.005), (0.80 * w, top - 0.35 * crown), (0.20 * w, top - 0.02 * crown), (0.0, top),
    ]  # fmt: skip
    if low > car.clearance + 0.08:  # in an arch the lower edge is a plain rim
        shape[1], shape[2] = (0.965 * w, low), (0.99 * w, low + 0.012)
    bed = line.bed()
    if bed is not None and bed[0] - 5e-5 < f < bed[1] + 5e-5:
        floor = top - 0.42
        floor = max(floor, low + 0.02)
        shape[5], shape[6] = (0.95 * w, top - 0.02), (0.86 * w, top - 0.02)
        shape[7], shape[8] = (0.855 * w, floor), (0.0, floor)
    points = []
    for k, (y, z) in enumerate(shape):
        points.append((y, min(max(z, low + 0.004 * k), top) if k < 6 else z))
    left = np.array(points)
    right = left[-2:0:-1] * np.array((-1.0, 1.0))
    ring = np.concatenate([left, right])
    return np.concatenate([np.full((len(ring), 1), float(line.x(f))), ring], 1)
