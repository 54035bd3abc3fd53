"""A learned start as users take it: from a run's folder, continued on one view or several, rendered from anywhere."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import save_tensors
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params, interpolated, repeated
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.render import RenderSettings, view_rays
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.objects import ObjectPool, ray_loss
from mclnf_fast.render.volume import render_pixels
from mclnf_fast.spec import FieldSpec, from_dict, to_dict
from mclnf_fast.systems.starts.file import FILE, read_start_file

HOW = ("steps", "lr", "rays", "optimizer", "lr_end", "scale")  # of a start, as its file has them


@dataclasses.dataclass(frozen=True)
class Field:
    """One object's network, or T of them side by side: tensors [T, ...]. scale: see `Start`."""

    params: Params
    spec: FieldSpec
    settings: RenderSettings
    scale: float = 1.0

    def render(self, cameras: Cameras) -> Tensor:
        """Pictures uint8 [V, H, W, 3], sRGB, of a field with a white background in front of white; [T, V, H, W, 3] of
        several objects."""
        objects = self.params[0].shape[0]
        views = []
        for k in range(len(cameras)):
            o, d = (t.expand(objects, *t.shape) for t in self._rays(cameras, k))
            views.append(render_pixels(self.params, self.spec, o, d, self.settings))
        pictures = torch.stack(views, 1) if views else torch.empty(objects, 0, cameras.height * cameras.width, 3)
        pictures = _bytes(pictures).unflatten(2, (cameras.height, cameras.width))
        return pictures[0] if objects == 1 else pictures

    def render_each(self, cameras: Cameras) -> Tensor:
        """Of T objects and T cameras, each object by its own camera: pictures uint8 [T, H, W, 3].

        Raises InputError where there are not as many.
        """
        if len(cameras) != self.params[0].shape[0]:
            raise InputError(f"cameras must be {self.params[0].shape[0]}, one an object, got {len(cameras)}")
        o, d = (torch.stack(t) for t in zip(*(self._rays(cameras, k) for k in range(len(cameras)))))
        pixels = render_pixels(self.params, self.spec, o, d, self.settings)
        return _bytes(pixels).unflatten(1, (cameras.height, cameras.width))

    def _rays(self, cameras: Cameras, k: int) -> tuple[Tensor, Tensor]:
        """Origins and directions [H W, 3] of camera k, in the field's units."""
        return view_rays(cameras.in_units(self.scale).to(self.params[0].device), k, self.settings)


def _bytes(pictures: Tensor) -> Tensor:
    """Values in 0 ... 1 as uint8, on the CPU."""
    return (pictures * 255).round().to(torch.uint8).cpu()


def interpolate(a: Field, b: Field, weights: float | Sequence[float]) -> Field:
    """The field whose weights lie at `weights` of the straight way from those of `a` to those of `b`: between two
    photos of a place, adapted from one start, its appearance lies between theirs (arXiv 2012.02189, sec. 5).

    Args:
        a, b: one object each, of one network.
        weights: 0 is `a` and 1 `b`, bit for bit; several: as many fields side by side.

    Raises InputError where the fields do not fit each other, or a weight is not finite.
    """
    if (a.spec, a.settings, a.scale) != (b.spec, b.settings, b.scale):
        raise InputError(f"a and b must be fields of one network, cut and scale, got {a.spec} and {b.spec}")
    if a.params[0].shape[0] != 1 or b.params[0].shape[0] != 1:
        raise InputError(f"a and b must be one field each, got {a.params[0].shape[0]} and {b.params[0].shape[0]}")
    some = torch.as_tensor(weights, dtype=torch.float64).reshape(-1)
    if not len(some) or not bool(torch.isfinite(some).all()):
        raise InputError(f"weights must be at least one finite number, got {weights}")
    return dataclasses.replace(a, params=interpolated(a.params, b.params, some))


def ray_pool(objects: Sequence[ObjectViews], settings: RenderSettings, device: torch.device | str) -> ObjectPool:
    """The rays of objects, each a task."""
    return ObjectPool([(one.images, one.cameras) for one in objects], settings, device)


@dataclasses.dataclass(frozen=True)
class Start:
    """A start [1, ...] and how it is continued on an object's views: `steps` of SGD or Adam at `lr` (falling to
    `lr_end`, where it is given), `rays` fresh rays each.

    scale: the field's units in one of the cameras' positions; `settings` are in the field's.
    """

    params: Params
    spec: FieldSpec
    settings: RenderSettings
    steps: int = 1000
    lr: float = 0.5
    rays: int = 128
    optimizer: StepKind = "sgd"
    lr_end: float | None = None
    scale: float = 1.0

    def adapt(self, image: Any, camera: Cameras, *, steps: int | None = None, seed: int = 0) -> Field:
        """The field of one object, of which one picture is known, or several.

        Args:
            image: uint8 [H, W, 4], sRGB with straight alpha, or [H, W, 3], a photo or in front of white; an array or a
                tensor. Of V pictures [V, H, W, 4] or [V, H, W, 3].
            camera: one camera of H x W, or V, in the scene units of the run's data (objects: around the origin).
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
        pool = ObjectPool([(pixels, camera.in_units(self.scale))], self.settings, self.params[0].device)
        return self.field(self.adapt_all(pool, seed, steps=steps))

    def field(self, params: Params) -> Field:
        """The fields of parameters [T, ...] that the start was continued to."""
        return Field(params, self.spec, self.settings, self.scale)

    def adapt_all(
        self,
        pool: ObjectPool,
        seed: int = 0,
        *,
        steps: int | None = None,
        columns: tuple[int, int] | None = None,
        callback: Callable[[int, Params, Tensor], None] | None = None,
    ) -> Params:
        """The start continued on all views of every object of a pool, side by side: tensors [O, ...].

        columns: of each view, those to learn from, as `ObjectPool.draw`'s. callback: as `learn.fine_tune`'s.
        """
        generator = torch.Generator().manual_seed(seed)
        loss = ray_loss(pool, torch.arange(len(pool)), self.spec, self.rays, generator, columns=columns)
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
        return repeated(self.params, objects)

    def save(self, folder: pathlib.Path) -> None:
        """Writes `start.safetensors`, which `load_start` reads."""
        plain = {name: getattr(self, name) for name in HOW}
        cut = {**self.settings.to_dict(), "backend": "auto"}
        meta = {"spec": to_dict(self.spec), "settings": cut, **plain}
        save_tensors(folder / FILE, {str(i): p for i, p in enumerate(self.params)}, meta)


def load_start(run: str | pathlib.Path, device: torch.device | str = "cpu") -> Start:
    """The learned start that a run of `mclnf-fast run single-view` or `run photos` has left in its folder.

    Raises InputError where there is none, or its bytes have changed.
    """
    tensors, meta = read_start_file(run, "single-view", "photos")
    params = tuple(tensors[str(i)].to(device) for i in range(len(tensors)))
    settings = RenderSettings.from_dict(meta["settings"])
    how = {name: meta[name] for name in HOW if name in meta}
    return Start(params, from_dict(meta["spec"]), settings, **how)
