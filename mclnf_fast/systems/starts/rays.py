"""What fields of objects and photos of a place share: tasks of rays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from mclnf_fast.fields import FieldBank, initial_parameters
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import psnr
from mclnf_fast.render import RenderSettings
from mclnf_fast.render.objects import ObjectPool, ray_loss
from mclnf_fast.render.volume import evaluate_points, render_pixels
from mclnf_fast.systems.common.result import SCENE, Result
from mclnf_fast.systems.common.run import Run
from mclnf_fast.systems.starts.job import StartJob
from mclnf_fast.systems.starts.options import RayStartConfig
from mclnf_fast.systems.starts.ray_field import RayInitialization, as_bytes

C = TypeVar("C", bound=RayStartConfig)
MATCHED_POINTS = 4096  # of the field whose mean is matched; its error falls as 1 / sqrt and is 1 % of the spread here


class RayJob(StartJob[C]):
    """A run over the rays of objects or photos.

    Args:
        run: the run.
        settings: how rays are sampled and shaded.
        train: the tasks to meta-train on; None: there are none.
        scale: lengths of the field in one of the data.
    """

    ops: ClassVar[tuple[str, ...]] = ("bank_mlp", "bank_ray_mse", "composite", "bank_step")

    def __init__(self, run: Run[C], settings: RenderSettings, train: ObjectPool | None, scale: float = 1.0) -> None:
        super().__init__(run, run.config.field.spec)
        self.settings, self.train, self.scale, self.names = settings, train, scale, run.config.initializations
        self.check_every, self.match_steps = run.config.check_every or 0, run.config.match_steps

    @property
    def tasks(self) -> int:
        return 0 if self.train is None else len(self.train)

    def random(self, k: int) -> Params:
        # One generator for both: the second is drawn after the first, as the runs of former versions did.
        generator = torch.Generator().manual_seed(self.config.seed)
        for _ in range(k + 1):
            params = initial_parameters(self.spec, 1, device=self.config.run.device, generator=generator)
        return params

    def draw(self, tasks: Tensor, generator: torch.Generator) -> LossFn:
        assert self.train is not None
        return ray_loss(self.train, tasks, self.spec, self.config.meta.batch, generator)

    def matching(self) -> tuple[Callable[[Params, Tensor], Tensor], Tensor]:
        assert self.train is not None
        # Where training samples the field: elsewhere an object's field is empty, and its mean would be too.
        points = self.train.points(MATCHED_POINTS, torch.Generator().manual_seed(self.config.seed))[None]
        return lambda params, x: evaluate_points(params, self.spec, x, self.settings), points

    def initialization(self, params: Params) -> RayInitialization:
        """Return an initialization [1, ...] with how it is fine-tuned."""
        adapt = self.config.adapt
        return RayInitialization(
            params, self.spec, self.settings, self.scale, self.config.steps, adapt.rate, adapt.batch
        )

    def result(self, bank: FieldBank, modules: list[str]) -> Result:
        # With the result goes how it is fine-tuned: a rate that suits another network would undo the initialization.
        tuning = self.initialization(bank.shared).options()
        return Result(self.config.kind, bank, modules, SCENE, self.settings, scale=self.scale, tuning=tuning)

    def describe_network(self) -> Iterable[str]:
        """Yield the line about the network."""
        field = self.config.field
        text = f"{self.spec.num_parameters:,} parameters, width {field.width}, {field.samples_per_ray} samples per ray"
        yield f"{text}; meta-batch of {self.config.meta.tasks}" if self.tasks else text

    def ids_psnr(self, params: Params, pool: ObjectPool, ids: Tensor) -> list[float]:
        """Return the PSNR of rays [T], module k of `params` [T, ...] on row k of ids [T, R] of a pool."""
        batch = pool.batch(ids)
        pixels = render_pixels(params, self.spec, batch.origins, batch.directions, self.settings)
        return [float(v) for v in psnr(pixels, batch.colors, keep_first=True).tolist()]

    def pictures(self, params: Params | None, pool: ObjectPool, count: int, view: int) -> Tensor:
        """Return uint8 [count, H, W, 3], one view of a pool's first tasks as modules have it; None: as it is."""
        batch = pool.batch(pool.view_ids(torch.arange(count), view))
        pixels = batch.colors
        if params is not None:
            modules = tuple(p[:count] for p in params)
            pixels = render_pixels(modules, self.spec, batch.origins, batch.directions, self.settings)
        return as_bytes(pixels).unflatten(1, (pool.height, pool.width))
