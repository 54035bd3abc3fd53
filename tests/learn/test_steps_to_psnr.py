"""The benchmark of steps to a PSNR: by hand on a small task, and the figures of the documentation are its results."""

from __future__ import annotations

import json
import pathlib

import torch
from curves import SPEC, start

from benchmarks import steps_to_psnr
from mclnf_fast.learn.methods import AdaptConfig, ModRandom
from mclnf_fast.metrics import mse_to_psnr
from mclnf_fast.tasks.coords import CoordTask

ROOT = pathlib.Path(__file__).parents[2]


def test_the_first_step_is_that_of_a_run_by_hand():
    x = torch.linspace(-1, 1, 40)[:, None]
    task = CoordTask("halves", x, torch.stack([0.4 + 0.1 * s * x for s in range(4)]), SPEC, "reference")
    config = AdaptConfig(batch=40, lr=1e-2, warm_steps=0)
    reached, curve = steps_to_psnr.steps_to(ModRandom, task, start(), config, parts=2)
    method = ModRandom([task], start(), config, 0)
    method.begin(0)
    first: dict[str, int | None] = dict.fromkeys(map(str, steps_to_psnr.LEVELS))
    for step in range(max(s for s in reached.values() if s is not None)):
        method.step(0, step)
        if step + 1 not in steps_to_psnr.LOOKS:
            continue
        # Modules 0 and 2 are the parts of one signal, 1 and 3 those of the other.
        mse = (task.predict(method.params_of(0)).clamp(0, 1) - task.y).double().square().mean((1, 2)).reshape(2, 2)
        value = float(mse_to_psnr(mse.mean(0)).mean())
        for level in first:
            if first[level] is None and value >= float(level):
                first[level] = step + 1
    assert reached == first
    assert None not in first.values()
    assert list(curve)[:3] == ["1", "2", "4"]


def test_the_best_of_several_rates_is_per_level():
    rows = [{"25": 8, "30": None, "35": None}, {"25": 12, "30": 40, "35": None}]
    assert steps_to_psnr.least(rows) == {"25": 8, "30": 40, "35": None}


def test_the_figures_of_the_documentation_are_the_results():
    text = " ".join((ROOT / "docs" / "systems" / "signals.md").read_text().split())

    def steps(name: str, row: str) -> str:
        data = json.loads((ROOT / "benchmarks" / "results" / f"steps_to_psnr_{name}.json").read_text())
        found = data["rows"][row]["steps"]
        return f"{found['30']} and {found['35']}"

    for row in ("random, best of three rates", "MAML, ramp 64", "MAML, ramp 8", "Reptile through Adam"):
        for name in ("faces", "speech"):
            assert steps(name, row) in text, (name, row)
