"""The table of what the Triton kernels take, from lines that are given, and the one that is committed."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks import triton_kernels

RESULT = pathlib.Path(__file__).parents[1] / "benchmarks" / "results" / "triton_sm90.json"


def row(counts: list[int], registers: int, kernel: str = "forward") -> dict[str, Any]:
    plain = {"kernel": kernel, "kind": "half", "width": 64, "features": 60, "skips": 0, "rows": 16, "warps": 4}
    return {**plain, "counts": counts, "registers": registers, "stack": 0, "programs": 2, "instructions": 900}


def lines(path: pathlib.Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return str(path)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["triton_kernels", *words])
    triton_kernels.main()


def test_a_figure_that_differs_by_the_counts_is_given_for_each(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lines(tmp_path / "before", [row([1], 164), row([16], 118), row([37], 119), row([1, 16, 37], 30, "reduce")])
    now = lines(tmp_path / "now", [row([1, 16, 37], 120), row([1, 16, 37], 31, "reduce")])
    run(monkeypatch, "--before", before, "--lines", now, "--out", str(tmp_path / "table.json"))
    found = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[-2:]
    assert found[0] == "| forward | half | 64 | 60 | no | 16 | 4 | 164, 118, 119 | 120 | 0 | 0 | 2 | 2 | 900 | 900 |"
    assert found[1] == "| reduce | half | 64 | 60 | no | 16 | 4 | 30 | 31 | 0 | 0 | 2 | 2 | 900 | 900 |"


def test_other_entries_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = lines(tmp_path / "now", [row([1, 16, 37], 120)])
    for other, words in (
        ([row([1, 16, 37], 120, "render")], "another entry at place 0"),
        ([row([1, 16, 37], 120), row([1, 16, 37], 120)], "2 entries, the present tables have 1"),
    ):
        before = lines(tmp_path / "before", other)
        with pytest.raises(SystemExit, match=words):
            run(monkeypatch, "--before", before, "--lines", now, "--out", str(tmp_path / "table.json"))


def test_the_committed_table_has_one_kernel_an_entry() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert result["architecture"] == 90
    assert len(result["now"]) > 100
    assert all(len(kernels) == 1 and kernels[0]["counts"] == list(triton_kernels.COUNTS) for kernels in result["now"])
