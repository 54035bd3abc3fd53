"""The statistics of a run of `mclnf-fast run image|video|audio`: means, standard errors, transfer, steps to a PSNR.

A mean is over all pairs of test signal and seed. Its standard error is over the signals: the deviation of their means
over the seeds, divided by the root of their number; a single signal has none. Values that are no finite number are
left out, and so are signals that a method holds as exactly as their file does: of two errors below what the file can
hold, neither is the smaller one, and their decibels would decide every mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mclnf_fast.errors import InputError
from mclnf_fast.metrics import backward_transfer, forgetting
from mclnf_fast.report.page.methods import JOINT, Look, looks
from mclnf_fast.report.record import SignalRecord, SignalResults

METRIC_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "si_sdr": "SI-SDR"}
METRIC_UNITS = {"psnr": "dB", "si_sdr": "dB"}
DIGITS = {"psnr": 2, "ssim": 3, "si_sdr": 2}
FIGURES = ("parameters", "steps", "samples", "operations", "seconds_per_step", "points_per_step", "seconds")


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error (None for a single signal), and over how many signals and seeds.

    exact: how many pairs of signal and seed are exact and left out; `height`: the mean with them, each at the PSNR from
    which it counts as exact: what is compared, and drawn over steps. None: `mean`. If all are exact, signals is 0.
    """

    mean: float
    error: float | None
    signals: int
    seeds: int
    exact: int = 0
    height: float | None = None

    @property
    def level(self) -> float:
        """`height`, or `mean` if nothing is left out."""
        return self.mean if self.height is None else self.height


