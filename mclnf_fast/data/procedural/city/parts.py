"""Builds the parts of a city, buildings, trees and cars, from boxes and ellipsoids with their materials."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in meters

# Columns of the material table: three colors (linear light), then the facade's pattern.
WALL, ROOF, WINDOW = slice(0, 3), slice(3, 6), slice(6, 9)
FLOOR, BAY, WINDOW_TALL, WINDOW_WIDE, SHOP, RIM = range(9, 15)  # meters, meters, share, share, meters, meters
MATERIAL_COLUMNS = 15

WALLS = (
    (0.86, 0.80, 0.68), (0.78, 0.46, 0.34), (0.68, 0.36, 0.28), (0.90, 0.87, 0.82), (0.84, 0.70, 0.50),
    (0.62, 0.66, 0.70), (0.80, 0.62, 0.52), (0.66, 0.68, 0.58), (0.55, 0.50, 0.47), (0.88, 0.76, 0.60),
)  # fmt: skip
ROOFS = (
    (0.66, 0.64, 0.61), (0.50, 0.49, 0.49), (0.72, 0.42, 0.32), (0.76, 0.73, 0.68), (0.58, 0.36, 0.30),
    (0.48, 0.58, 0.42), (0.40, 0.43, 0.48),
)  # fmt: skip
GLASS = ((0.24, 0.30, 0.38), (0.30, 0.36, 0.42), (0.22, 0.26, 0.30), (0.32, 0.42, 0.50))
CARS = (
    (0.85, 0.85, 0.86), (0.16, 0.17, 0.19), (0.70, 0.12, 0.10), (0.14, 0.28, 0.56), (0.60, 0.62, 0.64),
    (0.82, 0.66, 0.14), (0.90, 0.90, 0.88), (0.20, 0.38, 0.30),
)  # fmt: skip
LEAVES = ((0.25, 0.42, 0.16), (0.34, 0.50, 0.20), (0.22, 0.38, 0.20), (0.42, 0.52, 0.20), (0.48, 0.46, 0.18))
BARK = (0.32, 0.25, 0.18)
Color = tuple[float, float, float]


def linear(color: Color | np.ndarray) -> np.ndarray:
    """Return display colors in [0, 1] as linear light, by the power 2.2 that `SolidRenderer` inverts.

    >>> linear((1.0, 0.0, 1.0)).tolist()
    [1.0, 0.0, 1.0]
    """
    return np.clip(np.asarray(color, np.float64), 0.0, 1.0) ** 2.2


class Kit:
    """Collects solids and materials; positions are relative to the last `move_to`, lengths are meters.

    >>> kit = Kit()
    >>> kit.box((0.0, 0.0, 2.0, 1.0), 0.0, 3.0, plain(np.ones(3)))
    >>> kit.arrays()[0].tolist()
    [[0.0, 0.0, 0.0, 2.0, 1.0, 3.0]]
    """

    def __init__(self) -> None:
        self._boxes: list[tuple[float, ...]] = []
        self._ellipsoids: list[tuple[float, ...]] = []
        self._box_materials: list[np.ndarray] = []
        self._ellipsoid_materials: list[np.ndarray] = []
        self._x = self._y = 0.0

    def move_to(self, x: float, y: float) -> None:
        """Set the origin of all solids that follow."""
        self._x, self._y = x, y

    def arrays(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes [B, 6], ellipsoids [E, 6] and materials [B + E, MATERIAL_COLUMNS], float32."""
        boxes = np.array(self._boxes, np.float32).reshape(-1, 6)
        ellipsoids = np.array(self._ellipsoids, np.float32).reshape(-1, 6)
        rows = self._box_materials + self._ellipsoid_materials
        materials = np.array(rows, np.float32).reshape(-1, MATERIAL_COLUMNS)
        return torch.from_numpy(boxes), torch.from_numpy(ellipsoids), torch.from_numpy(materials)

    def box(self, rect: Rect, z0: float, z1: float, material: np.ndarray) -> None:
        """Add a box on `rect` from height z0 to z1."""
        x0, y0, x1, y1 = rect
        self._boxes.append((x0 + self._x, y0 + self._y, z0, x1 + self._x, y1 + self._y, z1))
        self._box_materials.append(material)

    def ellipsoid(self, center: Color, radius: Color, color: np.ndarray) -> None:
        """Add an ellipsoid of one color (linear light)."""
        self._ellipsoids.append((center[0] + self._x, center[1] + self._y, center[2], *radius))
        self._ellipsoid_materials.append(plain(color))

    def tree(self, rng: np.random.Generator, x: float, y: float, crown: float) -> None:
        """Add a trunk and two overlapping crowns; `crown` is the larger one's radius."""
        leaf = linear(np.array(LEAVES[int(rng.integers(len(LEAVES)))]) * rng.uniform(0.85, 1.2))
        trunk = crown * rng.uniform(0.8, 1.1)
        self.box((x - 0.22, y - 0.22, x + 0.22, y + 0.22), 0.0, trunk + 0.6 * crown, plain(linear(BARK)))
        self.ellipsoid((x, y, trunk + 0.85 * crown), (crown, crown, 0.95 * crown), leaf)
        dx, dy = rng.uniform(-0.45, 0.45, 2) * crown
        top = trunk + 1.45 * crown
        self.ellipsoid((x + dx, y + dy, top), (0.68 * crown, 0.68 * crown, 0.62 * crown), leaf * 1.25)

    def car(self, rng: np.random.Generator, along: int, s: float, lane: float) -> None:
        """Add a car at distance `s` along x (0) or y (1), in the lane at `lane` on the other axis."""
        paint = linear(CARS[int(rng.integers(len(CARS)))])
        half = rng.uniform(2.0, 2.3)
        for low, high, width, z0, z1, color in (
            (-half, half, 0.9, 0.25, 0.95, paint),
            (-0.55 * half, 0.6 * half, 0.78, 0.95, 1.5, paint * 0.35 + 0.02),
        ):
            rect = (s + low, lane - width, s + high, lane + width)
            self.box(rect if along == 0 else (rect[1], rect[0], rect[3], rect[2]), z0, z1, plain(color))

    def building(self, rng: np.random.Generator, rect: Rect, top: float, kind: str, level: float = 0.5) -> None:
        """Add a building on `rect`, at most `top` meters to its main roof (roof houses reach 4 m higher).

        Args:
            rng: generator of its facade and exact shape.
            rect: its land.
            top: greatest height of its main roof.
            kind: "slab", "podium", "stepped", "court", "tower" or "pavilion".
            level: 0 ... 1, its height among those of its kind, up to a random eighth.
        """
        skin = facade(rng)

        # Heights follow `level` and only an eighth is random, so that an initialization can learn them.
        def rise(low: float, high: float) -> float:
            return low + (high - low) * float(np.clip(level + rng.uniform(-0.125, 0.125), 0.0, 1.0))

        x0, y0, x1, y1 = rect
        w, h = x1 - x0, y1 - y0
        if kind == "pavilion":
            self.box(rect, 0.0, 5.0, skin)
            return
        if kind == "court" and min(w, h) > 20.0:
            deep, high = rng.uniform(8.0, 10.0), _whole_stories(rise(11.0, 22.0), skin)
            wings = [(x0, y0, x1, y0 + deep), (x0, y0 + deep, x0 + deep, y1), (x1 - deep, y0 + deep, x1, y1)]
            for k, wing in enumerate(wings):
                self.box(wing, 0.0, high - (0.0 if k == 0 else skin[FLOOR]), skin)
            self._roof_house(rng, wings[0], high, skin)
            return
        if kind in ("podium", "tower"):
            low = _whole_stories(rise(5.0, 10.0), skin)
            high = _whole_stories(rise(26.0, top) if kind == "podium" else rise(34.0, top), skin)
            self.box(rect, 0.0, low, skin)
            inset = rng.uniform(0.16, 0.22, 4)
            upper = (x0 + inset[0] * w, y0 + inset[1] * h, x1 - inset[2] * w, y1 - inset[3] * h)
            self.box(upper, low, min(high, top), _without_shop(skin))
            self._roof_house(rng, upper, min(high, top), skin)
            return
        if kind == "stepped":
            z, inner = _whole_stories(rise(12.0, 20.0), skin), rect
            self.box(inner, 0.0, z, skin)
            for _ in range(2):
                room = np.array([inner[2] - inner[0], inner[3] - inner[1]] * 2)
                step = np.minimum(rng.uniform(2.5, 4.5, 4), 0.2 * room)
                inner = (inner[0] + step[0], inner[1] + step[1], inner[2] - step[2], inner[3] - step[3])
                story = _whole_stories(rng.uniform(3.5, 8.0), skin)
                self.box(inner, z, min(z + story, top), _without_shop(skin))
                z = min(z + story, top)
            self._roof_house(rng, inner, z, skin)
            return
        z = _whole_stories(min(rise(9.0, 26.0), top), skin)
        self.box(rect, 0.0, z, skin)
        self._roof_house(rng, rect, z, skin)
        if rng.random() < 0.5:
            self._roof_house(rng, rect, z, skin)

    def _roof_house(self, rng: np.random.Generator, rect: Rect, z: float, skin: np.ndarray) -> None:
        """Add a stair head or plant room somewhere on the roof."""
        x0, y0, x1, y1 = rect
        w, h = min(rng.uniform(3.0, 7.0), 0.5 * (x1 - x0)), min(rng.uniform(3.0, 7.0), 0.5 * (y1 - y0))
        x, y = (
            rng.uniform(x0 + 1.2, max(x0 + 1.3, x1 - w - 1.2)),
            rng.uniform(y0 + 1.2, max(y0 + 1.3, y1 - h - 1.2)),
        )
        gray = linear(np.full(3, rng.uniform(0.55, 0.85)))
        self.box((x, y, x + w, y + h), z, z + rng.uniform(1.8, 3.6), plain(gray))


