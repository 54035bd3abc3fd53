"""Reports of initializations: tables and figures of records that lack parts, win, or lose."""

from __future__ import annotations

from typing import Any

import pytest
from fake_run import initializations

from mclnf_fast.report.record import InitializationRecord, record_from_json
from mclnf_fast.report.starts import ct, image_start, rays, single_view
from mclnf_fast.report.starts.initializations import lead


def row(first: float, last: float, **more: Any) -> dict[str, Any]:
    return {"curve": {"0": [9.0, 9.0], "2": [first, first], "8": [last, last]}, "after": [last, last], "seconds": 1.0,
            "steps": 8, **more}  # fmt: skip


def images(meta: float, reached: int | None) -> InitializationRecord:
    return initializations({
        "title": "Faces", "inner_steps": 2, "steps": [0, 2, 8],
        "starts": {
            "meta": row(meta, 30.0),
            "standard": row(15.0, 18.0, reached_mean=None),
            "adam_0": row(14.0, 40.0, lr=1e-4, reached_mean=reached),
        },
    })  # fmt: skip


def test_nothing_yet():
    empty = initializations({})
    assert image_start.image_start_table(empty) == "no results yet"
    assert ct.ct_table(empty) == "no results yet"
    assert image_start.describe(empty).tiles == []
    assert ct.describe(empty).tiles == []


def test_the_steps_that_adam_needs_are_reported_either_way():
    won = image_start.describe(images(25.0, 7)).tiles
    assert [f.value for f in won] == ["25.00 dB", "+10.00 dB", "3.5x", "-10.00 dB"]
    assert [f.good for f in won[1:]] == [True, True, False]  # an early lead that is lost at the end
    assert won[3].label.startswith("against Adam 0.0001, the best other, after 8 steps (±")
    assert "Adam 0.0001 matches them (7 against 2)" in won[2].label
    lost = image_start.describe(images(13.0, 0)).tiles
    assert [f.good for f in lost[1:]] == [False, False, False]
    never = image_start.describe(images(45.0, None)).tiles
    assert (never[2].value, never[2].label) == ("no match", "Adam 0.0001, within 8 steps")
    text = image_start.image_start_table(images(45.0, None))
    assert "over 8" in text
    assert "45.00 ± 0.00" in text


def test_a_rate_no_field_and_a_method_without_steps():
    record = initializations({
        "title": "Heads",
        "steps": [0, 2, 8],
        "starts": {
            "meta": row(20.0, 22.0, lr=10.0, fit={"0": [0.5, 0.5], "16": [0.01, 0.03], "2": [0.2, 0.3]}),
            "fbp": row(24.0, 24.0),
        },
    })  # fmt: skip
    table = ct.describe(record).table
    assert table.heads == ("step 0", "best (step)", "step 8", "projection loss", "rate", "time")
    assert [(r.key, [c.text for c in r.cells[:5]]) for r in table.rows] == [
        ("fbp", ["-", "-", "24.00 ± 0.00", "-", "-"]),
        ("meta", ["9.00 ± 0.00", "22.00 (8)", "22.00 ± 0.00", "0.02", "10"]),
    ]
    found = ct.describe(record).tiles
    assert [(f.value, f.good) for f in found] == [("22.00 dB", None), ("-2.00 dB", False)]
    assert lead(record, "meta", "fbp", 2) == pytest.approx(-4.0)
    assert lead(record, "meta", "standard") is None


def test_every_table_has_the_same_steps_and_says_what_each_start_was_given():
    curve = {str(s): [10.0 + s, 12.0 + s] for s in (0, 1, 2, 4, 8, 16, 32)} | {"64": [20.0, 22.0]}
    starts = {
        "white": {"curve": {"0": [9.0, 9.0], "64": [9.0, 9.0]}, "after": [9.5, 9.5], "seconds": 0.0},
        "matched": {"curve": curve, "after": [20.0, 21.0], "seconds": 1.0, "lr": 0.5, "distilled_steps": 2000,
                    "residual": 0.0123},
        "meta": {"curve": curve, "after": [20.0, 22.0], "seconds": 1.0, "lr": 2.0, "density_bias": 0.1},
    }  # fmt: skip
    trials = {"choices": 6, "tasks": 2, "steps": 256}
    data = {"version": 2, "kind": "initializations", "system": "single-view", "title": "Cars",
            "initializations": starts, "trials": trials}  # fmt: skip
    record = record_from_json(data)
    assert isinstance(record, InitializationRecord)
    table = rays.describe(record, single_view.wording_of(record)).table
    assert table.heads[:5] == ("step 0", "step 1", "step 16", "best (step)", "step 64")
    cells = {row.key: dict(zip(table.heads, (c.text for c in row.cells))) for row in table.rows}
    assert list(cells) == ["white", "matched", "meta"]
    assert [cells["white"][h] for h in table.heads[:5]] == ["-", "-", "-", "-", "9.00 ± 0.00"]
    assert cells["meta"]["step 16"] == "27.00 ± 1.00"
    assert cells["meta"]["best (step)"] == "43.00 (32)"
    assert (cells["meta"]["rate"], cells["meta"]["density bias"], cells["matched"]["density bias"]) == ("2", "0.1", "-")
    assert table.notes[1] == (
        "matched: distilled in 2,000 Adam steps, 1.2 % of the outputs' variance is left. Each initialization has the "
        "best of 6 choices of its rate (and density bias), tried for 256 steps on 2 that are not tested on."
    )
    assert table.notes[1] in " ".join(single_view.single_view_table(record).split())  # lines are wrapped
    labels = [tile.label for tile in rays.tiles(record, single_view.wording_of(record))]
    against = ["against the matched initialization", "against the white page"]
    assert [label.partition(" (")[0] for label in labels[1:]] == against
