"""What is counted from a run of `mclnf-fast run image|video|audio`: means, standard errors, transfer, steps to a PSNR.

A mean is over all pairs of test signal and seed. Its standard error is over the signals: the deviation of their means
over the seeds, divided by the root of their number; a single signal has none. Values that are no finite number are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mclnf_fast.errors import InputError
from mclnf_fast.report.page.methods import JOINT, Method, in_order, method
from mclnf_fast.report.page.style import finite

METRIC_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "si_sdr": "SI-SDR"}
METRIC_UNITS = {"psnr": "dB", "si_sdr": "dB"}
DIGITS = {"psnr": 2, "ssim": 3, "si_sdr": 2}


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error (None for a single signal), and over how many signals and seeds."""

    mean: float
    error: float | None
    signals: int
    seeds: int


def estimate(values: Any) -> Estimate | None:
    """The mean over all pairs and the standard error over signals of `values` [seeds, signals]; NaN is left out.

    Returns: None, if nothing is left.
    """
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    known = np.isfinite(table)
    if not known.any():
        return None
    kept = table[:, known.any(0)]
    have = np.isfinite(kept)
    by_signal = np.where(have, kept, 0.0).sum(0) / have.sum(0)
    count = len(by_signal)
    error = float(by_signal.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    # Equal values have exactly their own mean: a forgetting of 0.0 stays 0.0.
    flat = table[known]
    mean = float(flat[0]) if (flat == flat[0]).all() else float(flat.mean())
    return Estimate(mean, error, count, int(known.any(1).sum()))


class Protocol:
    """The statistics of one run.

    Args:
        metrics: the content of metrics.json; any key may be missing, and what is missing gives None or nothing.

    Raises: InputError, if methods and seeds do not fit together (another number of test signals).
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = metrics
        self.kind = str(metrics.get("system") or "signal")
        self.title = str(metrics.get("title") or self.kind)
        self.command = str(metrics.get("command") or "")
        given = mapping(metrics.get("seeds"))
        self.seeds = {str(k): mapping(v) for k, v in given.items()}
        rows: dict[str, dict[str, Mapping[str, Any]]] = {}
        for seed, content in self.seeds.items():
            for key, row in mapping(content.get("methods")).items():
                rows.setdefault(str(key), {})[seed] = mapping(row)
        self.rows = rows
        self.looks: dict[str, Method] = {}
        for key in in_order(rows):
            category = next((str(r["category"]) for r in rows[key].values() if r.get("category")), None)
            self.looks[key] = method(key, category)
        self.methods = list(self.looks)
        listed = [str(m) for m in sequence(metrics.get("metrics"))]
        self.measures = list(dict.fromkeys(["psnr", *listed]))
        self._curves: dict[tuple[str, str], dict[int, np.ndarray]] = {}
        self.signals = self._names()
        steps = {s for m in self.methods for s in self.values(m)}
        self.steps = sorted(s for s in steps if s > 0)
        self.last = self.steps[-1] if self.steps else 0

    def _names(self) -> list[str]:
        names = [str(n) for n in sequence(mapping(self.metrics.get("signals")).get("test"))]
        counts = {v.shape[1] for m in self.methods for k in self.measures for v in self.values(m, k).values()}
        if len(counts) > 1:
            raise InputError(f"metrics.json: methods and seeds must have the same test signals, got {sorted(counts)}")
        count = counts.pop() if counts else len(names)
        return names if len(names) == count else [f"signal {i + 1}" for i in range(count)]

    def values(self, key: str, measure: str = "psnr") -> dict[int, np.ndarray]:
        """Values [seeds, signals] by step, NaN where nothing was logged; in the order of the steps."""
        if (key, measure) not in self._curves:
            curves = [mapping(mapping(r.get("curve")).get(measure)) for r in self.rows.get(key, {}).values()]
            table: dict[int, list[list[float]]] = {}
            for step in sorted({int(s) for c in curves for s in c if str(s).isdigit()}):
                lines = [numbers(c.get(str(step))) for c in curves]
                width = max(len(line) for line in lines)
                if any(line and len(line) != width for line in lines):
                    raise InputError(f"metrics.json: {key}, step {step}: the seeds must have the same test signals")
                if width:
                    table[step] = [line or [math.nan] * width for line in lines]
            self._curves[key, measure] = {s: np.array(v) for s, v in table.items()}
        return self._curves[key, measure]

    def at(self, key: str, step: int, measure: str = "psnr") -> Estimate | None:
        """The estimate at a logged step, None where it was not measured."""
        found = self.values(key, measure).get(step)
        return None if found is None else estimate(found)

    def curve(self, key: str, measure: str = "psnr") -> dict[int, Estimate]:
        """Estimates by step, from step 1 on."""
        found = {s: self.at(key, s, measure) for s in self.values(key, measure) if s > 0}
        return {s: e for s, e in found.items() if e is not None}

    def best(self, key: str, measure: str = "psnr") -> tuple[int, Estimate] | None:
        """(step, estimate) of the highest mean over the logged steps, from step 1 on; the earliest of equals."""
        curve = self.curve(key, measure)
        return max(curve.items(), key=lambda p: (p[1].mean, -p[0])) if curve else None

    def left_out(self, measure: str) -> dict[str, tuple[int, int]]:
        """Methods with values at the last step that are no finite number: how many of how many."""
        last = {m: self.values(m, measure).get(self.last) for m in self.methods}
        counts = {m: (int((~np.isfinite(v)).sum()), int(v.size)) for m, v in last.items() if v is not None}
        return {m: c for m, c in counts.items() if c[0]}

    def final(self, key: str, measure: str = "psnr") -> Estimate | None:
        """The estimate at the run's last step."""
        return self.at(key, self.last, measure)

    def sequential(self, key: str) -> bool:
        """Whether the method learns one task after another."""
        return key in self.looks and self.looks[key].category not in JOINT

    def matrices(self, key: str) -> np.ndarray:
        """R [seeds, signals, T, T]: PSNR of task i after task k. Empty for a joint method, or where it is missing."""
        tables = [sequence(r.get("matrix")) for r in self.rows.get(key, {}).values()] if self.sequential(key) else []
        found = [square for t in tables if (square := _square(t)) is not None]
        if not found or len({f.shape for f in found}) > 1:
            return np.zeros((0, 0, 0, 0))
        return np.moveaxis(np.stack(found), -1, 1)

    def matrix(self, key: str) -> np.ndarray:
        """The average R [T, T] over signals and seeds; [0, 0] where there is none."""
        found = self.matrices(key)
        return found.mean((0, 1)) if found.size else np.zeros((0, 0))

    def forgetting(self, key: str) -> Estimate | None:
        """mean_k R[k, k] - R[T-1, k] in dB: positive is loss."""
        from mclnf_fast.metrics import forgetting

        return self._of_matrices(key, forgetting)

    def backward_transfer(self, key: str) -> Estimate | None:
        """mean over k < T-1 of R[T-1, k] - R[k, k] in dB."""
        from mclnf_fast.metrics import backward_transfer

        return self._of_matrices(key, backward_transfer)

    def forward_transfer(self, key: str) -> Estimate | None:
        """mean over i > 0 of R[i-1, i] - before[i] in dB: what the tasks before gave a task not yet learned."""
        found = self.matrices(key)
        starts = [_before(r.get("before"), found.shape[-1]) for r in self.rows.get(key, {}).values()]
        before = [b for b in starts if b is not None]
        if not found.size or found.shape[-1] < 2 or len(before) != len(found):
            return None
        ahead = np.diagonal(found, 1, 2, 3)  # [seeds, signals, T-1]: R[i-1, i]
        start = np.moveaxis(np.stack(before), 1, 2)[..., 1:]
        return estimate((ahead - start).mean(-1)) if ahead.shape == start.shape else None

    def largest_change(self, key: str) -> float | None:
        """The largest |R[k, i] - R[i, i]| over k >= i, signals and seeds: exactly 0.0 only where nothing moved."""
        found = self.matrices(key)
        if not found.size:
            return None
        own = np.diagonal(found, 0, 2, 3)[..., None, :]
        return float(np.abs(np.tril(found - own)).max())

    def _of_matrices(self, key: str, figure: Callable[[Any], float]) -> Estimate | None:
        found = self.matrices(key)
        if not found.size or found.shape[-1] < 2:
            return None
        return estimate([[figure(r.tolist()) for r in seed] for seed in found])

    def figure(self, key: str, name: str) -> float | None:
        """The mean over the seeds of one figure of the method (`seconds_per_step`, `parameters`, ...)."""
        found = [v for r in self.rows.get(key, {}).values() if (v := finite(r.get(name))) is not None]
        return sum(found) / len(found) if found else None

    def steps_to(self, key: str, target: float) -> float | None:
        """Steps until the mean PSNR reaches `target` dB, between logged steps along the logarithm of the step.

        1 where the first step is already there, None where no logged step is.
        """
        before: tuple[int, float] | None = None
        for step, value in ((s, e.mean) for s, e in self.curve(key).items()):
            if value >= target:
                if before is None:
                    return float(step)
                share = (target - before[1]) / (value - before[1])
                return float(2.0 ** (math.log2(before[0]) + share * (math.log2(step) - math.log2(before[0]))))
            before = (step, value)
        return None


def mapping(value: object) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """`value` where it is a list, else an empty one."""
    return value if isinstance(value, list | tuple) else []


def numbers(value: object) -> list[float]:
    """A list of numbers with NaN for what is none; a bare number is a list of one."""
    given = sequence(value) if not isinstance(value, int | float) else [value]
    return [math.nan if (v := finite(x)) is None else v for x in given]


def _square(table: Sequence[Any]) -> np.ndarray | None:
    """[T, T, signals] with finite numbers wherever task i came before task k ended, or None."""
    lines = [[numbers(cell) for cell in sequence(row)] for row in table]
    sizes = {len(cell) for row in lines for cell in row}
    if not lines or any(len(row) != len(lines) for row in lines) or len(sizes) != 1:
        return None
    found = np.array(lines)
    learned = found[np.tril(np.ones(found.shape[:2], dtype=bool))]
    return found if found.size and np.isfinite(learned).all() else None


def _before(value: object, count: int) -> np.ndarray | None:
    """[T, signals], or None where it is not for `count` tasks."""
    lines = [numbers(cell) for cell in sequence(value)]
    return np.array(lines) if len(lines) == count and len({len(line) for line in lines}) == 1 else None
