"""The record of a run: strict JSON and back, refusals that name the field, runs of before through one converter."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from fake_run import city, run_metrics, signals

from mclnf_fast.errors import InputError
from mclnf_fast.report.record import (
    VERSION,
    CityRecord,
    CityResults,
    InitializationRecord,
    InitializationResults,
    MetaTraining,
    Names,
    Orbit,
    Photos,
    Picture,
    SignalRecord,
    Views,
    from_json,
    read_record,
    record_from_json,
)

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def record_of_ct() -> InitializationRecord:
    return InitializationRecord(
        system="ct",
        title="heads",
        names=Names(("a",), test=("b", "c")),
        pictures=(Picture("curve", "images/curve.png"),),
        phases={"data": 1.5},
        steps=(0, 1, 2),
        meta=MetaTraining(((1.0, 20.0), (2.0, None)), seconds=3.0, parameters=7),
        initializations={
            "meta": InitializationResults({0: (1.0, None)}, (2.0, 3.0), 4.0, reached=(1, None), lr=0.1, kept=(0, 2)),
            "fbp": InitializationResults(between={"0.5": (20.0,)}),
        },
        size=(32, 32),
        projections=6,
        views=Views((1, 1), ((2, 4), (2, 4)), (5, 5)),
        orbit=Orbit("b", 36, True),
        photos=Photos((0, 16), ((0, 1),), None, 3, 1.0, 2.0, 0.5),
    )


@pytest.mark.parametrize(
    "record",
    [record_of_ct(), signals(run_metrics(seeds=2, signals=2)), CityRecord(system="city"), SignalRecord(system="image")],
    ids=lambda record: record.system,
)
def test_a_record_is_the_same_after_a_file(tmp_path: Path, record: Any) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(record.to_json(), allow_nan=False))
    assert read_record(file) == record
    data = json.loads(file.read_text())
    assert (data["version"], data["kind"]) == (VERSION, record.kind)


def test_a_city_is_the_same_after_json(metrics: dict[str, Any]) -> None:
    record = city(metrics)
    assert record.initializations["modules"].outer_steps == 20
    assert record.comparison is not None
    assert record.comparison.mim_steps_to_mod_final == {"block_1": 48, "block_2": None}
    assert record_from_json(json.loads(json.dumps(record.to_json(), allow_nan=False))) == record


def test_figures_that_are_not_finite_are_none() -> None:
    results = CityResults(psnr_mean=math.inf, matrix=((math.nan, 20.0),))
    data = CityRecord(system="city", methods={"mod": results}).to_json()
    assert json.loads(json.dumps(data, allow_nan=False))["methods"]["mod"]["matrix"] == [[None, 20.0]]
    read = record_from_json({"version": 1, "kind": "city", "system": "city", "methods": {"mod": {
        "psnr_mean": math.inf, "matrix": [[math.nan, 20.0]]}}})  # fmt: skip
    assert isinstance(read, CityRecord)
    assert read.methods["mod"] == CityResults(matrix=((None, 20.0),))


def broken(**fields: Any) -> dict[str, Any]:
    return {"version": 1, "kind": "initializations", "system": "ct", **fields}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"m\.json must hold a mapping, got list"),
        ({"version": 3}, "version must be 2 or 1 .* got 3"),
        ({"version": True}, "version must be 2 or 1 .* got True"),
        ({"version": None}, "version must be 2 or 1 .* got None"),
        ({"version": 1, "kind": "film"}, "kind must be one of city, signals, initializations, got 'film'"),
        ({"version": 1, "kind": ["city"]}, "kind must be one of"),
        ({"version": 1, "kind": "city"}, "m.json: system is missing"),
        (broken(title=3), "m.json: title must be a string, got 3"),
        (broken(titel="x"), "m.json: titel is no field of InitializationRecord"),
        (broken(steps=[1, 2.5]), r"steps\.1 must be a whole number, got 2\.5"),
        (broken(steps=[True]), r"steps\.0 must be a whole number, got True"),
        (broken(size="ab"), "size must be a list, got 'ab'"),
        (broken(phases={"data": None}), r"phases\.data must be a number, got None"),
        (broken(phases={"data": math.inf}), r"phases\.data must be a finite number, got inf"),
        (broken(meta={"curve": [[1, "x"]]}), r"meta\.curve\.0\.1 must be a number, got 'x'"),
        (broken(orbit={"rendered": 1}), r"orbit\.rendered must be true or false, got 1"),
        (broken(initializations={"meta": {"curve": {"x": []}}}), r"initializations\.meta\.curve must be .* whole num"),
        (broken(initializations={"meta": []}), r"initializations\.meta must be a mapping, got \[\]"),
        (broken(pictures=[{"kind": "curve"}]), r"pictures\.0\.file is missing"),
        ({"system": "ct", "starts": {"meta": {"lr": "x"}}}, r"initializations\.meta\.lr must be a number"),
        ({"title": "x"}, "must be that of a run, but holds neither"),
    ],
)
def test_a_wrong_field_is_named(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        record_from_json(data, "m.json")


@pytest.mark.parametrize("version", [{}, {"version": 1, "kind": "initializations"}])
def test_matched_of_before_is_constant_now(version: dict[str, Any]) -> None:
    rows = {"matched": {"after": [10.1]}, "meta": {"after": [22.0]}}
    read = record_from_json({**version, "system": "single-view", "initializations": rows})
    assert isinstance(read, InitializationRecord)
    assert {name: row.after for name, row in read.initializations.items()} == {"constant": (10.1,), "meta": (22.0,)}
    written = record_from_json(read.to_json())
    assert written == read
    now = record_from_json({"version": 2, "kind": "initializations", "system": "ct", "initializations": rows})
    assert isinstance(now, InitializationRecord)
    assert list(now.initializations) == ["matched", "meta"]


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    with pytest.raises(InputError, match=r"metrics\.json must be JSON, but"):
        read_record(file)
    file.write_bytes(json.dumps(record_of_ct().to_json()).encode()[:-9])
    with pytest.raises(InputError, match=r"metrics\.json must be JSON, but"):
        read_record(file)


COMMITTED = sorted([*RESULTS.glob("*.json"), *(RESULTS / "starts").glob("*.json")])
RECORDS = [f for f in COMMITTED if '"system"' in f.read_text()[:200]]
TODAY = [f for f in RECORDS if "version" in json.loads(f.read_text())]
FORMER = [f for f in RECORDS if f not in TODAY] + sorted((Path(__file__).parent / "former").glob("*.json"))


@pytest.mark.parametrize("file", TODAY, ids=lambda f: f.stem)
def test_committed_results_of_today_are_read_and_written_again(file: Path) -> None:
    assert read_record(file).to_json() == json.loads(file.read_text())


@pytest.mark.parametrize("file", FORMER, ids=lambda f: f.stem)
def test_committed_results_of_before_are_read(file: Path) -> None:
    data = json.loads(file.read_text())
    record = read_record(file)
    assert (record.system, record.title, record.command) == (data["system"], data["title"], data["command"])
    if isinstance(record, CityRecord):
        assert record.tasks == tuple(data["blocks"])
        assert {m: r.psnr_mean for m, r in record.methods.items()} == {
            m: row["psnr_mean"] for m, row in data["summary"].items()
        }
    else:
        assert isinstance(record, InitializationRecord)
        assert record.names.test == tuple(data["objects"]["test"])
        for name, row in data["starts"].items():
            # What was called `matched` put out the mean alone.
            results = record.initializations["constant" if name == "matched" else name]
            assert {str(s): list(v) for s, v in results.curve.items()} == row["curve"]
            assert list(results.after) == row["after"]


def test_rows_may_have_further_fields_only_if_asked() -> None:
    assert from_json(Orbit, {"frames": 3, "new": 1}, extra=True) == Orbit(frames=3)
    with pytest.raises(InputError, match="new is no field of Orbit"):
        from_json(Orbit, {"frames": 3, "new": 1})


def test_a_record_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record_of_ct().title = "x"  # type: ignore[misc]
