"""Posed images of one region as a task for one module: rays in, squared colour errors out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mclnf_fast.fields import evaluate_params
from mclnf_fast.ops.fisher import FisherPoints
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.fused import render_fused
from mclnf_fast.render.pool import Pool, RayBatch, RayPool, RayPools
from mclnf_fast.render.volume import Points as SamplePoints
from mclnf_fast.render.volume import (
    RenderSettings,
    composite_points,
    module_losses,
    render_modules,
    sample_in_cells,
)
from mclnf_fast.spec import FieldSpec

Parameters = tuple[Tensor, ...]
Batch = tuple[Tensor, ...]


class RayTask:
    """Posed images of one region as a `learn.BankTask` of one signal (S = 1): batches are origins, directions and
    colours [1, k, 3].

    A sample is a ray, its loss the mean squared error of its colour. An item is a tile of pixels.

    Args:
        name: of the task.
        pool: the rays.
        cells: the one cell in which the module lives (len 1).
        spec, settings: of the field and of its rendering.
    """

    modules = 1
    curve: Tensor | None = None  # tiles lie side by side in their own order

    def __init__(self, name: str, pool: Pool, cells: Cells, spec: FieldSpec, settings: RenderSettings) -> None:
        if len(cells) != 1:
            raise ValueError(f"cells must hold the one cell of this task, got {len(cells)}")
        self.name, self.pool, self.cells, self.spec, self.settings = name, pool, cells, spec, settings
        self.backend = settings.backend

    @property
    def samples(self) -> int:
        """Number of rays."""
        return len(self.pool)

    @property
    def items(self) -> int:
        """Number of tiles."""
        return self.pool.tiles

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        return self.take(self.pool.uniform(count, generator)[None])

    def take(self, ids: Tensor) -> Batch:
        return tuple(t[None] for t in self.pool.batch(ids[0]))

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor]:
        ids, factor = self.pool.in_tiles(items[0], generator)
        return self.take(ids[None]), factor[None]

    def loss(self, params: Parameters, batch: Batch, weights: Tensor | None = None, seed: int = 0) -> Tensor:
        rays, each = _rays(batch), None if weights is None else weights[0]
        return posed_loss(params, self.spec, rays, _whole(rays.origins), self.cells, self.settings, seed, each)

    def points(self, params: Parameters, batch: Batch, seed: int = 0) -> FisherPoints:
        """Cross terms included: the sample of a point is its ray."""
        rays = _rays(batch)
        points, raw = self._shot(params, rays, seed)
        with torch.enable_grad():
            color = composite_points(raw, points, self.settings).color
            loss = (color - rays.colors).square().mean(-1).sum()
            grad_y = torch.autograd.grad(loss, raw)[0]
        return FisherPoints(points.x, points.offsets, grad_y, points.ray_ids, len(rays.origins))

    def outputs(self, params: Parameters, batch: Batch, seed: int = 0) -> Iterator[FisherPoints]:
        """Of each colour channel of the rays' pixels."""
        rays = _rays(batch)
        points, raw = self._shot(params, rays, seed)
        with torch.enable_grad():
            color = composite_points(raw, points, self.settings).color
        for channel in color.sum(0):
            grad_y = torch.autograd.grad(channel, raw, retain_graph=True)[0]
            yield FisherPoints(points.x, points.offsets, grad_y, points.ray_ids, len(rays.origins))

    def _shot(self, params: Parameters, rays: RayBatch, seed: int) -> tuple[SamplePoints, Tensor]:
        """The sample points of the rays, and the field's values there as a leaf."""
        points = sample_in_cells(
            rays.origins, rays.directions, _whole(rays.origins), self.cells, self.settings, self.spec, seed=seed
        )
        with torch.no_grad():
            raw = evaluate_params(params, self.spec, points.x, points.offsets, self.backend)
        return points, raw.requires_grad_()


