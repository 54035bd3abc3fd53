"""Photos of a place: a start learned over photos that each have a light of their own (arXiv 2012.02189, its task on
Phototourism), continued on unseen ones; and between the weights of two, the light between theirs."""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mclnf_fast import data
from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.photos import PhotoSets
from mclnf_fast.learn.params import Params, interpolated
from mclnf_fast.metrics import psnr
from mclnf_fast.render import RenderSettings
from mclnf_fast.render.cameras import Cameras, cameras_between, cat_cameras
from mclnf_fast.render.objects import ObjectPool
from mclnf_fast.report.record import InitializationRecord, Names, Photos
from mclnf_fast.systems.common.progress import progress
from mclnf_fast.systems.common.run import Run, say
from mclnf_fast.systems.photos.options import PhotosConfig
from mclnf_fast.systems.starts.job import Pages, Row, run_job
from mclnf_fast.systems.starts.ray_field import RayInitialization, ray_pool
from mclnf_fast.systems.starts.rays import RayJob
from mclnf_fast.systems.starts.tuning import Trials

SHOWN = 4  # test photos in the pictures: as many as fit side by side on a page
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way from one photo's weights to another's, scored


def run_photos(config: PhotosConfig, command: str | None = None) -> pathlib.Path:
    """Run the job and return the run folder; see `systems.starts.job.run_job`."""
    from mclnf_fast.report.starts.photos import photo_table, write_photos_report, write_pictures

    return run_job(config, command, PhotosJob, Pages(write_pictures, write_photos_report, photo_table))


def load(config: PhotosConfig, advance: Callable[[int, int], object] | None = None) -> PhotoSets:
    """Reads or makes the photos; `advance` is called with (done, in all). Raises InputError where a folder is
    unusable."""
    photos = config.data
    options: dict[str, Any] = {"test": photos.test, "validation": photos.validation, "progress": advance}
    if photos.path is None:
        return data.procedural_photos(photos.photos, size=photos.size or 128, seed=config.seed, **options)
    return data.load_photos(photos.path, size=photos.size, limit=photos.limit, **options)


