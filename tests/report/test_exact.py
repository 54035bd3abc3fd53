"""Signals that a method holds as exactly as their file does: said, left out of means, and of forgetting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mclnf_fast.fields import initial_parameters
from mclnf_fast.metrics import EIGHT_BITS, MOST_PSNR, exact_from, mse_to_psnr
from mclnf_fast.report.city.tables import city_table, heat_panels, steps_table
from mclnf_fast.report.page.tables import terminal
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.protocol.tables import Labelled, details, results, signal_csv_lines, text
from mclnf_fast.report.record import (
    CityResults,
    InitializationRecord,
    InitializationResults,
    Names,
    SignalRecord,
    record_from_json,
)
from mclnf_fast.report.starts import image_start
from mclnf_fast.report.starts.initializations import unit_table
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask


def statistics(rows: dict[str, Any], **more: Any) -> Statistics:
    content = {"0": {"methods": {name: {"category": "MCL", **row} for name, row in rows.items()}}}
    record = record_from_json({"version": 2, "kind": "signals", "system": "image", "seeds": content, **more})
    assert isinstance(record, SignalRecord)
    return Statistics(record)


@pytest.mark.parametrize(("levels", "ceiling"), [(255, 58.92), (1023, 70.99), (65535, 107.12)])
def test_a_file_holds_what_its_levels_do(levels: int, ceiling: float) -> None:
    values = torch.randint(levels + 1, (2, 40, 40, 3), generator=torch.Generator().manual_seed(0)) / levels
    assert exact_from(values).tolist() == pytest.approx([ceiling] * 2, abs=0.4)
    # By definition: the mean squared error of rounding to these levels.
    rounding = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    assert float(mse_to_psnr((rounding / levels).square().mean())) == pytest.approx(ceiling, abs=0.05)


def test_levels_that_were_scaled_count_by_what_they_are_now() -> None:
    sound = torch.randint(-2000, 2001, (1, 5000, 1), generator=torch.Generator().manual_seed(0)) / 32768
    loud = (sound / sound.abs().max() + 1) / 2  # as `--peak` does
    assert float(exact_from(loud)) == pytest.approx(10 * torch.log10(torch.tensor(12.0 * 4000**2)).item(), abs=0.1)


def test_a_drawing_in_two_levels_is_a_file_of_eight_bits() -> None:
    drawing = torch.zeros(2, 8, 8, 1)
    drawing[0, 2:5] = 1.0
    assert exact_from(drawing).tolist() == pytest.approx([58.92] * 2, abs=0.01)
    assert float(exact_from(torch.rand(1, 5000))) < 160.0  # floats: what float32 holds, and not infinity


def test_values_closer_than_float32_tells_apart_around_1_are_no_levels() -> None:
    resampled = torch.tensor([[0.0, 1e-30, 0.25, 0.5, 1.0]])
    assert exact_from(resampled).tolist() == pytest.approx([155.28], abs=0.01)  # 10 log10(12 * 2^48)


def test_exact_signals_are_said_and_left_out_of_the_mean() -> None:
    run = statistics({"mod": {"curve": {"psnr": {"0": [9, 9, 9], "1": [20, 30, 40], "8": [134.6, 50.0, 52.0]}}},
                      "mim": {"curve": {"psnr": {"0": [9, 9, 9], "1": [20, 30, 40], "8": [59.0, 70.0, 88.0]}}}},
                     exact_from=[58.92] * 3)  # fmt: skip
    last = run.final("mod")
    assert last is not None
    assert (last.mean, last.exact, last.signals) == (51.0, 1, 2)
    assert last.level == pytest.approx((58.92 + 50 + 52) / 3)
    assert text(last) == "51.00 ± 1.00, 1 exact"
    assert text(run.final("mim")) == "exact"
    table = results([Labelled("digits", run)])
    assert any(note.startswith("Exact: the error is below") for note in table.notes)
    rows = {row.key: row.cells[-1] for row in table.rows}
    assert (rows["mim"].text, rows["mim"].rank, rows["mod"].rank) == ("exact", 1, 2)
    assert "134" not in terminal(table)
    assert run.best("mim") is not None
    assert run.steps_to("mod", 53.0) is not None  # the curve that is compared holds them, at what a file can hold
    lines = {tuple(line[2:6]): line[6] for line in signal_csv_lines(Labelled("digits", run))}
    assert lines["mim", "psnr", "logged, exact", 8] == 3


def test_exact_signals_forget_nothing() -> None:
    matrix = [[[130.0, 40.0], [10.0, 10.0]], [[42.0, 30.0], [50.0, 45.0]]]
    run = statistics({"finetune": {"category": "CL", "curve": {"psnr": {"1": [40, 40]}}, "matrix": matrix}},
                     exact_from=[58.92] * 2)  # fmt: skip
    forgotten, back = run.forgetting("finetune"), run.backward_transfer("finetune")
    assert forgotten is not None
    assert back is not None
    assert (forgotten.mean, forgotten.signals, back.mean) == (5.0, 1, -10.0)  # of the second alone; 44 dB for the other
    of_before = statistics({"finetune": {"category": "CL", "curve": {"psnr": {"1": [40, 40]}}, "matrix": matrix}})
    before = of_before.forgetting("finetune")
    assert before is not None
    assert before.mean == pytest.approx((44 + 5) / 2)
    assert details(run, "x").rows[0].cells[0].text == "5.00"


def test_an_error_of_nothing_is_a_number() -> None:
    spec = FieldSpec(1, 1, 4, 1)
    zero = tuple(torch.zeros_like(p) for p in initial_parameters(spec))
    task = CoordTask("black", torch.rand(5, 1), torch.zeros(1, 5, 1), spec, "reference")
    assert task.evaluate(zero).tolist() == [MOST_PSNR]


def test_the_trivial_row_stands_first_without_a_rank() -> None:
    run = statistics({"mod": {"curve": {"psnr": {"0": [9, 9], "1": [20, 22]}}}},
                     trivial={"name": "silence", "measures": {"psnr": [23, 25], "si_sdr": [None, None]}})  # fmt: skip
    first, second = results([Labelled("speech", run)]).rows
    assert (first.name, [c.text for c in first.cells]) == ("silence", ["-", "-", "24.00 ± 1.00"])
    assert (second.key, first.cells[-1].rank) == ("mod", 0)
    assert second.cells[0].text == "9.00 ± 0.00"
    lines = [line for line in signal_csv_lines(Labelled("speech", run)) if line[2] == "silence"]
    assert [line[3:7] for line in lines] == [["psnr", "no steps", 0, "24.0"]]


def test_initializations_beyond_what_a_file_holds_are_exact() -> None:
    rows = {
        "meta": InitializationResults(curve={0: (20.0, 22.0), 8: (64.0, 99.0)}, after=(64.0, 99.0)),
        "standard": InitializationResults(curve={0: (10.0, 12.0), 8: (40.92, 200.0)}, after=(40.92, 200.0)),
    }
    record = InitializationRecord(
        system="image-start", steps=(0, 8), exact_from=(58.92, 58.92), initializations=rows,
        names=Names((), (), ("a", "b")),
    )  # fmt: skip
    description = image_start.describe(record)
    cells = {row.key: dict(zip(description.table.heads, (c.text for c in row.cells))) for row in description.table.rows}
    assert cells["meta"]["step 8"] == "exact"
    assert cells["meta"]["best (step)"] == "exact (8)"
    assert cells["standard"]["step 8"] == "49.92 ± 9.00"  # of the second picture no more than its file holds
    assert any(note.startswith("Exact: ") for note in description.table.notes)
    text = image_start.image_start_table(record)
    assert "64" not in text
    assert "200" not in text
    units = unit_table(record, description)
    assert [[c.text for c in row.cells] for row in units.rows] == [["exact", "40.92"], ["exact", "exact"]]
    before = image_start.describe(replace(record, exact_from=()))  # runs of before do not say
    assert "81.50" in str(before.table)


def test_blocks_of_a_city_that_are_exact() -> None:
    both = CityResults(psnr_mean=EIGHT_BITS, psnr_at_step={4: EIGHT_BITS}, matrix=((30.0, None), (30.0, EIGHT_BITS)))
    table = city_table("", {"mod": both}, ["north", "south"])
    assert table.rows[0].cells[0].text == "exact"
    steps = steps_table({"mod": both})
    assert steps is not None
    assert steps.rows[0].cells[0].text == "exact"
    assert heat_panels({"mod": both}, ["north", "south"])[0].rows[1][1][1].text == "exact"


def test_an_exact_view_counts_with_what_its_file_holds() -> None:
    from mclnf_fast.systems.city.cover import mean_color_psnr

    gray = torch.full((1, 4, 4, 3), 51, dtype=torch.uint8)
    assert mean_color_psnr(gray, gray) == pytest.approx(EIGHT_BITS)