def plain(color: np.ndarray) -> np.ndarray:
    """Return a material of one color (linear light) without windows.

    >>> plain(np.ones(3)).shape
    (15,)
    """
    row = np.zeros(MATERIAL_COLUMNS)
    row[WALL] = row[ROOF] = row[WINDOW] = np.clip(color, 0.0, 1.0)
    row[FLOOR] = row[BAY] = 1.0
    return row


def facade(rng: np.random.Generator) -> np.ndarray:
    """Return a random building's material: wall, roof and window colors, stories, bays and a ground-floor band.

    >>> facade(np.random.default_rng(0)).shape
    (15,)
    """
    row = np.zeros(MATERIAL_COLUMNS)
    wall = np.array(WALLS[int(rng.integers(len(WALLS)))]) * rng.uniform(0.9, 1.08) + rng.uniform(-0.03, 0.03, 3)
    roof = np.array(ROOFS[int(rng.integers(len(ROOFS)))]) * rng.uniform(0.88, 1.1)
    glass = np.array(GLASS[int(rng.integers(len(GLASS)))]) * rng.uniform(0.9, 1.2)
    row[WALL], row[ROOF], row[WINDOW] = linear(wall), linear(roof), linear(glass)
    row[FLOOR], row[BAY] = rng.uniform(3.4, 4.2), rng.uniform(3.2, 5.0)
    # Three styles: single windows, bands the length of the wall, and tall glass between piers.
    style = int(rng.integers(3))
    row[WINDOW_TALL] = (0.50, 0.46, 0.80)[style]
    row[WINDOW_WIDE] = (0.50, 1.0, 0.62)[style]
    row[SHOP], row[RIM] = 3.6, 0.7
    return row


def _whole_stories(height: float, skin: np.ndarray) -> float:
    """Return the height rounded to whole stories, at least one."""
    return max(1, round(height / float(skin[FLOOR]))) * float(skin[FLOOR])


def _without_shop(skin: np.ndarray) -> np.ndarray:
    upper = skin.copy()
    upper[SHOP] = 0.0
    return upper
