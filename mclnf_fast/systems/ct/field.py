"""A learned start for CT as users take it: from a run's folder, continued on a sinogram, to a slice."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields.fourier import fourier_features
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params
from mclnf_fast.render.parallel_beam import field_pictures, scan_loss
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.starts.file import read_start, write_start
from mclnf_fast.tasks.coords import pixel_places

KIND = "ct"


def pixel_features(size: int, frequencies: Tensor) -> Tensor:
    """What the networks take at each pixel of a square, row by row: [size size, 2 F]."""
    return fourier_features(pixel_places(size, size).to(frequencies.device), frequencies)


@dataclasses.dataclass(frozen=True)
class CtField:
    """One slice's network: tensors [1, ...]; frequencies [F, 2] of its features."""

    params: Params
    spec: FieldSpec
    frequencies: Tensor

    def picture(self, size: int) -> Tensor:
        """The slice float32 [size, size], in 0 ... 1."""
        if size < 1:
            raise InputError(f"size must be at least 1, got {size}")
        with torch.no_grad():
            return field_pictures(self.params, self.spec, pixel_features(size, self.frequencies)[None])[0].cpu()


@dataclasses.dataclass(frozen=True)
class CtStart:
    """A start [1, ...] and how it is continued on projections: `steps` of SGD at `lr`, all of them in each."""

    params: Params
    spec: FieldSpec
    frequencies: Tensor
    steps: int = 1000
    lr: float = 10.0

    def adapt(self, sinogram: Any, angles: Any, *, steps: int | None = None) -> CtField:
        """The field of a slice of which projections are known.

        Args:
            sinogram: [V, N], of each detector the mean density along its ray over the picture's side (the line
                integral over that side), as `render.project` has it; an array or a tensor.
            angles: of the V projections, radians.
            steps: default: the run's.

        Raises InputError where they do not fit each other.
        """
        seen, turned = (torch.as_tensor(t, dtype=torch.float32) for t in (sinogram, angles))
        if seen.dim() != 2 or 0 in seen.shape or turned.shape != seen.shape[:1]:
            raise InputError(
                f"sinogram and angles must be [V, N] and [V], got {list(seen.shape)} and {list(turned.shape)}"
            )
        if not bool(seen.isfinite().all() and turned.isfinite().all()):
            raise InputError("sinogram and angles must be finite, were not")
        count = self.steps if steps is None else steps
        if count < 0:
            raise InputError(f"steps must be at least 0, got {count}")
        device = self.frequencies.device
        features = pixel_features(seen.shape[1], self.frequencies)
        loss = scan_loss(seen[None].to(device), turned.to(device), features, self.spec)
        found = fine_tune(self.params, loss, count, self.lr) if count else self.params
        return CtField(found, self.spec, self.frequencies)

    def save(self, folder: pathlib.Path) -> None:
        """Writes `start.safetensors`, which `load_ct_start` reads."""
        options = {"steps": self.steps, "lr": self.lr}
        write_start(folder, KIND, self.params, self.spec, options, {"frequencies": self.frequencies})


def load_ct_start(run: str | pathlib.Path, device: torch.device | str = "cpu") -> CtStart:
    """The learned start that a run of `mclnf-fast run ct` has left in its folder.

    Raises InputError where there is none, or its bytes have changed.
    """
    params, spec, options, beside = read_start(run, KIND, device)
    return CtStart(params, spec, beside["frequencies"], options["steps"], options["lr"])
