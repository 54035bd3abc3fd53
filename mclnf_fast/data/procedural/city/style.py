"""Styles of procedural districts: what is built how high, in which colors, and from where it is photographed.

One style is enough for tests on districts of its own kind. An initialization that is to serve photographs of another
place needs many: what all of them share is what it learns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

FIELD_OF_VIEW = 48.0  # horizontal, degrees
# Bands of pitch below the horizon with their share of the views; the last is near nadir.
PITCHES = ((42.0, 55.0, 0.20), (55.0, 68.0, 0.35), (68.0, 80.0, 0.25), (80.0, 90.0, 0.20))
NADIR = ((70.0, 80.0, 0.25), (80.0, 90.0, 0.75))
OBLIQUE = ((42.0, 55.0, 0.45), (55.0, 68.0, 0.45), (68.0, 80.0, 0.10))
BLOCK_ALTITUDE = (150.0, 280.0)
SUN = (0.48, -0.42, 0.77)


@dataclass(frozen=True)
class Flight:
    """From where a block is photographed.

    Attributes:
        altitude: lowest and highest, meters.
        pitches: bands of pitch below the horizon, degrees, with their share of the views.
        field_of_view: horizontal, degrees.

    >>> Flight().altitude
    (150.0, 280.0)
    """

    altitude: tuple[float, float] = BLOCK_ALTITUDE
    pitches: tuple[tuple[float, float, float], ...] = PITCHES
    field_of_view: float = FIELD_OF_VIEW


@dataclass(frozen=True)
class Style:
    """How a district is built, colored and photographed; the defaults are the one style of `make_district`.

    Attributes:
        heights: factor of all heights.
        room: factor of the upper end of the blocks' boxes, which may reach above all roofs.
        lots: shares of built lots, parks and squares; None: of four lots one is a park, and some are squares.
        mixed: draw the kind and height of each building, in place of those that belong to its parcel.
        span: side of a block, in cells of the plan: 0.5, 1 or 2.
        sun: direction towards the sun, of any length.
        colors: [3, 4], what display colors (r, g, b, 1) in 0 ... 1 are multiplied by; None: as they are.
        flight: from where blocks are photographed.

    >>> Style().flight.field_of_view
    48.0
    """

    heights: float = 1.0
    room: float = 1.0
    lots: tuple[float, float, float] | None = None
    mixed: bool = False
    span: float = 1.0
    sun: tuple[float, float, float] = SUN
    colors: tuple[tuple[float, float, float, float], ...] | None = None
    flight: Flight = field(default_factory=Flight)

    def colored(self, pictures: Tensor) -> Tensor:
        """Return pictures uint8 [..., 3] in the colors of the style.

        >>> gray = Style(colors=((0.0, 0.0, 0.0, 0.5),) * 3)
        >>> gray.colored(torch.zeros(1, 3, dtype=torch.uint8)).tolist()
        [[128, 128, 128]]
        """
        if self.colors is None:
            return pictures
        matrix = torch.tensor(self.colors, dtype=torch.float32)
        values = pictures.to(torch.float32) / 255 @ matrix[:, :3].T + matrix[:, 3]
        return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def random_style(seed: int) -> Style:
    """Return a style drawn at random: low or high, sparse or dense, in any colors, from any flight.

    >>> random_style(3) == random_style(3), random_style(3) == random_style(4)
    (True, False)
    """
    rng = np.random.default_rng([seed, 0x517E])
    span = (0.5, 1.0, 2.0)[int(rng.integers(3))]
    view = float(rng.uniform(40.0, 70.0))
    # Higher or wider, and the rays of a view would leave the block, which none may.
    size = span * math.tan(math.radians(FIELD_OF_VIEW / 2)) / math.tan(math.radians(view / 2))
    low, high = sorted(float(size * value) for value in rng.uniform((0.6, 0.9), (0.9, 1.3)))
    flight = Flight(
        (low * BLOCK_ALTITUDE[0], high * BLOCK_ALTITUDE[0]), (PITCHES, NADIR, OBLIQUE)[int(rng.integers(3))], view
    )
    turn, tilt = rng.uniform(0.0, 2 * math.pi), rng.uniform(0.5, 1.3)
    built = float(rng.uniform(0.05, 0.9))
    squares = float(rng.uniform(0.0, 0.5)) * (1 - built)
    return Style(
        # Evenly over the orders of magnitude: open land is as flat as a city is high.
        heights=float(np.exp(rng.uniform(math.log(0.15), math.log(1.3)))),
        room=float(rng.uniform(1.0, 2.0)),
        lots=(built, 1 - built - squares, squares),
        mixed=True,
        span=span,
        sun=(math.cos(turn) * math.cos(tilt), math.sin(turn) * math.cos(tilt), math.sin(tilt)),
        colors=_colors(rng),
        flight=flight,
    )


def _colors(rng: np.random.Generator) -> tuple[tuple[float, float, float, float], ...]:
    """Return a random change of colors [3, 4]: of hue, saturation, the gain of each channel and the brightness."""
    turn = rng.uniform(-1.0, 1.0)
    axis = np.full(3, 1 / math.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    hue = math.cos(turn) * np.eye(3) + math.sin(turn) * cross + (1 - math.cos(turn)) * np.outer(axis, axis)
    gray = np.full((3, 3), 1 / 3)
    saturation = rng.uniform(0.2, 1.2)
    matrix = np.diag(rng.uniform(0.7, 1.2, 3)) @ (saturation * np.eye(3) + (1 - saturation) * gray) @ hue
    rows = np.concatenate((matrix, np.full((3, 1), rng.uniform(-0.15, 0.15))), 1)
    return tuple((float(r[0]), float(r[1]), float(r[2]), float(r[3])) for r in rows)


def styles(seed: int, count: int) -> list[Style]:
    """Return `count` styles: the default one, then random ones that differ with the seed.

    >>> styles(0, 2)[0] == Style()
    True
    """
    return [Style(), *(random_style(seed * 1000 + k) for k in range(1, count))]
