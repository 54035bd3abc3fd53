"""A procedural place to photograph: a town hall with a tower on a paved square, a monument before it, trees and houses
beside it. Lengths are meters, z is up, the ground is z = 0; the front looks along -y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.graphics.raycast import Solids
from mclnf_fast.data.procedural.checks import check_seed
from mclnf_fast.data.procedural.city.ground import pulses
from mclnf_fast.data.procedural.city.parts import (
    BAY,
    FLOOR,
    RIM,
    SHOP,
    WINDOW_TALL,
    WINDOW_WIDE,
    Kit,
    facade,
    linear,
    plain,
)
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

NEAR, FAR = 12.0, 42.0  # meters from a camera; nothing nearer is in the pictures, and only sky is farther
TILE = 2.5  # meters, of the paving
HALF_VIEW = 0.46  # tangent of half the field of view across


@dataclass(frozen=True)
class Place:
    """Everything that the renderer needs.

    Attributes:
        solids: boxes [B, 6] and ellipsoids [E, 6], meters.
        materials: float32 [B + E, MATERIAL_COLUMNS], see `city.parts`.
        stone, joint: float32 [3], albedo of the paving and of the lines in it, linear light.

    >>> make_place(0).stone.shape
    torch.Size([3])
    """

    solids: Solids
    materials: Tensor
    stone: Tensor
    joint: Tensor

    def ground(self, x: Tensor, y: Tensor, blur: Tensor) -> Tensor:
        """Return the albedo [N, 3] of the square at x, y [N] seen with footprints `blur` [N], meters."""
        lines = 1.0 - pulses(x / TILE, 0.84, blur / TILE) * pulses(y / TILE, 0.84, blur / TILE)
        return self.stone + lines[:, None] * (self.joint - self.stone)


def make_place(seed: int) -> Place:
    """Return the place of a seed: its colors, heights and trees; the same seed gives the same place.

    Raises:
        InputError: a seed below 0.

    >>> len(make_place(0).solids.boxes) > 20
    True
    """
    check_seed(seed)
    rng = np.random.default_rng([seed, 2])
    kit = Kit()
    _hall(kit, rng)
    _monument(kit, rng)
    for side in (-1.0, 1.0):
        for y in (-7.0, -1.5):
            kit.tree(rng, side * rng.uniform(11.5, 13.0), y + rng.uniform(-0.7, 0.7), rng.uniform(1.5, 2.1))
        house = facade(rng)
        inner, outer = sorted((side * 14.0, side * 30.0))
        kit.box((inner, 3.0, outer, 12.0), 0.0, rng.uniform(7.0, 10.0), house)
    boxes, ellipsoids, materials = kit.arrays()
    stone = linear(np.array([0.74, 0.69, 0.61]) * rng.uniform(0.9, 1.1, 3))
    paving, joint = (torch.from_numpy(c.astype(np.float32)) for c in (stone, 0.45 * stone))
    return Place(Solids(boxes, ellipsoids), materials, paving, joint)


def _hall(kit: Kit, rng: np.random.Generator) -> None:
    """Build the town hall, with its tower and colonnade."""
    skin = facade(rng)
    skin[FLOOR], skin[BAY], skin[WINDOW_TALL], skin[WINDOW_WIDE], skin[SHOP], skin[RIM] = 3.2, 2.5, 0.6, 0.5, 0.0, 0.5
    high = rng.uniform(8.5, 10.5)
    kit.box((-10.0, 0.0, 10.0, 8.0), 0.0, high, skin)
    trim = plain(linear(np.array([0.88, 0.85, 0.78])))
    kit.box((-10.3, -0.3, 10.3, 8.3), high, high + 0.6, trim)
    top = high + rng.uniform(4.5, 6.5)
    kit.box((-2.4, -1.2, 2.4, 3.6), 0.0, top, skin)
    kit.box((-2.8, -1.6, 2.8, 4.0), top, top + 0.5, trim)
    roof = linear(np.array([0.30, 0.46, 0.42]) * rng.uniform(0.9, 1.2))
    kit.ellipsoid((0.0, 1.2, top + 0.5), (2.2, 2.2, 2.8), roof)
    door = plain(linear(np.array([0.32, 0.20, 0.13])))
    kit.box((-1.1, -1.3, 1.1, -1.1), 0.0, 3.2, door)
    for x in (-8.5, -6.5, -4.5, 4.5, 6.5, 8.5):  # a colonnade
        kit.box((x - 0.3, -2.2, x + 0.3, -1.6), 0.0, 4.0, trim)
    for low, right in ((-9.2, -3.8), (3.8, 9.2)):
        kit.box((low, -2.4, right, 0.0), 4.0, 4.6, trim)


def _monument(kit: Kit, rng: np.random.Generator) -> None:
    """Build the monument, somewhat to the side."""
    x, y = rng.uniform(-5.0, -3.5), -7.0
    stone, bronze = linear(np.array([0.72, 0.70, 0.68])), linear(np.array([0.24, 0.42, 0.36]))
    kit.box((x - 1.5, y - 1.5, x + 1.5, y + 1.5), 0.0, 0.5, plain(stone))
    kit.box((x - 0.8, y - 0.8, x + 0.8, y + 0.8), 0.5, 2.3, plain(0.85 * stone))
    kit.ellipsoid((x, y, 3.4), (0.6, 0.5, 1.2), bronze)
    kit.ellipsoid((x, y, 4.9), (0.35, 0.35, 0.42), bronze)


def place_cameras(count: int, width: int, height: int, seed: int) -> Cameras:
    """Return cameras of visitors, who look at the front.

    They stand 21 to 28 meters before it, at most 40 degrees to its side, 2 to 8 meters high. Camera k depends on the
    seed and k alone.

    Args:
        count: at least 1.
        width, height: pixels.
        seed: at least 0.

    Raises:
        InputError: a number out of range.

    >>> len(place_cameras(3, 8, 6, seed=0))
    3
    """
    if count < 1 or seed < 0:
        raise InputError(f"count, seed: must be >= 1 and >= 0, were {count} and {seed}")
    # A generator per camera: a larger count must not change the first ones.
    draw = np.stack([np.random.default_rng([seed, k, 3]).random(6) for k in range(count)])
    turn = math.radians(40.0) * (2.0 * draw[:, 0] - 1.0)
    away = 21.0 + 7.0 * draw[:, 1]
    position = np.stack([away * np.sin(turn), -away * np.cos(turn), 2.0 + 6.0 * draw[:, 2]], 1)
    target = np.stack([4.0 * draw[:, 3] - 2.0, 0.0 * turn, 5.5 + 1.5 * draw[:, 4]], 1)
    poses = look_at(torch.from_numpy(position), torch.from_numpy(target)).to(torch.float32)
    focal = torch.from_numpy(0.5 * width / (HALF_VIEW * (0.95 + 0.2 * draw[:, 5]))).to(torch.float32)
    return Cameras(
        poses,
        focal,
        focal,
        torch.tensor(0.5 * width, dtype=torch.float32),
        torch.tensor(0.5 * height, dtype=torch.float32),
        width,
        height,
    )
