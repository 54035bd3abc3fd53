"""Computed tomography from few projections: an initialization learned over slices, fine-tuned on an unseen one's."""

from __future__ import annotations

import functools
import pathlib
import time
from dataclasses import replace

import torch
from torch import Tensor

from mclnf_fast.data.procedural.phantoms import draw_phantoms, phantom_projections, procedural_phantoms
from mclnf_fast.data.signals import Signals
from mclnf_fast.fields import FieldBank, initial_parameters
from mclnf_fast.fields.fourier import gaussian_frequencies
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import psnr
from mclnf_fast.render.parallel_beam import (
    even_angles,
    field_pictures,
    field_values,
    project,
    random_angles,
    scan_loss,
)
from mclnf_fast.report.record import InitializationRecord
from mclnf_fast.systems.common.pretrained import initialization_from
from mclnf_fast.systems.common.result import Result
from mclnf_fast.systems.common.run import Run, say
from mclnf_fast.systems.ct.classical import MISSING, best_linear, classical, skimage_installed
from mclnf_fast.systems.ct.field import pixel_features
from mclnf_fast.systems.ct.options import CtConfig
from mclnf_fast.systems.starts.distill import Matching
from mclnf_fast.systems.starts.job import Pages, Row, run_job
from mclnf_fast.systems.starts.pixels import PixelJob, load_pictures
from mclnf_fast.systems.starts.ray_field import as_bytes
from mclnf_fast.systems.starts.tuning import Choice, Trials, Tuning

TUNED_ON = 3  # slices on which an initialization's rate is chosen


def run_ct(config: CtConfig, command: str | None = None) -> pathlib.Path:
    """Run the job and return the run folder; see `systems.starts.job.run_job`."""
    from mclnf_fast.report.starts.ct import ct_table, write_ct_report, write_pictures

    return run_job(config, command, CtJob, Pages(write_pictures, write_ct_report, ct_table))


class Slices:
    """Slices [S, N, N], and how their projections are measured: from the pictures, or exactly from their ellipses."""

    def __init__(self, slices: Signals, ellipses: Tensor | None, device: str) -> None:
        self.images = slices.values[..., 0].to(device)
        self.ellipses = ellipses

    def __len__(self) -> int:
        return len(self.images)

    def measured(self, ids: Tensor, angles: Tensor) -> Tensor:
        """Return projections [T, V, N] of slices int64 [T] at angles [T, V] or [V]."""
        images = self.images[ids.to(self.images.device)]
        if self.ellipses is None:
            return project(images, angles)
        return phantom_projections(self.ellipses[ids], angles, images.shape[1]).to(images.device)