class PhotosJob(RayJob[PhotosConfig]):
    """One run: its photos, its initializations, and how each is fine-tuned."""

    kept = "whole"

    def __init__(self, run: Run[PhotosConfig]) -> None:
        with progress("photos", None) as bar:
            sets = self.sets = load(run.config, lambda done, count: bar(1))
        options = run.config.run
        settings, scale = run.config.field.settings(sets.near, sets.far, options.backend)
        super().__init__(run, settings, _pool(sets.train, settings, scale, options.device), scale)
        # Few photos may leave none to validate on.
        self.check_every = self.check_every if sets.validation else 0
        self.test = self.pool(sets.test)
        # Learned from the left half, scored on the right one (arXiv 2012.02189): the light of a photo is known, and no
        # pixel that is scored.
        self.left, self.right = (0, self.test.width // 2), (self.test.width // 2, self.test.width)
        self.cameras = cat_cameras([photo.cameras for photo in sets.test])
        count = len(sets.test)
        # No photo is in two pairs, so that none counts twice in their mean.
        self.pairs = [(k, k + 1) for k in range(0, count - 1, 2)]
        self.turns = range(1, min(run.config.others, count - 1) + 1)

    def pool(self, photos: tuple[ObjectViews, ...]) -> ObjectPool:
        """Return the rays of photos, in lengths of the field."""
        return _pool(photos, self.settings, self.scale, self.config.run.device)

    def announce(self) -> Iterable[str]:
        sets = self.sets
        parts = f"{len(sets.train)} to learn from, {len(sets.validation)} to validate on, {len(sets.test)} to test on"
        yield f"{sets.title}: photos of {self.test.width} x {self.test.height}, {parts}"
        yield from self.describe_network()
        yield from (f"note: {note}" for note in sets.notes)

    def task_names(self) -> Names:
        sets = self.sets
        train, validation, test = (tuple(p.name for p in photos) for photos in (sets.train, sets.validation, sets.test))
        return Names(train, validation, test)

    def half_psnr(self, params: Params, pool: ObjectPool, columns: tuple[int, int] | None) -> list[float]:
        """Return the PSNR of each photo of a pool over some of its columns; None: over all."""
        return self.ids_psnr(params, pool, pool.view_ids(torch.arange(len(pool)), 0, columns))

    def check(self, params: Params) -> float:
        """Return the mean PSNR of the validation photos' right halves, learned from their left ones."""
        pool = self.pool(self.sets.validation)
        modules = self.initialization(params).adapt_all(pool, self.config.seed, self.left)
        scores = self.half_psnr(modules, pool, self.right)
        return sum(scores) / len(scores)

    def fine_tune(self, name: str, initialization: Params) -> tuple[dict[str, Tensor], Row]:
        # The left half alone gives an honest score of the right one; the whole photo gives the field that is shown.
        start, seed = self.initialization(initialization, self.choices[name]), self.config.seed
        before, tuning = start.repeated(len(self.test)), start.tuning(self.test, seed, self.left)
        trace = self.trace(name, before, tuning, lambda params: self.half_psnr(params, self.test, self.right))
        left = trace.params
        row: Row = {"curve": trace.curve, "seconds": trace.seconds}
        with self.phases("adapting"):
            whole = start.adapt_all(self.test, seed)
        with self.phases("rendering"):
            row["after"] = self.half_psnr(left, self.test, self.right)
            row["input"] = self.half_psnr(left, self.test, self.left)
            row["whole"] = self.half_psnr(whole, self.test, None)
            if self.sets.truth is not None:
                row["others"] = self.others(start, whole)
                row["between"], row["faded"] = self.between(start, whole)
            self.save_pictures(name, start, (before, left, whole))
        say(f"{name}: {sum(row['after']) / len(self.test):.2f} dB on the right halves in {row['seconds']:.0f} s")
        return {f"{kind}.{i}": p for kind, ps in (("left", left), ("whole", whole)) for i, p in enumerate(ps)}, row

    def trials(self) -> Trials:
        # Of few photos none may be kept back: those that are learned from then serve.
        photos = (self.sets.validation or self.sets.train)[: self.config.tune.tasks]

        def score(modules: Params) -> list[float]:
            return self.half_psnr(modules, self.pool(photos * (len(modules[0]) // len(photos))), self.right)

        return self.trials_on(photos, score, self.left)

    def comparators(self) -> dict[str, Row]:
        # The mean photo, whatever the camera: all that is known of a place's photos without a field of it.
        photos = [photo.images[0, ..., :3].float() / 255 for photo in self.sets.train]
        if not photos:
            return {}
        mean, (left, right) = torch.stack(photos).mean(0), self.right
        scores = [
            float(psnr(mean[:, left:right], photo.images[0, :, left:right, :3].float() / 255))
            for photo in self.sets.test
        ]
        return {"mean": self.without_steps(scores)}

    def others(self, start: RayInitialization, whole: Params) -> list[float]:
        """Return the PSNR of each photo's field from the places of other photos, where the truth under its light is
        known."""
        sums = torch.zeros(len(self.test), dtype=torch.float64)
        for turn in self.turns:
            cameras = self.cameras[torch.arange(len(self.test)).roll(-turn)]
            sums += torch.tensor(
                _compare(start.field(whole).render_each(cameras), self.seen[turn]), dtype=torch.float32
            )
        return (sums / len(self.turns)).tolist() if self.turns else []

    @functools.cached_property
    def seen(self) -> dict[int, Tensor]:
        """Truth of each test photo's light from the place of the turn-th photo on: turn -> uint8 [T, H, W, 3]."""
        truth, count = self.sets.truth, len(self.test)
        assert truth is not None
        pictures = {}
        for turn in self.turns:
            cameras = [self.cameras[torch.tensor([(k + turn) % count])] for k in range(count)]
            pictures[turn] = torch.cat([truth(k, k, 0.0, camera) for k, camera in enumerate(cameras)])
        return pictures

    def way(self, pair: tuple[int, int], weights: Tensor) -> Cameras:
        """Return cameras on the way from the place of one photo to that of another."""
        a, b = (self.cameras[k : k + 1] for k in pair)
        return cameras_between(a, b, weights)

    @functools.cached_property
    def on_the_way(self) -> dict[float, Tensor]:
        """Truth between the photos of each pair, place and light: weight -> uint8 [P, H, W, 3]."""
        truth = self.sets.truth
        assert truth is not None
        return {
            w: torch.cat(
                [truth(*pair, w, self.way(pair, torch.tensor([w], dtype=torch.float32))) for pair in self.pairs]
            )
            for w in WEIGHTS
        }

    def between(self, start: RayInitialization, whole: Params) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Return the PSNR per pair of photos, by weight: of the field between their weights from the place between
        theirs, and of the two fields' pictures, faded into each other."""
        mixed: dict[str, list[float]] = {}
        faded: dict[str, list[float]] = {}
        if not self.pairs:
            return mixed, faded
        # All pairs side by side: module k of `a` and `b` are the photos of pair k.
        a, b = (tuple(p[[pair[end] for pair in self.pairs]] for p in whole) for end in (0, 1))
        for weight, truth in self.on_the_way.items():
            cameras = cat_cameras([self.way(pair, torch.tensor([weight], dtype=torch.float32)) for pair in self.pairs])
            field = start.field(interpolated(a, b, torch.full((len(self.pairs),), weight, dtype=torch.float32)))
            mixed[str(weight)] = _compare(field.render_each(cameras), truth)
            # What interpolated weights gain is the lead over this, which needs no initialization in common.
            ends = [start.field(p).render_each(cameras).to(torch.float32) for p in (a, b)]
            faded[str(weight)] = _compare((1 - weight) * ends[0] + weight * ends[1], truth)
        return mixed, faded

    @functools.cached_property
    def shown_pair(self) -> tuple[int, int] | None:
        """The two test photos whose mean colors differ most."""
        # The largest change of light makes the clearest way.
        means = [photo.images[..., :3].to(torch.float64).mean((0, 1, 2)) for photo in self.sets.test]
        pairs = itertools.combinations(range(len(means)), 2)
        return max(pairs, key=lambda pair: float((means[pair[0]] - means[pair[1]]).norm()), default=None)

    @functools.cached_property
    def frames(self) -> Tensor:
        """Weights [F] of the frames from one photo to the other."""
        return torch.linspace(0, 1, self.config.frames, dtype=torch.float64)

    def save_pictures(self, name: str, start: RayInitialization, stages: tuple[Params, ...]) -> None:
        """Save `predictions/NAME`, the shown photos before, after their left halves, after all of them, uint8 [3, S, H,
        W, 3]; and `between_NAME`, the frames from one photo to the other, uint8 [F, H, W, 3]."""
        count = min(SHOWN, len(self.test))
        self.folder.save_values(name, torch.stack([self.pictures(p, self.test, count, 0) for p in stages]))
        if self.shown_pair is not None:
            a, b = (tuple(p[k : k + 1] for p in stages[2]) for k in self.shown_pair)
            field = start.field(interpolated(a, b, self.frames))
            self.folder.save_values(f"between_{name}", field.render_each(self.way(self.shown_pair, self.frames)))

    def save_truth(self) -> None:
        """Save `predictions/truth`, the shown photos; `ends`, those of the way; `between_truth`, its frames, if
        known."""
        self.folder.save_values("truth", self.pictures(None, self.test, min(SHOWN, len(self.test)), 0))
        if self.shown_pair is None:
            return
        self.folder.save_values("ends", torch.cat([self.sets.test[k].images[..., :3] for k in self.shown_pair]))
        if self.sets.truth is not None:
            cameras = self.way(self.shown_pair, self.frames)
            frames = [
                self.sets.truth(*self.shown_pair, float(w), cameras[k : k + 1]) for k, w in enumerate(self.frames)
            ]
            self.folder.save_values("between_truth", torch.cat(frames))

    def complete(self, record: InitializationRecord) -> InitializationRecord:
        with self.phases("rendering"):
            self.save_truth()
        photos = Photos(
            left=self.left,
            pairs=tuple(self.pairs),
            shown_pair=self.shown_pair,
            others=len(self.turns),
            near=self.settings.near / self.scale,
            far=self.settings.far / self.scale,
            scale=self.scale,
        )
        title, notes = f"{self.sets.title}, photo by photo", tuple(self.sets.notes)
        return replace(record, title=title, notes=notes, size=tuple(self.sets.size), photos=photos)


def _pool(photos: tuple[ObjectViews, ...], settings: RenderSettings, scale: float, device: str) -> ObjectPool:
    # Lengths of the field from here on: places of hundreds of meters would be noise to the encoding.
    scaled = [ObjectViews(photo.name, photo.images, photo.cameras.in_units(scale)) for photo in photos]
    return ray_pool(scaled, settings, device)


def _compare(pictures: Tensor, truth: Tensor) -> list[float]:
    """Return the PSNR of each of pictures [T, H, W, 3] in 0 ... 255."""
    ours, theirs = (t.to(torch.float32).flatten(1) / 255.0 for t in (pictures, truth))
    return [float(v) for v in psnr(ours, theirs, keep_first=True).tolist()]
