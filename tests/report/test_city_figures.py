"""The figures of real scenes in the documentation of the city are those of the committed runs."""

from __future__ import annotations

import json
import pathlib
import statistics

ROOT = pathlib.Path(__file__).parents[2]


def test_the_row_of_the_street_is_of_its_runs():
    runs = json.loads((ROOT / "benchmarks" / "results" / "lund_street.json").read_text())["runs"]
    default = [
        run["psnr_at_step"] for run in runs if "--styles" not in run["command"] and "--meta" not in run["command"]
    ]

    def mean(method: str, step: str) -> str:
        return f"{statistics.mean(curves[method][step] for curves in default):.2f}"

    text = (ROOT / "docs" / "systems" / "city.md").read_text()
    assert (
        f"`mod` {mean('mod', '640')} dB, random initialization {mean('mod_random', '640')} dB; at step 16 "
        f"{mean('mod', '16')} and {mean('mod_random', '16')} dB"
    ) in text
    for run in runs:
        if run["psnr_at_step"] not in default:
            assert f"{run['psnr_at_step']['mod']['640']:.2f}" in text
