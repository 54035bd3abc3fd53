"""The appearance of a place in one photo: the position of the sun, the clouds, and the setting of the camera."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
import torch

from mclnf_fast.data.procedural.checks import check_seed_and_index
from mclnf_fast.data.procedural.city.solids import Light

SUN = np.array([1.25, 1.10, 0.95])  # above the atmosphere, linear light
DEPTH = np.array([0.03, 0.08, 0.18])  # optical depth of the atmosphere straight up, red to blue: low suns are red
GRAY = np.array([0.62, 0.64, 0.67])  # of an overcast sky by day
BRIGHT = 1.0  # light that a camera's exposure aims at
ADAPTATION = 0.6  # how far the camera follows the light, as a power: 1 would make every photo equally bright


@dataclass(frozen=True)
class Appearance:
    """Everything that differs between photos of a place except the camera's pose.

    Attributes:
        azimuth: of the sun, radians from the direction that the front looks in, positive to its left.
        height: of the sun above the horizon, radians.
        cloud: share of the sky, 0 ... 1.
        exposure: setting of the camera beyond the one that it aims at, powers of 2.
        warmth: of its white balance: red gains so much, and blue loses it.

    >>> Appearance(0.0, 0.5, 0.0, 0.0, 0.0).light().sun.shape
    torch.Size([3])
    """

    azimuth: float
    height: float
    cloud: float
    exposure: float
    warmth: float

    def light(self) -> Light:
        """Return the light of the scene, as the camera takes it."""
        up = math.sin(self.height)
        sun = SUN * np.exp(-DEPTH / max(up, 0.05)) * (1.0 - 0.92 * self.cloud)
        low = math.exp(-((self.height / 0.25) ** 2))  # near 1 for a sun at the horizon
        day = 0.25 + 0.75 * up**0.5
        blue, pale = np.array([0.20, 0.38, 0.78]) * day, np.array([0.66, 0.76, 0.88]) * day
        pale = pale + low * (np.array([0.95, 0.52, 0.26]) - pale)
        zenith = blue + self.cloud * (GRAY * day - blue)
        horizon = pale + self.cloud * (1.1 * GRAY * day - pale)
        sky = 0.6 * zenith + 0.25 * horizon
        bounce = 0.25 * (sun * up + sky)
        ambient = float((0.5 * sun + sky).mean())
        # A real camera meters the scene too; without it, photos at dawn would be nearly black and teach nothing.
        gain = (BRIGHT / ambient) ** ADAPTATION * 2.0**self.exposure
        sun_direction = np.array(
            [-math.sin(self.azimuth) * math.cos(self.height), -math.cos(self.azimuth) * math.cos(self.height), up]
        )
        gains = gain * np.array([1.0 + self.warmth, 1.0, 1.0 - self.warmth])
        fields = (sun_direction, sun, sky, bounce, zenith, horizon, gains)
        return Light(*(torch.from_numpy(field.astype(np.float32)) for field in fields))


def draw_appearance(seed: int, index: int) -> Appearance:
    """Return appearance `index` of the family `seed`: from dawn to noon, clear to overcast.

    Raises:
        InputError: a number below 0.

    >>> draw_appearance(0, 3) == draw_appearance(0, 3)
    True
    """
    check_seed_and_index(seed, index)
    u = np.random.default_rng([seed, index, 4]).random(5)
    cloud = max(0.0, 1.6 * u[2] - 0.6)  # more than a third of the photos under a clear sky
    return Appearance(
        azimuth=math.radians(80.0) * (2.0 * u[0] - 1.0),
        height=math.radians(4.0 + 52.0 * u[1] ** 1.5),
        cloud=float(cloud),
        exposure=u[3] - 0.5,
        warmth=0.4 * u[4] - 0.2,
    )


def between(a: Appearance, b: Appearance, weight: float) -> Appearance:
    """Return the appearance at `weight` of the straight way from `a` (0) to `b` (1), in all of its numbers.

    >>> a, b = draw_appearance(0, 0), draw_appearance(0, 1)
    >>> between(a, b, 0.0) == a
    True
    """
    return Appearance(*((1.0 - weight) * p + weight * q for p, q in zip(astuple(a), astuple(b))))
