"""Parallel-beam tomography: project pictures, reconstruct them, and learn fields from their projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mclnf_fast.fields.functional import evaluate_params
from mclnf_fast.fields.routing import offsets_of_equal_shares
from mclnf_fast.spec import FieldSpec


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


def even_angles(views: int) -> Tensor:
    """Angles k pi / V of V views, radians, [V]."""
    return torch.arange(views) * (math.pi / views)


def random_angles(tasks: int, views: int, generator: torch.Generator) -> Tensor:
    """Angles uniform in half a turn, radians, [T, V], drawn on the CPU."""
    return math.pi * torch.rand(tasks, views, generator=generator)


def field_values(params: Sequence[Tensor], spec: FieldSpec, features: Tensor, backend: str = "auto") -> Tensor:
    """The outputs of T fields at features [T, n, in]: [T, n, out]."""
    tasks, count = features.shape[:2]
    offsets = offsets_of_equal_shares(tasks, count, features.device)
    return evaluate_params(params, spec, features.flatten(0, 1), offsets, backend).reshape(tasks, count, -1)


def field_pictures(params: Sequence[Tensor], spec: FieldSpec, features: Tensor, backend: str = "auto") -> Tensor:
    """The first output of T fields at the features [T, N N, in] of a square's pixels, row by row: [T, N, N]."""
    size = math.isqrt(features.shape[1])
    return field_values(params, spec, features, backend)[..., 0].unflatten(1, (size, size))


def scan_loss(
    sinograms: Tensor, angles: Tensor, features: Tensor, spec: FieldSpec, backend: str = "auto"
) -> Callable[[Sequence[Tensor], int], Tensor]:
    """The loss of a step for `learn`: T fields side by side, each against its own projections.

        L_m = mean over views and detectors of (project(f_m) - sinogram_m)^2

    A field is evaluated once a pixel and step, however many views there are. Projections are means over a ray's pixels
    and not their sums (`project`): a picture off by d everywhere has a loss of d^2, whatever its size, and a rate means
    the same for each.

    Args:
        sinograms: [T, V, N], measured, as `project` has them.
        angles: their angles, radians, [T, V] or [V].
        features: what the networks take at each of the N x N pixels, row by row, [N N, in].

    Returns `(params [T, ...], step) -> [T]`.
    """
    tasks = len(sinograms)
    every = features[None] if tasks == 1 else features.repeat(tasks, 1, 1)

    def loss(params: Sequence[Tensor], step: int) -> Tensor:
        seen = project(field_pictures(params, spec, every, backend), angles)
        return (seen - sinograms).square().mean((1, 2))

    return loss