class PosedImages(RayTask):
    """A `RayTask` on one region's training views, with held-out views to judge it by.

    Args:
        name: of the task.
        images, cameras: training views, uint8 [V, H, W, 3].
        test_images, test_cameras: held-out views.
        cells: the one cell in which the module lives (len 1).
        spec, settings: of the field and of its rendering.
        tile: side of a tile in pixels.
    """

    pool: RayPool

    def __init__(
        self,
        name: str,
        images: Tensor,
        cameras: Cameras,
        test_images: Tensor,
        test_cameras: Cameras,
        cells: Cells,
        spec: FieldSpec,
        settings: RenderSettings,
        tile: int = 8,
    ) -> None:
        super().__init__(name, RayPool(images, cameras, tile), cells, spec, settings)
        self.test_images, self.test_cameras = test_images, test_cameras

    @torch.no_grad()
    def render(self, params: Parameters, cameras: Cameras, view: int) -> Tensor:
        """One view [H, W, 3] of `cameras` through this task's module, without jitter."""
        origins, directions = cameras.view_rays(view)
        found = render_fused(params, self.spec, origins, directions, _whole(origins), self.cells, self.settings)
        return found.color.reshape(cameras.height, cameras.width, 3)

    @torch.no_grad()
    def evaluate(self, params: Parameters) -> float:
        """PSNR in dB, mean over the held-out views of each view's own."""
        return sum(self.evaluate_views(params)) / len(self.test_cameras)

    @torch.no_grad()
    def evaluate_views(self, params: Parameters) -> list[float]:
        """PSNR in dB of every held-out view."""
        found = []
        for view in range(len(self.test_cameras)):
            truth = self.test_images[view].to(torch.float32) / 255.0
            error = (self.render(params, self.test_cameras, view) - truth).square().mean(dtype=torch.float64)
            found.append(float(-10.0 * torch.log10(error.clamp(min=1e-12))))
        return found


def joined(tasks: Sequence[PosedImages], name: str = "all") -> RayTask:
    """The rays of all tasks as one task, of the network (and in the cell) of the first."""
    first = tasks[0]
    return RayTask(name, RayPools([task.pool for task in tasks]), first.cells, first.spec, first.settings)


def _rays(batch: Batch) -> RayBatch:
    return RayBatch(*(t[0] for t in batch))


def _whole(rays: Tensor) -> Tensor:
    return torch.arange(2, device=rays.device) * rays.shape[0]


def posed_losses(
    params: Parameters,
    spec: FieldSpec,
    batch: RayBatch,
    ray_offsets: Tensor,
    cells: Cells,
    settings: RenderSettings,
    seed: int,
) -> Tensor:
    """Mean squared colour error of every ray [R], of rays grouped by module; differentiable in `params`."""
    out = render_modules(params, spec, batch.origins, batch.directions, ray_offsets, cells, settings, seed=seed)
    return (out.color - batch.colors).square().mean(-1)


def posed_loss(
    params: Parameters,
    spec: FieldSpec,
    batch: RayBatch,
    ray_offsets: Tensor,
    cells: Cells,
    settings: RenderSettings,
    seed: int | None = None,
    ray_weight: Tensor | None = None,
) -> Tensor:
    """Mean squared colour error of every module's rays, each times its weight: the fast way to train on posed images.

    Args:
        params: tensors [M, ...], as `FieldBank.stacked`; `spec` takes 3 coordinates, or 6 with the viewing direction,
            and gives 4 outputs.
        batch: rays [R, 3] grouped by module, scene units, and their colours.
        ray_offsets: int64 [M + 1].
        seed: of the jitter of the samples along a ray; None: no jitter.
        ray_weight: [R]; None: ones. The mean is over rays and channels, not over weights.

    Returns [M]; twice differentiable in `params`, where one goes by `render_modules` faster.
    """
    points = sample_in_cells(batch.origins, batch.directions, ray_offsets, cells, settings, spec, seed=seed)
    return module_losses(params, spec, points, ray_offsets, batch.colors, settings, ray_weight)
