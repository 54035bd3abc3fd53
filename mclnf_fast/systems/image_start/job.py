"""Images from a learned initialization: MAML in two steps, and what other initializations and Adam need for as much."""

from __future__ import annotations

import pathlib
from dataclasses import replace

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.data.procedural.faces.faces import procedural_faces
from mclnf_fast.fields import initial_parameters
from mclnf_fast.fields.functional import evaluate_params
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import log_steps, mse_to_psnr, psnr, steps_to_reach
from mclnf_fast.report.record import InitializationRecord
from mclnf_fast.systems.common.run import Run, say
from mclnf_fast.systems.image_start.field import image_task
from mclnf_fast.systems.image_start.options import ImageStartConfig
from mclnf_fast.systems.starts.distill import Matching
from mclnf_fast.systems.starts.job import Pages, Row, run_job
from mclnf_fast.systems.starts.options import InitializationName
from mclnf_fast.systems.starts.pixels import PixelJob, load_pictures
from mclnf_fast.systems.starts.tuning import Choice, Trials, Tuning
from mclnf_fast.tasks.coords import whole_loss

TUNED_ON = 3  # images on which an initialization's rate is chosen


def run_image_start(config: ImageStartConfig, command: str | None = None) -> pathlib.Path:
    """Run the job and return the run folder; see `systems.starts.job.run_job`."""
    from mclnf_fast.report.starts.image_start import image_start_table, write_image_start_report, write_pictures

    return run_job(config, command, ImageStartJob, Pages(write_pictures, write_image_start_report, image_start_table))


