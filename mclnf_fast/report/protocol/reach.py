"""How soon one method reaches another's final PSNR, per test signal and seed: `mim` against `mod`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mclnf_fast.report.protocol.counts import Statistics, numbers
from mclnf_fast.report.record import SignalResults

SHARE_OF_STEPS = 0.75  # of the other's steps, within which its final PSNR is to be reached


@dataclass(frozen=True)
class Reach:
    """One method (`key`) on its way to another's (`other`) final PSNR.

    Attributes:
        key, other: the methods; `last`: the run's last step.
        steps: [seeds, signals], the first step of `key`'s finer log whose PSNR is at least the one that `other` has at
            its last step; inf if it never is, NaN if it was not measured.
        times: [seeds, signals], seconds of `key` until then over those of `other` until `last`; NaN without a time.
        other_steps: the same steps for `other` itself, which touches its own final PSNR before its last step if its
            curve is not smooth.
    """

    key: str
    other: str
    last: int
    steps: np.ndarray
    times: np.ndarray
    other_steps: np.ndarray

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

    def median(self, values: np.ndarray) -> float:
        """Return the median over the measured pairs, inf if most never reach it, NaN if none was measured."""
        known = values[~np.isnan(values)]
        # The upper of the two in the middle: the mean of a number and inf is no step.
        return float(np.sort(known)[len(known) // 2]) if known.size else math.nan


def reach(run: Statistics, key: str = "mim", other: str = "mod") -> Reach | None:
    """Compare two methods of a run in the seeds that have both; None if there is nothing to compare.

    >>> from mclnf_fast.report.record import SignalRecord
    >>> reach(Statistics(SignalRecord(system="image"))) is None
    True
    """
    steps, times, other_steps = [], [], []
    width = len(run.signals)
    for seed in run.seeds:
        row, rival = run.rows.get(key, {}).get(seed), run.rows.get(other, {}).get(seed)
        if row is None or rival is None:
            continue
        # Within a seed, whose initialization and batches both methods share.
        final = numbers(rival.curve.get("psnr", {}).get(run.last, ()))
        if len(final) != width:
            continue
        first = _first_steps(row, final)
        ratio = math.nan
        if row.seconds_per_step is not None and rival.seconds_per_step:
            # By the mean seconds of a step: a time at every logged step is not recorded.
            ratio = row.seconds_per_step / rival.seconds_per_step
        steps.append(first)
        times.append(first / run.last * ratio if run.last else np.full(width, math.nan))
        other_steps.append(_first_steps(rival, final))
    if not steps or np.isnan(np.stack(steps)).all():
        return None
    return Reach(key, other, run.last, np.stack(steps), np.stack(times), np.stack(other_steps))


def _first_steps(row: SignalResults, targets: Sequence[float]) -> np.ndarray:
    """Return the first logged step, of the finer log or the curve, at which each signal has its target, [signals]."""
    if row.fine is None or not row.fine.steps or len(row.fine.steps) != len(row.fine.psnr):
        return np.full(len(targets), math.nan)
    lines = {step: numbers(values) for step, values in row.curve.get("psnr", {}).items()}
    lines |= {step: numbers(values) for step, values in zip(row.fine.steps, row.fine.psnr)}
    logged = sorted((step, v) for step, v in lines.items() if step > 0 and len(v) == len(targets))
    first = []
    for i, target in enumerate(targets):
        steps = (step for step, values in logged if values[i] >= target)
        first.append(math.nan if math.isnan(target) else float(next(steps, math.inf)))
    return np.array(first)
