"""A learned start for images as users take it: from a run's folder, fitted to a picture in a few steps, at any size."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.starts.file import read_start, write_start
from mclnf_fast.tasks.coords import CoordTask, pixel_places, whole_loss

KIND = "image-start"


def image_task(values: Tensor, spec: FieldSpec, backend: str, device: torch.device | str) -> CoordTask:
    """Images [S, H, W, C] side by side, each to be learned from its pixels' places in [0, 1)."""
    x = pixel_places(*values.shape[1:3])
    return CoordTask("images", x.to(device), values.flatten(1, 2).to(device), spec, backend)


@dataclasses.dataclass(frozen=True)
class ImageField:
    """One image's network: tensors [1, ...]."""

    params: Params
    spec: FieldSpec

    def render(self, height: int, width: int) -> Tensor:
        """Its values float32 [height, width, 3] in 0 ... 1; the whole image at any number of pixels."""
        if height < 1 or width < 1:
            raise InputError(f"height and width must be at least 1, got {height} and {width}")
        empty = torch.empty(1, height, width, self.spec.out_dim)
        task = image_task(empty, self.spec, "auto", self.params[0].device)
        return task.predict(self.params)[0].reshape(height, width, -1).clamp(0, 1).cpu()


@dataclasses.dataclass(frozen=True)
class ImageStart:
    """A start [1, ...] and how it is continued on an image: `steps` of SGD at `lr`, all of its pixels in each."""

    params: Params
    spec: FieldSpec
    steps: int = 2
    lr: float = 1e-2

    def adapt(self, image: Any, *, steps: int | None = None) -> ImageField:
        """The field of an image, uint8 or floats in 0 ... 1 [H, W, 3], an array or a tensor, of any size.

        steps: default: the run's. Raises InputError where it is no such image.
        """
        pixels = torch.as_tensor(image)
        if pixels.dim() != 3 or pixels.shape[-1] != self.spec.out_dim or 0 in pixels.shape:
            raise InputError(f"image must be [H, W, {self.spec.out_dim}], got {list(pixels.shape)}")
        if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
            raise InputError(f"image must be uint8 or floats, got {pixels.dtype}")
        values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError("image must be finite and in 0 ... 1, was not")
        count = self.steps if steps is None else steps
        if count < 0:
            raise InputError(f"steps must be at least 0, got {count}")
        task = image_task(values[None], self.spec, "auto", self.params[0].device)
        found = fine_tune(self.params, whole_loss(task), count, self.lr) if count else self.params
        return ImageField(found, self.spec)

    def save(self, folder: pathlib.Path) -> None:
        """Writes `start.safetensors`, which `load_start` reads."""
        write_start(folder, KIND, self.params, self.spec, {"steps": self.steps, "lr": self.lr})


def load_start(run: str | pathlib.Path, device: torch.device | str = "cpu") -> ImageStart:
    """The learned start that a run of `mclnf-fast run image-start` has left in its folder.

    Raises InputError where there is none, or its bytes have changed.
    """
    params, spec, options, _ = read_start(run, KIND, device)
    return ImageStart(params, spec, options["steps"], options["lr"])
