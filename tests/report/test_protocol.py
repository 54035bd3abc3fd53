"""What is counted from a run of the protocol: by hand on small numbers, and against what the metrics define."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np
import pytest
from fake_run import KINDS, run_metrics, statistics

from mclnf_fast.errors import InputError
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.report.page.methods import CATEGORIES, in_order, method
from mclnf_fast.report.page.tables import csv_text, markdown, terminal
from mclnf_fast.report.protocol.counts import estimate
from mclnf_fast.report.protocol.tables import (
    SIGNAL_HEADS,
    Labelled,
    details,
    each_signal,
    results,
    signal_csv_lines,
    steps_to_reach,
)

KEYS = list(METHODS)


def by_hand(curve: dict[str, list[float]], seeds: int = 1, **row: Any) -> dict[str, Any]:
    """A run of one method, the same in every seed."""
    content = {"methods": {"mod": {"curve": {"psnr": curve}, **row}}}
    return {"system": "image", "seeds": {str(s): content for s in range(seeds)}}


def test_mean_over_pairs_and_error_over_signals() -> None:
    found = estimate([[10.0, 20.0, 30.0], [12.0, 20.0, 34.0]])
    assert found is not None
    assert found.mean == pytest.approx(21.0)
    by_signal = [11.0, 20.0, 32.0]
    assert found.error == pytest.approx(np.std(by_signal, ddof=1) / math.sqrt(3))
    assert (found.signals, found.seeds) == (3, 2)


def test_a_single_signal_has_no_error_and_nothing_has_no_estimate() -> None:
    one = estimate([[5.0], [7.0]])
    assert one is not None
    assert (one.mean, one.error) == (6.0, None)
    assert estimate([[math.nan]]) is None
    assert estimate(np.zeros((2, 0))) is None


def test_values_that_are_not_finite_are_skipped_and_equal_ones_keep_their_bits() -> None:
    found = estimate([[1.0, math.nan, 3.0], [1.0, math.inf, math.nan]])
    assert found is not None
    assert (found.mean, found.signals) == (pytest.approx(5 / 3), 2)
    same = estimate(np.full((3, 7), 0.1))
    assert same is not None
    assert same.mean == 0.1  # a plain mean gives 0.10000000000000002


def test_first_best_and_last_step() -> None:
    run = statistics(by_hand({"0": [50.0], "1": [10.0], "2": [30.0], "4": [30.0], "8": [29.0]}))
    assert run.steps == [1, 2, 4, 8]
    best = run.best("mod")
    assert best is not None
    assert (best[0], best[1].mean) == (2, 30.0)  # step 0 is no step, the earliest of equals
    last = run.final("mod")
    assert last is not None
    assert last.mean == 29.0
    assert run.at("mod", 3) is None


def test_transfer_of_a_matrix_by_hand() -> None:
    matrix = [[[30.0], [12.0]], [[24.0], [31.0]]]
    run = statistics(by_hand({"1": [1.0]}, matrix=matrix, before=[[9.0], [10.0]]))
    for found, value in ((run.forgetting("mod"), 3.0), (run.backward_transfer("mod"), -6.0)):
        assert found is not None
        assert found.mean == value
    forward = run.forward_transfer("mod")
    assert forward is not None
    assert forward.mean == 2.0
    assert run.largest_change("mod") == 6.0
    assert run.matrix("mod").tolist() == [[30.0, 12.0], [24.0, 31.0]]


def test_changes_that_cancel_are_no_zero() -> None:
    matrix = [[[30.0], [None], [None]], [[31.0], [30.0], [None]], [[31.0], [29.0], [30.0]]]
    run = statistics(by_hand({"1": [1.0]}, matrix=matrix))
    forgotten = run.forgetting("mod")
    assert forgotten is not None
    assert forgotten.mean == 0.0
    assert run.largest_change("mod") == 1.0
    assert run.forward_transfer("mod") is None
    row = details(run, "x").rows[0]
    assert row.cells[0].text == "0.00"  # a bare 0 is for what never moved
    missing = [[[30.0], [1.0]], [[None], [30.0]]]
    assert statistics(by_hand({"1": [1.0]}, matrix=missing)).forgetting("mod") is None


def test_joint_methods_have_no_matrix() -> None:
    metrics = run_metrics(methods=["offline", "finetune"], seeds=1, signals=2)
    rows = metrics["seeds"]["0"]["methods"]
    rows["offline"]["matrix"] = rows["finetune"]["matrix"]
    run = statistics(metrics)
    assert run.forgetting("finetune") is not None
    assert run.forgetting("offline") is None
    assert run.matrix("offline").size == 0


def test_steps_to_a_psnr_run_along_the_logarithm_of_the_step() -> None:
    run = statistics(by_hand({"1": [10.0], "4": [14.0], "16": [14.0]}))
    assert run.steps_to("mod", 9.0) == 1.0
    assert run.steps_to("mod", 12.0) == pytest.approx(2.0)
    assert run.steps_to("mod", 14.0) == pytest.approx(4.0)
    assert run.steps_to("mod", 14.5) is None


def test_steps_to_a_psnr_are_rounded_up_but_not_beyond_the_step_that_has_it() -> None:
    run = statistics(by_hand({"1": [11.0], "8": [24.0], "300": [30.0]}))
    table = steps_to_reach(run, "x")
    assert table is not None
    # 2^(3 * 4/13) = 1.9 and 2^(3 * 9/13) = 4.2; at 300 the last bit of the logarithm must not make it 301.
    cells = dict(zip(table.heads, (cell.text for cell in table.rows[0].cells)))
    assert {head: cells[head] for head in ("15 dB", "20 dB", "30 dB")} == {"15 dB": "2", "20 dB": "5", "30 dB": "300"}


def test_seeds_that_do_not_fit_are_refused() -> None:
    metrics = run_metrics(methods=["mod"], seeds=2, signals=3)
    metrics["seeds"]["1"]["methods"]["mod"]["curve"]["psnr"]["1"] = [1.0]
    with pytest.raises(InputError, match="same test signals"):
        statistics(metrics)
    metrics = run_metrics(methods=["mod", "mim"], seeds=1, signals=3)
    metrics["seeds"]["0"]["methods"]["mim"] = run_metrics(methods=["mim"], signals=2)["seeds"]["0"]["methods"]["mim"]
    with pytest.raises(InputError, match="same test signals"):
        statistics(metrics)


@pytest.mark.parametrize("seed", [None, {}, {"methods": None}, {"methods": {"mod": None}}, {"methods": {"mod": {}}}])
def test_an_empty_seed_has_no_figures(seed: Any) -> None:
    run = statistics({"seeds": {"0": seed}, "signals": None, "metrics": None})
    assert run.last == 0
    assert all(run.final(m) is None for m in run.methods)
    results([Labelled("x", run)])


@pytest.mark.parametrize("seed", [3, "x", [], {"methods": 3}, {"methods": {"mod": {"curve": {"psnr": {"1": "x"}}}}}])
def test_a_mistyped_seed_is_refused(seed: Any) -> None:
    with pytest.raises(InputError, match=r"metrics\.json: seeds\.0.* must be"):
        statistics({"seeds": {"0": seed}})


def test_methods_have_an_order_a_category_and_looks_of_their_own() -> None:
    assert set(KEYS) == {*KINDS, "mod_random", "mod_even"}
    assert all(method(m).category == KINDS[m][0] for m in KINDS)
    assert in_order(["new", "mim", "offline", "mim"]) == ["offline", "new", "mim"]
    assert len({method(m).marker for m in KEYS}) == len(KEYS)
    assert method("mim_other").category == "MCL"
    assert method("other", "OL").category == "OL"
    assert method("other", "<nonsense>").category in CATEGORIES


# Machado, Oliveira and Fernandes (2009): what deuteranopes and protanopes see, in linear RGB.
BLIND = {
    "nobody": np.eye(3),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}


def linear(color: str) -> np.ndarray:
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson's perceptual coordinates; a distance of 0.02 is just seen."""
    cones = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
    mix = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])
    return mix @ np.cbrt(np.clip(cones @ rgb, 0, None))


