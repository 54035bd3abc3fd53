"""What was tried beside Reptile through Adam to reach a PSNR in fewer steps: `python -m benchmarks.steps_to_psnr_tried
image DIR` or `audio DIR`, as `benchmarks.steps_to_psnr`, at one frequency of the sines.

- moments: Adam begins with the second moments that it has after 128 steps on training signals, their mean over
  signals, and a step count of 300, so that its first steps are no longer than its later ones; from a random
  initialization, too.
- crops: Reptile learns from 192 random squares of the training pictures, at least a third of their side, half of them
  mirrored (pictures only).
- longer: 64 steps of Adam in Reptile's inner loop, at half the rate.
- shared layers: the modules of eight training signals share all layers but the last, and are trained together; the
  initialization has these layers and the mean of the last ones (as in STRAINER, Vyas et al., NeurIPS 2024).

Writes `benchmarks/results/steps_to_psnr_tried_NAME.json` (about two minutes on one core).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import steps_to_psnr as steps
from mclnf_fast import data
from mclnf_fast.learn.methods import AdaptConfig, Mod, ModRandom
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Task
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask

FREQUENCY = 42.0  # with which Reptile through Adam is soonest at 30 dB on Kodak
RATES = (5e-4, 7e-4, 1e-3, 1.4e-3)
CROPS, SMALLEST = 192, 96
LONGER = dataclasses.replace(steps.REPTILE, inner_steps=64, inner_lr=1e-3)


class Moments:
    """Methods whose Adam begins with second moments [1, ...] and a count of steps."""

    squares: Sequence[Tensor] = ()
    count = 300

    def adam(self, k: int) -> BankOptimizer:
        """Return an Adam for task k with these moments."""
        optimizer: BankOptimizer = super().adam(k)  # type: ignore[misc]  # of the method beside this class
        state = optimizer.state_dict()
        for i, square in enumerate(self.squares):
            # As if all gradients of the counted steps had been so large.
            state[f"exp_avg_sq.{i}"] = (square * (1 - optimizer.betas[1] ** self.count)).expand_as(
                state[f"exp_avg_sq.{i}"]
            )
        state["step"] = torch.full_like(state["step"], self.count)
        optimizer.load_state_dict(state)
        return optimizer

    def steps(self, k: int, most: int) -> None:
        """Make one step on task k: many in one call would be counted from the first one."""
        self.step(k, self.made)  # type: ignore[attr-defined]  # of the method beside this class


class ModMoments(Moments, Mod):
    """`mod`, with moments."""


class ModRandomMoments(Moments, ModRandom):
    """`mod_random`, with moments."""


def batch_losses(task: Task, params: Params, modules: Tensor, generator: torch.Generator) -> Tensor:
    """Return the losses [M] of modules int64 [M] of a task on 256 samples each."""
    return task.loss(params, task.draw(256, generator, modules), None, 0)


def moments(task: CoordTask, init: Params, made: int = 128, rate: float = 1e-3) -> list[Tensor]:
    """Return the second moments [1, ...] that Adam has after `made` steps from an initialization, their mean over 32
    modules of a task."""
    generator = torch.Generator().manual_seed(5)
    modules = torch.randperm(task.modules, generator=generator)[:32]
    params = tuple(p.detach().repeat(len(modules), *([1] * (p.dim() - 1))) for p in init)
    optimizer = BankOptimizer(params, lr=rate)
    for _ in range(made):
        leaves = tuple(p.detach().requires_grad_() for p in params)
        losses = batch_losses(task, leaves, modules, generator)
        optimizer.step(torch.autograd.grad(losses.sum(), leaves))
    state = optimizer.state_dict()
    return [
        state[f"exp_avg_sq.{i}"].mean(0, keepdim=True) / (1 - optimizer.betas[1] ** made) for i in range(len(params))
    ]


def shared_layers(task: CoordTask, init: Params, made: int = 1000, modules: int = 8, rate: float = 1e-3) -> Params:
    """Return an initialization [1, ...] of layers that several modules of a task share in training, all but the last,
    and of the mean of their last ones."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(task.modules, generator=generator)[:modules]
    layers = len(init) // 2  # weights, then biases
    last = {layers - 1, 2 * layers - 1}
    params = [
        p.detach().repeat(modules if i in last else 1, *([1] * (p.dim() - 1))).requires_grad_()
        for i, p in enumerate(init)
    ]
    groups = [[p for i, p in enumerate(params) if (i in last) == own] for own in (False, True)]
    optimizers = [BankOptimizer(group, lr=rate) for group in groups]
    for step in range(made):
        bank = tuple(p if i in last else p.expand(modules, *p.shape[1:]) for i, p in enumerate(params))
        losses = batch_losses(task, bank, chosen, generator)
        gradients = torch.autograd.grad(losses.sum(), [p for group in groups for p in group])
        shared = [g / modules for g in gradients[: len(groups[0])]]
        for optimizer, part in zip(optimizers, (shared, gradients[len(groups[0]) :])):
            optimizer.set_lr(rate * 0.5 * (1 + math.cos(math.pi * step / made)) + 1e-5)
            optimizer.step(part)
    return tuple(p.detach().mean(0, keepdim=True) for p in params)


