"""Parallel-beam tomography: project pictures, reconstruct them, and learn fields from their projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields.functional import evaluate_params
from mclnf_fast.spec import FieldSpec


def detector_places(count: int) -> Tensor:
    """Return the positions of detectors across a picture that spans -1 to 1, float64 [D]: middles of D equal parts.

    >>> detector_places(2).tolist()
    [-0.5, 0.5]
    """
    return (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1


def project(images: Tensor, angles: Tensor) -> Tensor:
    """Return the parallel projections of square pictures: the mean of N points along each ray.

        p(t, s) = 1/N sum_k f(s (cos t, sin t) + l_k (-sin t, cos t)),   s and l_k: `detector_places(N)`

    x points to the right and y up; f is linear between pixels and 0 outside the picture. The mean along a ray in place
    of its sum gives p the scale of f for every N; it is the line integral in units of the picture's side.

    Args:
        images: [T, N, N].
        angles: t in radians, [T, V] or [V].

    Returns:
        [T, V, N], differentiable in `images`.

    Raises:
        ValueError: a shape does not fit.

    >>> project(torch.ones(1, 4, 4), torch.tensor([0.0])).tolist()
    [[[1.0, 1.0, 1.0, 1.0]]]
    """
    tasks, size = _check_square(images)
    angles = _angles(angles, tasks).to(images)
    line = detector_places(size).to(images)
    cos, sin = angles.cos()[..., None, None], angles.sin()[..., None, None]
    s, l = line[:, None], line[None, :]
    grid = torch.stack((s * cos - l * sin, -(s * sin + l * cos)), -1).flatten(1, 2)  # rows go down
    values = F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values[:, 0].mean(-1).reshape(tasks, -1, size)


def back_project(sinograms: Tensor, angles: Tensor) -> Tensor:
    """Return the filtered back-projection with the ramp filter (Ram-Lak): the classical reconstruction.

    Args:
        sinograms: [T, V, N], values as `project` returns them.
        angles: t in radians, [T, V] or [V], spread over half a turn.

    Returns:
        [T, N, N], not clipped.

    Raises:
        ValueError: a shape does not fit.

    >>> angles = even_angles(16)
    >>> back_project(project(torch.ones(1, 8, 8), angles), angles).shape
    torch.Size([1, 8, 8])
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
    """Return lines [..., N] over [-1, 1] convolved with the band-limited ramp. Its samples at the spacing h are

    1 / (4 h^2) at 0,  -1 / (pi n h)^2 at odd n,  0 at even n
    """
    # The kernel is sampled in space and then transformed; a ramp sampled in frequency would lose the mean of a line.
    size = lines.shape[-1]
    spacing, padded = 2 / size, 1 << (2 * size - 1).bit_length()
    n = torch.arange(padded, device=lines.device, dtype=torch.float64)  # in float32 the kernel would lose digits
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
    """Return the angles k pi / V of V views, radians, [V].

    >>> even_angles(2).tolist()
    [0.0, 1.5707963705062866]
    """
    return torch.arange(views, dtype=torch.float32) * (math.pi / views)


def random_angles(tasks: int, views: int, generator: torch.Generator) -> Tensor:
    """Return angles uniform in half a turn, radians, [T, V], drawn on the CPU.

    >>> random_angles(2, 3, torch.Generator()).shape
    torch.Size([2, 3])
    """
    return math.pi * torch.rand(tasks, views, dtype=torch.float32, generator=generator)


def field_values(params: Sequence[Tensor], spec: FieldSpec, features: Tensor, backend: str = "auto") -> Tensor:
    """Return the outputs [T, n, out] of T fields at features [T, n, in].

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec = FieldSpec(2, 1, width=8, hidden_layers=1)
    >>> field_values(initial_parameters(spec, 3), spec, torch.zeros(3, 5, 2)).shape
    torch.Size([3, 5, 1])
    """
    tasks, count = features.shape[:2]
    offsets = ops.offsets_of_equal_shares(tasks, count, features.device)
    return evaluate_params(params, spec, features.flatten(0, 1), offsets, backend).reshape(tasks, count, -1)


def field_pictures(params: Sequence[Tensor], spec: FieldSpec, features: Tensor, backend: str = "auto") -> Tensor:
    """Return the pictures [T, N, N] of T fields: their first output at the features [T, N N, in] of all pixels.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec = FieldSpec(2, 1, width=8, hidden_layers=1)
    >>> field_pictures(initial_parameters(spec, 3), spec, torch.zeros(3, 16, 2)).shape
    torch.Size([3, 4, 4])
    """
    size = math.isqrt(features.shape[1])
    return field_values(params, spec, features, backend)[..., 0].unflatten(1, (size, size))


def scan_loss(
    sinograms: Tensor, angles: Tensor, features: Tensor, spec: FieldSpec, backend: str = "auto"
) -> Callable[[Sequence[Tensor], int], Tensor]:
    """Return the loss of a step for `learn`: T fields side by side, each against its own projections.

        L_m = mean over views and detectors of (project(f_m) - sinogram_m)^2

    A field is evaluated once per pixel and step, however many views there are. Projections are means along a ray and
    not sums (`project`): a picture that is off by d everywhere has the loss d^2 at every size, so that one learning
    rate fits all sizes.

    Args:
        sinograms: [T, V, N], measured, as `project` returns them.
        angles: their angles, radians, [T, V] or [V].
        features: inputs of the networks at each of the N x N pixels, row by row, [N N, in].
        spec, backend: of the fields.

    Returns:
        A function (params [T, ...], step) -> losses [T].

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec = FieldSpec(2, 1, width=8, hidden_layers=1)
    >>> loss = scan_loss(torch.rand(3, 5, 4), even_angles(5), torch.rand(16, 2), spec)
    >>> loss(initial_parameters(spec, 3), 0).shape
    torch.Size([3])
    """
    tasks = len(sinograms)
    repeated = features[None] if tasks == 1 else features.repeat(tasks, 1, 1)

    def loss(params: Sequence[Tensor], step: int) -> Tensor:
        projections = project(field_pictures(params, spec, repeated, backend), angles)
        return (projections - sinograms).square().mean((1, 2))

    return loss
