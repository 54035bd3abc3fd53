"""Single-view fields: an initialization learned over objects of a category, fine-tuned on one view of an unseen one."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.errors import InputError
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import psnr
from mclnf_fast.render.objects import ObjectPool
from mclnf_fast.report.record import InitializationRecord, Names, Views
from mclnf_fast.systems.common.progress import progress
from mclnf_fast.systems.common.run import Run, say
from mclnf_fast.systems.single_view.objects import load
from mclnf_fast.systems.single_view.options import INPUT_VIEWS, SingleViewConfig
from mclnf_fast.systems.single_view.show import Show
from mclnf_fast.systems.single_view.views import evenly, known_views, learned_from, split_views
from mclnf_fast.systems.starts.job import Pages, Row, run_job
from mclnf_fast.systems.starts.options import InitializationName
from mclnf_fast.systems.starts.ray_field import RayInitialization, ray_pool
from mclnf_fast.systems.starts.rays import RayJob
from mclnf_fast.systems.starts.tuning import Choice, Trials, kept_back

MOST_INPUTS = 25  # of the views learned from, scored at the end: all of them would double the time of a run
TURNED: tuple[InitializationName, ...] = ("standard", "matched", "meta")  # rendered on the orbit


def run_single_view(config: SingleViewConfig, command: str | None = None) -> pathlib.Path:
    """Run the job and return the run folder; see `systems.starts.job.run_job`."""
    from mclnf_fast.report.starts.single_view import single_view_table, write_pictures, write_single_view_report

    return run_job(config, command, SingleViewJob, Pages(write_pictures, write_single_view_report, single_view_table))


class SingleViewJob(RayJob[SingleViewConfig]):
    """One run: its objects, its initializations, and how each is fine-tuned."""

    def __init__(self, run: Run[SingleViewConfig]) -> None:
        config = run.config
        with progress("objects", None) as bar:

            def advance(done: int, count: int) -> None:
                bar(1)

            sets = self.sets = load(config, advance)
        if not sets.train and set(config.initializations) != {"standard"}:
            raise InputError(
                "initializations must be standard alone if the data holds no object to learn one from (it holds "
                f"{len(sets.test)} to test on), got {', '.join(config.initializations)}. Or give it as --test-data, "
                "and a folder to learn from as --data (without --data: procedural cars)"
            )
        settings = config.settings(sets.near, sets.far)
        # The notebook learns from the first 25 views of an object and tests on the others.
        limit = INPUT_VIEWS if config.convention == "learnit" else None
        train, self.tried_on = kept_back(sets.train, config.tune)
        learned = [learned_from(views, limit) for views in train]
        super().__init__(run, settings, ray_pool(learned, settings, config.run.device) if learned else None)
        self.check_every, self.keeps_back = config.checked_every, len(train) < len(sets.train)
        split = [split_views(views, config.data.inputs, limit) for views in sets.test]
        tests, self.splits = [views for views, _ in split], [known for _, known in split]
        self.test = self.pool(tests)
        self.trial_splits = [split_views(views, config.data.inputs, limit) for views in self.tried_on]
        # A pool of the known views alone: no ray of a view that is tested on can be drawn from it.
        self.known = [known_views(views, known) for views, known in split]
        self.show = Show(tests, self.splits, self.test, self.spec, self.settings, config.orbit_frames)

    def pool(self, objects: Sequence[ObjectViews]) -> ObjectPool:
        """Return the rays of objects."""
        return ray_pool(objects, self.settings, self.config.run.device)

    def announce(self) -> Iterable[str]:
        sets, size = self.sets, f"{self.test.width} x {self.test.height}"
        counts = f"{len(sets.test)} to test on, by {max(s.known for s in self.splits)} of their views"
        if self.train is not None:
            counts = f"{len(self.train)} objects of {max(self.train.views)} views to learn from, {counts}"
        yield f"{sets.title}: {counts}, {size}"
        yield from self.describe_network()
        yield from (f"note: {note}" for note in sets.notes)

    def task_names(self) -> Names:
        train, test = (tuple(views.name for views in objects) for objects in (self.sets.train, self.sets.test))
        tried = {views.name for views in self.tried_on} if self.keeps_back else set()
        return Names(tuple(n for n in train if n not in tried), tuple(n for n in train if n in tried), test)

    def random(self, k: int) -> Params:
        params = super().random(k)
        return params if k else self.biased(params, self.config.field.density_bias)

    def initialization(self, params: Params, choice: Choice | None = None) -> RayInitialization:
        adapt, start = self.config.adapt, super().initialization(params, choice)
        # As far as in the options: a last rate above the first one would let the steps grow.
        end = None if adapt.lr_end is None else adapt.lr_end * start.lr / adapt.rate
        return replace(start, scale=1.0, optimizer=adapt.optimizer, lr_end=end)

    def trials(self) -> Trials:
        objects = [known_views(views, split) for views, split in self.trial_splits]
        views = [split.some(self.config.curve_views) for _, split in self.trial_splits]

        def score(modules: Params) -> list[float]:
            times = len(modules[0]) // len(objects)
            pool = self.pool([views for views, _ in self.trial_splits] * times)
            return self.mean_psnr(modules, views * times, pool)

        return self.trials_on(objects, score)

    def comparators(self) -> dict[str, Row]:
        def white(views: Sequence[Sequence[int]]) -> list[float]:
            scores = []
            for o, chosen in enumerate(views):
                ids = torch.cat([self.test.view_ids(torch.tensor([o]), view) for view in chosen])
                colors = self.test.batch(ids).colors
                scores.append(float(psnr(torch.ones_like(colors), colors, keep_first=True).mean()))
            return scores

        some = [split.some(self.config.curve_views) for split in self.splits]
        return {"white": self.without_steps(white([split.tested for split in self.splits]), white(some))}

    def check(self, params: Params) -> float:
        """Return the PSNR of the first test object's other views after `check_steps` on its known ones."""
        pool = self.pool(self.known[:1])
        modules = self.initialization(params).adapt_all(pool, self.config.seed, steps=self.config.check_steps)
        return self.mean_psnr(modules, [self.splits[0].some(self.config.curve_views)])[0]

    def fine_tune(self, name: str, initialization: Params) -> tuple[dict[str, Tensor], Row]:
        # A few views for the curve: all of them would cost as much per point as the steps between two points.
        views = [split.some(self.config.curve_views) for split in self.splits]
        pool, start = self.pool(self.known), self.initialization(initialization, self.choices[name])
        before = start.repeated(len(pool))
        trace = self.trace(name, before, start.tuning(pool, self.config.seed), lambda p: self.mean_psnr(p, views))
        after = trace.params
        row: Row = {"curve": trace.curve, "seconds": trace.seconds}
        with self.phases("rendering"):
            row["after"] = self.mean_psnr(after, [split.tested for split in self.splits])
            row["input"] = self.mean_psnr(after, [evenly(range(split.known), MOST_INPUTS) for split in self.splits])
            self.folder.save_values(name, torch.stack([self.show.pictures(p) for p in (before, after)]))
            if self.show.orbit is not None and (name in TURNED or len(self.names) == 1):
                turns = [self.show.turn(p) for p in ((before, after) if name == "meta" else (after,))]
                self.folder.save_values(f"orbit_{name}", torch.stack(turns))
        say(f"{name}: {sum(row['after']) / len(pool):.2f} dB on the other views in {row['seconds']:.0f} s")
        return {f"params.{i}": p for i, p in enumerate(after)}, row

    def mean_psnr(self, params: Params, views: Sequence[Sequence[int]], pool: ObjectPool | None = None) -> list[float]:
        """Return the mean PSNR over these views of the first so many objects of a pool (None: of the test objects), a
        list of views each; `params` of as many objects."""
        pool = self.test if pool is None else pool
        sums = [0.0] * len(views)
        # View by view over all objects that have one: a bank of all objects is one call.
        for k in range(max(map(len, views))):
            objects = [o for o, chosen in enumerate(views) if k < len(chosen)]
            ids = torch.cat([pool.view_ids(torch.tensor([o]), views[o][k]) for o in objects])
            modules = params if len(objects) == len(views) else tuple(p[objects] for p in params)
            for o, value in zip(objects, self.ids_psnr(modules, pool, ids)):
                sums[o] += value
        return [total / len(chosen) for total, chosen in zip(sums, views)]

    def complete(self, record: InitializationRecord) -> InitializationRecord:
        config, sets = self.config, self.sets
        with self.phases("rendering"):
            self.folder.save_values("truth", self.show.pictures(None))
            if self.show.orbit is not None:
                self.folder.save_values("orbit_truth", self.show.true_turn())
        known = sorted({split.known for split in self.splits})
        text = "a single view" if known == [1] else f"{known[0]} views" if len(known) == 1 else "many views"
        views = Views(
            known=tuple(split.known for split in self.splits),
            curve=tuple(tuple(split.some(config.curve_views)) for split in self.splits),
            tested=tuple(len(split.tested) for split in self.splits),
            shown=tuple(map(tuple, self.show.views)),
        )
        size = (self.test.height, self.test.width)
        title, notes = f"{sets.title} from {text}", tuple(sets.notes)
        return replace(record, title=title, notes=notes, size=size, views=views, orbit=self.show.about())
