"""A learned start as users take it: from a run's folder, continued on one view or several, rendered from anywhere."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors, save_tensors
from mclnf_fast.learn.adapt import fine_tune
from mclnf_fast.learn.params import Params
from mclnf_fast.ops.bank_step import Kind
from mclnf_fast.render.bins import BinSettings, along_axis, render_pixels
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.objects import ObjectPool, ray_loss
from mclnf_fast.spec import FieldSpec, from_dict, to_dict

FILE = "start.safetensors"
HOW = ("steps", "lr", "rays", "optimizer", "lr_end")


@dataclasses.dataclass(frozen=True)
class Field:
    """One object's network, or T of them side by side: tensors [T, ...]."""

    params: Params
    spec: FieldSpec
    settings: BinSettings

    def render(self, cameras: Cameras) -> Tensor:
        """Pictures uint8 [V, H, W, 3], sRGB in front of white; [T, V, H, W, 3] of several objects."""
        device, objects = self.params[0].device, self.params[0].shape[0]
        views = []
        for k in range(len(cameras)):
            origins, directions = cameras.to(device).view_rays(k)
            if self.settings.convention == "learnit":
                directions = along_axis(directions, -cameras.c2w[k, :, 2].to(device))
            o, d = (t.expand(objects, *t.shape) for t in (origins, directions))
            views.append(render_pixels(self.params, self.spec, o, d, self.settings))
        pictures = torch.stack(views, 1) if views else torch.empty(objects, 0, cameras.height * cameras.width, 3)
        pictures = (pictures * 255).round().to(torch.uint8).cpu().unflatten(2, (cameras.height, cameras.width))
        return pictures[0] if objects == 1 else pictures


@dataclasses.dataclass(frozen=True)
class Start:
    """A start [1, ...] and how it is continued on an object's views: `steps` of SGD or Adam at `lr` (falling to
    `lr_end`, where it is given), `rays` fresh rays each."""

    params: Params
    spec: FieldSpec
    settings: BinSettings
    steps: int = 1000
    lr: float = 0.5
    rays: int = 128
    optimizer: Kind = "sgd"
    lr_end: float | None = None

    def adapt(self, image: Any, camera: Cameras, *, steps: int | None = None, seed: int = 0) -> Field:
        """The field of one object, of which one picture is known, or several.

        Args:
            image: uint8 [H, W, 4], sRGB with straight alpha, or [H, W, 3] in front of white; an array or a tensor. Of V
                pictures [V, H, W, 4] or [V, H, W, 3].
            camera: one camera of H x W, or V, in the scene units of the run (as its objects: around the origin).
            steps: default: the run's.

        Raises InputError where the picture is no such image or does not fit the camera.
        """
        pixels = torch.as_tensor(image)
        if pixels.dim() not in (3, 4) or pixels.shape[-1] not in (3, 4) or pixels.dtype != torch.uint8:
            raise InputError(
                "image must be uint8 [H, W, 4] or [H, W, 3], or [V, ...] of several, "
                f"got {pixels.dtype} {list(pixels.shape)}"
            )
        pixels = pixels[None] if pixels.dim() == 3 else pixels
        if len(camera) != len(pixels):
            raise InputError(f"camera must be {len(pixels)}, one a picture, got {len(camera)}")
        if pixels.shape[-1] == 3:
            pixels = torch.cat((pixels, torch.full_like(pixels[..., :1], 255)), -1)
        pool = ObjectPool([(pixels, camera)], self.settings, self.params[0].device)
        return Field(self.adapt_all(pool, seed, steps=steps), self.spec, self.settings)

    def adapt_all(
        self,
        pool: ObjectPool,
        seed: int = 0,
        *,
        steps: int | None = None,
        callback: Callable[[int, Params, Tensor], None] | None = None,
    ) -> Params:
        """The start continued on all views of every object of a pool, side by side: tensors [O, ...].

        callback: as `learn.fine_tune`'s.
        """
        generator = torch.Generator().manual_seed(seed)
        loss = ray_loss(pool, torch.arange(len(pool)), self.spec, self.rays, generator)
        return fine_tune(
            self.repeated(len(pool)),
            loss,
            self.steps if steps is None else steps,
            self.lr,
            kind=self.optimizer,
            lr_end=self.lr_end,
            callback=callback,
        )

    def repeated(self, objects: int) -> Params:
        """The start as it is, once for each object: tensors [O, ...]."""
        return tuple(p.repeat(objects, *([1] * (p.dim() - 1))) for p in self.params)

    def save(self, folder: pathlib.Path) -> None:
        """Writes `start.safetensors`, which `load_start` reads."""
        plain = {name: getattr(self, name) for name in HOW}
        cut = {**dataclasses.asdict(self.settings), "backend": "auto"}
        meta = {"spec": to_dict(self.spec), "settings": cut, **plain}
        save_tensors(folder / FILE, {str(i): p for i, p in enumerate(self.params)}, meta)


def load_start(run: str | pathlib.Path, device: torch.device | str = "cpu") -> Start:
    """The learned start that a run of `mclnf-fast run single-view` has left in its folder.

    Raises InputError where there is none, or its bytes have changed.
    """
    file = pathlib.Path(run) / FILE
    if not file.is_file():
        raise InputError(f"run must be the folder of a run of single-view with {FILE} in it, got {run}")
    tensors, meta = load_tensors(file)
    params = tuple(tensors[str(i)].to(device) for i in range(len(tensors)))
    settings = BinSettings(**meta["settings"])
    how = {name: meta[name] for name in HOW if name in meta}
    return Start(params, from_dict(meta["spec"]), settings, **how)