@pytest.mark.parametrize("eyes", BLIND)
def test_methods_of_one_category_can_be_distinguished(eyes: str) -> None:
    seen = {m: oklab(np.clip(BLIND[eyes] @ linear(method(m).color), 0, 1)) for m in KEYS}
    for a in KEYS:
        assert 1.05 / (linear(method(a).color) @ [0.2126, 0.7152, 0.0722] + 0.05) > 3.0, f"{a} is pale on white"
        for b in KEYS[KEYS.index(a) + 1 :]:
            least = 0.08 if method(a).category == method(b).category else 0.045
            assert np.linalg.norm(seen[a] - seen[b]) > least, (a, b)


def test_the_papers_table_marks_best_and_second() -> None:
    runs = [
        Labelled("a", statistics(run_metrics(signals=3))),
        Labelled("b", statistics(run_metrics("audio", methods=["finetune", "mod"], signals=1, last=100))),
    ]
    table = results(runs)
    assert [r.category for r in table.rows] == sorted((r.category for r in table.rows), key=list(CATEGORIES).index)
    steps = ("step 0", "step 1", "step 16", "best (step)")
    assert table.heads == (*(f"a: {s}" for s in steps), "a: step 4096", *(f"b: {s}" for s in steps), "b: step 100")
    assert table.groups == (("a", 5), ("b", 5))
    last = {r.key: r.cells[4] for r in table.rows}
    ranked = sorted(last, key=lambda m: runs[0].run.final(m).mean, reverse=True)
    assert [last[m].rank for m in ranked] == [1, 2, *[0] * 8]
    other = {r.key: r.cells[9] for r in table.rows}
    assert (other["mim"].text, other["mim"].rank) == ("-", 0)
    assert "±" not in other["mod"].text  # one signal
    assert "±" in last["mod"].text
    text = markdown(table)
    assert f"**{last[ranked[0]].text}**" in text
    assert f"*{last[ranked[1]].text}*" in text
    assert "a: 3 test signals, 3 seeds; b: 1 test signal, 3 seeds." in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_ranks_are_of_the_rows_shown() -> None:
    rows = {"mod": 20.001, "mim": 20.004, "er": 19.0, "ewc": 18.0}
    metrics = {"seeds": {"0": {"methods": {m: {"curve": {"psnr": {"1": [v]}}} for m, v in rows.items()}}}}
    cells = {r.key: r.cells[0] for r in results([Labelled("x", statistics(metrics))]).rows}
    assert {m: c.rank for m, c in cells.items()} == {"mod": 1, "mim": 1, "er": 2, "ewc": 0}


