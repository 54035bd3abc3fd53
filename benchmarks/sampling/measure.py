"""Runs of the contenders: PSNR by step and by operations, and seconds of a step."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.sampling.contenders import NAMED, Options, Place, method, passes
from benchmarks.sampling.selectors import TRAIN
from mclnf_fast.metrics import MOST_PSNR, mse_to_psnr

STEPS = 512
LOOKS = sorted({1, 2, 4, *range(8, 256, 8), *range(256, STEPS + 1, 16)})
FEW = sorted({1, *range(32, STEPS + 1, 32)})  # looks while settings are tried
LEVELS = (30, 35)


class Setting(NamedTuple):
    """A contender with values of its own options and a rate."""

    name: str
    options: Options
    lr: float


class Curve(NamedTuple):
    """psnr: of each signal after each look; passes: operations of a module until then; seconds: CPU time of all steps
    with their selection."""

    psnr: list[list[float]]
    passes: list[float]
    seconds: float = 0.0


def run(setting: Setting, place: Place, parts: int, looks: Sequence[int] = LOOKS, most: float = math.inf) -> Curve:
    """Return the curve of one run, which ends once `most` operations are made; module k * S + s is part k of signal
    s."""
    config = dataclasses.replace(place.config, lr=setting.lr)
    learner, task = method(NAMED[setting.name], setting.options, place._replace(config=config)), place.task
    curve, spent = Curve([], []), 0.0
    learner.begin(0)
    for look in looks:
        began = time.process_time()  # of this process alone: others may share the core
        while learner.made < look:
            learner.steps(0, look - learner.made)
        spent += time.process_time() - began
        errors = task.squared_errors(task.predict(learner.params_of(0))).reshape(parts, -1).sum(0)
        psnr = mse_to_psnr(errors / (parts * task.items * task.y.shape[-1])).clamp(max=MOST_PSNR)
        curve.psnr.append(psnr.tolist())
        curve.passes.append(passes(learner))
        if curve.passes[-1] >= most:
            break
    return curve._replace(seconds=spent)


def at_budget(curve: Curve, budget: float) -> list[float]:
    """Return the PSNR of each signal at so many operations, between two looks in proportion to them."""
    later = next((i for i, p in enumerate(curve.passes) if p >= budget), None)
    if later is None:
        return curve.psnr[-1]
    if later == 0:
        return curve.psnr[0]
    low, high = curve.passes[later - 1], curve.passes[later]
    share = (budget - low) / (high - low)
    return [a + share * (b - a) for a, b in zip(curve.psnr[later - 1], curve.psnr[later])]


def budget(batch: int) -> float:
    """Return the operations of uniform draws in all their steps."""
    return float(TRAIN * batch * STEPS)


def steps_to(curves: Sequence[Curve], level: float) -> int | None:
    """Return the first look at which the mean over runs and signals reaches a level; None: not within STEPS."""
    for i, look in enumerate(LOOKS):
        if statistics.fmean(v for curve in curves for v in curve.psnr[i]) >= level:
            return look
    return None


def by_signal(runs: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over runs (seeds) of each signal's value."""
    return [statistics.fmean(values) for values in zip(*runs, strict=True)]


def paired(mine: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the mean over signals of the difference, and its standard error."""
    gains = [a - b for a, b in zip(mine, other, strict=True)]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return [round(statistics.fmean(gains), 3), round(error, 3)]


def at_steps(curves: Sequence[Curve], uniform: Sequence[Curve], batch: int) -> dict[str, Any]:
    """Return what a sampler has after all steps, held against uniform draws signal by signal."""
    ends = [by_signal([c.psnr[-1] for c in runs]) for runs in (curves, uniform)]
    return {
        "steps": {str(level): steps_to(curves, level) for level in LEVELS},
        "psnr": round(statistics.fmean(ends[0]), 3),
        "difference": paired(*ends),
        "operations": round(curves[0].passes[-1] / budget(batch), 3),
        "milliseconds": round(1e3 * min(c.seconds for c in curves) / STEPS, 3),
        "by_signal": [round(v, 3) for v in ends[0]],
    }


def at_operations(curves: Sequence[Curve], uniform: Sequence[Curve], batch: int) -> dict[str, Any]:
    """Return what a sampler has after the operations of uniform draws, held against them signal by signal."""
    ends = [by_signal([at_budget(c, budget(batch)) for c in runs]) for runs in (curves, uniform)]
    return {
        "psnr": round(statistics.fmean(ends[0]), 3),
        "difference": paired(*ends),
        "by_signal": [round(v, 3) for v in ends[0]],
    }


def seeded(place: Place, seed: int) -> Place:
    """Return the same with another seed of the draws."""
    return place._replace(seed=seed)


def threads() -> None:
    """One thread: times are per core."""
    torch.set_num_threads(1)
