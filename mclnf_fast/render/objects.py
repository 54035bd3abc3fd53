"""The rays of objects seen from all sides: each object is a task, its pixels the samples to draw from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, cat_cameras
from mclnf_fast.render.losses import ray_losses
from mclnf_fast.render.pool import RayBatch
from mclnf_fast.render.samples import along_axis, sample_between
from mclnf_fast.render.settings import RenderSettings
from mclnf_fast.spec import FieldSpec


def on_white(images: Tensor) -> Tensor:
    """uint8 [..., 4], sRGB with straight alpha -> float32 [..., 3] in 0 ... 1 in front of white, as it is shown."""
    values = images.to(torch.float32) / 255.0
    alpha = values[..., 3:]
    return values[..., :3] * alpha + (1 - alpha)


class ObjectPool:
    """The posed images of O objects; a ray is drawn from any view of its object, uniform over all their pixels.

    Rays are made when they are drawn: written out, the 25 views of 128 x 128 pixels of one object would be 409,600
    rows of 9 floats, 14 MiB, where their pixels are 1.6 MiB (`rows` writes them out).

    Args:
        objects: (images uint8 [V, H, W, 4], V cameras) of each; V may differ, H and W not.
        settings: how rays are cut, and with that how long their directions are.
        device: where the images lie and rays are made. Ids are drawn on the CPU, so that a seed means the same on each.

    Raises InputError where there is no object, or images and cameras do not fit.
    """

    def __init__(
        self, objects: Sequence[tuple[Tensor, Cameras]], settings: RenderSettings, device: torch.device | str = "cpu"
    ) -> None:
        if not objects:
            raise InputError("objects must hold at least one object, got none")
        for k, (images, cameras) in enumerate(objects):
            if images.dim() != 4 or images.shape[-1] != 4 or images.dtype != torch.uint8 or not len(images):
                raise InputError(f"images of object {k} must be uint8 [V, H, W, 4], got {list(images.shape)}")
            if tuple(images.shape[:3]) != (len(cameras), cameras.height, cameras.width):
                raise InputError(
                    f"images of object {k} must fit its {len(cameras)} cameras of {cameras.height} x {cameras.width}, "
                    f"got {list(images.shape)}"
                )
        self.settings, self.device = settings, torch.device(device)
        self.cameras = cat_cameras([cameras for _, cameras in objects]).to(self.device)
        self._axes = -self.cameras.c2w[:, :, 2]
        self._pixels = torch.cat([images.reshape(-1, 4) for images, _ in objects]).to(self.device)
        self.views = tuple(len(images) for images, _ in objects)
        self._first = torch.tensor([0, *self.views]).cumsum(0)  # views
        self.height, self.width = self.cameras.height, self.cameras.width

    def __len__(self) -> int:
        """O."""
        return len(self.views)

    @property
    def pixels(self) -> int:
        """Of one view."""
        return self.height * self.width

    def batch(self, ids: Tensor) -> RayBatch:
        """The rays of ids int64 [...]: pixel of (object, view, row, column), row-major; tensors [..., 3]."""
        flat = ids.reshape(-1).to(self.device)
        views = flat // self.pixels
        origins, directions = self.cameras.rays(views, flat % self.pixels)
        if self.settings.convention == "learnit":
            directions = along_axis(directions, self._axes.index_select(0, views))
        colors = on_white(self._pixels.index_select(0, flat))
        return RayBatch(*(t.reshape(*ids.shape, 3) for t in (origins, directions, colors)))

    def draw(
        self,
        objects: Tensor,
        count: int,
        generator: torch.Generator,
        views: int | None = None,
        columns: tuple[int, int] | None = None,
    ) -> Tensor:
        """`count` ids of each object, uniform with replacement: objects int64 [T] -> [T, count].

        views: of each object, only its first so many; None: all. columns: of each view, only those from the first to
        before the second; None: all.
        """
        first = self._first[objects]
        have = self._first[objects + 1] - first
        have = have if views is None else have.clamp(max=views)
        left, right = self._columns(columns)
        size = self.height * (right - left)
        unit = torch.rand(len(objects), count, dtype=torch.float64, generator=generator)
        k = (unit * (have * size)[:, None]).to(torch.int64)
        row = torch.div(k, right - left, rounding_mode="floor")
        return first[:, None] * self.pixels + row * self.width + left + k % (right - left)

    def view_ids(self, objects: Tensor, view: int, columns: tuple[int, int] | None = None) -> Tensor:
        """All ids of one view of each object, or of some of its columns: int64 [T] -> [T, H W], row by row."""
        left, right = self._columns(columns)
        ids = torch.arange(self.pixels).reshape(self.height, self.width)[:, left:right].reshape(-1)
        return (self._first[objects] + view)[:, None] * self.pixels + ids

    def _columns(self, columns: tuple[int, int] | None) -> tuple[int, int]:
        left, right = columns or (0, self.width)
        if not 0 <= left < right <= self.width:
            raise InputError(f"columns must be 0 <= first < last <= {self.width}, got {left} and {right}")
        return left, right

    def points(self, count: int, generator: torch.Generator) -> Tensor:
        """Places [count, 3] where rays of all objects' views are looked at, one a ray: spread as training spreads them.

        As many for each object, so that `count` is rounded up to a multiple of O.
        """
        batch = self.batch(self.draw(torch.arange(len(self)), -(-count // len(self)), generator).reshape(-1))
        noise = torch.rand(len(batch.origins), generator=generator, dtype=torch.float64).to(batch.origins)
        t = self.settings.near + (self.settings.far - self.settings.near) * noise[:, None]
        return batch.origins + t * batch.directions

    def rows(self, k: int) -> Tensor:
        """Object k written out as the texts do: [V H W, 9], origin, direction and colour of each ray."""
        first = int(self._first[k]) * self.pixels
        return torch.cat(self.batch(torch.arange(first, first + self.views[k] * self.pixels)), -1)


def ray_loss(
    pool: ObjectPool,
    objects: Tensor,
    spec: FieldSpec,
    rays: int,
    generator: torch.Generator,
    views: int | None = None,
    columns: tuple[int, int] | None = None,
) -> Callable[[Sequence[Tensor], int], Tensor]:
    """The loss of a step for `learn`: T objects side by side, fresh rays and fresh places along them in each step.

        L_m = mean over rays and channels of (pixel - colour)^2

    Args:
        objects: int64 [T], which of the pool's; module m learns objects[m].
        rays: a step and object.
        generator: on the CPU.
        views: the first so many of an object's; None: all.
        columns: of a view's, as `ObjectPool.draw`'s.

    Returns `(params [T, ...], step) -> [T]`.
    """

    def loss(params: Sequence[Tensor], step: int) -> Tensor:
        batch = pool.batch(pool.draw(objects, rays, generator, views, columns))
        noise = torch.rand(len(objects), rays, pool.settings.samples_per_ray, generator=generator).to(pool.device)
        samples, _ = sample_between(batch.origins, batch.directions, pool.settings, noise)
        return ray_losses(params, spec, samples, batch.colors, pool.settings)

    return loss
