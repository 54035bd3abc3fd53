"""An initialization of radiance fields, fine-tuned on posed pictures, and the fields that come of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params, interpolated, repeated
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.render import Cameras, RenderSettings, view_rays
from mclnf_fast.render.lenses.views import blanked, drawable
from mclnf_fast.render.objects import ObjectPool, ray_loss
from mclnf_fast.render.volume import render_pixels
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.starts.tuning import Tuning


@dataclasses.dataclass(frozen=True)
class RayField:
    """Fields of T objects side by side.

    Attributes:
        params: tensors [T, ...].
        spec: of each network.
        settings: how rays are sampled and shaded, in lengths of the field.
        scale: lengths of the field in one of the cameras' positions.
    """

    params: Params
    spec: FieldSpec
    settings: RenderSettings
    scale: float = 1.0

    def render(self, cameras: Cameras) -> Tensor:
        """Return pictures uint8 [T, V, H, W, 3], sRGB, of every object from each of V cameras."""
        objects = self.params[0].shape[0]
        views = []
        for k in range(len(cameras)):
            # One camera for all objects: expanded, not copied, since a view of T objects is T H W rays.
            origins, directions, seen = self._rays(cameras, k)
            o, d = (t.expand(objects, *t.shape) for t in (origins, directions))
            views.append(blanked(render_pixels(self.params, self.spec, o, d, self.settings), seen, 1))
        pictures = (
            torch.stack(views, 1)
            if views
            else torch.empty(objects, 0, cameras.height * cameras.width, 3, dtype=torch.float32)
        )
        return as_bytes(pictures).unflatten(2, (cameras.height, cameras.width))

    def render_each(self, cameras: Cameras) -> Tensor:
        """Return pictures uint8 [T, H, W, 3] of T objects, each from its own of T cameras.

        Raises InputError if there are not as many cameras.
        """
        if len(cameras) != self.params[0].shape[0]:
            raise InputError(f"cameras must be {self.params[0].shape[0]}, one per object, got {len(cameras)}")
        origins, directions, seen = zip(*(self._rays(cameras, k) for k in range(len(cameras))))
        pixels = render_pixels(self.params, self.spec, torch.stack(origins), torch.stack(directions), self.settings)
        pixels = torch.stack([blanked(view, mask, 0) for view, mask in zip(pixels, seen)])
        return as_bytes(pixels).unflatten(1, (cameras.height, cameras.width))

    def _rays(self, cameras: Cameras, k: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return origins and directions [H W, 3] of camera k, in lengths of the field, and which pixels have a ray."""
        cameras = cameras.in_units(self.scale).to(self.params[0].device)
        origins, directions = view_rays(cameras, k, self.settings)
        return origins, *drawable(cameras, k, directions)


def as_bytes(pictures: Tensor) -> Tensor:
    """Return values in 0 ... 1 as uint8, on the CPU; others are cut off.

    >>> as_bytes(torch.tensor([0.0, 0.5, 2.0])).tolist()
    [0, 128, 255]
    """
    # Rounded: cutting off the fraction would darken every picture by half a level on average.
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def between(a: Params, b: Params, weights: float | Sequence[float]) -> Params:
    """Return the parameters [W, ...] at `weights` of the straight line from one module [1, ...] to another.

    Between two photos of a place, fine-tuned from one initialization, the appearance then lies between theirs
    (arXiv 2012.02189, sec. 5).

    Args:
        a, b: one module each, of one architecture.
        weights: 0 is `a` and 1 is `b`, bit for bit.

    Raises InputError if `a` or `b` is not one module, or a weight is not finite.

    >>> between((torch.zeros(1, 2),), (torch.ones(1, 2),), [0.0, 0.25])[0].tolist()
    [[0.0, 0.0], [0.25, 0.25]]
    """
    if a[0].shape[0] != 1 or b[0].shape[0] != 1 or [p.shape for p in a] != [p.shape for p in b]:
        raise InputError(f"a and b must be one module each, of one architecture, got {a[0].shape} and {b[0].shape}")
    # fp64: in fp32 a weight of 1 - 1e-8 would be 1, and `b` itself.
    values = torch.as_tensor(weights, dtype=torch.float64).reshape(-1)
    if not len(values) or not bool(torch.isfinite(values).all()):
        raise InputError(f"weights must be at least one finite number, got {weights}")
    return interpolated(a, b, values)


