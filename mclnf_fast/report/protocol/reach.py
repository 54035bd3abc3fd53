"""How soon one method reaches another's final PSNR, for each test signal and seed: `mim` against `mod`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mclnf_fast.report.page.style import finite
from mclnf_fast.report.protocol.counts import Protocol, mapping, numbers, sequence

SHARE_OF_STEPS = 0.75  # of the other's steps, within which its final PSNR is to be reached


@dataclass(frozen=True)
class Reach:
    """One method (`one`) on its way to another's (`other`) final PSNR.

    `steps` [seeds, signals]: the first step of `one`'s finer log whose PSNR is at least what `other` has at its
    last step, inf where it never is, NaN where it was not measured. `times` [seeds, signals]: seconds of
    `one` until then over those of `other` until `last`; NaN where no time was measured. `own`: the same steps
    for `other` itself, which touches its own last PSNR before its last step where its curve is not smooth.
    """

    one: str
    other: str
    last: int
    steps: np.ndarray
    times: np.ndarray
    own: np.ndarray

    @property
    def pairs(self) -> int:
        """Pairs of signal and seed for which it was measured."""
        return int((~np.isnan(self.steps)).sum())

    @property
    def reached(self) -> int:
        """Pairs in which it was reached at all."""
        return int(np.isfinite(self.steps).sum())

    @property
    def share(self) -> float:
        """Share of the pairs in which it took at most 75 % of the steps."""
        return float((self.steps <= SHARE_OF_STEPS * self.last).sum() / max(1, self.pairs))

    @property
    def timed(self) -> bool:
        """Whether wall-clock was measured in every pair in which it was reached."""
        return bool(np.isfinite(self.times[np.isfinite(self.steps)]).all())

    @property
    def share_in_time(self) -> float:
        """Share of the pairs with at most 75 % of the steps that was not later in wall-clock either."""
        good = (self.steps <= SHARE_OF_STEPS * self.last) & (self.times <= 1.0)
        return float(good.sum() / max(1, self.pairs))

    def median(self, what: np.ndarray) -> float:
        """The median over the measured pairs, inf where most never reach it."""
        known = what[~np.isnan(what)]
        # The upper of the two in the middle: a mean of a number and inf says nothing.
        return float(np.sort(known)[len(known) // 2]) if known.size else math.nan


def reach(run: Protocol, one: str = "mim", other: str = "mod") -> Reach | None:
    """Compares two methods of a run in the seeds that have both; None where there is nothing to compare."""
    steps, times, own = [], [], []
    width = len(run.signals)
    for seed in run.seeds:
        mine, theirs = run.rows.get(one, {}).get(seed), run.rows.get(other, {}).get(seed)
        if mine is None or theirs is None:
            continue
        final = numbers(mapping(mapping(theirs.get("curve")).get("psnr")).get(str(run.last)))
        if len(final) != width:
            continue
        first = _first_steps(mine, final)
        each = [finite(row.get("seconds_per_step")) for row in (mine, theirs)]
        ratio = each[0] / each[1] if each[0] is not None and each[1] else math.nan
        steps.append(first)
        times.append(first / run.last * ratio if run.last else np.full(width, math.nan))
        own.append(_first_steps(theirs, final))
    if not steps or np.isnan(np.stack(steps)).all():
        return None
    return Reach(one, other, run.last, np.stack(steps), np.stack(times), np.stack(own))


def _first_steps(row: Mapping[str, Any], targets: list[float]) -> np.ndarray:
    """The first logged step, of the finer log or the curve, at which each signal reaches its target [signals]."""
    fine = mapping(row.get("fine"))
    steps, values = numbers(fine.get("steps")), sequence(fine.get("psnr"))
    if not steps or len(steps) != len(values):
        return np.full(len(targets), math.nan)
    curve = mapping(mapping(row.get("curve")).get("psnr"))
    lines = {int(s): numbers(v) for s, v in curve.items() if str(s).isdigit()}
    lines |= {int(s): numbers(v) for s, v in zip(steps, values) if math.isfinite(s)}
    logged = sorted((s, v) for s, v in lines.items() if s > 0 and len(v) == len(targets))
    found = []
    for i, target in enumerate(targets):
        met = (s for s, v in logged if v[i] >= target)
        found.append(math.nan if math.isnan(target) else float(next(met, math.inf)))
    return np.array(found)
