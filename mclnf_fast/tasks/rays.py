"""Turn posed images of one region into a task for one module: rays in, squared color errors out.

The loss of a ray is computed in `render.ray_losses`; `render.RenderSettings` holds its samples per ray and its shading,
with the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mclnf_fast.checks import values_can_be_read
from mclnf_fast.errors import InputError
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Batch, Points
from mclnf_fast.metrics import EIGHT_BITS, mse_to_psnr
from mclnf_fast.ops.bank_fit import FitRays
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.lenses.views import and_rays, blanked, drawable
from mclnf_fast.render.losses import ray_losses
from mclnf_fast.render.pool import Pool, RayBatch, RayPool, RayPools
from mclnf_fast.render.samples import Rays, RaySamples, sample_in_cells, to_cells
from mclnf_fast.render.settings import RenderSettings
from mclnf_fast.render.volume import composite_samples, evaluate_samples, render_fused, render_modules
from mclnf_fast.spec import FieldSpec

Views = tuple[Tensor, Cameras]
"""Images uint8 [V, H, W, 3] and the V cameras that took them."""


class RayTask:
    """Rays of one region as a `learn.ScoredTask` of one signal (S = 1).

    Batches are origins, directions and colors [1, k, 3]. A sample is a ray, its loss the mean squared error of its
    color. An item is a tile of pixels: a single pixel is drawn a few times in a whole run, its neighborhood often.

    Args:
        name: of the task.
        pool: the rays.
        cells: the one cell in which the module lives (len 1).
        spec, settings: of the field and of its rendering.

    Raises ValueError if there is not exactly one cell.
    """

    modules = 1
    curve: Tensor | None = None  # tiles lie side by side in their own order

    def __init__(self, name: str, pool: Pool, cells: Cells, spec: FieldSpec, settings: RenderSettings) -> None:
        if len(cells) != 1:
            raise ValueError(f"cells must hold the one cell of this task, got {len(cells)}")
        self.name, self.pool, self.cells, self.spec, self.settings = name, pool, cells, spec, settings
        self.backend = settings.backend
        self._scored: tuple[Batch, Tensor | int, RaySamples] | None = None  # batch, seed and samples of `points`

    @property
    def samples(self) -> int:
        """Number of rays."""
        return len(self.pool)

    @property
    def items(self) -> int:
        """Number of tiles."""
        return self.pool.tiles

    def draw(self, count: int, generator: torch.Generator, modules: Tensor | None = None) -> Batch:
        """Return `count` uniform rays. Raises InputError if `modules` names more than the one signal."""
        if modules is not None and len(modules) != 1:
            raise InputError(f"modules must name the one signal of this task, got {len(modules)}")
        return self._batch(self.pool.uniform(count, generator))

    @property
    def is_listed(self) -> bool:
        """Whether `fit_rays` gives the samples and the loss of this class: not in a subclass with draws or a loss of
        its own, nor with what `ops.bank_fit` has not: learned grids, a color for rays that miss the cell."""
        names = ("draw", "take", "draw_in", "loss", "_batch")
        shading = self.settings.shading
        own = all(getattr(type(self), name) is getattr(RayTask, name) for name in names)
        missed = shading.background == "last_sample" and any(shading.missed)
        return own and self.settings.convention == "cell" and not self.spec.grids and not missed

    def batch(self, ids: Tensor) -> RayBatch:
        return self.pool.batch(ids)

    def fit_rays(self, batch: Batch) -> FitRays:
        (origins, directions, colors), settings = batch, self.settings
        rays = Rays.through_one_module(origins, directions)
        return FitRays(
            *to_cells(rays, self.cells),
            colors,
            rays.offsets,
            settings.shading,
            settings.samples_per_ray,
            settings.near / self.cells.unit,
            settings.far / self.cells.unit,
            view=normalize(directions, dim=-1) if settings.shading.view_directions else None,
        )

    def uniform_ids(self, count: int, generator: torch.Generator) -> Tensor:
        return self.pool.uniform(count, generator)

    def ids_in(self, items: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor | None]:
        return self.pool.in_tiles(items, generators)

    def take(self, ids: Tensor) -> Batch:
        # A sample is a ray that may be drawn; the pool counts all pixels, masked ones too.
        return self._batch(self.pool.pixel_ids(ids[0]))

    def _batch(self, pixel_ids: Tensor) -> Batch:
        return tuple(t[None] for t in self.pool.batch(pixel_ids))

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor]:
        ids, factor = self.pool.in_tiles(items[0], generator)
        return self._batch(ids), factor[None]

    def loss(self, params: Params, batch: Batch, weights: Tensor | None = None, seed: Tensor | int = 0) -> Tensor:
        rays, ray_weight = _rays(batch), None if weights is None else weights[0]
        known, self._scored = self._scored, None
        if known is not None and known[0] is batch and _same(known[1], seed):
            samples = known[2]
        else:
            samples = self._samples(rays, seed)
        return ray_losses(params, self.spec, samples, rays.colors, self.settings, ray_weight)

    def points(self, params: Params, batch: Batch, seed: Tensor | int = 0) -> Points:
        """Return the points of the rays; the sample of a point is its ray, so that cross terms are included."""
        rays = _rays(batch)
        points, raw = self._evaluated(params, rays, seed)
        # For the loss of the same batch: a march is a wait for a GPU.
        self._scored = batch, seed, points
        with torch.enable_grad():
            color = composite_samples(raw, points, self.settings).color
            # A sum, so that each ray has the gradient of its own loss, which is scored.
            loss = (color - rays.colors).square().mean(-1).sum()
            grad_y = torch.autograd.grad(loss, raw)[0]
        return _points(points, grad_y)

    def outputs(self, params: Params, batch: Batch, seed: Tensor | int = 0) -> Iterator[Points]:
        """Yield the points for each color channel of the rays' pixels."""
        rays = _rays(batch)
        points, raw = self._evaluated(params, rays, seed)
        with torch.enable_grad():
            color = composite_samples(raw, points, self.settings).color
        for channel in color.sum(0):
            # The graph of the compositing is small; evaluating the field again for each channel would not be.
            grad_y = torch.autograd.grad(channel, raw, retain_graph=True)[0]
            yield _points(points, grad_y)

    def evaluate(self, params: Params) -> Tensor:
        """Raise InputError: rays without held-out views can be trained on, not evaluated."""
        raise InputError(f"task {self.name} must have held-out views to be evaluated, got none")

    def _samples(self, batch: RayBatch, seed: Tensor | int) -> RaySamples:
        """Return the samples of the rays; dense where the number of those that are hit cannot be read."""
        rays = Rays.through_one_module(batch.origins, batch.directions)
        dense = isinstance(seed, Tensor) or not values_can_be_read(batch.origins)
        return sample_in_cells(rays, self.cells, self.settings, seed=seed, dense=dense)

    def _evaluated(self, params: Params, batch: RayBatch, seed: Tensor | int) -> tuple[RaySamples, Tensor]:
        """Return the samples of the rays, and the field's raw outputs there as a leaf."""
        # With the seed of the loss: other sample points along a ray would have other gradients than those it trains on.
        samples = self._samples(batch, seed)
        with torch.no_grad():
            raw = evaluate_samples(params, self.spec, samples, self.settings)
        # A leaf: the backward ends here, since the gradients in the parameters come from the sweep that scores.
        return samples, raw.requires_grad_()


