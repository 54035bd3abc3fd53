"""Single-view fields: a start learned over objects of a category, continued on one view of an unseen object."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mclnf_fast import data
from mclnf_fast.data.objects import ObjectSets, ObjectViews
from mclnf_fast.errors import InputError
from mclnf_fast.learn.metrics import log_steps
from mclnf_fast.learn.params import Params
from mclnf_fast.render.objects import ObjectPool
from mclnf_fast.systems.folder import progress
from mclnf_fast.systems.options import from_plain
from mclnf_fast.systems.ray_starts import RayStarts
from mclnf_fast.systems.run import Run, begin, say
from mclnf_fast.systems.single_view_config import INPUT_VIEWS, SingleViewConfig, StartName
from mclnf_fast.systems.single_view_start import Start, ray_pool

OPS = ("bank_mlp", "composite", "bank_step")
SHOWN = 3  # test objects in the pictures


def run_single_view(config: SingleViewConfig, command: str | None = None) -> pathlib.Path:
    """Runs the job and returns the run folder.

    Raises InputError on unusable input; whatever ends a run, its folder keeps what is done, and `resume` continues it
    to the same result.
    """
    from mclnf_fast.report.single_view import start_table, write_pictures, write_single_view_report

    run = begin(config, OPS, functools.partial(from_plain, SingleViewConfig), command)
    with run.reading():
        with progress("objects", None) as bar:

            def made(done: int, count: int) -> None:
                bar(1)

            sets = load(run.config, made)
        job = _Job(run, sets)
    job.announce()
    starts, about = job.starts(job.check)
    found = {name: job.adapt(name, start) for name, start in starts.items()}
    report = run.finish(metrics := job.metrics(found, about), write_pictures, write_single_view_report)
    say(start_table(metrics))
    say(f"report: {report}")
    return run.folder.path


def load(config: SingleViewConfig, advance: Callable[[int, int], None] | None = None) -> ObjectSets:
    """Reads or makes the objects; `advance` is called with (done, in all). Raises InputError where a folder is
    unusable."""
    if config.data is None:
        views = config.views or (2 * INPUT_VIEWS if config.compat == "learnit" else INPUT_VIEWS)
        count = min(config.objects, config.limit or config.objects)
        test = min(config.tests, max(1, count - 1))
        return data.procedural_cars(
            count, test, views=views, size=config.size or 128, seed=config.seed, progress=advance
        )
    options: dict[str, Any] = {"limit": config.limit, "views": config.views, "seed": config.seed, "progress": advance}
    if config.test is not None:
        options["test"] = config.test
    return data.load_objects(config.data, size=config.size, strict=config.strict, **options)


class _Job(RayStarts):
    """One run: its objects, its starts, and how each start is continued."""

    def __init__(self, run: Run[SingleViewConfig], sets: ObjectSets) -> None:
        self.run, self.config, self.folder, self.sets, self.phases = run, run.config, run.folder, sets, run.phases
        config = run.config
        if not sets.train or not sets.test:
            raise InputError(
                f"data: needs objects to learn from and others to test on, got {len(sets.train)} and {len(sets.test)}"
            )
        for one in sets.test:
            if len(one.cameras) < 2:
                raise InputError(f"data: {one.name} must have 2 views, one to learn from, one to test on, got 1")
        settings = config.settings(sets.near, sets.far)
        views = INPUT_VIEWS if config.compat == "learnit" else None
        super().__init__(run, settings, ray_pool(sets.train, settings, config.device), views)
        self.test = self.pool(sets.test)

    def pool(self, objects: tuple[ObjectViews, ...]) -> ObjectPool:
        """Their rays."""
        return ray_pool(objects, self.settings, self.config.device)

    def announce(self) -> None:
        """What the run is about, for the terminal."""
        sets, config, size = self.sets, self.config, f"{self.test.width} x {self.test.height}"
        views = max(self.train.views)
        counts = f"{len(sets.train)} objects of {views} views to learn from, {len(sets.test)} to test on"
        say(f"{sets.title}: {counts}, {size}")
        network = f"{self.spec.num_parameters:,} parameters, width {config.width}, {config.bins} bins a ray"
        say(f"{network}; meta-batch of {config.meta.objects}")
        for note in sets.notes:
            say(f"note: {note}")

    def check(self, params: Params) -> float:
        """PSNR of the first test object's other views after `check_steps` on its first one: only to be looked at."""
        one = self.pool(self.sets.test[:1])
        adapted = self.start(params).adapt_all(one, self.config.seed, steps=self.config.check_steps)
        return self.score(adapted, one, self.config.curve_views)[0]

    def adapt(self, name: StartName, start: Start) -> dict[str, Any]:
        """A start continued on view 0 of each test object, or what is known of it from before."""
        state = self.folder.load_state(f"adapted_{name}")
        if state is not None:
            done: dict[str, Any] = state[1]
            return done
        pool, curve_views = self.test, self.config.curve_views
        before = start.repeated(len(pool))
        adapted, row = self.continued(name, start, pool, lambda params: self.score(params, pool, curve_views))
        with self.phases("rendering"):
            row["after"] = self.score(adapted, pool, None)
            row["input"] = self.score(adapted, pool, 0)
            self.folder.save_values(name, torch.stack([self.shown_pictures(p) for p in (before, adapted)]))
        tensors = {f"params.{i}": p for i, p in enumerate(adapted)}
        self.folder.save_state(f"adapted_{name}", tensors, row)
        self.run.save_phases()
        say(f"{name}: {sum(row['after']) / len(pool):.2f} dB on the other views in {row['seconds']:.0f} s")
        return row

    def others(self, count: int, most: int | None) -> list[int]:
        """Views that an object of `count` views is tested on, at most `most` of them; 0: the view it learned from."""
        if most == 0:
            return [0]
        first = self.inputs if self.inputs is not None and count > self.inputs else 1
        views = list(range(first, count))
        if most is None or most >= len(views):
            return views
        return [views[(2 * k + 1) * len(views) // (2 * most)] for k in range(most)]

    def score(self, params: Params, pool: ObjectPool, most: int | None) -> list[float]:
        """Mean PSNR over `others` of each object of a pool."""
        views = [self.others(count, most) for count in pool.views]
        sums = [0.0] * len(pool)
        for k in range(max(map(len, views))):
            chosen = [o for o in range(len(pool)) if k < len(views[o])]
            ids = torch.cat([pool.view_ids(torch.tensor([o]), views[o][k]) for o in chosen])
            some = params if len(chosen) == len(pool) else tuple(p[chosen] for p in params)
            for o, value in zip(chosen, self.ids_psnr(some, pool, ids)):
                sums[o] += value
        return [total / len(v) for total, v in zip(sums, views)]

    def shown(self) -> tuple[int, int]:
        """How many test objects, and how many views of each, the pictures show."""
        count = min(SHOWN, len(self.test))
        return count, min(self.test.views[:count])

    def shown_pictures(self, params: Params | None) -> Tensor:
        """uint8 [objects, views, H, W, 3] of the shown objects as `params` have them; None: as they are."""
        count, views = self.shown()
        return torch.stack([self.pictures(params, self.test, count, view) for view in range(views)], 1)

    def metrics(self, found: dict[StartName, dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
        """The content of metrics.json, but for what only the report knows."""
        config, sets = self.config, self.sets
        self.folder.save_values("truth", self.shown_pictures(None))
        count, _ = self.shown()
        places = torch.stack([one.cameras.centers for one in _cut(sets.test[:count])])
        turns = torch.atan2(places[..., 1], places[..., 0])
        return {
            **self.run.facts(),
            "title": f"{sets.title} from a single view",
            "notes": list(sets.notes),
            "objects": {part: [one.name for one in getattr(sets, part)] for part in ("train", "test")},
            "views": {
                "size": [self.test.height, self.test.width],
                "curve": [self.others(v, config.curve_views) for v in self.test.views],
                "tested": [len(self.others(v, None)) for v in self.test.views],
                "order": turns.argsort(1).tolist(),
            },
            "steps": [0, *log_steps(config.steps)],
            "meta": about,
            "starts": found,
        }


def _cut(objects: tuple[ObjectViews, ...]) -> list[ObjectViews]:
    """The objects with as many views each as the one of fewest."""
    least = min(len(one.cameras) for one in objects)
    return [ObjectViews(one.name, one.images[:least], one.cameras[:least]) for one in objects]