def crops(folder: str, side: int) -> Tensor:
    """Return random squares [CROPS, side * side, channels] of the training pictures of a folder."""
    generator = torch.Generator().manual_seed(0)
    large = 3 * side
    pictures = data.load_images(folder, size=large, resize=True, channels=3).train.values
    pictures = pictures.reshape(-1, large, large, 3).permute(0, 3, 1, 2)
    values = []
    for i in range(CROPS):
        share, row, column, mirrored = torch.rand(4, generator=generator).tolist()
        extent = round(SMALLEST * (large / SMALLEST) ** share)
        top, left = int(row * (large - extent + 1)), int(column * (large - extent + 1))
        square = pictures[i % len(pictures), None, :, top : top + extent, left : left + extent]
        square = functional.interpolate(square, size=(side, side), mode="area")[0].permute(1, 2, 0)
        values.append(square.flip(1) if mirrored < 0.5 else square)
    return torch.stack(values)


def measure(this: steps.Kind, kind: str, folder: str) -> dict[str, Any]:
    """Return the steps to each level with each of the tried initializations, the best of all rates."""
    spec = FieldSpec(len(this.cut.grid), this.sets.test.values.shape[-1], 32, 3, "sine", w0=FREQUENCY)
    random = steps.first_parameters(this, spec)
    train, test = (steps.side_by_side(this.cut, part, spec) for part in (this.sets.train, this.sets.test))
    reptile = steps.learned(train, random, steps.REPTILE)
    tried: dict[str, tuple[type[Mod], Params]] = {
        "moments": (ModMoments, reptile),
        "random, moments": (ModRandomMoments, random),
        "longer": (Mod, steps.learned(train, random, LONGER)),
        "shared layers": (Mod, shared_layers(train, random)),
    }
    if kind == "image":
        squares = crops(folder, this.cut.grid[0])
        values = [this.cut.values(squares, k) for k in range(this.cut.tasks)]
        cropped = CoordTask("crops", train.x, torch.cat(values), spec)
        tried["crops"] = (Mod, steps.learned(cropped, random, steps.REPTILE))
    rows: dict[str, Any] = {}
    for name, (cls, init) in tried.items():
        if issubclass(cls, Moments):
            cls.squares = moments(train, init)
        choices: dict[str, dict[str, int | None]] = {}
        for rate in RATES:
            config = AdaptConfig(fall=this.fall, lr=rate, warm_steps=0)
            choices[f"{FREQUENCY:g}, {rate:g}"], _ = steps.steps_to(cls, test, init, config, this.cut.tasks)
        rows[name] = {"steps": steps.least(choices.values()), "chosen": steps.chosen(choices), "tried": choices}
        print(f"{name:28} " + ", ".join(f"{level} dB: {s or '-'}" for level, s in rows[name]["steps"].items()))
    return rows


def main() -> None:
    """Measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("image", "audio"))
    parser.add_argument("folder")
    parser.add_argument("--name", help="of the results; default: the kind")
    arguments = parser.parse_args()
    this = steps.kind(arguments.kind, arguments.folder)
    rows = measure(this, arguments.kind, arguments.folder)
    content = {"command": f"python -m benchmarks.steps_to_psnr_tried {arguments.kind} DIR", "rows": rows}
    file = steps.RESULTS / f"steps_to_psnr_tried_{arguments.name or arguments.kind}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
