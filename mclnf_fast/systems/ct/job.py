"""Computed tomography from few projections: a start learned over slices, continued on those of an unseen one."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.data.procedural.phantoms import draw_phantoms, phantom_projections, procedural_phantoms
from mclnf_fast.data.signals import Signals, SignalSets
from mclnf_fast.fields import initial_parameters
from mclnf_fast.fields.fourier import gaussian_frequencies
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.meta.inits import matched, shuffled
from mclnf_fast.learn.params import LossFn, Params, repeated
from mclnf_fast.metrics import psnr
from mclnf_fast.render.parallel_beam import (
    back_project,
    even_angles,
    field_pictures,
    field_values,
    project,
    random_angles,
    scan_loss,
)
from mclnf_fast.report.record import InitializationRecord
from mclnf_fast.systems.common.config_file import from_plain
from mclnf_fast.systems.common.run import Run, begin, say
from mclnf_fast.systems.ct.field import CtStart, pixel_features
from mclnf_fast.systems.ct.options import CtConfig
from mclnf_fast.systems.starts.options import InitializationName
from mclnf_fast.systems.starts.pixels import announce, continued, described, learned_start, load_pictures

OPS = ("bank_mlp", "bank_step")
TUNED_ON = 3  # slices on which a start's rate is chosen


def run_ct(config: CtConfig, command: str | None = None) -> pathlib.Path:
    """Runs the job and returns the run folder.

    Raises InputError on unusable input; whatever ends a run, its folder keeps what is done, and `resume` continues it
    to the same result.
    """
    from mclnf_fast.report.starts.ct import ct_table, write_ct_report, write_pictures

    run = begin(config, OPS, functools.partial(from_plain, CtConfig), command)
    with run.reading():
        make = functools.partial(procedural_phantoms, jitter=run.config.data.jitter)
        sets = load_pictures(run.config, 1, make)
    job = _Job(run, sets)
    announce(run.config, sets, f"{job.spec.num_parameters:,} parameters on {run.config.field.frequencies} frequencies")
    record, report = run.finish(job.metrics(), write_pictures, write_ct_report)
    say(ct_table(record))
    say(f"report: {report}")
    return run.folder.path


class _Slices:
    """Slices [S, N, N], and how their projections are measured."""

    def __init__(self, slices: Signals, ellipses: Tensor | None, device: str) -> None:
        self.images = slices.values[..., 0].to(device)
        self.ellipses = ellipses

    def __len__(self) -> int:
        return len(self.images)

    def measured(self, ids: Tensor, angles: Tensor) -> Tensor:
        """Projections [T, V, N] of slices int64 [T] at angles [T, V] or [V]."""
        images = self.images[ids.to(self.images.device)]
        if self.ellipses is None:
            return project(images, angles)
        return phantom_projections(self.ellipses[ids], angles, images.shape[1]).to(images.device)


class _Job:
    """One run: its slices, its starts, and how each start is continued."""

    def __init__(self, run: Run[CtConfig], sets: SignalSets) -> None:
        self.run, self.config, self.sets = run, run.config, sets
        config, self.spec = run.config, run.config.field.spec
        generator = torch.Generator().manual_seed(config.seed)
        frequencies = gaussian_frequencies(config.field.frequencies, 2, config.field.sigma, generator)
        self.frequencies = frequencies.to(config.run.device)
        self.features = pixel_features(config.data.size, self.frequencies)
        parts = (sets.train, sets.validation, sets.test)
        shapes: tuple[Tensor | None, ...] = (None, None, None)
        if config.data.measured == "exact":
            drawn = draw_phantoms(config.data.procedural, config.seed, config.data.jitter)
            shapes = drawn.split([len(part) for part in parts])
        self.train, held, self.test = (_Slices(p, e, config.run.device) for p, e in zip(parts, shapes))
        self.held = held if len(held) else self.train  # a few pictures: none was kept back

    def loss(self, slices: _Slices, ids: Tensor, angles: Tensor) -> LossFn:
        """Of the projections of slices int64 [T]."""
        return scan_loss(slices.measured(ids, angles), angles, self.features, self.spec, self.config.run.backend)

    def random(self, offset: int) -> Params:
        """A random start [1, ...], of variance 1 / in in every layer as that of arXiv 2012.02189: with that of
        `initial_parameters`, the sigmoid saturates in the first step at the paper's rate."""
        generator = torch.Generator().manual_seed(self.config.seed + offset)
        return initial_parameters(self.spec, 1, device=self.config.run.device, generator=generator, gain=1.0)

    def starts(self) -> tuple[dict[InitializationName, Params], dict[str, Any]]:
        """The starts to compare, in a fixed order, and what to report of the learning."""
        config, standard = self.config, self.random(0)
        made: dict[InitializationName, Params] = {"standard": standard}
        about: dict[str, Any] = {"parameters": self.spec.num_parameters}
        if set(config.initializations) != {"standard"}:

            def draw(slices: Tensor, generator: torch.Generator) -> LossFn:
                return self.loss(self.train, slices, random_angles(len(slices), config.data.meta_views, generator))

            learned, curves = learned_start(self.run, standard, len(self.train), draw)
            about |= curves
            if "matched" in config.initializations:
                made["matched"] = self.matched(learned)
            made["shuffled"] = shuffled(learned, torch.Generator().manual_seed(config.seed))
            made["meta"] = learned
        return {name: p for name, p in made.items() if name in config.initializations}, about

    def matched(self, learned: Params) -> Params:
        """A random start that puts out the learned one's mean density everywhere."""

        def forward(params: Params, x: Tensor) -> Tensor:
            return field_values(params, self.spec, x, self.config.run.backend)

        with self.run.phases("matching"):
            return matched(self.random(1), learned, forward, self.features[None], steps=self.config.match_steps)

    def pictures(self, params: Params) -> Tensor:
        """[T, N, N] of T fields."""
        with torch.no_grad():
            every = self.features.repeat(params[0].shape[0], 1, 1)
            return field_pictures(params, self.spec, every, self.config.run.backend)

    def rate(self, name: str, start: Params) -> float:
        """The rate at which a start comes furthest on slices kept back, all rates and slices side by side."""
        rates, state = self.config.rates, self.run.folder.load_state(f"rate_{name}")
        if state is not None or len(rates) == 1:
            return float(rates[0] if state is None else state[1]["rate"])
        count = min(TUNED_ON, len(self.held))
        ids = torch.arange(count).repeat(len(rates))
        each = torch.tensor(rates).repeat_interleave(count).to(self.config.run.device)
        with self.run.phases("choosing rates"):
            loss = self.loss(self.held, ids, even_angles(self.config.data.views))
            found = self.pictures(fine_tune(repeated(start, len(ids)), loss, self.config.steps, each))
            values = psnr(found, self.held.images[ids.to(found.device)], keep_first=True).reshape(len(rates), count)
        best = rates[int(values.nan_to_num(-torch.inf).mean(1).argmax())]
        self.run.folder.save_state(f"rate_{name}", {}, {"rate": best})
        return best

    def follow(self, name: str, start: Params, lr: float) -> dict[str, Any]:
        """A start continued on the projections of each test slice."""
        count = len(self.test)
        loss = self.loss(self.test, torch.arange(count), even_angles(self.config.data.views))
        row, _ = continued(self.run, name, repeated(start, count), loss, self.config.steps, lr, self.score, self.shown)
        say(f"{name}: {sum(row['after']) / count:.2f} dB, rate {lr:g}, in {row['seconds']:.0f} s")
        return {**row, "lr": lr}

    def score(self, params: Params) -> list[float]:
        """PSNR of each test slice."""
        return self.compared(self.pictures(params))

    def compared(self, pictures: Tensor) -> list[float]:
        """PSNR of pictures [T, N, N] of the test slices."""
        return [float(v) for v in psnr(pictures, self.test.images, keep_first=True).tolist()]

    def shown(self, params: Params) -> Tensor:
        """uint8 [T, N, N, 1]."""
        return _bytes(self.pictures(params))

    def without_steps(self, name: str, pictures: Tensor, seconds: float) -> dict[str, Any]:
        """What takes no steps, as a row beside the starts."""
        self.run.folder.save_values(name, _bytes(pictures)[None])
        values = self.compared(pictures)
        return {"curve": {"0": values, str(self.config.steps): values}, "after": values, "seconds": seconds}

    def metrics(self) -> InitializationRecord:
        """Fine-tune every initialization; return the record, but for the pictures and the seconds of the report."""
        config = self.config
        starts, about = self.starts()
        rates = {name: self.rate(name, start) for name, start in starts.items()}
        if "meta" in starts:
            kept = CtStart(starts["meta"], self.spec, self.frequencies, config.steps, rates["meta"])
            kept.save(self.run.folder.path)
        found: dict[str, Any] = {name: self.follow(name, start, rates[name]) for name, start in starts.items()}
        began, angles = time.perf_counter(), even_angles(config.data.views)
        filtered = back_project(self.test.measured(torch.arange(len(self.test)), angles), angles).clamp(0, 1)
        found["fbp"] = self.without_steps("fbp", filtered, time.perf_counter() - began)
        mean = self.train.images.mean(0).expand_as(self.test.images)
        found["mean"] = self.without_steps("mean", mean, 0.0)
        self.run.folder.save_values("truth", _bytes(self.test.images))
        title = f"{self.sets.title} from {config.data.views} projections"
        record = described(self.run, self.sets, title, about, found)
        return dataclasses.replace(record, projections=config.data.views)


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)[..., None].cpu()
