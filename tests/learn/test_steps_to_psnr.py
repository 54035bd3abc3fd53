"""The benchmark of steps to a PSNR: by hand on a small task, and the figures of the documentation are its results."""

from __future__ import annotations

import json
import pathlib

import torch
from curves import SPEC, start

from benchmarks import steps_to_psnr, steps_to_psnr_tried
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
    rows = [dict.fromkeys(map(str, steps_to_psnr.LEVELS)) | {"25": s, "30": t} for s, t in ((8, None), (8, 40))]
    assert steps_to_psnr.least(rows) == {"25": 8, "30": 40, "35": None, "40": None}
    assert steps_to_psnr.chosen({"a": rows[0], "b": rows[1]}) == {"25": ["a", "b"], "30": ["b"], "35": [], "40": []}


def test_moments_are_where_adam_begins():
    x = torch.linspace(-1, 1, 300)[:, None]
    task = CoordTask("lines", x, torch.stack([0.4 + 0.1 * s * x for s in range(2)]), SPEC, "reference")
    steps_to_psnr_tried.ModMoments.squares = squares = [torch.full_like(p, 4.0) for p in start()]
    method = steps_to_psnr_tried.ModMoments([task], start(), AdaptConfig(lr=1e-2, warm_steps=0), 0)
    method.begin(0)
    before = [p.detach().clone() for p in method.params_of(0)]
    gradients = method.gradients(0, 0, method.generator(0, 0))
    method.steps(0, 5)
    # By hand, Adam's step 301 after 300 gradients of square 4 and without momentum.
    for p, q, g, v in zip(before, method.params_of(0), gradients, squares):
        v = 0.999 * v * (1 - 0.999**300) + 0.001 * g**2
        torch.testing.assert_close(q, p - 1e-2 * (0.1 * g / (1 - 0.9**301)) / ((v / (1 - 0.999**301)).sqrt() + 1e-8))


def test_shared_layers_are_those_that_fit_all_signals():
    x = torch.linspace(-1, 1, 300)[:, None]
    task = CoordTask("lines", x, torch.stack([0.4 + 0.1 * s * x for s in range(2)]), SPEC, "reference")
    shared = steps_to_psnr_tried.shared_layers(task, start(), made=40, modules=2, rate=1e-2)
    assert [p.shape for p in shared] == [p.shape for p in start()]

    def error(params: tuple[torch.Tensor, ...]) -> float:
        return float(task.squared_errors(task.predict(tuple(p.expand(2, *p.shape[1:]) for p in params))).mean())

    # Of the mean of both signals, to which the mean of the last layers belongs.
    assert error(shared) < 0.5 * error(start())


def test_the_figures_of_the_documentation_are_the_results():
    lines = (ROOT / "docs" / "systems" / "signals.md").read_text().splitlines()

    def steps(name: str, row: str) -> str:
        rows = json.loads((ROOT / "benchmarks" / "results" / f"steps_to_psnr_{name}.json").read_text())["rows"]
        if name == "faces" and row == "random, best":
            row = "random, best of three rates"  # measured before the others had several, too
        return " / ".join(str(rows[row]["steps"][level] or "-") for level in ("25", "30", "35")) if row in rows else ""

    titles = {
        "random": "random",
        "random, best": "random, best",
        "MAML, ramp 64": "default, rise over 64 steps",
        "MAML, ramp 8": "default",
        "Reptile through Adam": "Reptile",
        "Reptile through Adam, best": "**Reptile, best**",
    }
    for row, title in titles.items():
        cells = " | ".join(steps(name, row) for name in ("faces", "kodak", "speech"))
        assert f"  | {title} | {cells} |" in lines
