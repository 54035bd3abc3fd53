"""Define the distortion of cameras: from a direction to the place on the picture, and how far that can be inverted.

Axes here are OpenCV's (x right, y down, z ahead), and places on the picture are divided by the focal lengths.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.errors import InputError

COEFFICIENTS = ("k1", "k2", "k3", "k4", "d1", "d2", "d3", "p1", "p2", "s1", "s2", "omega")
FARTHEST = 1e3  # tangent: a perspective lens has no rays at more than 89.9 degrees from its axis


class Projection(enum.IntEnum):
    """How an angle from the axis becomes a distance from the picture's center, before any distortion."""

    PERSPECTIVE = 0
    EQUIDISTANT = 1
    FOV = 2


@dataclass(frozen=True)
class Lens:
    """The distortion of V cameras; `make_lens` makes one, `cat_lenses` joins several.

    A direction at the angle theta from the axis lies at the distance rho from the center, in the same direction:

        rho = tan(theta) (perspective), theta (equidistant), atan(2 tan(omega / 2) tan(theta)) / omega (fov).

    With its coordinates (u, v) and s = u^2 + v^2 it is seen at

        x = u R + 2 p1 u v + p2 (s + 2 u^2) + s1 s,    y = v R + 2 p2 u v + p1 (s + 2 v^2) + s2 s,
        R = (1 + k1 s + k2 s^2 + k3 s^3 + k4 s^4) / (1 + d1 s + d2 s^2 + d3 s^3),

    which is the pixel (cx + fx x, cy + fy y). OpenCV's models, COLMAP's and nerfstudio's are special cases.

    Attributes:
        projection: int64 [V], values of `Projection`.
        coefficients: float64 [V, 12], in the order of `COEFFICIENTS`.
        reach: float64 [V], the rho up to which rho R grows: beyond, two directions share a pixel, and it has no ray.

    Raises:
        InputError: tensors of other shapes.

    >>> make_lens(Projection.PERSPECTIVE, {"k1": -0.1}).reach.item()  # 1 + 3 k1 rho^2 = 0
    1.8257418583505...
    """

    projection: Tensor
    coefficients: Tensor
    reach: Tensor

    def __post_init__(self) -> None:
        views = self.projection.shape[:1]
        shapes = [list(t.shape) for t in (self.projection, self.coefficients, self.reach)]
        if shapes != [[*views], [*views, len(COEFFICIENTS)], [*views]]:
            raise InputError(
                f"projection, coefficients, reach: must be [V], [V, {len(COEFFICIENTS)}] and [V], were {shapes}"
            )

    def __len__(self) -> int:
        return len(self.projection)

    @property
    def is_pinhole(self) -> bool:
        """Whether no camera has any distortion."""
        return not bool(self.projection.any()) and not bool(self.coefficients.any())

    def pick(self, index: slice | Tensor) -> Lens:
        """Return the lenses of a slice, a LongTensor [K] or a bool mask [V]."""
        return Lens(self.projection[index], self.coefficients[index], self.reach[index])

    def to(self, device: torch.device | str) -> Lens:
        """Return the same lenses with their tensors on `device`."""
        return Lens(self.projection.to(device), self.coefficients.to(device), self.reach.to(device))


def make_lens(projection: Projection, coefficients: Mapping[str, float]) -> Lens:
    """Return the lens of one camera; coefficients that are not named are 0.

    Raises:
        InputError: a name that is not in `COEFFICIENTS`, a value that is not finite, omega not in (0, pi) of a
            fov lens.

    >>> len(make_lens(Projection.EQUIDISTANT, {"k1": 0.02}))
    1
    """
    for name in coefficients:
        if name not in COEFFICIENTS:
            raise InputError(f"coefficients: must be among {', '.join(COEFFICIENTS)}, was {name!r}")
    row = tuple(float(coefficients.get(name, 0.0)) for name in COEFFICIENTS)
    if not all(map(math.isfinite, row)):
        raise InputError(f"coefficients: must be finite, were {dict(coefficients)}")
    if projection == Projection.FOV and not 0 < row[-1] < math.pi:
        raise InputError(f"omega: must be in (0, pi) radians, was {row[-1]:g}")
    values = torch.tensor([[*row, _reach(Projection(projection), row)]], dtype=torch.float64)
    return Lens(torch.tensor([int(projection)]), values[:, :-1], values[:, -1])


