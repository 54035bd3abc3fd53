"""The relations between the methods: each can hold, fail and be unmeasured."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from fake_run import run_metrics, statistics

from mclnf_fast.report.page.blocks import Relation
from mclnf_fast.report.protocol.reach import reach
from mclnf_fast.report.protocol.relations import PAPERS_FORM, relations


@pytest.fixture
def metrics() -> dict[str, Any]:
    return run_metrics(seeds=2, signals=3)


def found(metrics: dict[str, Any], key: str) -> Relation:
    return next(r for r in relations(statistics(metrics)) if r.key == key)


def rows(metrics: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return [content["methods"][method] for content in metrics["seeds"].values()]


def shift(metrics: dict[str, Any], method: str, step: int, value: float) -> None:
    """Sets every signal's PSNR at a step."""
    for row in rows(metrics, method):
        row["curve"]["psnr"][str(step)] = [value] * 3


def drop(metrics: dict[str, Any], method: str) -> None:
    for content in metrics["seeds"].values():
        del content["methods"][method]


@pytest.mark.parametrize("rival", ["maml_cl", "oml", "er", "ewc"])
def test_a_modules_lead_by_a_decibel(metrics: dict[str, Any], rival: str) -> None:
    for m in ("mod", "mim"):
        shift(metrics, m, 4096, 30.0)
    for other in ("maml_cl", "oml", "er", "ewc"):
        shift(metrics, other, 4096, 20.0)
    shift(metrics, rival, 4096, 29.0)
    assert found(metrics, "a").verdict == "holds"
    shift(metrics, rival, 4096, 29.01)
    assert found(metrics, "a").verdict == "does not hold"
    assert "+0.99" in found(metrics, "a").checks[0].value
    drop(metrics, rival)
    assert found(metrics, "a").verdict == "not measured in full"
    shift(metrics, "mim", 4096, 20.5)  # what fails, fails without the missing one too
    assert found(metrics, "a").verdict == "does not hold"


def test_b_forgetting_is_exactly_zero(metrics: dict[str, Any]) -> None:
    assert found(metrics, "b").verdict == "holds"
    row = rows(metrics, "mim")[1]
    value = row["matrix"][3][1][2]
    row["matrix"][3][1][2] = math.nextafter(value, 0)
    assert found(metrics, "b").verdict == "does not hold"
    row["matrix"][3][1][2] = value
    for other in rows(metrics, "finetune"):
        other["matrix"] = [[[20.0 - 1.4 * (k - i) * (i <= k)] * 3 for i in range(4)] for k in range(4)]
    assert found(metrics, "b").verdict == "does not hold"  # 2.1 dB
    drop(metrics, "finetune")
    assert found(metrics, "b").verdict == "not measured in full"


@pytest.mark.parametrize(
    ("one", "other"), [("maml_offline", "offline"), ("maml_cl", "finetune"), ("oml", "finetune"), ("mod", "offline")]
)
@pytest.mark.parametrize("step", [1, 2, 4])
def test_c_learned_starts_lead_at_each_early_step(metrics: dict[str, Any], one: str, other: str, step: int) -> None:
    for s in (1, 2, 4):
        for m in ("maml_offline", "maml_cl", "oml", "mod", "mim"):
            shift(metrics, m, s, 20.0)
        for m in ("offline", "finetune"):
            shift(metrics, m, s, 14.0)
    assert found(metrics, "c").verdict == "holds"
    shift(metrics, one, step, 18.9 if other == "finetune" else 18.95)
    assert found(metrics, "c").verdict == "does not hold"


def test_c_modules_are_compared_with_the_better_random_start(metrics: dict[str, Any]) -> None:
    for s in (1, 2, 4):
        for m, v in (("mod", 20.0), ("mim", 20.0), ("offline", 10.0), ("finetune", 16.0)):
            shift(metrics, m, s, v)
        for m in ("maml_offline", "maml_cl", "oml"):
            shift(metrics, m, s, 30.0)
    checks = {c.label.split(" ")[0]: c for c in found(metrics, "c").checks}
    assert checks["mod"].value == "+4.00, +4.00, +4.00 dB"
    assert checks["mod"].holds is False
    drop(metrics, "offline")
    checks = {c.label.split(" ")[0]: c for c in found(metrics, "c").checks}
    assert checks["mod"].value == "not measured"
    assert checks["maml_cl"].holds is True


def test_d_modules_still_improve(metrics: dict[str, Any]) -> None:
    assert found(metrics, "d").verdict == "holds"
    shift(metrics, "mod", 256, 50.0)
    assert found(metrics, "d").verdict == "does not hold"
    short = found(run_metrics(seeds=1, signals=2, last=256), "d")
    assert (short.verdict, short.checks[0].label) == ("not measured", "mod after step 256")