class CtJob(PixelJob[CtConfig]):
    """One run: its slices, its initializations, and how each is fine-tuned."""

    ops = ("bank_mlp", "bank_step")

    def __init__(self, run: Run[CtConfig]) -> None:
        config = run.config
        make = functools.partial(procedural_phantoms, jitter=config.data.jitter)
        super().__init__(run, load_pictures(config, 1, make), config.field.spec)
        sets, device, self.names = self.sets, config.run.device, config.initializations
        self.match_steps = config.match_steps
        self.frequencies = self.inputs().to(device)
        self.features = pixel_features(config.data.size, self.frequencies)
        parts = (sets.train, sets.validation, sets.test)
        shapes: tuple[Tensor | None, ...] = (None, None, None)
        if config.data.measured == "exact":
            drawn = draw_phantoms(config.data.procedural, config.seed, config.data.jitter)
            shapes = drawn.split([len(part) for part in parts])
        self.train, validation, self.test = (Slices(p, e, device) for p, e in zip(parts, shapes))
        # Of a few pictures none was kept back; a rate chosen on the training slices is then the best there is.
        self.validation = validation if len(validation) else self.train

    def inputs(self) -> Tensor:
        """Return the frequencies of the networks' features: of the run and not of each network, since all modules of a
        bank share their inputs; those that an initialization of a former run was learned with."""
        config = self.config
        if config.init_from is not None:
            there = initialization_from(config.init_from, config.kind).frequencies
            if there is not None and len(there) == config.field.frequencies:
                return there
        generator = torch.Generator().manual_seed(config.seed)
        return gaussian_frequencies(config.field.frequencies, 2, config.field.sigma, generator)

    def describe_network(self) -> str:
        return f"{self.spec.num_parameters:,} parameters on {self.config.field.frequencies} frequencies"

    def loss(self, slices: Slices, ids: Tensor, angles: Tensor) -> LossFn:
        """Return the loss of the projections of slices int64 [T]."""
        return scan_loss(slices.measured(ids, angles), angles, self.features, self.spec, self.config.run.backend)

    def random(self, k: int) -> Params:
        # Variance 1 / in in every layer, as in arXiv 2012.02189: with that of `initial_parameters`, the sigmoid
        # saturates in the first step at the paper's rate.
        generator = torch.Generator().manual_seed(self.config.seed + k)
        return initial_parameters(self.spec, 1, device=self.config.run.device, generator=generator, gain=1.0)

    def draw(self, tasks: Tensor, generator: torch.Generator) -> LossFn:
        return self.loss(self.train, tasks, random_angles(len(tasks), self.config.data.meta_views, generator))

    def matching(self) -> Matching:
        backend = self.config.run.backend

        def outputs(params: Params, x: Tensor) -> Tensor:
            return field_values(params, self.spec, x, backend)

        # Every pixel in every step, as the tasks evaluate the field.
        return Matching(outputs, outputs, lambda step: self.features[None])

    def values(self, params: Params) -> Tensor:
        """Return the slices [T, N, N] of T modules."""
        with torch.no_grad():
            every = self.features.repeat(params[0].shape[0], 1, 1)
            return field_pictures(params, self.spec, every, self.config.run.backend)

    def trials(self) -> Trials:
        count = min(TUNED_ON, len(self.validation))
        grid = tuple(Choice(rate) for rate in self.config.rates)

        def trial(modules: Params, rates: Tensor) -> list[float]:
            ids = torch.arange(count).repeat(len(grid))
            loss = self.loss(self.validation, ids, even_angles(self.config.data.views))
            pictures = self.values(fine_tune(modules, loss, self.config.steps, rates, kind=self.config.optimizer))
            return psnr(pictures, self.validation.images[ids.to(pictures.device)], keep_first=True).tolist()

        return Trials(grid, count, self.config.steps, trial)

    def comparators(self) -> dict[str, Row]:
        # Classical answers to the same projections, and the best guess without any: both bound what is learned.
        angles, rows = even_angles(self.config.data.views), {}
        tried = torch.arange(min(TUNED_ON, len(self.validation)))
        known = self.validation.measured(tried, angles), angles, self.validation.images[tried]
        there = self.train.images, self.train.measured(torch.arange(len(self.train)), angles)
        measured = self.test.measured(torch.arange(len(self.test)), angles)
        for name, (reconstruct, relaxation, sweeps) in classical(*known).items():
            began = time.perf_counter()
            pictures = reconstruct(measured, angles).clamp(0, 1)
            row = self.reconstructed(name, pictures, time.perf_counter() - began)
            rows[name] = row | {"lr": relaxation, "steps": sweeps}
        began = time.perf_counter()
        pictures = best_linear(there, (known[2], known[0]), angles)(measured, angles).clamp(0, 1)
        rows["linear"] = self.reconstructed("linear", pictures, time.perf_counter() - began)
        mean = self.train.images.mean(0).expand_as(self.test.images)
        rows["mean"] = self.reconstructed("mean", mean, 0.0)
        return rows

    def fine_tune(self, name: str, initialization: Params) -> tuple[dict[str, Tensor], Row]:
        count, lr = len(self.test), self.choices[name].lr
        loss = self.loss(self.test, torch.arange(count), even_angles(self.config.data.views))
        state, row = self.follow(name, initialization, Tuning(loss, self.config.steps, lr, self.config.optimizer))
        say(f"{name}: {sum(row['after']) / count:.2f} dB, rate {lr:g}, in {row['seconds']:.0f} s")
        return state, row

    def score(self, params: Params) -> list[float]:
        return self.compared(self.values(params))

    def compared(self, pictures: Tensor) -> list[float]:
        """Return the PSNR of pictures [T, N, N] of the test slices."""
        return [float(v) for v in psnr(pictures, self.test.images, keep_first=True).tolist()]

    def picture(self, params: Params) -> Tensor:
        return as_bytes(self.values(params))[..., None]

    def tuning_options(self) -> dict[str, object]:
        choice = self.choices.get("meta")
        rate = self.config.rates[0] if choice is None else choice.lr
        return {"steps": self.config.steps, "lr": rate, "optimizer": self.config.optimizer}

    def result(self, bank: FieldBank, modules: list[str]) -> Result:
        result = super().result(bank, modules)
        result.frequencies = self.frequencies
        return result

    def reconstructed(self, name: str, pictures: Tensor, seconds: float) -> Row:
        """Return the row of a reconstruction that takes no steps, beside the initializations."""
        self.folder.save_values(name, as_bytes(pictures)[None, ..., None])
        return self.without_steps(self.compared(pictures), seconds=seconds)

    def complete(self, record: InitializationRecord) -> InitializationRecord:
        views = self.config.data.views
        self.folder.save_values("truth", as_bytes(self.test.images)[..., None])
        record = self.completed(record, f"{self.sets.title} from {views} projections")
        notes = record.notes if skimage_installed() else (*record.notes, MISSING)
        return replace(record, notes=notes, projections=views)