class PosedImages(RayTask):
    """A `RayTask` on one region's training views, with held-out views to judge it by.

    Args:
        name: of the task.
        train, test: training and held-out views.
        cells: the one cell in which the module lives (len 1).
        spec, settings: of the field and of its rendering.
        tile: side of a tile in pixels.
        unmasked: which pixels of the training and of the held-out views are not masked, bool [V, H, W] each; None: all.
            The others carry no loss and are not scored; nor do those at which a lens shows nothing.
    """

    pool: RayPool

    def __init__(
        self,
        name: str,
        train: Views,
        test: Views,
        cells: Cells,
        spec: FieldSpec,
        settings: RenderSettings,
        tile: int = 8,
        unmasked: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> None:
        super().__init__(name, RayPool(*train, tile, unmasked[0]), cells, spec, settings)
        self.test_images, self.test_cameras = test
        self.test_unmasked = and_rays(unmasked[1], self.test_cameras)

    @torch.no_grad()
    def render(self, params: Params, cameras: Cameras, view: int) -> Tensor:
        """Return one view [H, W, 3] of `cameras` through this task's module, without jitter; 0 where a lens shows
        nothing."""
        origins, directions = cameras.view_rays(view)
        directions, seen = drawable(cameras, view, directions)
        rays = Rays.through_one_module(origins, directions)
        rendered = render_fused(params, self.spec, rays, self.cells, self.settings)
        return blanked(rendered.color, seen, 0).reshape(cameras.height, cameras.width, 3)

    def evaluate(self, params: Params) -> Tensor:
        """Return the mean over the held-out views of each view's PSNR in dB, fp64 [1]."""
        scores = self.evaluate_views(params)
        return torch.tensor([sum(scores) / len(scores)], dtype=torch.float64)

    @torch.no_grad()
    def evaluate_views(self, params: Params) -> list[float]:
        """Return the PSNR in dB of every held-out view, at most what 8 bits can hold, 58.9."""
        scores = []
        for view in range(len(self.test_cameras)):
            error = self.view_error(self.render(params, self.test_cameras, view), view)
            # Below the error of rounding to 8 bits a view is exact: larger figures would only raise means.
            scores.append(min(float(mse_to_psnr(error)), EIGHT_BITS))
        return scores

    def view_error(self, picture: Tensor, view: int) -> Tensor:
        """Return the mean squared error of a picture [H, W, 3] of a held-out view, over its pixels that are not masked,
        fp64."""
        truth = self.test_images[view].to(picture)
        errors = (picture - truth / 255.0).square()
        return (errors if self.test_unmasked is None else errors[self.test_unmasked[view].to(picture.device)]).mean(
            dtype=torch.float64
        )

    @staticmethod
    def joined(tasks: Sequence[PosedImages]) -> RayTask:
        """Return the rays of all tasks as one task, of the network (and in the cell) of the first."""
        first = tasks[0]
        # Without held-out views: a joint network is judged by each task's own.
        return RayTask("all", RayPools([task.pool for task in tasks]), first.cells, first.spec, first.settings)


def _rays(batch: Batch) -> RayBatch:
    return RayBatch(*(t[0] for t in batch))


def _same(a: Tensor | int, b: Tensor | int) -> bool:
    """Whether two seeds are one; of tensors whose values are not looked at, one tensor."""
    return a is b or (isinstance(a, int) and isinstance(b, int) and a == b)


def _points(samples: RaySamples, grad_y: Tensor) -> Points:
    """Return the points of rays as they are scored, with the gradients of their raw outputs."""
    ids = samples.ray_ids if samples.per_ray is None else samples.per_ray
    return Points(samples.x, samples.offsets, grad_y, ids, len(samples.packed_info))


def posed_losses(
    params: Params,
    spec: FieldSpec,
    batch: RayBatch,
    ray_offsets: Tensor,
    cells: Cells,
    settings: RenderSettings,
    seed: int,
) -> Tensor:
    """Return the mean squared color error of every ray [R], of rays grouped by module; differentiable in `params`."""
    rays = Rays(batch.origins, batch.directions, ray_offsets)
    out = render_modules(params, spec, rays, cells, settings, seed=seed)
    return (out.color - batch.colors).square().mean(-1)


def posed_loss(
    params: Params,
    spec: FieldSpec,
    batch: RayBatch,
    ray_offsets: Tensor,
    cells: Cells,
    settings: RenderSettings,
    seed: int | None = None,
    ray_weight: Tensor | None = None,
) -> Tensor:
    """Return the mean squared color error of every module's rays, each times its weight: the fast way to train.

        L_m = mean over rays and channels of weight * (rendered - color)^2

    Args:
        params: tensors [M, ...], as `FieldBank.stacked`; `spec` as `ray_losses` takes it.
        batch: rays [R, 3] grouped by module, scene units, and their colors in 0 ... 1.
        ray_offsets: int64 [M + 1].
        seed: of the jitter of the samples along a ray; None: no jitter.
        ray_weight: [R]; None: ones. The mean is over rays and channels, not over weights.

    Returns: [M]; twice differentiable in `params`, where one through `render_modules` is faster.

    >>> import torch
    >>> from mclnf_fast.fields import initial_parameters
    >>> from mclnf_fast.render import Cells, RayBatch, RenderSettings
    >>> params = initial_parameters(FieldSpec(3, 4, 8, 1), 2)
    >>> cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3], [[1.0, -1.0, -1.0], [3.0, 1.0, 1.0]]]))
    >>> rays = RayBatch(torch.tensor([[0.0, 0.0, 3.0]] * 2), torch.tensor([[0.0, 0.0, -1.0]] * 2), torch.rand(2, 3))
    >>> posed_loss(params, FieldSpec(3, 4, 8, 1), rays, torch.tensor([0, 1, 2]), cells, RenderSettings(4)).shape
    torch.Size([2])
    """
    samples = sample_in_cells(Rays(batch.origins, batch.directions, ray_offsets), cells, settings, seed=seed)
    return ray_losses(params, spec, samples, batch.colors, settings, ray_weight)
