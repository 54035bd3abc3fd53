"""Frequencies and optimizers for CT, tried on slices kept back: `python -m benchmarks.ct_frequencies`.

Each row meta-learns an initialization by Reptile on 36 head phantoms of 32 x 32 and fine-tunes it on six projections
of four others, at the best of several rates and of all looked-at steps. The rows differ in the deviation of the
features' frequencies (radians over the picture's side) and in the optimizer, inside meta-training and after it: Adam,
with the numbers of `run ct --quick`, or SGD, with those of the paper's code. Writes
`benchmarks/results/starts/ct_frequencies.json` (about three minutes on one core).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.data.procedural.phantoms import draw_phantoms, phantom_pictures
from mclnf_fast.fields import initial_parameters
from mclnf_fast.fields.fourier import gaussian_frequencies
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import DrawnEpisodes
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import psnr
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.render.parallel_beam import even_angles, field_pictures, project, random_angles, scan_loss
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.ct.field import pixel_features

FILE = pathlib.Path(__file__).parent / "results" / "starts" / "ct_frequencies.json"
SIZE, TRAIN, KEPT_BACK = 32, 36, 4
VIEWS, META_VIEWS = 6, 20
LOOKS = (0, 16, 64, 128, 256)
SPEC = FieldSpec(128, 1, 64, 3, output_activation="sigmoid")
ADAM = MetaConfig(
    steps=50, tasks=4, inner="adam", inner_steps=24, inner_lr=3e-3, outer_lr=3e-3, algorithm="reptile", grad_clip=None
)
SGD = dataclasses.replace(ADAM, inner="sgd", inner_steps=12, inner_lr=10.0)
RATES: dict[StepKind, tuple[float, ...]] = {"adam": (1e-2, 3e-3, 1e-3), "sgd": (30.0, 10.0, 3.0)}
ROWS: tuple[tuple[float, StepKind], ...] = ((3.0, "adam"), (5.0, "adam"), (8.0, "adam"), (30.0, "adam"), (30.0, "sgd"))


def learned(slices: Tensor, features: Tensor, config: MetaConfig) -> Params:
    """Return an initialization [1, ...] that Reptile learned from slices [S, N, N]."""

    def draw(tasks: Tensor, generator: torch.Generator) -> LossFn:
        angles = random_angles(len(tasks), META_VIEWS, generator)
        return scan_loss(project(slices[tasks], angles), angles, features, SPEC)

    random = initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(0), gain=1.0)
    trainer = MetaTrainer(random, DrawnEpisodes(len(slices), draw, config.tasks), config, 0)
    while not trainer.done:
        trainer.step()
    return trainer.params


def curve(init: Params, slices: Tensor, features: Tensor, kind: StepKind, rate: float) -> dict[str, float]:
    """Return the mean PSNR of slices [S, N, N] over the steps on their projections."""
    angles, count = even_angles(VIEWS), len(slices)
    loss, values = scan_loss(project(slices, angles), angles, features, SPEC), {}

    def look(step: int, params: Params, losses: Tensor | None = None) -> None:
        if step in LOOKS:
            with torch.no_grad():
                pictures = field_pictures(params, SPEC, features.repeat(count, 1, 1))
            values[str(step)] = round(float(psnr(pictures, slices, keep_first=True).mean()), 2)

    modules = tuple(p.repeat(count, *([1] * (p.dim() - 1))) for p in init)
    look(0, modules)
    fine_tune(modules, loss, LOOKS[-1], rate, kind=kind, callback=look)
    return values


def main() -> None:
    """Try every row, print a table and write the JSON."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    slices = phantom_pictures(draw_phantoms(TRAIN + KEPT_BACK, 0), SIZE)[..., 0]
    rows: list[dict[str, Any]] = []
    for sigma, kind in ROWS:
        frequencies = gaussian_frequencies(SPEC.in_dim // 2, 2, sigma, torch.Generator().manual_seed(0))
        features = pixel_features(SIZE, frequencies)
        init = learned(slices[:TRAIN], features, ADAM if kind == "adam" else SGD)
        curves = {f"{rate:g}": curve(init, slices[TRAIN:], features, kind, rate) for rate in RATES[kind]}
        rate, step, best = max(((r, s, v) for r, c in curves.items() for s, v in c.items()), key=lambda row: row[2])
        rows.append({"sigma": sigma, "optimizer": kind, "rate": rate, "step": step, "psnr": best, "curves": curves})
        print(f"frequencies of {sigma:3g}, {kind:4}: {best:.2f} dB at step {step}, rate {rate}")
    content = {
        "command": "python -m benchmarks.ct_frequencies",
        "slices": f"{KEPT_BACK} kept back, {TRAIN} to learn from, {SIZE} x {SIZE}, {VIEWS} projections",
        "rows": rows,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
