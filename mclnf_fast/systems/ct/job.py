"""Computed tomography from few projections: an initialization learned over slices, fine-tuned on an unseen one's."""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mclnf_fast.data.procedural.phantoms import draw_phantoms, phantom_projections, procedural_phantoms
from mclnf_fast.data.signals import Signals
from mclnf_fast.fields import FieldBank, initial_parameters
from mclnf_fast.fields.fourier import gaussian_frequencies
from mclnf_fast.learn.meta.adapt import fine_tune
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
from mclnf_fast.systems.common.result import Result
from mclnf_fast.systems.common.run import Run, say
from mclnf_fast.systems.ct.field import pixel_features
from mclnf_fast.systems.ct.options import CtConfig
from mclnf_fast.systems.starts.job import Pages, Row, run_job
from mclnf_fast.systems.starts.options import InitializationName
from mclnf_fast.systems.starts.pixels import PixelJob, load_pictures
from mclnf_fast.systems.starts.ray_field import Tuning, as_bytes

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
        generator = torch.Generator().manual_seed(config.seed)
        # Of the run and not of each network: all modules of a bank share their inputs.
        frequencies = gaussian_frequencies(config.field.frequencies, 2, config.field.sigma, generator)
        self.frequencies = frequencies.to(device)
        self.features = pixel_features(config.data.size, self.frequencies)
        parts = (sets.train, sets.validation, sets.test)
        shapes: tuple[Tensor | None, ...] = (None, None, None)
        if config.data.measured == "exact":
            drawn = draw_phantoms(config.data.procedural, config.seed, config.data.jitter)
            shapes = drawn.split([len(part) for part in parts])
        self.train, validation, self.test = (Slices(p, e, device) for p, e in zip(parts, shapes))
        # Of a few pictures none was kept back; a rate chosen on the training slices is then the best there is.
        self.validation = validation if len(validation) else self.train

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

    def matching(self) -> tuple[Callable[[Params, Tensor], Tensor], Tensor]:
        backend = self.config.run.backend
        return lambda params, x: field_values(params, self.spec, x, backend), self.features[None]

    def values(self, params: Params) -> Tensor:
        """Return the slices [T, N, N] of T modules."""
        with torch.no_grad():
            every = self.features.repeat(params[0].shape[0], 1, 1)
            return field_pictures(params, self.spec, every, self.config.run.backend)

    def rate(self, name: str, initialization: Params) -> float:
        """Return the rate with which an initialization comes furthest on slices kept back; all rates and slices are
        tried side by side, as modules of one bank."""
        # An equal choice of rates for every initialization: one rate for all would favor that which it suits.
        rates, state = self.config.rates, self.folder.load_state(f"rate_{name}")
        if state is not None or len(rates) == 1:
            return float(rates[0] if state is None else state[1]["rate"])
        count = min(TUNED_ON, len(self.validation))
        ids = torch.arange(count).repeat(len(rates))
        each = torch.tensor(rates, dtype=torch.float32).repeat_interleave(count).to(self.config.run.device)
        with self.phases("choosing rates"):
            loss = self.loss(self.validation, ids, even_angles(self.config.data.views))
            pictures = self.values(fine_tune(repeated(initialization, len(ids)), loss, self.config.steps, each))
            truth = self.validation.images[ids.to(pictures.device)]
            scores = psnr(pictures, truth, keep_first=True).reshape(len(rates), count)
        # A rate that diverged gives NaN: it must lose, and not win every comparison.
        best = rates[int(scores.nan_to_num(-torch.inf).mean(1).argmax())]
        self.folder.save_state(f"rate_{name}", {}, {"rate": best})
        return best

    def rows(self, initializations: dict[InitializationName, Params]) -> dict[str, Row]:
        # All rates first: the result then tells users the rate of the meta-learned initialization.
        self.rates: dict[str, float] = {name: self.rate(name, params) for name, params in initializations.items()}
        rows: dict[str, Row] = {
            name: self.compare(name, p) | {"lr": self.rates[name]} for name, p in initializations.items()
        }
        angles, began = even_angles(self.config.data.views), time.perf_counter()
        # The classical answer to the same projections, and the best guess without any: both bound what is learned.
        filtered = back_project(self.test.measured(torch.arange(len(self.test)), angles), angles).clamp(0, 1)
        rows["fbp"] = self.without_steps("fbp", filtered, time.perf_counter() - began)
        mean = self.train.images.mean(0).expand_as(self.test.images)
        rows["mean"] = self.without_steps("mean", mean, 0.0)
        return rows

    def fine_tune(self, name: str, initialization: Params) -> tuple[dict[str, Tensor], Row]:
        count, lr = len(self.test), self.rates[name]
        loss = self.loss(self.test, torch.arange(count), even_angles(self.config.data.views))
        state, row = self.follow(name, initialization, Tuning(loss, self.config.steps, lr))
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
        rates = getattr(self, "rates", {})
        return {"steps": self.config.steps, "lr": rates.get("meta", self.config.rates[0])}

    def result(self, bank: FieldBank, modules: list[str]) -> Result:
        result = super().result(bank, modules)
        result.frequencies = self.frequencies
        return result

    def without_steps(self, name: str, pictures: Tensor, seconds: float) -> Row:
        """Return the row of a reconstruction that takes no steps, beside the initializations."""
        self.folder.save_values(name, as_bytes(pictures)[None, ..., None])
        values = self.compared(pictures)
        return {"curve": {"0": values, str(self.config.steps): values}, "after": values, "seconds": seconds}

    def complete(self, record: InitializationRecord) -> InitializationRecord:
        views = self.config.data.views
        self.folder.save_values("truth", as_bytes(self.test.images)[..., None])
        return replace(self.completed(record, f"{self.sets.title} from {views} projections"), projections=views)
