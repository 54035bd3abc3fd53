"""Invert the distortion of lenses: from a place on the picture to the direction of its ray, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.render.lenses.lens import Lens, Projection, distorted, radial

MOST_HALVINGS = 80  # a bisection alone takes 53 to the last bit; Newton's method 3 to 8
MOST_STEPS = 20  # of Newton's method alone, which doubles the digits in each; those that never meet take all of them
EXACT = 4e-15  # relative to 1 + the distance from the center: a few roundings of float64
SOLVED = 1e-12  # largest distance at which a place counts as met: 1e-8 pixels at a focal length of 10,000


def directions_at(lens: Lens, x: Tensor, y: Tensor) -> Tensor:
    """Return the unit directions [R, 3] that are seen at places, float64, in OpenCV's axes; NaN if there is none.

    Args:
        lens: of R cameras, or of one.
        x, y: [R], places on the picture relative to the principal point, divided by the focal lengths.

    >>> from mclnf_fast.render.lenses.lens import make_lens
    >>> lens = make_lens(Projection.EQUIDISTANT, {})
    >>> directions_at(lens, torch.tensor([0.0, 1.57, 4.0]), torch.zeros(3)).round().tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [nan, nan, nan]]
    """
    x, y = x.to(torch.float64), y.to(torch.float64)
    u, v = undistorted(lens, x, y)
    rho, omega = torch.hypot(u, v), lens.coefficients[:, -1]
    kind = lens.projection
    tangent = torch.tan(rho * omega) / (2 * torch.tan(omega / 2))
    fov = torch.where(rho > 0, tangent / rho, 1.0)
    fisheye = kind == Projection.EQUIDISTANT
    # sin(rho) / rho, which is 1 in the center.
    stretch = torch.where(fisheye, torch.sinc(rho / torch.pi), torch.where(kind == Projection.FOV, fov, 1.0))
    ahead = torch.where(fisheye, torch.cos(rho), 1.0)
    return torch.nn.functional.normalize(torch.stack((u * stretch, v * stretch, ahead), -1), dim=-1)


def undistorted(lens: Lens, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the u and v [R] that `distorted` moves to x and y [R], float64; NaN if there are none within its reach.

    Radial terms alone: Newton's method on rho R(rho^2) = |(x, y)|, kept within a bracket that is halved wherever a step
    leaves it, since near a fold the slope vanishes. The other terms: Newton's method on both coordinates from there.

    >>> from mclnf_fast.render.lenses.lens import make_lens
    >>> lens = make_lens(Projection.PERSPECTIVE, {"k1": -0.1})
    >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    >>> undistorted(lens, 0.9 * one, zero)[0].item(), undistorted(lens, 2 * one, zero)[0].item()  # folds over at 1.2
    (1.0..., nan)
    """
    columns = lens.coefficients.unbind(1)
    distance = torch.hypot(x, y)
    rho = _radius(distance, lens.reach, columns)
    factor = torch.where(distance > 0, rho / distance, 1.0)
    u, v = x * factor, y * factor
    if bool(lens.coefficients[:, 7:11].any()):
        u, v = _newton(u, v, x, y, columns)
    across, down = distorted(u, v, columns)
    # The Jacobian of a place's own branch has the orientation of the center, a mirrored one is beyond a fold.
    a, b, c, d = _jacobian(u, v, columns)
    solved = torch.hypot(across - x, down - y) <= SOLVED * (1 + distance)
    inside = (torch.hypot(u, v) < lens.reach) & solved & (a * d - b * c > 0)
    return torch.where(inside, u, torch.nan), torch.where(inside, v, torch.nan)


def _radius(distance: Tensor, reach: Tensor, columns: Sequence[Tensor]) -> Tensor:
    """Return the rho [R] below `reach` at which rho R(rho^2) is `distance` [R]; something else if there is none."""
    low = torch.zeros_like(distance)
    high = reach.expand_as(distance).clone()
    rho = torch.minimum(distance, 0.5 * high)
    for _ in range(MOST_HALVINGS):
        factor, change = radial(rho * rho, columns)
        error = rho * factor - distance
        slope = factor + 2 * rho * rho * change
        low, high = torch.where(error <= 0, rho, low), torch.where(error > 0, rho, high)
        met = error.abs() <= EXACT * (1 + distance)
        # Without a place the bracket closes at the reach itself.
        if bool((met | (high - low <= EXACT * high)).all()):
            break
        step = rho - error / slope
        inside = (step > low) & (step < high)
        rho = torch.where(met, rho, torch.where(inside, step, 0.5 * (low + high)))
    return rho


def _newton(u: Tensor, v: Tensor, x: Tensor, y: Tensor, columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return u and v [R] after Newton's steps towards `distorted(u, v) = (x, y)`."""
    for _ in range(MOST_STEPS):
        across, down = distorted(u, v, columns)
        dx, dy = across - x, down - y
        # NaN, of places that ran away, compares as not running.
        if not bool((torch.hypot(dx, dy) > EXACT * (1 + torch.hypot(x, y))).any()):
            break
        a, b, c, d = _jacobian(u, v, columns)
        size = a * d - b * c
        u, v = u - (d * dx - b * dy) / size, v - (a * dy - c * dx) / size
    return u, v


def _jacobian(u: Tensor, v: Tensor, columns: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return dx/du, dx/dv, dy/du, dy/dv [R] of `distorted`."""
    p1, p2, s1, s2 = columns[7:11]
    factor, change = radial(u * u + v * v, columns)
    mixed = 2 * u * v * change
    return (
        factor + 2 * u * u * change + 2 * p1 * v + 6 * p2 * u + 2 * s1 * u,
        mixed + 2 * p1 * u + 2 * p2 * v + 2 * s1 * v,
        mixed + 2 * p2 * v + 2 * p1 * u + 2 * s2 * u,
        factor + 2 * v * v * change + 6 * p1 * v + 2 * p2 * u + 2 * s2 * v,
    )
