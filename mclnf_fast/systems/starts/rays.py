"""What fields of objects and photos of a place share: tasks of rays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.fields import FieldBank, initial_parameters
from mclnf_fast.fields.functional import evaluate_params
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import psnr
from mclnf_fast.render import RenderSettings
from mclnf_fast.render.objects import ObjectPool, ray_loss
from mclnf_fast.render.volume import evaluate_points, render_pixels
from mclnf_fast.systems.common.result import SCENE, Result
from mclnf_fast.systems.common.run import Run
from mclnf_fast.systems.starts.distill import Matching
from mclnf_fast.systems.starts.job import StartJob
from mclnf_fast.systems.starts.options import RayStartConfig
from mclnf_fast.systems.starts.ray_field import RayInitialization, as_bytes, ray_pool
from mclnf_fast.systems.starts.tuning import Choice, Trials

C = TypeVar("C", bound=RayStartConfig)
MATCHED_POINTS = 2048  # of the field in a step of a distillation


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

    def matching(self) -> Matching:
        assert self.train is not None
        train, settings, generator = self.train, self.settings, torch.Generator().manual_seed(self.config.seed)

        def raw(params: Params, x: Tensor) -> Tensor:
            offsets = ops.offsets_of_equal_shares(x.shape[0], x.shape[1], x.device)
            return evaluate_params(params, self.spec, x.flatten(0, 1), offsets, settings.backend).unflatten(
                0, x.shape[:2]
            )

        return Matching(
            lambda params, x: evaluate_points(params, self.spec, x, settings),
            # Before the cut-off of the density, below which a random network has no gradient and would learn nothing.
            raw,
            # Where training samples the field: elsewhere an object's field is empty, and would be all that is matched.
            lambda step: train.points(MATCHED_POINTS, generator)[None],
        )

    def biased(self, initialization: Params, density_bias: float) -> Params:
        *others, last = initialization
        # The bias of the last layer: three raw colors, then the raw density.
        return (
            (*others, last + torch.tensor([0.0, 0.0, 0.0, density_bias], dtype=torch.float32).to(last))
            if density_bias
            else initialization
        )

    def trials_on(
        self,
        objects: Sequence[ObjectViews],
        score: Callable[[Params], list[float]],
        columns: tuple[int, int] | None = None,
    ) -> Trials:
        """Return the trials of rates and biases on objects, those of each choice side by side.

        Args:
            objects: the views that are learned from, of each.
            score: modules [G K, ...] -> PSNR of each, module g K + k of object k.
            columns: of each view, those to learn from; None: all.
        """
        options, config = self.config.tune, self.config
        grid, steps = options.grid(config.adapt.rate), min(options.steps, config.steps)
        # With nothing but what is tested on there is nothing to try them on: the rate that was given stands.
        grid = grid if objects else grid[:1]

        def trial(modules: Params, rates: Tensor) -> list[float]:
            pool = ray_pool(list(objects) * len(grid), self.settings, config.run.device)
            tuning = self.initialization(modules).tuning(pool, config.seed, columns)
            ends = None if tuning.lr_end is None else rates * (tuning.lr_end / tuning.lr)
            return score(fine_tune(modules, tuning.loss, steps, rates, kind=tuning.kind, lr_end=ends))

        return Trials(grid, len(objects), steps, trial)

    def initialization(self, params: Params, choice: Choice | None = None) -> RayInitialization:
        """Return an initialization [1, ...] with how it is fine-tuned; without a choice at the rate of the options."""
        adapt = self.config.adapt
        rate = adapt.rate if choice is None else choice.lr
        return RayInitialization(params, self.spec, self.settings, self.scale, self.config.steps, rate, adapt.batch)

    def result(self, bank: FieldBank, modules: list[str]) -> Result:
        # With the result goes how it is fine-tuned: a rate that suits another network would undo the initialization.
        tuning = self.initialization(bank.shared, self.choices.get("meta")).options()
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
