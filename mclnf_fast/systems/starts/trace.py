"""Follow a fine-tuning step by step: its scores, its losses, its pictures, and the seconds of the steps alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import log_steps
from mclnf_fast.systems.common.callbacks.base import Reading
from mclnf_fast.systems.starts.tuning import Tuning


class Trace(NamedTuple):
    """Fine-tuning as it went: the last parameters [T, ...], scores per task by step, seconds of the steps alone, the
    losses [steps, T] before each step, and pictures [K, T, ...] at the steps that were asked for."""

    params: Params
    curve: dict[str, list[float]]
    seconds: float
    losses: Tensor
    pictures: Tensor | None


class Look(NamedTuple):
    """Pictures [T, ...] of parameters, to be taken before the first step (0) or after some steps."""

    picture: Callable[[Params], Tensor]
    steps: tuple[int, ...]


def traced(
    before: Params,
    tuning: Tuning,
    score: Callable[[Params], Sequence[float]],
    look: Look | None,
    advance: Callable[[Reading], object],
) -> Trace:
    """Return the fine-tuning of modules `before` [T, ...], scored before the first step and after 1, 2, 4, ... and the
    last step; the clock stands still while they are scored.

    Args:
        before: the modules.
        tuning: how they are fine-tuned.
        score: parameters -> a score per task.
        look: what is kept of the pictures; None: nothing.
        advance: called after every step, with a function that returns the figures of the last one.
    """
    steps = tuning.steps
    looked = {} if look is None else {k: look.picture(before) for k in look.steps if k == 0}
    # Powers of two: a curve on a logarithmic axis, for a dozen evaluations whatever the number of steps.
    wanted = {*log_steps(steps), *(look.steps if look is not None else ())} - {0}
    curve = {"0": list(score(before))}
    losses: list[Tensor] = []
    seconds = 0.0
    began = time.perf_counter()

    def reading() -> dict[str, float]:
        scores = curve[next(reversed(curve))]
        return {"loss": float(losses[-1].mean()), "psnr": sum(scores) / len(scores)}

    def after(step: int, params: Params, loss: Tensor) -> None:
        nonlocal began, seconds
        losses.append(loss.detach())  # on the device: a copy per step would wait for it each time
        advance(reading)
        if step in wanted:
            # Scoring can take longer than the steps; a time that held it would compare nothing.
            seconds += time.perf_counter() - began
            curve[str(step)] = list(score(params))
            if look is not None and step in look.steps:
                looked[step] = look.picture(params)
            began = time.perf_counter()

    params = fine_tune(before, tuning.loss, steps, tuning.lr, kind=tuning.kind, lr_end=tuning.lr_end, callback=after)
    pictures = torch.stack([looked[k] for k in sorted(looked)]).cpu() if looked else None
    return Trace(params, curve, seconds, torch.stack(losses).cpu(), pictures)
