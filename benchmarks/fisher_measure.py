"""Runs the variants of `fisher_sweep` on the same tasks and seeds, and checks first that they are what they say."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from benchmarks.fisher_variants import MOD, SAMPLE, WEIGHT, Row, Variant
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError
from mclnf_fast.learn.budgets import Budgets
from mclnf_fast.learn.meta.episodes import TaskEpisodes
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.learn.methods import METHODS, Method
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import steps_to_reach
from mclnf_fast.systems.common.config_file import with_options
from mclnf_fast.systems.signals.data import cut_of, meta_initialization, random_initialization, tasks_of
from mclnf_fast.systems.signals.options import SignalConfig
from mclnf_fast.tasks.coords import CoordTask

Fine = dict[int, list[float]]  # PSNR of every signal by step
ROUNDS, BLOCK = 5, 32  # of the timing: rounds, and steps of a block, a multiple of every refresh
SHARE = 0.75  # of mod's steps, within which its last PSNR is to be reached


class Sweep:
    """The tasks of one modality, their meta-learned starts, and the runs on them.

    Args: config: of the modality; its `meta`, `adapt`, `width` and `steps` count. sets: its signals.
    """

    def __init__(self, config: SignalConfig, sets: SignalSets) -> None:
        if not len(sets.train):
            raise InputError("data: meta-training needs signals beside those to test on, got none")
        if config.field.width < 2:
            raise InputError(f"width must be at least 2, half of which is tried too, got {config.field.width}")
        self.config, self.sets = config, sets
        self.cut = cut_of(config, sets)
        self._starts: dict[tuple[Any, ...], Params] = {}
        self._tasks: dict[tuple[str, float], list[CoordTask]] = {}

    def tasks(self, part: Literal["train", "test"], scale: float) -> list[CoordTask]:
        """Return the tasks of the signals to meta-train, or to test, for modules of `scale` times the width."""
        if (part, scale) not in self._tasks:
            signals = getattr(self.sets, part)
            config = with_options(self.config, {"width": round(self.config.field.width * scale)})
            spec = config.spec(signals.values.shape[-1], self.cut.tasks, modular=True)
            self._tasks[part, scale] = tasks_of(config, self.cut, signals, spec, "local")
        return self._tasks[part, scale]

    def start(self, variant: Variant, seed: int) -> Params:
        """Return the start of a variant, learned once."""
        plain = variant.inner == variant.outer == "none"
        key = (seed, variant.scale) if plain else (seed, *variant.start)
        if key not in self._starts:
            tasks = self.tasks("train", variant.scale)
            random = meta_initialization(
                self.config, random_initialization(self.config, tasks[0].spec, seed), self.sets.train
            )
            meta = dataclasses.replace(self.config.meta, fim_inner=variant.inner, fim_outer=variant.outer)
            learner = MetaTrainer(random, TaskEpisodes("modules", tasks, meta, variant.meta), meta, seed)
            while not learner.done:
                learner.step()
            self._starts[key] = learner.params
        return self._starts[key]

    def method(self, variant: Variant, seed: int) -> Method:
        """Return the method of a variant before its first step."""
        tasks = self.tasks("test", variant.scale)
        config = self.config.adapting()
        config = config if variant.fim is None else dataclasses.replace(config, fim=variant.fim)
        return METHODS[variant.method](tasks, self.start(variant, seed), config, seed)

    def run(self, variant: Variant, seed: int) -> Fine:
        """Return PSNR over all tasks after so many steps per task."""
        method = self.method(variant, seed)
        steps = self.config.steps
        fine = sorted({*marks(steps), *(max(1, round(steps * i / 32)) for i in range(1, 33))})
        tasks, start = self.tasks("test", variant.scale), self.start(variant, seed)
        runs = Budgets(type(method), tasks, start, method.config, seed, (steps,), lambda predictions: {}, fine)
        while not runs.done:
            runs.step()
        assert runs.record.fine is not None
        return dict(zip(runs.record.fine["steps"], runs.record.fine["psnr"]))

    def relative_time(self, variant: Variant, against: Variant, seed: int) -> float:
        """Return seconds of a step over those of another variant, blocks of steps in turn; the median of the rounds."""
        one, other = self.method(variant, seed), self.method(against, seed)
        ratios = []
        for k in range(ROUNDS + 1):  # the first, with the steps by SGD, is thrown away
            seconds = []
            for method in (other, one):
                if k == 0:
                    method.begin(0)
                began = time.perf_counter()
                for step in range(k * BLOCK, (k + 1) * BLOCK):
                    method.step(0, step)
                seconds.append(time.perf_counter() - began)
            ratios.append(seconds[1] / seconds[0])
        return statistics.median(ratios[1:])

    def check(self, seed: int) -> None:
        """MIM without a use of its scores, and with weights of strength 0, must be `mod` bit for bit, and with one it
        must not. Raises RuntimeError: no figure is worth anything then."""

        def learned(variant: Variant) -> Params:
            method = self.method(variant, seed)
            method.begin(0)
            for step in range(12):  # past the steps by SGD and the first refresh
                method.step(0, step)
            return method.params_of(0)

        expected = learned(MOD)
        for name, fim, equal in (
            ("use=none", dataclasses.replace(SAMPLE, use="none"), True),
            ("use=weight, lam=0", dataclasses.replace(WEIGHT, lam=0.0), True),
            ("use=weight", WEIGHT, False),
            ("use=sample", SAMPLE, False),
        ):
            found = all(torch.equal(a, b) for a, b in zip(expected, learned(Variant(fim))))
            if found is not equal:
                must = "must equal mod bit for bit" if equal else "must differ from mod"
                raise RuntimeError(f"mim with {name} {must}, and does {'not' if equal else 'not: it is the same'}")


def marks(steps: int) -> list[int]:
    """Return the steps that the table shows."""
    return sorted({*(m for m in (64, 256) if m < steps), steps})


def measure(
    sweep: Sweep, rows: Sequence[Row], seeds: Sequence[int], say: Callable[[str], object] = print
) -> list[dict[str, Any]]:
    """Measure all rows on all seeds; a run that several of them share is made once.

    Returns a dict per row: see `summary`. Raises RuntimeError if the check fails.
    """
    sweep.check(seeds[0])
    variants = list(dict.fromkeys(v for row in [Row("", "", MOD), *rows] for v in (row.against, row.variant)))
    found: dict[Variant, list[Fine]] = {v: [] for v in variants}
    names = {row.variant: f"{row.factor}: {row.label}" for row in reversed(rows)}
    for seed in seeds:
        for k, variant in enumerate(variants):
            began = time.perf_counter()
            fine = sweep.run(variant, seed)
            found[variant].append(fine)
            last = statistics.fmean(fine[sweep.config.steps])
            name = "mod" if variant == MOD else names.get(variant, "mod of another width")
            took = time.perf_counter() - began
            say(f"seed {seed}, {k + 1} of {len(variants)}, {name}: {last:.2f} dB ({took:.0f} s)")
    everything = [Row("", "mod", MOD), *rows]
    pairs = dict.fromkeys((row.variant, row.against) for row in everything)
    times = {pair: sweep.relative_time(*pair, seeds[0]) for pair in pairs}
    return [summary(row, found[row.variant], found[row.against], times[row.variant, row.against]) for row in everything]


def summary(row: Row, mine: Sequence[Fine], theirs: Sequence[Fine], relative: float) -> dict[str, Any]:
    """Return one row: PSNR in dB and its difference, paired by signal and seed, at the marks; [mean, standard error].

    share_of_steps: median over the pairs of the share of its steps in which the other's last PSNR is reached, None
    where most never reach it. within: share of the pairs in which at most 75 % of the steps suffice; within_time: in
    which, moreover, it was not later in wall-clock. seconds: of a step over those of the other.
    """
    steps = max(mine[0])
    shares = []
    for own, other in zip(mine, theirs):
        for signal, target in enumerate(other[steps]):
            first = steps_to_reach(list(own), [v[signal] for v in own.values()], target)
            shares.append(math.inf if first is None else first / steps)
    psnr = {s: [v for fine in mine for v in fine[s]] for s in marks(steps)}
    gain = {s: [a - b for a, b in zip(psnr[s], (v for fine in theirs for v in fine[s]))] for s in psnr}
    middle = sorted(shares)[len(shares) // 2]  # the upper of the two in the middle
    return {
        "factor": row.factor,
        "label": row.label,
        "against": "mod" if row.against == MOD else "mod of its width",
        "pairs": len(shares),
        "psnr": {str(s): spread(v) for s, v in psnr.items()},
        "difference": {str(s): spread(v) for s, v in gain.items()},
        "differences_at_the_end": [round(v, 3) for v in gain[steps]],
        "share_of_steps": None if math.isinf(middle) else round(middle, 4),
        "within": sum(s <= SHARE for s in shares) / len(shares),
        "within_time": sum(s <= SHARE and s * relative <= 1 for s in shares) / len(shares),
        "seconds": round(relative, 3),
    }


def spread(values: Sequence[float]) -> list[float]:
    """[mean, standard error of the mean]; the error of one value is 0."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return [round(statistics.fmean(values), 4), round(error, 4)]
