"""An initialization for images, fine-tuned on a picture in a few steps, and the images that come of it."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask, pixel_places, whole_loss


def image_task(values: Tensor, spec: FieldSpec, backend: str, device: torch.device | str) -> CoordTask:
    """Return images [S, H, W, C] side by side as a task, each to be learned from its pixels' places in [0, 1)."""
    # As in the authors' demonstration: over -1 ... 1 its w0 of 200 would make waves half as long.
    x = pixel_places(*values.shape[1:3])
    return CoordTask("images", x.to(device), values.flatten(1, 2).to(device), spec, backend)


def fine_tune_image(params: Params, spec: FieldSpec, image: object, steps: int, lr: float) -> Params:
    """Return the module [1, ...] of an image, by SGD steps from an initialization on all pixels at once.

    Args:
        params, spec: the initialization [1, ...].
        image: uint8 or floats in 0 ... 1 [H, W, C], an array or a tensor, of any size.
        steps, lr: of SGD.

    Raises InputError if it is no such image.
    """
    pixels = torch.as_tensor(image)
    if pixels.dim() != 3 or pixels.shape[-1] != spec.out_dim or 0 in pixels.shape:
        raise InputError(f"image must be [H, W, {spec.out_dim}], got {list(pixels.shape)}")
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise InputError(f"image must be uint8 or floats, got {pixels.dtype}")
    # By the type, not by the largest value: a nearly black uint8 picture would pass for floats.
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError("image must be finite and in 0 ... 1, was not")
    task = image_task(values[None], spec, "auto", params[0].device)
    # `fine_tune` takes at least one step; none is how the initialization itself is shown.
    return fine_tune(params, whole_loss(task), steps, lr) if steps else params


def image_values(params: Params, spec: FieldSpec, height: int, width: int) -> Tensor:
    """Return the images of T modules at any number of pixels: float32 [T, height, width, C] in 0 ... 1.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec = FieldSpec(2, 3, 8, 1, "sine")
    >>> image_values(initial_parameters(spec, 2), spec, 4, 6).shape
    torch.Size([2, 4, 6, 3])
    """
    empty = torch.empty(len(params[0]), height, width, spec.out_dim, dtype=torch.float32)
    task = image_task(empty, spec, "auto", params[0].device)
    # The last layer is linear, so that values may lie outside the range of colors.
    return task.predict(params).reshape(empty.shape).clamp(0, 1).cpu()