def ray_pool(objects: Sequence[ObjectViews], settings: RenderSettings, device: torch.device | str) -> ObjectPool:
    """Return the rays of objects, each a task."""
    return ObjectPool([(views.images, views.cameras) for views in objects], settings, device)


@dataclasses.dataclass(frozen=True)
class RayInitialization:
    """An initialization [1, ...], and how it is fine-tuned on views.

    Attributes:
        params, spec: the initialization.
        settings: how rays are sampled and shaded, in lengths of the field.
        scale: lengths of the field in one of the cameras' positions.
        steps: of fine-tuning.
        lr: its rate, falling to `lr_end` if that is set.
        batch: fresh rays per step and object.
        optimizer: sgd or adam.
    """

    params: Params
    spec: FieldSpec
    settings: RenderSettings
    scale: float = 1.0
    steps: int = 1000
    lr: float = 0.5
    batch: int = 128
    optimizer: StepKind = "sgd"
    lr_end: float | None = None

    def tuning(self, pool: ObjectPool, seed: int = 0, columns: tuple[int, int] | None = None) -> Tuning:
        """Return the fine-tuning on all views of every object of a pool, side by side.

        columns: of each view, those to learn from, as `ObjectPool.draw` takes them.
        """
        # On the CPU, so that a seed draws the same rays on every device.
        generator = torch.Generator().manual_seed(seed)
        loss = ray_loss(pool, torch.arange(len(pool)), self.spec, self.batch, generator, columns=columns)
        return Tuning(loss, self.steps, self.lr, self.optimizer, self.lr_end)

    def adapt_all(
        self, pool: ObjectPool, seed: int = 0, columns: tuple[int, int] | None = None, steps: int | None = None
    ) -> Params:
        """Return modules [O, ...] fine-tuned on all views of every object of a pool; arguments as `tuning`, and other
        steps if they are set."""
        t, count = self.tuning(pool, seed, columns), self.steps if steps is None else steps
        # `fine_tune` takes at least one step; none is how the initialization itself is shown.
        if not count:
            return self.repeated(len(pool))
        return fine_tune(self.repeated(len(pool)), t.loss, count, t.lr, kind=t.kind, lr_end=t.lr_end)

    def adapt(self, images: object, cameras: object, *, steps: int | None = None, seed: int = 0) -> Params:
        """Return the module [1, ...] of one object, fine-tuned on one picture or several.

        Args:
            images: uint8 [H, W, 4], sRGB with straight alpha, or [H, W, 3], a photo or in front of white; an array or a
                tensor. Of V pictures [V, H, W, 4] or [V, H, W, 3].
            cameras: one camera of H x W, or V, in the scene units of the run's data (objects: around the origin).
            steps: default: those of the initialization.

        Raises InputError if the picture is no such image or does not fit the camera.
        """
        pixels = torch.as_tensor(images)
        if pixels.dim() not in (3, 4) or pixels.shape[-1] not in (3, 4) or pixels.dtype != torch.uint8:
            raise InputError(
                "image must be uint8 [H, W, 4] or [H, W, 3], or [V, ...] of several, "
                f"got {pixels.dtype} {list(pixels.shape)}"
            )
        pixels = pixels[None] if pixels.dim() == 3 else pixels
        if not isinstance(cameras, Cameras) or len(cameras) != len(pixels):
            count = len(cameras) if isinstance(cameras, Cameras) else type(cameras).__name__
            raise InputError(f"camera must be {len(pixels)}, one per picture, got {count}")
        if pixels.shape[-1] == 3:
            # Opaque: a photo, or a picture in front of white already, has nothing behind it.
            pixels = torch.cat((pixels, torch.full_like(pixels[..., :1], 255)), -1)
        pool = ObjectPool([(pixels, cameras.in_units(self.scale))], self.settings, self.params[0].device)
        return self.adapt_all(pool, seed, steps=steps)

    def field(self, params: Params) -> RayField:
        """Return the fields of modules [T, ...] that were fine-tuned from here."""
        return RayField(params, self.spec, self.settings, self.scale)

    def repeated(self, objects: int) -> Params:
        """Return the initialization once for each object: tensors [O, ...]."""
        return repeated(self.params, objects)

    def options(self) -> Mapping[str, object]:
        """Return how it is fine-tuned, as a run's result holds it."""
        return {name: getattr(self, name) for name in ("steps", "lr", "batch", "optimizer", "lr_end")}
