"""Single-view fields: a start learned over objects of a category, continued on one view of an unseen object."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mclnf_fast import data
from mclnf_fast.data.objects import ObjectSets, ObjectViews
from mclnf_fast.errors import InputError
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import log_steps
from mclnf_fast.render.objects import ObjectPool
from mclnf_fast.report.record import (
    InitializationRecord,
    InitializationResults,
    MetaTraining,
    Names,
    Orbit,
    Views,
    from_json,
)
from mclnf_fast.systems.common.config_file import from_plain
from mclnf_fast.systems.common.folder import progress
from mclnf_fast.systems.common.run import Run, begin, say
from mclnf_fast.systems.single_view.options import INPUT_VIEWS, SingleViewConfig
from mclnf_fast.systems.single_view.show import Show
from mclnf_fast.systems.single_view.views import evenly, known_views, learned_from, split_views
from mclnf_fast.systems.starts.options import InitializationName
from mclnf_fast.systems.starts.ray_field import Start, ray_pool
from mclnf_fast.systems.starts.rays import RayStarts

OPS = ("bank_mlp", "bank_ray_mse", "composite", "bank_step")
MOST_INPUTS = 25  # of the views learned from, scored at the end
TURNED: tuple[InitializationName, ...] = ("standard", "matched", "meta")  # turned around, beside one that runs alone


def run_single_view(config: SingleViewConfig, command: str | None = None) -> pathlib.Path:
    """Runs the job and returns the run folder.

    Raises InputError on unusable input; whatever ends a run, its folder keeps what is done, and `resume` continues it
    to the same result.
    """
    from mclnf_fast.report.starts.single_view import start_table, write_pictures, write_single_view_report

    run = begin(config, OPS, functools.partial(from_plain, SingleViewConfig), command)
    with run.reading():
        with progress("objects", None) as bar:

            def made(done: int, count: int) -> None:
                bar(1)

            sets = load(run.config, made)
        job = _Job(run, sets)
    job.announce()
    starts, about = job.starts(job.check, run.config.checked_every)
    found = {name: job.adapt(name, start) for name, start in starts.items()}
    record, report = run.finish(job.metrics(found, about), write_pictures, write_single_view_report)
    say(start_table(record))
    say(f"report: {report}")
    return run.folder.path


def load(config: SingleViewConfig, advance: Callable[[int, int], None] | None = None) -> ObjectSets:
    """Reads or makes the objects; `advance` is called with (done, in all). Raises InputError where a folder is
    unusable."""
    objects = config.data
    if objects.path is None:
        views = objects.views or (2 * INPUT_VIEWS if config.convention == "learnit" else INPUT_VIEWS)
        count = min(objects.objects, objects.limit or objects.objects)
        test = min(objects.tests, max(1, count - 1))
        return data.procedural_cars(
            count, test, views=views, size=objects.size or 128, seed=config.seed, progress=advance
        )
    options: dict[str, Any] = {"limit": objects.limit, "views": objects.views, "seed": config.seed, "progress": advance}
    if objects.test is not None:
        options["test"] = objects.test
    return data.load_objects(objects.path, size=objects.size, strict=objects.strict, **options)


class _Job(RayStarts):
    """One run: its objects, its starts, and how each start is continued."""

    def __init__(self, run: Run[SingleViewConfig], sets: ObjectSets) -> None:
        self.run, self.config, self.folder, self.sets, self.phases = run, run.config, run.folder, sets, run.phases
        config = run.config
        if not sets.train and set(config.initializations) != {"standard"}:
            raise InputError(
                "initializations must be standard alone where the data holds no object to learn a start from (it holds "
                f"{len(sets.test)} to test on), got {', '.join(config.initializations)}"
            )
        settings, first = config.settings(sets.near, sets.far), INPUT_VIEWS if config.convention == "learnit" else None
        learned = [learned_from(one, first) for one in sets.train]
        super().__init__(run, settings, ray_pool(learned, settings, config.run.device) if learned else None)
        split = [split_views(one, config.data.inputs, first) for one in sets.test]
        tests, self.splits = [one for one, _ in split], [views for _, views in split]
        self.test = self.pool(tests)
        self.known = [known_views(one, views) for one, views in split]  # no ray of another view can be drawn from these
        self.show = Show(tests, self.splits, self.test, self.spec, self.settings, config.orbit_frames)

    def pool(self, objects: Sequence[ObjectViews]) -> ObjectPool:
        """Their rays."""
        return ray_pool(objects, self.settings, self.config.run.device)

    def announce(self) -> None:
        """What the run is about, for the terminal."""
        sets, config, size = self.sets, self.config, f"{self.test.width} x {self.test.height}"
        counts = f"{len(sets.test)} to test on, by {max(s.known for s in self.splits)} of their views"
        if self.train is not None:
            counts = f"{len(sets.train)} objects of {max(self.train.views)} views to learn from, {counts}"
        say(f"{sets.title}: {counts}, {size}")
        samples = config.field.samples_per_ray
        network = f"{self.spec.num_parameters:,} parameters, width {config.field.width}, {samples} samples per ray"
        say(f"{network}; meta-batch of {config.meta.tasks}" if self.train is not None else network)
        for note in sets.notes:
            say(f"note: {note}")

    def standard(self, generator: torch.Generator) -> Params:
        """The random start, its raw density raised as the options say."""
        *most, last = super().standard(generator)
        return (*most, last + torch.tensor([0.0, 0.0, 0.0, self.config.field.density_bias]).to(last))

    def start(self, params: Params) -> Start:
        """Parameters [1, ...] with how they are continued."""
        adapt = self.config.adapt
        how = self.config.steps, adapt.rate, adapt.batch, adapt.optimizer, adapt.lr_end
        return Start(params, self.spec, self.settings, *how)

    def check(self, params: Params) -> float:
        """PSNR of the first test object's other views after `check_steps` on those it is learned from: only to be
        looked at."""
        adapted = self.start(params).adapt_all(
            self.pool(self.known[:1]), self.config.seed, steps=self.config.check_steps
        )
        return self.score(adapted, [self.splits[0].some(self.config.curve_views)])[0]

    def adapt(self, name: InitializationName, start: Start) -> dict[str, Any]:
        """A start continued on the known views of each test object, or what is known of it from before."""
        state = self.folder.load_state(f"adapted_{name}")
        if state is not None:
            done: dict[str, Any] = state[1]
            return done
        curve = [split.some(self.config.curve_views) for split in self.splits]
        pool = self.pool(self.known)
        before = start.repeated(len(pool))
        adapted, row = self.continued(name, start, pool, lambda params: self.score(params, curve))
        with self.phases("rendering"):
            row["after"] = self.score(adapted, [split.tested for split in self.splits])
            row["input"] = self.score(adapted, [evenly(range(split.known), MOST_INPUTS) for split in self.splits])
            self.folder.save_values(name, torch.stack([self.show.pictures(p) for p in (before, adapted)]))
            if self.show.orbit is not None and (name in TURNED or len(self.config.initializations) == 1):
                turned = [self.show.turn(p) for p in ((before, adapted) if name == "meta" else (adapted,))]
                self.folder.save_values(f"orbit_{name}", torch.stack(turned))
        tensors = {f"params.{i}": p for i, p in enumerate(adapted)}
        self.folder.save_state(f"adapted_{name}", tensors, row)
        self.run.save_phases()
        say(f"{name}: {sum(row['after']) / len(pool):.2f} dB on the other views in {row['seconds']:.0f} s")
        return row

    def score(self, params: Params, views: Sequence[Sequence[int]]) -> list[float]:
        """Mean PSNR over these views of the first so many test objects, a list each; `params` of as many."""
        sums = [0.0] * len(views)
        for k in range(max(map(len, views))):
            chosen = [o for o, own in enumerate(views) if k < len(own)]
            ids = torch.cat([self.test.view_ids(torch.tensor([o]), views[o][k]) for o in chosen])
            some = params if len(chosen) == len(views) else tuple(p[chosen] for p in params)
            for o, value in zip(chosen, self.ids_psnr(some, self.test, ids)):
                sums[o] += value
        return [total / len(own) for total, own in zip(sums, views)]

    def metrics(self, rows: dict[InitializationName, dict[str, Any]], about: dict[str, Any]) -> InitializationRecord:
        """Return the record of the run, but for the pictures and the seconds of the report."""
        config, sets = self.config, self.sets
        with self.phases("rendering"):
            self.folder.save_values("truth", self.show.pictures(None))
            if self.show.orbit is not None:
                self.folder.save_values("orbit_truth", self.show.true_turn())
        known = sorted({split.known for split in self.splits})
        views = "a single view" if known == [1] else f"{known[0]} views" if len(known) == 1 else "many views"
        turn = self.show.about()
        return InitializationRecord(
            **self.run.facts(),
            title=f"{sets.title} from {views}",
            notes=tuple(sets.notes),
            names=Names(tuple(o.name for o in sets.train), test=tuple(o.name for o in sets.test)),
            size=(self.test.height, self.test.width),
            views=Views(
                known=tuple(split.known for split in self.splits),
                curve=tuple(tuple(split.some(config.curve_views)) for split in self.splits),
                tested=tuple(len(split.tested) for split in self.splits),
                shown=tuple(map(tuple, self.show.views)),
            ),
            orbit=Orbit(**turn) if turn else None,
            steps=(0, *log_steps(config.steps)),
            meta=from_json(MetaTraining, about),
            initializations={name: from_json(InitializationResults, row) for name, row in rows.items()},
        )
