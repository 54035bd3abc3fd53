"""An initialization for CT, fine-tuned on a sinogram, and the slices that come of it."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields.fourier import fourier_features
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.render.parallel_beam import field_pictures, scan_loss
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import pixel_places


def pixel_features(size: int, frequencies: Tensor) -> Tensor:
    """Return the inputs of the networks at each pixel of a square, row by row: [size size, 2 F].

    >>> pixel_features(4, torch.rand(8, 2)).shape
    torch.Size([16, 16])
    """
    return fourier_features(pixel_places(size, size).to(frequencies.device), frequencies)


def slice_values(params: Params, spec: FieldSpec, frequencies: Tensor, size: int) -> Tensor:
    """Return the slices of T modules: float32 [T, size, size] in 0 ... 1, on the CPU."""
    # Expanded, not copied: the features of a pixel are the same in every module.
    features = pixel_features(size, frequencies).expand(len(params[0]), -1, -1)
    with torch.no_grad():
        return field_pictures(params, spec, features).cpu()


def fine_tune_slice(
    params: Params,
    spec: FieldSpec,
    frequencies: Tensor,
    projections: tuple[object, object],
    steps: int,
    lr: float,
    optimizer: StepKind = "sgd",
) -> Params:
    """Return the module [1, ...] of a slice, by steps from an initialization on all projections at once.

    Args:
        params, spec, frequencies: the initialization [1, ...], and the frequencies [F, 2] of its features.
        projections: a sinogram [V, N], of each detector the mean density along its ray over the picture's side (the
            line integral over that side), as `render.project` has it, and the angles [V] of its projections, radians;
            arrays or tensors.
        steps, lr, optimizer: how it is fine-tuned.

    Raises InputError if they do not fit each other.
    """
    sinogram, angles = (torch.as_tensor(t, dtype=torch.float32) for t in projections)
    if sinogram.dim() != 2 or 0 in sinogram.shape or angles.shape != sinogram.shape[:1]:
        raise InputError(
            f"sinogram and angles must be [V, N] and [V], got {list(sinogram.shape)} and {list(angles.shape)}"
        )
    if not bool(sinogram.isfinite().all() and angles.isfinite().all()):
        raise InputError("sinogram and angles must be finite, were not")
    device = frequencies.device
    # As many pixels to a side as detectors, as in meta-training: another grid would have other projections.
    features = pixel_features(sinogram.shape[1], frequencies)
    loss = scan_loss(sinogram[None].to(device), angles.to(device), features, spec)
    # `fine_tune` takes at least one step; none is how the initialization itself is shown.
    return fine_tune(params, loss, steps, lr, kind=optimizer) if steps else params