def estimate(values: ArrayLike) -> Estimate | None:
    """Return the mean over all pairs and the standard error over signals of `values` [seeds, signals].

    NaN is left out; None if nothing is left.

    >>> estimate([[1.0, 3.0]])
    Estimate(mean=2.0, error=1.0, signals=2, seeds=1, exact=0, height=None)
    """
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    known = np.isfinite(table)
    if not known.any():
        return None
    kept = table[:, known.any(0)]
    finite = np.isfinite(kept)
    # First over the seeds: those of one signal are no independent samples, and would make the error too small.
    by_signal = np.where(finite, kept, 0.0).sum(0) / finite.sum(0)
    count = len(by_signal)
    # Of a sample: with ddof 0 the error of a few signals would be too small.
    error = float(by_signal.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    # Equal values have exactly their own mean: a forgetting of 0.0 stays 0.0.
    flat = table[known]
    mean = float(flat[0]) if (flat == flat[0]).all() else float(flat.mean())
    return Estimate(mean, error, count, int(known.any(1).sum()))


class Statistics:
    """The statistics of one run.

    Args:
        record: of the run; what is missing in it gives None or nothing.

    Raises: InputError, if methods and seeds do not fit together (another number of test signals).

    >>> Statistics(SignalRecord(system="image")).methods
    []
    """

    def __init__(self, record: SignalRecord) -> None:
        self.record = record
        self.kind = record.system
        self.title = record.title or self.kind
        self.command = record.command
        self.seeds = record.seeds
        rows: dict[str, dict[str, SignalResults]] = {}
        for seed, content in self.seeds.items():
            for key, row in content.methods.items():
                rows.setdefault(key, {})[seed] = row
        self.rows = rows
        categories = {key: next((r.category for r in rows[key].values() if r.category), None) for key in rows}
        self.looks: dict[str, Look] = looks(categories)
        self.methods = list(self.looks)
        self.measures = list(dict.fromkeys(["psnr", *record.measures]))
        self._curves: dict[tuple[str, str], dict[int, np.ndarray]] = {}
        self.signals = self._names()
        ceilings = numbers(record.exact_from)
        # Runs of before have none: nothing of theirs is called exact.
        self.ceilings = np.array(ceilings) if len(ceilings) == len(self.signals) else np.full(len(self.signals), np.inf)
        steps = {step for m in self.methods for step in self.values(m)}
        self.steps = sorted(step for step in steps if step > 0)
        self.last = self.steps[-1] if self.steps else 0

    def _names(self) -> list[str]:
        names = list(self.record.names.test)
        counts = {v.shape[1] for m in self.methods for k in self.measures for v in self.values(m, k).values()}
        if len(counts) > 1:
            raise InputError(f"metrics.json: methods and seeds must have the same test signals, got {sorted(counts)}")
        count = counts.pop() if counts else len(names)
        return names if len(names) == count else [f"signal {i + 1}" for i in range(count)]

    def values(self, key: str, measure: str = "psnr") -> dict[int, np.ndarray]:
        """Return values [seeds, signals] by step, NaN if nothing was logged; in the order of the steps."""
        if (key, measure) not in self._curves:
            curves = [row.curve.get(measure, {}) for row in self.rows.get(key, {}).values()]
            table: dict[int, list[list[float]]] = {}
            for step in sorted({step for curve in curves for step in curve}):
                lines = [numbers(curve.get(step, ())) for curve in curves]
                width = max(len(line) for line in lines)
                if any(line and len(line) != width for line in lines):
                    raise InputError(f"metrics.json: {key}, step {step}: the seeds must have the same test signals")
                if width:
                    table[step] = [line or [math.nan] * width for line in lines]
            self._curves[key, measure] = {step: np.array(v) for step, v in table.items()}
        return self._curves[key, measure]

    def at(self, key: str, step: int, measure: str = "psnr") -> Estimate | None:
        """Return the estimate at a logged step, None if it was not measured."""
        values = self.values(key, measure).get(step)
        if values is None:
            return None
        if measure != "psnr" or not (exact := values >= self.ceilings).any():
            return estimate(values)
        height = estimate(np.minimum(values, self.ceilings))
        rest = estimate(np.where(exact, np.nan, values))
        assert height is not None
        count = int(exact.sum())
        if rest is None:
            return Estimate(height.mean, None, 0, height.seeds, count, height.mean)
        return replace(rest, exact=count, height=height.mean)

    def curve(self, key: str, measure: str = "psnr") -> dict[int, Estimate]:
        """Return estimates by step, from step 1 on."""
        estimates = {step: self.at(key, step, measure) for step in self.values(key, measure) if step > 0}
        return {step: e for step, e in estimates.items() if e is not None}

    def best(self, key: str, measure: str = "psnr") -> tuple[int, Estimate] | None:
        """Return (step, estimate) of the highest mean over the logged steps, from step 1 on; the earliest of equals."""
        curve = self.curve(key, measure)
        return max(curve.items(), key=lambda pair: (pair[1].level, -pair[0])) if curve else None

    def left_out(self, measure: str) -> dict[str, tuple[int, int]]:
        """Return, for methods with values at the last step that are not finite, how many of how many."""
        last = {m: self.values(m, measure).get(self.last) for m in self.methods}
        counts = {m: (int((~np.isfinite(v)).sum()), int(v.size)) for m, v in last.items() if v is not None}
        return {m: c for m, c in counts.items() if c[0]}

    def final(self, key: str, measure: str = "psnr") -> Estimate | None:
        """Return the estimate at the run's last step."""
        return self.at(key, self.last, measure)

    def lead_error(self, key: str, other: str) -> float | None:
        """Return the standard error of the lead of one method over another at the last step, signal by signal."""
        ours, theirs = (self.values(m, "psnr").get(self.last) for m in (key, other))
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return None
        gaps = estimate(np.minimum(ours, self.ceilings) - np.minimum(theirs, self.ceilings))
        return None if gaps is None else gaps.error

    def trivial(self, measure: str = "psnr") -> Estimate | None:
        """Return the estimate of what nobody has to learn; None if it was not measured."""
        answer = self.record.trivial
        return None if answer is None else estimate(numbers(answer.measures.get(measure, ())))

    def sequential(self, key: str) -> bool:
        """Return whether the method learns one task after another."""
        return key in self.looks and self.looks[key].category not in JOINT

    def matrices(self, key: str) -> np.ndarray:
        """Return R [seeds, signals, T, T], PSNR of task i after task k; empty for a joint method or without one."""
        rows = self.rows.get(key, {}).values() if self.sequential(key) else ()
        squares = [square for row in rows if (square := _square(row.matrix or ())) is not None]
        # Seeds with another number of tasks have no mean in common.
        if not squares or len({square.shape for square in squares}) > 1:
            return np.zeros((0, 0, 0, 0))
        return np.moveaxis(np.stack(squares), -1, 1)

    def matrix(self, key: str) -> np.ndarray:
        """Return the average R [T, T] over signals and seeds; [0, 0] if there is none."""
        matrices = self.matrices(key)
        return matrices.mean((0, 1)) if matrices.size else np.zeros((0, 0))

    def forgetting(self, key: str) -> Estimate | None:
        """Return mean_k R[k, k] - R[T-1, k] in dB: positive is loss."""
        return self._of_matrices(key, forgetting)

    def backward_transfer(self, key: str) -> Estimate | None:
        """Return the mean over k < T-1 of R[T-1, k] - R[k, k] in dB."""
        return self._of_matrices(key, backward_transfer)

    def forward_transfer(self, key: str) -> Estimate | None:
        """Return the mean over i > 0 of R[i-1, i] - before[i] in dB: the gain of a task that was not learned yet."""
        matrices = self.matrices(key)
        rows = [_before(row.before, matrices.shape[-1]) for row in self.rows.get(key, {}).values()]
        before = [row for row in rows if row is not None]
        if not matrices.size or matrices.shape[-1] < 2 or len(before) != len(matrices):
            return None
        ahead = np.diagonal(matrices, 1, 2, 3)  # [seeds, signals, T-1]: R[i-1, i]
        initial = np.moveaxis(np.stack(before), 1, 2)[..., 1:]
        return estimate((ahead - initial).mean(-1)) if ahead.shape == initial.shape else None

    def largest_change(self, key: str) -> float | None:
        """Return the largest |R[k, i] - R[i, i]| over k >= i, signals and seeds: 0.0 only if nothing moved at all."""
        matrices = self.matrices(key)
        if not matrices.size:
            return None
        first = np.diagonal(matrices, 0, 2, 3)[..., None, :]
        # Above the diagonal a task was not learned yet: its change is no forgetting.
        return float(np.abs(np.tril(matrices - first)).max())

    def _of_matrices(self, key: str, figure: Callable[[list[list[float]]], float]) -> Estimate | None:
        matrices = self.matrices(key)
        if not matrices.size or matrices.shape[-1] < 2:
            return None
        # Up to the diagonal: what was learned. Of a signal that is exact anywhere there, a fall in dB means nothing.
        learned = np.tril(np.ones(matrices.shape[-2:], dtype=bool))
        exact = (np.where(learned, matrices, -np.inf) >= self.ceilings[None, :, None, None]).any((2, 3))
        values = np.array([[figure(matrix.tolist()) for matrix in seed] for seed in matrices])
        return estimate(np.where(exact, np.nan, values))

    def figure(self, key: str, name: str) -> float | None:
        """Return the mean over the seeds of one of `FIGURES` of a method."""
        fields = [getattr(row, name) for row in self.rows.get(key, {}).values()]
        values = [float(value) for value in fields if value is not None]
        return sum(values) / len(values) if values else None

    def steps_to(self, key: str, target: float) -> float | None:
        """Return the steps until the mean PSNR reaches `target` dB, interpolated along the logarithm of the step.

        1 if the first step is already there, None if no logged step is.
        """
        before: tuple[int, float] | None = None
        for step, value in ((step, e.level) for step, e in self.curve(key).items()):
            if value >= target:
                if before is None:
                    return float(step)
                # Logged steps double: along the logarithm they are evenly spaced, as the plots show them.
                share = (target - before[1]) / (value - before[1])
                between = 2.0 ** (math.log2(before[0]) + share * (math.log2(step) - math.log2(before[0])))
                # By rounding it may lie behind the step that has the value, which a table would round up further.
                return min(float(step), between)
            before = (step, value)
        return None


def numbers(values: Sequence[float | None]) -> list[float]:
    """Return figures with NaN for None, as numpy counts them.

    >>> numbers([1.0, None])
    [1.0, nan]
    """
    return [math.nan if value is None else value for value in values]


def _square(matrix: Sequence[Sequence[Sequence[float | None]]]) -> np.ndarray | None:
    """Return [T, T, signals], finite wherever task i had been met before task k ended; None if it is anything else."""
    lines = [[numbers(cell) for cell in row] for row in matrix]
    sizes = {len(cell) for row in lines for cell in row}
    if not lines or any(len(row) != len(lines) for row in lines) or len(sizes) != 1:
        return None
    square = np.array(lines)
    learned = square[np.tril(np.ones(square.shape[:2], dtype=bool))]
    return square if square.size and np.isfinite(learned).all() else None


def _before(values: Sequence[Sequence[float | None]], count: int) -> np.ndarray | None:
    """Return [T, signals], or None if it is not for `count` tasks."""
    lines = [numbers(cell) for cell in values]
    return np.array(lines) if len(lines) == count and len({len(line) for line in lines}) == 1 else None
