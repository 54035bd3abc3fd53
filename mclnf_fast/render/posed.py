"""Posed images of one region as a task for one module: rays in, squared colour errors out."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import encode_grids, split_params
from mclnf_fast.ops import FisherResult
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.fused import render_fused
from mclnf_fast.render.pool import RayBatch, RayPool
from mclnf_fast.render.volume import (
    RenderSettings,
    composite_points,
    render_modules,
    sample_in_cells,
)
from mclnf_fast.spec import FieldSpec

Parameters = tuple[Tensor, ...]


class PosedImages:
    """One region's training views as a `learn.Task`, and its held-out views.

    A sample is a ray, its loss the mean squared error of its colour. An item is a tile of pixels.

    Args:
        name: of the task.
        images, cameras: training views, uint8 [V, H, W, 3].
        test_images, test_cameras: held-out views.
        cells: the one cell in which the module lives (len 1).
        spec, settings: of the field and of its rendering.
        tile: side of a tile in pixels.
    """

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
        if len(cells) != 1:
            raise ValueError(f"cells must hold the one cell of this task, got {len(cells)}")
        self.name, self.cells, self.spec, self.settings = name, cells, spec, settings
        self.pool = RayPool(images, cameras, tile)
        self.test_images, self.test_cameras = test_images, test_cameras

    @property
    def items(self) -> int:
        return self.pool.tiles

    def draw(self, count: int, generator: torch.Generator) -> RayBatch:
        return self.pool.batch(self.pool.uniform(count, generator))

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[RayBatch, Tensor]:
        ids, factor = self.pool.in_tiles(items, generator)
        return self.pool.batch(ids), factor

    def losses(self, params: Parameters, batch: RayBatch, seed: int) -> Tensor:
        return posed_losses(params, self.spec, batch, _whole(batch.origins), self.cells, self.settings, seed)

    def scores(
        self,
        params: Parameters,
        batch: RayBatch,
        weights: Tensor,
        fisher: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None,
        seed: int,
    ) -> FisherResult:
        """One sweep: the rays' scores with cross terms, their summed gradients and their diagonal Fisher.

        Those of the network alone: the tables of grids take no part.
        """
        rays = batch.origins.shape[0]
        points = sample_in_cells(
            batch.origins, batch.directions, _whole(batch.origins), self.cells, self.settings, self.spec, seed=seed
        )
        backend = self.settings.backend
        layers, biases, tables = split_params(params, self.spec)
        with torch.no_grad():
            x = encode_grids(points.x, points.offsets, tables, self.spec, backend)
            raw = ops.bank_mlp(x, points.offsets, layers, biases, self.spec.mlp, backend)
        raw.requires_grad_()
        with torch.enable_grad():
            color = composite_points(raw, points, self.settings).color
            loss = (weights * (color - batch.colors).square().mean(-1)).sum()
            grad_y = torch.autograd.grad(loss, raw)[0]
        return ops.fisher_scores(
            x,
            points.offsets,
            layers,
            biases,
            grad_y,
            fisher,
            self.spec.mlp,
            points.ray_ids,
            damping=0.0 if fisher is not None else 1e-8,
            backend=backend,
            num_samples=rays,
        )

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