class ImageStartJob(PixelJob[ImageStartConfig]):
    """One run: its images, its initialization, and the ways to fine-tune it or another."""

    ops = ("bank_mlp", "bank_mse", "bank_step")

    def __init__(self, run: Run[ImageStartConfig]) -> None:
        super().__init__(run, load_pictures(run.config, 3, procedural_faces), run.config.field.spec)
        options = run.config.run
        self.names, self.match_steps = run.config.initializations, run.config.match_steps
        self.train, self.test = (
            image_task(signals.values, self.spec, options.backend, options.device)
            for signals in (self.sets.train, self.sets.test)
        )

    def describe_network(self) -> str:
        return f"SIREN of {self.spec.num_parameters:,} parameters, w0 {self.config.field.w0:g}"

    def random(self, k: int) -> Params:
        generator = torch.Generator().manual_seed(self.config.seed + k)
        *others, last = initial_parameters(self.spec, 1, device=self.config.run.device, generator=generator)
        # About the middle of the range: a sine network about 0 spends its first steps on the mean color.
        return (*others, last + self.config.field.offset)

    def draw(self, tasks: Tensor, generator: torch.Generator) -> LossFn:
        return whole_loss(self.train, tasks)

    def matching(self) -> Matching:
        def outputs(params: Params, x: Tensor) -> Tensor:
            offsets = ops.offsets_of_equal_shares(len(x), x.shape[1], x.device)
            return evaluate_params(params, self.spec, x.flatten(0, 1), offsets, self.config.run.backend)[None]

        # Every pixel in every step, as the tasks evaluate the network.
        return Matching(outputs, outputs, lambda step: self.train.x[None])

    def trials(self) -> Trials:
        config = self.config
        grid = tuple(map(Choice, dict.fromkeys((config.meta.inner_lr, *config.rates))))
        # Of a few pictures none was kept back; a rate chosen on the training images is then the best there is.
        signals = self.sets.validation if len(self.sets.validation) else self.sets.train
        values = signals.values[:TUNED_ON]

        def trial(modules: Params, rates: Tensor) -> list[float]:
            task = image_task(values.repeat(len(grid), 1, 1, 1), self.spec, config.run.backend, config.run.device)
            after = fine_tune(modules, whole_loss(task), config.meta.inner_steps, rates)
            return psnr(task.predict(after), task.y, keep_first=True).tolist()

        return Trials(grid, len(values), config.meta.inner_steps, trial)

    def comparators(self) -> dict[str, Row]:
        mean = self.sets.train.values.mean(0).expand_as(self.sets.test.values)
        return {"mean": self.without_steps(psnr(mean, self.sets.test.values, keep_first=True).tolist())}

    def score(self, params: Params) -> list[float]:
        return [float(v) for v in psnr(self.test.predict(params), self.test.y, keep_first=True).tolist()]

    def picture(self, params: Params) -> Tensor:
        values = self.test.predict(params).reshape(self.sets.test.values.shape)
        return (values.clamp(0, 1) * 255).round().to(torch.uint8)

    def tuning_options(self) -> dict[str, object]:
        choice = self.choices.get("meta")
        rate = self.config.meta.inner_lr if choice is None else choice.lr
        return {"steps": self.config.meta.inner_steps, "lr": rate}

    def tuning(self, name: str) -> Tuning:
        """Return how an initialization is fine-tuned: by SGD at the rate that suits it, `adam_K` by Adam at its own."""
        config, loss = self.config, whole_loss(self.test)
        if name.startswith("adam_"):
            return Tuning(loss, config.adam_steps, config.adam_lrs[int(name.removeprefix("adam_"))], "adam")
        return Tuning(loss, config.steps, self.choices[name].lr)

    def fine_tune(self, name: str, initialization: Params) -> tuple[dict[str, Tensor], Row]:
        inner, tuning = self.config.meta.inner_steps, self.tuning(name)
        # The first steps are kept as pictures: the whole of an initialization of two steps happens there.
        state, row = self.follow(name, initialization, tuning, (*range(min(inner, 3) + 1), inner))
        count = len(self.sets.test)
        say(f"{name}: {sum(row['after']) / count:.2f} dB after {tuning.steps} steps in {row['seconds']:.0f} s")
        return state, row

    def row(self, name: str, initialization: Params, target: Tensor | None = None) -> Row:
        """Return the row of an initialization; with `target`, a PSNR [S], also the first step that reaches it, image
        by image and in the mean, or None."""
        tuning = self.tuning(name)
        row = self.compare(name, initialization) | (self.care(name) if name in self.choices else {})
        row |= {"lr": tuning.lr, "optimizer": tuning.kind, "steps": tuning.steps}
        if target is None:
            return row
        state = self.folder.load_state(f"adapted_{name}")
        assert state is not None
        # The losses are taken before each step: entry k is the quality after k steps.
        values = mse_to_psnr(state[0]["losses"])
        numbers = range(len(values))
        each = [steps_to_reach(numbers, curve.tolist(), float(t)) for curve, t in zip(values.mT, target)]
        mean = steps_to_reach(numbers, values.mean(1).tolist(), float(target.mean()))
        return {**row, "reached": each, "reached_mean": mean}

    def rows(self, initializations: dict[InitializationName, Params]) -> dict[str, Row]:
        # The meta-learned one first: its PSNR after the inner steps is the target that the others are timed against.
        inner = self.config.meta.inner_steps
        rows = {"meta": self.row("meta", initializations["meta"])}
        target = torch.tensor(rows["meta"]["curve"][str(inner)], dtype=torch.float64)
        others: list[tuple[str, Params]] = [(name, p) for name, p in initializations.items() if name != "meta"]
        others += [(f"adam_{k}", initializations["standard"]) for k in range(len(self.config.adam_lrs))]
        for name, params in others:
            rows[name] = self.row(name, params, target)
        return rows | self.comparators()

    def complete(self, record: InitializationRecord) -> InitializationRecord:
        inner = self.config.meta.inner_steps
        self.folder.save_values("truth", (self.sets.test.values * 255).round().to(torch.uint8))
        steps = (0, *log_steps(max(self.config.steps, self.config.adam_steps)))
        record = self.completed(record, f"{self.sets.title} in {inner} steps")
        return replace(record, steps=steps, inner_steps=inner)