def fine(metrics: dict[str, Any], method: str, steps: list[int], psnr: list[list[float]]) -> None:
    for row in rows(metrics, method):
        row["curve"]["psnr"] = {"100": psnr[-1]}
        row["fine"] = {"steps": steps, "psnr": psnr}


@pytest.fixture
def race() -> dict[str, Any]:
    """mod ends at 30 dB; mim is there at steps 40, 75 and never."""
    metrics = run_metrics(methods=["mod", "mim"], seeds=1, signals=3, last=100)
    fine(metrics, "mod", [60, 80, 100], [[29.0, 31.0, 29.0], [29.5, 30.0, 29.0], [30.0, 30.0, 30.0]])
    fine(metrics, "mim", [40, 75, 100], [[30.0, 20.0, 20.0], [30.0, 30.0, 20.0], [30.0, 30.0, 29.9]])
    for row, seconds in zip((*rows(metrics, "mod"), *rows(metrics, "mim")), (1.0, 1.2)):
        row["seconds_per_step"] = seconds
    return metrics


def test_reach_counts_steps_and_wall_clock(race: dict[str, Any]) -> None:
    got = reach(statistics(race))
    assert got is not None
    assert got.steps.tolist() == [[40.0, 75.0, math.inf]]
    assert got.times[0].tolist() == pytest.approx([0.48, 0.9, math.inf])
    assert got.other_steps.tolist() == [[100.0, 60.0, 100.0]]
    assert (got.pairs, got.reached, got.share, got.share_in_time) == (3, 2, 2 / 3, 2 / 3)
    assert got.median(got.steps) == 75.0
    relation = found(race, "mim")
    assert relation.verdict == "holds"
    assert "67 % of 3 pairs" in relation.checks[0].value
    assert "mod itself first touches its own final PSNR at step 100" in relation.note


def test_reach_in_fewer_steps_but_later_does_not_hold(race: dict[str, Any]) -> None:
    rows(race, "mim")[0]["seconds_per_step"] = 2.0
    relation = found(race, "mim")
    assert [c.holds for c in relation.checks] == [True, False]
    assert relation.verdict == "does not hold"
    del rows(race, "mim")[0]["seconds_per_step"]
    assert found(race, "mim").verdict == "not measured in full"


def test_reach_just_after_three_quarters_does_not_count(race: dict[str, Any]) -> None:
    rows(race, "mim")[0]["fine"]["steps"] = [40, 76, 100]
    got = reach(statistics(race))
    assert got is not None
    assert got.share == pytest.approx(1 / 3)
    assert found(race, "mim").verdict == "does not hold"


def test_reach_of_a_log_that_stops_early_looks_at_the_curve(race: dict[str, Any]) -> None:
    row = rows(race, "mim")[0]
    row["fine"] = {"steps": [40], "psnr": [[20.0, 20.0, 20.0]]}
    row["curve"]["psnr"]["100"] = [30.0, 20.0, 20.0]
    got = reach(statistics(race))
    assert got is not None
    assert got.steps.tolist() == [[100.0, math.inf, math.inf]]


def test_reach_without_a_log_or_a_rival_is_not_measured(race: dict[str, Any]) -> None:
    del rows(race, "mim")[0]["fine"]
    assert reach(statistics(race)) is None
    assert found(race, "mim").verdict == "not measured"
    assert reach(statistics(run_metrics(methods=["mim"]))) is None


def test_variants_of_mim_have_a_relation_of_their_own(race: dict[str, Any]) -> None:
    for content in race["seeds"].values():
        content["methods"]["mim_weight"] = content["methods"]["mim"]
    found = {r.key: r for r in relations(statistics(race))}
    assert list(found) == ["a", "b", "c", "d", "mim", "mim_weight"]
    assert found["mim_weight"].note == f"{PAPERS_FORM} {found['mim'].note}"


def test_nothing_measured_is_reported() -> None:
    assert {r.verdict for r in relations(statistics({}))} == {"not measured"}


def test_medians_are_values_that_were_measured() -> None:
    got = reach(statistics(run_metrics(seeds=2, signals=3)))
    assert got is not None
    assert got.median(np.array([1.0, math.inf, math.nan, math.inf])) == math.inf
    assert got.median(np.array([1.0, 3.0])) == 3.0
    assert math.isnan(got.median(np.array([math.nan])))


def test_what_even_draws_bring_without_scores_stands_where_the_gain_is_claimed(race: dict[str, Any]) -> None:
    assert "even draws" not in found(race, "mim").note
    for content in race["seeds"].values():
        content["methods"]["mod_even"] = json.loads(json.dumps(content["methods"]["mod"]))
    last = str(statistics(race).last)
    for method, values in (("mod", [30.0] * 3), ("mod_even", [30.5] * 3), ("mim", [31.0, 30.0, 31.2])):
        rows(race, method)[0]["curve"]["psnr"][last] = values
    note = found(race, "mim").note
    assert "At the last step it is +0.73 dB against mod; even draws without scores (mod_even) are +0.50 dB." in note
