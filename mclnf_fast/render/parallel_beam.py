"""Parallel-beam tomography of pictures: projection, and filtered back-projection."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def detector_places(count: int) -> Tensor:
    """Where detectors stand across a picture that reaches from -1 to 1, fp64 [D]: the middles of D equal parts."""
    return (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1


def project(images: Tensor, angles: Tensor) -> Tensor:
    """Parallel projections of square pictures: the mean of N points along each ray, the picture between pixels linear.

        p(t, s) = 1/N sum_k f(s (cos t, sin t) + l_k (-sin t, cos t)),   s and l_k: `detector_places(N)`

    x points to the right and y up; outside the picture f is 0. The mean over a ray in the place of its sum makes p of
    the size of f whatever N is, and is the line integral in units of the picture's side.

    Args:
        images: [T, N, N].
        angles: t in radians, [T, V] or [V].

    Returns [T, V, N], differentiable in `images`. Raises ValueError where shapes do not fit.
    """
    tasks, size = _check_square(images)
    angles = _angles(angles, tasks).to(images)
    line = detector_places(size).to(images)
    cos, sin = angles.cos()[..., None, None], angles.sin()[..., None, None]
    s, l = line[:, None], line[None, :]
    grid = torch.stack((s * cos - l * sin, -(s * sin + l * cos)), -1).flatten(1, 2)  # rows go down
    found = F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found[:, 0].mean(-1).reshape(tasks, -1, size)


def back_project(sinograms: Tensor, angles: Tensor) -> Tensor:
    """Filtered back-projection with the ramp filter (Ram-Lak): the classical reconstruction of `project`'s values.

    Args:
        sinograms: [T, V, N], values as `project` has them.
        angles: t in radians, [T, V] or [V], spread over half a turn.

    Returns [T, N, N], not clipped. Raises ValueError where shapes do not fit.
    """
    if sinograms.dim() != 3 or 0 in sinograms.shape:
        raise ValueError(f"sinograms must be [T, V, N] with at least one of each, got {list(sinograms.shape)}")
    tasks, views, size = sinograms.shape
    angles = _angles(angles, tasks).to(sinograms)
    if angles.shape[1] != views:
        raise ValueError(f"angles must be as many as the sinograms' views ({views}), got {list(angles.shape)}")
    filtered = _ramp(2 * sinograms)  # line integrals over a side of 2
    line = detector_places(size).to(sinograms)
    s = line[None, :] * angles.cos()[..., None, None] - line[:, None] * angles.sin()[..., None, None]
    lines = filtered.reshape(tasks * views, 1, 1, size)
    grid = torch.stack((s, torch.zeros_like(s)), -1).flatten(0, 1)
    spread = F.grid_sample(lines, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return spread.reshape(tasks, views, size, size).sum(1) * (math.pi / views)


def _ramp(lines: Tensor) -> Tensor:
    """Lines [..., N] over [-1, 1] convolved with the band-limited ramp, whose samples are, at the spacing h,

    1 / (4 h^2) at 0,  -1 / (pi n h)^2 at odd n,  0 at even n
    """
    size = lines.shape[-1]
    spacing, padded = 2 / size, 1 << (2 * size - 1).bit_length()
    n = torch.arange(padded, device=lines.device)
    n = torch.minimum(n, padded - n)
    kernel = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp(min=1) * spacing).square(), 0.0)
    kernel[0] = 1 / (4 * spacing**2)
    product = torch.fft.rfft(lines, padded) * torch.fft.rfft(kernel.to(lines))
    return spacing * torch.fft.irfft(product, padded)[..., :size]


def _check_square(images: Tensor) -> tuple[int, int]:
    if images.dim() != 3 or images.shape[1] != images.shape[2] or not images.shape[1]:
        raise ValueError(f"images must be square, [T, N, N], got {list(images.shape)}")
    return images.shape[0], images.shape[1]


def _angles(angles: Tensor, tasks: int) -> Tensor:
    if angles.dim() not in (1, 2) or (angles.dim() == 2 and len(angles) != tasks):
        raise ValueError(f"angles must be [V] or [{tasks}, V], got {list(angles.shape)}")
    return angles.expand(tasks, angles.shape[-1])
