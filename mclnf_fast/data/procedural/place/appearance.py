"""How a place looks in one photo: where the sun stands, how cloudy it is, and how the camera was set."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
import torch

from mclnf_fast.data.procedural.city.solids import Light
from mclnf_fast.errors import InputError

SUN = np.array([1.25, 1.10, 0.95])  # outside the air, linear light
DEPTH = np.array([0.03, 0.08, 0.18])  # optical depth of the air straight up, red to blue: low suns are red
GREY = np.array([0.62, 0.64, 0.67])  # of an overcast sky by day
BRIGHT = 1.0  # light that a camera's exposure aims at
ADAPTS = 0.6  # how far the camera follows the light, as a power: 1 would make every photo equally bright


@dataclass(frozen=True)
class Appearance:
    """All that differs between photos of a place but the camera's pose.

    Attributes:
        azimuth: of the sun, radians from the direction that the front looks in, positive to its left.
        height: of the sun above the horizon, radians.
        cloud: share of the sky, 0 ... 1.
        exposure: what the camera was set to beyond what it aims at, powers of 2.
        warmth: of its white balance: red gains so much, and blue loses it.
    """

    azimuth: float
    height: float
    cloud: float
    exposure: float
    warmth: float

    def light(self) -> Light:
        """The light of the scene, as the camera takes it."""
        up = math.sin(self.height)
        sun = SUN * np.exp(-DEPTH / max(up, 0.05)) * (1.0 - 0.92 * self.cloud)
        low = math.exp(-((self.height / 0.25) ** 2))  # near 1 for a sun at the horizon
        day = 0.25 + 0.75 * up**0.5
        blue, pale = np.array([0.20, 0.38, 0.78]) * day, np.array([0.66, 0.76, 0.88]) * day
        pale = pale + low * (np.array([0.95, 0.52, 0.26]) - pale)
        zenith = blue + self.cloud * (GREY * day - blue)
        horizon = pale + self.cloud * (1.1 * GREY * day - pale)
        sky = 0.6 * zenith + 0.25 * horizon
        bounce = 0.25 * (sun * up + sky)
        around = float((0.5 * sun + sky).mean())
        gain = (BRIGHT / around) ** ADAPTS * 2.0**self.exposure
        toward = np.array(
            [-math.sin(self.azimuth) * math.cos(self.height), -math.cos(self.azimuth) * math.cos(self.height), up]
        )
        gains = gain * np.array([1.0 + self.warmth, 1.0, 1.0 - self.warmth])
        parts = (toward, sun, sky, bounce, zenith, horizon, gains)
        return Light(*(torch.from_numpy(p.astype(np.float32)) for p in parts))


def draw_appearance(seed: int, index: int) -> Appearance:
    """Appearance `index` of the family `seed`: from dawn to noon, clear to overcast.

    Raises:
        InputError: a number below 0.
    """
    if seed < 0 or index < 0:
        raise InputError(f"seed, index: must be >= 0, were {seed} and {index}")
    u = np.random.default_rng([seed, index, 4]).random(5)
    cloud = max(0.0, 1.6 * u[2] - 0.6)  # more than a third of the photos under a clear sky
    return Appearance(
        math.radians(80.0) * (2.0 * u[0] - 1.0), math.radians(4.0 + 52.0 * u[1] ** 1.5), float(cloud),
        u[3] - 0.5, 0.4 * u[4] - 0.2,
    )  # fmt: skip


def between(a: Appearance, b: Appearance, weight: float) -> Appearance:
    """The appearance at `weight` of the straight way from `a` (0) to `b` (1), in all of its numbers."""
    return Appearance(*((1.0 - weight) * p + weight * q for p, q in zip(astuple(a), astuple(b))))
