"""What single-view fields and photos of a place have in common: a start learned over tasks of rays, the starts that it
is compared with, and how each is continued."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.meta.episodes import DrawnEpisodes
from mclnf_fast.learn.meta.inits import matched, shuffled
from mclnf_fast.learn.meta.trainer import CURVE_POINTS, MetaTrainer, loss_curve
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import log_steps, mse_to_psnr, psnr
from mclnf_fast.render import RenderSettings
from mclnf_fast.render.objects import ObjectPool, ray_loss
from mclnf_fast.render.volume import evaluate_points, render_pixels
from mclnf_fast.systems.common.folder import progress
from mclnf_fast.systems.common.run import Run
from mclnf_fast.systems.starts.options import InitializationName, RayStartConfig
from mclnf_fast.systems.starts.ray_field import Start


class RayStarts:
    """The starts of one run over the tasks of a pool.

    Args:
        run: the run; its meta-training and its phases are kept in its folder.
        settings: how rays are cut.
        train: the tasks to learn the start over; None where there are none, and the standard start stands alone.
        scale: see `Start`.
    """

    def __init__(self, run: Run[Any], settings: RenderSettings, train: ObjectPool | None, scale: float = 1.0) -> None:
        config: RayStartConfig = run.config
        self.run, self.options, self.settings, self.train = run, config, settings, train
        self.scale, self.spec = scale, config.field.spec

    def start(self, params: Params) -> Start:
        """Parameters [1, ...] with how they are continued."""
        options = self.options
        adapt = options.adapt
        assert adapt.lr is not None
        return Start(params, self.spec, self.settings, options.steps, adapt.lr, adapt.batch, scale=self.scale)

    def starts(
        self, check: Callable[[Params], float] | None, every: int
    ) -> tuple[dict[InitializationName, Start], dict[str, Any]]:
        """The starts to compare, in a fixed order, and what to report of the learning.

        check: of the start as it is learned, after each `every` outer steps (0: never): a figure that is only looked
            at; None: no check.
        """
        options = self.options
        generator = torch.Generator().manual_seed(options.seed)
        standard = self.standard(generator)
        about: dict[str, Any] = {"parameters": self.spec.num_parameters}
        made: dict[InitializationName, Params] = {"standard": standard}
        if self.train is not None and set(options.initializations) != {"standard"}:
            learned, curves = self._learn(standard, self.train, check, every)
            about |= curves
            self.start(learned).save(self.run.folder.path)
            if "matched" in options.initializations:
                other = initial_parameters(self.spec, 1, device=options.run.device, generator=generator)
                made["matched"] = self._matched(other, learned, self.train)
            made["shuffled"] = shuffled(learned, torch.Generator().manual_seed(options.seed))
            made["meta"] = learned
        return {name: self.start(p) for name, p in made.items() if name in options.initializations}, about

    def standard(self, generator: torch.Generator) -> Params:
        """The random start."""
        return initial_parameters(self.spec, 1, device=self.options.run.device, generator=generator)

    def _learn(
        self, standard: Params, train: ObjectPool, check: Callable[[Params], float] | None, every: int
    ) -> tuple[Params, dict[str, Any]]:
        """The meta-learned start, from where a former process has left it."""
        options = self.options

        def draw(tasks: Tensor, generator: torch.Generator) -> Any:
            return ray_loss(train, tasks, self.spec, options.meta.batch, generator)

        episodes = DrawnEpisodes(len(train), draw, options.meta.tasks)
        learner = MetaTrainer(standard, episodes, options.meta, options.seed, curve_points=CURVE_POINTS)

        def looked(done: int) -> list[float] | None:
            if check is None or not every or done % every:
                return None
            return [done, check(learner.params)]

        checks = self.run.learn(learner, "meta", "learning the initialization", check=looked)
        curve = [[s, float(mse_to_psnr(v))] for s, v in loss_curve(learner.curve)]
        return learner.params, {"curve": curve, "checks": checks, "seconds": learner.seconds}

    def _matched(self, start: Params, learned: Params, train: ObjectPool) -> Params:
        """A random start that puts out the learned one's mean colour and density everywhere."""
        points = train.points(4096, torch.Generator().manual_seed(self.options.seed))[None]
        settings = self.settings

        def forward(params: Params, x: Tensor) -> Tensor:
            return evaluate_points(params, self.spec, x, settings)

        with self.run.phases("matching"):
            return matched(start, learned, forward, points, steps=self.options.match_steps)

    def continued(
        self,
        name: str,
        start: Start,
        pool: ObjectPool,
        score: Callable[[Params], list[float]],
        columns: tuple[int, int] | None = None,
    ) -> tuple[Params, dict[str, Any]]:
        """A start continued on the first view of each task of a pool, and `{"curve": {step: score}, "seconds"}`, the
        seconds those of the steps alone.

        columns: of the view, those to learn from, as `ObjectPool.draw`'s.
        """
        options, steps = self.options, log_steps(self.options.steps)
        row: dict[str, Any] = {"curve": {"0": score(start.repeated(len(pool)))}, "seconds": 0.0}
        with self.run.phases("adapting"), progress(f"start {name}", options.steps) as bar:
            began = time.perf_counter()

            def after(step: int, params: Params, losses: Tensor) -> None:
                nonlocal began
                bar(1)
                if step in steps:
                    row["seconds"] += time.perf_counter() - began
                    row["curve"][str(step)] = score(params)
                    began = time.perf_counter()

            adapted = start.adapt_all(pool, options.seed, columns=columns, callback=after)
        return adapted, row

    def ids_psnr(self, params: Params, pool: ObjectPool, ids: Tensor) -> list[float]:
        """PSNR of rays, module k of `params` [T, ...] on row k of ids [T, R] of a pool: float [T]."""
        batch = pool.batch(ids)
        pixels = render_pixels(params, self.spec, batch.origins, batch.directions, self.settings)
        return [float(v) for v in psnr(pixels, batch.colors, keep_first=True).tolist()]

    def pictures(self, params: Params | None, pool: ObjectPool, count: int, view: int) -> Tensor:
        """uint8 [count, H, W, 3] of one view of a pool's first tasks as `params` have them; None: as they are."""
        batch = pool.batch(pool.view_ids(torch.arange(count), view))
        pixels = batch.colors
        if params is not None:
            some = tuple(p[:count] for p in params)
            pixels = render_pixels(some, self.spec, batch.origins, batch.directions, self.settings)
        return (pixels * 255).round().to(torch.uint8).cpu().unflatten(1, (pool.height, pool.width))
