"""The rays of objects seen from all sides: each object is a task, its pixels are the samples to draw from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, cat_cameras
from mclnf_fast.render.lenses.views import check_depths, pixels_with_rays
from mclnf_fast.render.losses import ray_losses
from mclnf_fast.render.pool import RayBatch
from mclnf_fast.render.samples import along_axis, sample_between
from mclnf_fast.render.settings import RenderSettings
from mclnf_fast.spec import FieldSpec


def on_white(images: Tensor) -> Tensor:
    """Return uint8 [..., 4], sRGB with straight alpha, as float32 [..., 3] in 0 ... 1 in front of white.

    Mixed in sRGB and not in linear light, as pictures are displayed and the published scores are computed.

    >>> on_white(torch.tensor([255, 0, 0, 0], dtype=torch.uint8)).tolist()
    [1.0, 1.0, 1.0]
    """
    values = images.to(torch.float32) / 255.0
    alpha = values[..., 3:]
    return values[..., :3] * alpha + (1 - alpha)


class ObjectPool:
    """The posed images of O objects; a ray is drawn from any view of its object, uniform over all their pixels.

    Rays are computed when they are drawn: written out, the 25 views of 128 x 128 pixels of one object would be 409,600
    rows of 9 floats, 14 MiB, in place of 1.6 MiB of pixels (`rows` writes them out).

    Args:
        objects: (images uint8 [V, H, W, 4], V cameras) of each; V may differ, H and W not.
        settings: of the convention `blog` or `learnit`, which has the length of directions.
        device: of the images and rays. Ids are drawn on the CPU, so that a seed means the same on each.

    Raises:
        InputError: there is no object, images and cameras do not fit, or a lens leaves pixels without a ray.

    >>> from mclnf_fast.render.cameras import look_at
    >>> cameras = Cameras(look_at(4 * torch.eye(3)[:1], torch.zeros(1, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    >>> pool = ObjectPool([(torch.zeros(1, 8, 8, 4, dtype=torch.uint8), cameras)], RenderSettings.between())
    >>> pool.batch(pool.draw(torch.tensor([0]), 5, torch.Generator())).colors.shape
    torch.Size([1, 5, 3])
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
            seen = pixels_with_rays(cameras)
            if seen is not None:
                # Without masks such a pixel would be learned, as the color of no ray.
                raise InputError(
                    f"cameras of object {k} must have a ray for each pixel, the lens shows nothing at "
                    f"{int((~seen).sum())} of {seen.numel()}: cut the pictures to what it shows"
                )
            if settings.convention == "learnit":
                check_depths(cameras)
        self.settings, self.device = settings, torch.device(device)
        self.cameras = cat_cameras([cameras for _, cameras in objects]).to(self.device)
        self._axes = -self.cameras.c2w[:, :, 2]
        self._pixels = torch.cat([images.reshape(-1, 4) for images, _ in objects]).to(self.device)
        self.views = tuple(len(images) for images, _ in objects)
        self._first_view = torch.tensor([0, *self.views]).cumsum(0)  # of each object, counted over all
        self.height, self.width = self.cameras.height, self.cameras.width

    def __len__(self) -> int:
        """Return O, the number of objects."""
        return len(self.views)

    @property
    def pixels(self) -> int:
        """Number of pixels of one view."""
        return self.height * self.width

    def batch(self, ids: Tensor) -> RayBatch:
        """Return the rays of ids int64 [...]: pixels (object, view, row, column), row-major; tensors [..., 3]."""
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
        """Return `count` ids of each object, uniform with replacement: int64 [T, count].

        Args:
            objects: int64 [T].
            count: per object.
            generator: on the CPU.
            views: draw from the first `views` views of each object; None: from all.
            columns: draw from columns first ... last-1 of each view; None: from all.
        """
        first_view = self._first_view[objects]
        available = self._first_view[objects + 1] - first_view
        available = available if views is None else available.clamp(max=views)
        left, right = self._columns(columns)
        size = self.height * (right - left)
        # float64: a float32 in 0 ... 1 has 2^24 values and would leave pixels of a large set without a chance.
        unit = torch.rand(len(objects), count, dtype=torch.float64, generator=generator)
        k = (unit * (available * size)[:, None]).to(torch.int64)
        row = torch.div(k, right - left, rounding_mode="floor")
        return first_view[:, None] * self.pixels + row * self.width + left + k % (right - left)

    def view_ids(self, objects: Tensor, view: int, columns: tuple[int, int] | None = None) -> Tensor:
        """Return all ids of one view of each object, row by row: int64 [T, H W].

        columns: as `draw` takes them; [T, H (last - first)] ids then.
        """
        left, right = self._columns(columns)
        ids = torch.arange(self.pixels).reshape(self.height, self.width)[:, left:right].reshape(-1)
        return (self._first_view[objects] + view)[:, None] * self.pixels + ids

    def _columns(self, columns: tuple[int, int] | None) -> tuple[int, int]:
        left, right = columns or (0, self.width)
        if not 0 <= left < right <= self.width:
            raise InputError(f"columns must be 0 <= first < last <= {self.width}, got {left} and {right}")
        return left, right

    def points(self, count: int, generator: torch.Generator) -> Tensor:
        """Return sample points [count, 3] of rays of all objects' views, one per ray, distributed as in training.

        As many for each object, so that `count` is rounded up to a multiple of O.
        """
        batch = self.batch(self.draw(torch.arange(len(self)), -(-count // len(self)), generator).reshape(-1))
        noise = torch.rand(len(batch.origins), generator=generator, dtype=torch.float64).to(batch.origins)
        t = self.settings.near + (self.settings.far - self.settings.near) * noise[:, None]
        return batch.origins + t * batch.directions

    def rows(self, k: int) -> Tensor:
        """Return all rays of object k as the published code has them: [V H W, 9], origin, direction and color."""
        first = int(self._first_view[k]) * self.pixels
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
    """Return the loss of a step for `learn`: T objects side by side, fresh rays and samples in each step.

        L_m = mean over rays and channels of (pixel - color)^2

    Args:
        pool: the rays; its settings hold the background and the samples per ray.
        objects: int64 [T], of the pool; module m learns objects[m].
        spec: of the field, as `ray_losses` takes it.
        rays: per step and object.
        generator: on the CPU.
        views, columns: as `ObjectPool.draw` takes them.

    Returns:
        A function (params [T, ...], step) -> losses [T]; see `ray_losses`.

    >>> from mclnf_fast.fields import initial_parameters
    >>> from mclnf_fast.render.cameras import look_at
    >>> cameras = Cameras(look_at(4 * torch.eye(3)[:1], torch.zeros(1, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    >>> pool = ObjectPool([(torch.zeros(1, 8, 8, 4, dtype=torch.uint8), cameras)], RenderSettings.between())
    >>> spec = FieldSpec(3, 4, width=8, hidden_layers=1)
    >>> ray_loss(pool, torch.tensor([0]), spec, 16, torch.Generator())(initial_parameters(spec, 1), 0).shape
    torch.Size([1])
    """

    def loss(params: Sequence[Tensor], step: int) -> Tensor:
        batch = pool.batch(pool.draw(objects, rays, generator, views, columns))
        shape = len(objects), rays, pool.settings.samples_per_ray
        noise = torch.rand(shape, dtype=torch.float32, generator=generator).to(pool.device)
        samples, _ = sample_between(batch.origins, batch.directions, pool.settings, noise)
        return ray_losses(params, spec, samples, batch.colors, pool.settings)

    return loss