def cat_lenses(lenses: Sequence[Lens | None], counts: Sequence[int]) -> Lens | None:
    """Return the lenses of several cameras as one, None when all are pinholes.

    Args:
        lenses: those of each part; None: its cameras are pinholes.
        counts: the number of cameras of each part.

    >>> cat_lenses([None, make_lens(Projection.PERSPECTIVE, {"k1": 0.1})], [2, 1]).coefficients[:, 0].tolist()
    [0.0, 0.0, 0.1...]
    """
    known = next((lens for lens in lenses if lens is not None), None)
    if known is None:
        return None
    pinhole = make_lens(Projection.PERSPECTIVE, {}).to(known.reach.device)
    parts = [
        pinhole.pick(torch.zeros(count, dtype=torch.int64)) if lens is None else lens
        for lens, count in zip(lenses, counts, strict=True)
    ]
    return Lens(
        torch.cat([lens.projection for lens in parts]),
        torch.cat([lens.coefficients for lens in parts]),
        torch.cat([lens.reach for lens in parts]),
    )


def _reach(projection: Projection, row: tuple[float, ...]) -> float:
    """Return the largest rho with an inverse: before the distortion folds over, has a pole, or angles end."""
    end = FARTHEST if projection == Projection.PERSPECTIVE else math.pi
    if projection == Projection.FOV:
        end = math.atan(2 * math.tan(row[-1] / 2) * FARTHEST) / row[-1]
    above = np.polynomial.Polynomial([1.0, *row[:4]])
    below = np.polynomial.Polynomial([1.0, *row[4:7]])
    # With R = above / below as functions of s = rho^2, d(rho R)/d rho is this over below^2.
    s = np.polynomial.Polynomial([0.0, 1.0])
    slope = (above + 2 * s * above.deriv()) * below - 2 * s * above * below.deriv()
    for polynomial in (slope, below):
        roots = polynomial.trim().roots()
        real = roots.real[(abs(roots.imag) < 1e-9 * abs(roots)) & (roots.real > 0)]
        end = min([end, *np.sqrt(real)])
    return float(end)


def radial(s: Tensor, columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return R and dR/ds at s = rho^2, see `Lens`; `columns` are the coefficients, each of a shape that fits `s`.

    >>> columns = make_lens(Projection.PERSPECTIVE, {"k1": 0.5}).coefficients.unbind(1)
    >>> [value.item() for value in radial(torch.tensor(2.0), columns)]
    [2.0, 0.5]
    """
    k1, k2, k3, k4, d1, d2, d3 = columns[:7]
    above = 1 + s * (k1 + s * (k2 + s * (k3 + s * k4)))
    slope = k1 + s * (2 * k2 + s * (3 * k3 + s * 4 * k4))
    below = 1 + s * (d1 + s * (d2 + s * d3))
    factor = above / below
    return factor, (slope - factor * (d1 + s * (2 * d2 + s * 3 * d3))) / below


def distorted(u: Tensor, v: Tensor, columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return where the lens shows the places (u, v) of its projection, see `Lens`; `columns` as `radial` takes them.

    >>> columns = make_lens(Projection.PERSPECTIVE, {"p1": 0.5}).coefficients.unbind(1)
    >>> [value.item() for value in distorted(torch.tensor(1.0), torch.tensor(2.0), columns)]
    [3.0, 8.5]
    """
    p1, p2, s1, s2 = columns[7:11]
    s = u * u + v * v
    factor, _ = radial(s, columns)
    x = u * factor + 2 * p1 * u * v + p2 * (s + 2 * u * u) + s1 * s
    return x, v * factor + 2 * p2 * u * v + p1 * (s + 2 * v * v) + s2 * s


def project(lens: Lens, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return where directions are seen, x and y [R] float64 divided by the focal lengths; NaN if the lens has no place.

    Args:
        lens: of R cameras, or of one.
        directions: [R, 3] in the cameras' axes (OpenCV's), of any length above 0.

    >>> lens = make_lens(Projection.EQUIDISTANT, {"k1": 0.1})
    >>> [value.tolist() for value in project(lens, torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, -1.0]]))]
    [[1.95837..., nan], [0.0, nan]]
    """
    x, y, z = directions.to(torch.float64).unbind(-1)
    across = torch.hypot(x, y)
    theta = torch.atan2(across, z)
    kind, omega = lens.projection, lens.coefficients[:, -1]
    # A direction behind the camera has a tangent, too, but no place on a flat picture.
    tangent = torch.where(z > 0, across / z, torch.inf)
    fov = torch.atan(2 * torch.tan(omega / 2) * tangent) / omega
    rho = torch.where(kind == Projection.EQUIDISTANT, theta, torch.where(kind == Projection.FOV, fov, tangent))
    rho = torch.where(rho < lens.reach, rho, torch.nan)
    turn = torch.where(across > 0, rho / across, 0.0)
    u, v = distorted(x * turn, y * turn, lens.coefficients.unbind(1))
    # An axis that is seen nowhere (straight behind) must not pass for the center.
    return torch.where(rho.isnan(), torch.nan, u), torch.where(rho.isnan(), torch.nan, v)
