"""Smooth random textures that can be evaluated at any coordinates, so that they move with their carrier."""

from __future__ import annotations

import numpy as np

TABLE = 64  # entries per side; a power of two, so that the period is taken by a bit mask and not by a division


class Noise:
    """A smooth random field over the plane: values in [-1, 1], features of about one unit, period `TABLE` units.

    >>> noise = Noise(np.random.default_rng(0))
    >>> noise(np.zeros(3), np.ones(3)).shape
    (3,)
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.table = rng.uniform(-1.0, 1.0, TABLE * TABLE).astype(np.float32)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the field at `x`, `y` (of one shape), float32."""
        fx, fy = np.floor(x), np.floor(y)
        u, v = (x - fx).astype(np.float32), (y - fy).astype(np.float32)
        # Smooth steps instead of straight lines: a kink at every table entry would show as a grid.
        u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
        left, top = fx.astype(np.int32) & (TABLE - 1), (fy.astype(np.int32) & (TABLE - 1)) * TABLE
        right, bottom = (left + 1) & (TABLE - 1), (top + TABLE) & (TABLE * TABLE - 1)
        table = self.table
        upper = table.take(top + left) * (1 - u) + table.take(top + right) * u
        lower = table.take(bottom + left) * (1 - u) + table.take(bottom + right) * u
        return upper + v * (lower - upper)

    def fractal(self, x: np.ndarray, y: np.ndarray, octaves: int = 3) -> np.ndarray:
        """Return octaves of the field, each twice as fine and half as strong, within [-1, 1], float32.

        >>> bool(np.abs(Noise(np.random.default_rng(0)).fractal(np.arange(9.0), np.zeros(9))).max() <= 1)
        True
        """
        total, weight = np.zeros_like(x, np.float32), 0.0
        for k in range(octaves):
            # Shifted, or the origin would be a table entry of every octave and stand out.
            total += 0.5**k * self(x * 2.0**k + 17.0 * k, y * 2.0**k + 31.0 * k)
            weight += 0.5**k
        return total / np.float32(weight)