def test_details_show_exact_zero_and_time() -> None:
    run = statistics(run_metrics("audio", signals=3))
    table = details(run, "x")
    cells = {r.key: dict(zip(table.heads, (c.text for c in r.cells))) for r in table.rows}
    assert cells["mod"]["forgetting (dB)"] == "0"
    assert float(cells["finetune"]["forgetting (dB)"].split(" ")[0]) > 3
    assert cells["offline"]["forgetting (dB)"] == "-"
    assert cells["mim"]["ms per step"] == "1.10"
    assert cells["mim"]["parameters"] == "50,003"
    assert table.heads[0] == "SI-SDR (dB), step 4096"
    assert not [head for head in table.heads if "peak" in head]  # files of former versions hold a wrong figure
    reached = steps_to_reach(run, "x")
    assert reached is not None
    assert {r.key: r.cells[-1].text for r in reached.rows}["er"] == "-"
    assert "ours (MIM)" in terminal(table)


def test_values_that_are_left_out_are_counted() -> None:
    metrics = run_metrics("audio", methods=["mod", "er"], seeds=2, signals=3)
    metrics["seeds"]["1"]["methods"]["er"]["curve"]["si_sdr"]["4096"][1:] = [None, -math.inf]
    run = statistics(metrics)
    assert run.left_out("psnr") == {}
    assert run.left_out("si_sdr") == {"er": (2, 6)}
    assert details(run, "x").notes[-1] == "SI-SDR of ER: 2 of 6 values were not finite and are left out."


def test_every_mean_and_error_can_be_formed_again_from_the_signals() -> None:
    metrics = run_metrics(methods=["mod", "er"], seeds=2, signals=3)
    for seed in metrics["seeds"].values():  # the best step is not the last
        seed["methods"]["er"]["curve"]["psnr"]["64"] = [70.0] * 3
    run = statistics(metrics)
    text = csv_text(each_signal(Labelled("a, b", run)), names=SIGNAL_HEADS)
    rows = [
        r for r in csv.DictReader(io.StringIO(text)) if (r["method"], r["metric"], r["step"]) == ("er", "psnr", "4096")
    ]
    assert [(r["seed"], r["signal"]) for r in rows] == [(seed, name) for seed in run.seeds for name in run.signals]
    values = np.array([float(r["value"]) for r in rows]).reshape(2, 3)
    found = run.final("er")
    assert found is not None
    assert found.error is not None
    assert values.mean() == pytest.approx(found.mean, abs=1e-4)
    assert values.mean(0).std(ddof=1) / 3**0.5 == pytest.approx(found.error, abs=1e-4)


def test_csv_holds_every_figure_and_the_command() -> None:
    run = statistics(run_metrics(methods=["mod"], signals=3))
    rows = list(csv.DictReader(io.StringIO(csv_text(signal_csv_lines(Labelled("a, b", run))))))
    last = [r for r in rows if (r["metric"], r["statistic"], r["step"]) == ("psnr", "logged", "4096")]
    found = run.final("mod")
    assert found is not None
    assert [(float(r["mean"]), float(r["standard_error"])) for r in last] == [(found.mean, found.error)]
    assert {r["run"] for r in rows} == {"a, b"}
    assert {r["command"] for r in rows} == {run.command}
    assert {"best", "forgetting", "forward_transfer"} <= {r["statistic"] for r in rows}
    assert {"ssim", "parameters", "seconds_per_step"} <= {r["metric"] for r in rows}
