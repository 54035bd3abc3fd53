"""Fields seen through their parallel projections: the loss of computed tomography from few views."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mclnf_fast.fields.functional import evaluate_params
from mclnf_fast.fields.routing import offsets_of_equal_shares
from mclnf_fast.render.parallel_beam import project
from mclnf_fast.spec import FieldSpec


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
