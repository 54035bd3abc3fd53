"""The figures of CT in the documentation are those of the committed runs."""

from __future__ import annotations

import json
import pathlib
import statistics

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ROWS = {
    "meta": "**learned initialization**",
    "matched": "matched",
    "sart": "SART, 30 sweeps",
    "fbp": "back-projection, ramp",
    "hann": "back-projection, Hann window",
    "linear": "linear estimate from 60 slices",
    "standard": "standard",
}


def rows(name: str) -> dict[str, dict[str, object]]:
    text = (ROOT / "benchmarks" / "results" / "starts" / f"{name}.json").read_text()
    loaded: dict[str, dict[str, object]] = json.loads(text)["initializations"]
    return loaded


@pytest.mark.parametrize("row", ROWS)
def test_the_table_over_projections_is_of_the_runs(row: str):
    cells = []
    for name in ("ct", "ct12", "ct24"):
        values = rows(name)[row]["after"]
        cell = f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"
        cells.append(f"**{cell}**" if row == "meta" else cell)
    text = (ROOT / "docs" / "systems" / "ct.md").read_text()
    assert f"| {ROWS[row]} | {' | '.join(cells)} |" in text.splitlines()


def test_sart_has_as_many_sweeps_as_the_table_says():
    assert [rows(name)["sart"]["steps"] for name in ("ct", "ct12", "ct24")] == [30, 30, 30]


def test_the_trials_of_frequencies_are_of_the_benchmark():
    trials = json.loads((ROOT / "benchmarks" / "results" / "starts" / "ct_frequencies.json").read_text())["rows"]
    text = (ROOT / "docs" / "systems" / "ct.md").read_text().splitlines()
    titles = [f"{row['sigma']:g}, {'Adam' if row['optimizer'] == 'adam' else 'SGD'}" for row in trials]
    assert f"| frequencies, optimizer | {' | '.join(titles)} |" in text
    assert f"| PSNR | {' | '.join(format(row['psnr'], '.1f') for row in trials)} |" in text
