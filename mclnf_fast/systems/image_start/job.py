"""Images from a learned start: MAML in two steps, and what other starts and Adam need to come as far."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.data.procedural.faces.faces import procedural_faces
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.params import LossFn, Params, repeated
from mclnf_fast.metrics import log_steps, mse_to_psnr, psnr, steps_to_reach
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.report.record import InitializationRecord
from mclnf_fast.systems.common.config_file import from_plain
from mclnf_fast.systems.common.run import Run, begin, say
from mclnf_fast.systems.image_start.field import ImageStart, image_task
from mclnf_fast.systems.image_start.options import ImageStartConfig
from mclnf_fast.systems.starts.pixels import announce, continued, described, learned_start, load_pictures
from mclnf_fast.tasks.coords import whole_loss

OPS = ("bank_mlp", "bank_mse", "bank_step")


def run_image_start(config: ImageStartConfig, command: str | None = None) -> pathlib.Path:
    """Runs the job and returns the run folder.

    Raises InputError on unusable input; whatever ends a run, its folder keeps what is done, and `resume` continues it
    to the same result.
    """
    from mclnf_fast.report.starts.image_start import image_start_table, write_image_start_report, write_pictures

    run = begin(config, OPS, functools.partial(from_plain, ImageStartConfig), command)
    with run.reading():
        sets = load_pictures(run.config, 3, procedural_faces)
    job = _Job(run, sets)
    announce(run.config, sets, f"SIREN of {job.spec.num_parameters:,} parameters, w0 {run.config.field.w0:g}")
    record, report = run.finish(job.metrics(), write_pictures, write_image_start_report)
    say(image_start_table(record))
    say(f"report: {report}")
    return run.folder.path


class _Job:
    """One run: its images, its start, and the ways to continue it or another."""

    def __init__(self, run: Run[ImageStartConfig], sets: SignalSets) -> None:
        self.run, self.config, self.sets = run, run.config, sets
        self.spec = self.config.field.spec
        self.train, self.test = (
            image_task(s.values, self.spec, self.config.run.backend, self.config.run.device)
            for s in (sets.train, sets.test)
        )

    def standard(self) -> Params:
        """A random start [1, ...] about `offset`."""
        generator = torch.Generator().manual_seed(self.config.seed)
        *rest, last = initial_parameters(self.spec, 1, device=self.config.run.device, generator=generator)
        return (*rest, last + self.config.field.offset)

    def learn(self, standard: Params) -> tuple[Params, dict[str, Any]]:
        """The meta-learned start, kept for users, and what to report of it."""

        def draw(images: Tensor, generator: torch.Generator) -> LossFn:
            return whole_loss(self.train, images)

        config = self.config
        learned, about = learned_start(self.run, standard, self.train.modules, draw)
        ImageStart(learned, self.spec, config.meta.inner_steps, config.meta.inner_lr).save(self.run.folder.path)
        return learned, {"parameters": self.spec.num_parameters, **about}

    def score(self, params: Params) -> list[float]:
        """PSNR of each test image, of values as the network puts them out."""
        return [float(v) for v in psnr(self.test.predict(params), self.test.y, keep_first=True).tolist()]

    def picture(self, params: Params) -> Tensor:
        """uint8 [S, H, W, 3] of the test images as `params` have them."""
        values = self.test.predict(params).reshape(self.sets.test.values.shape)
        return (values.clamp(0, 1) * 255).round().to(torch.uint8)

    def follow(
        self, name: str, start: Params, steps: int, lr: float, kind: StepKind = "sgd", target: Tensor | None = None
    ) -> dict[str, Any]:
        """A start continued on each test image; with `target`, a PSNR [S], also the first step that reaches it, image
        by image and in the mean, or None."""
        count, inner = self.test.modules, self.config.meta.inner_steps
        keep = sorted({*range(min(inner, 3) + 1), inner})
        before, loss = repeated(start, count), whole_loss(self.test)
        row, losses = continued(self.run, name, before, loss, steps, lr, self.score, self.picture, kind=kind, keep=keep)
        say(f"{name}: {sum(row['after']) / count:.2f} dB after {steps} steps in {row['seconds']:.0f} s")
        row |= {"lr": lr, "optimizer": kind, "steps": steps}
        if target is None:
            return row
        values, numbers = mse_to_psnr(losses), range(len(losses))  # before each step: after as many as its number
        each = [steps_to_reach(numbers, one.tolist(), float(t)) for one, t in zip(values.mT, target)]
        mean = steps_to_reach(numbers, values.mean(1).tolist(), float(target.mean()))
        return {**row, "reached": each, "reached_mean": mean}

    def metrics(self) -> InitializationRecord:
        """Fine-tune every initialization; return the record, but for the pictures and the seconds of the report."""
        config, standard = self.config, self.standard()
        learned, about = self.learn(standard)
        inner, lr = config.meta.inner_steps, config.meta.inner_lr
        found = {"meta": self.follow("meta", learned, config.steps, lr)}
        target = torch.tensor(found["meta"]["curve"][str(inner)], dtype=torch.float64)
        found["standard"] = self.follow("standard", standard, config.steps, lr, target=target)
        for k, rate in enumerate(config.adam_lrs):
            found[f"adam_{k}"] = self.follow(f"adam_{k}", standard, config.adam_steps, rate, "adam", target)
        self.run.folder.save_values("truth", (self.sets.test.values * 255).round().to(torch.uint8))
        record = described(self.run, self.sets, f"{self.sets.title} in {inner} steps", about, found)
        longest = max(config.steps, config.adam_steps)
        return dataclasses.replace(record, steps=(0, *log_steps(longest)), inner_steps=inner)
