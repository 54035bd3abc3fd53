"""The tables: figures, alignment, missing values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from fake_run import city

from mclnf_fast.report import block_line, city_text, matrix_table, summary_markdown
from mclnf_fast.report.city.tables import city_table
from mclnf_fast.report.page.style import db, duration
from mclnf_fast.report.page.tables import terminal
from mclnf_fast.report.record import CityRecord, CityResults

BLOCKS = ["one", "two", "three"]


@pytest.fixture
def record(metrics: dict[str, Any]) -> CityRecord:
    return city(metrics)


def methods(summary: dict[str, Any]) -> Mapping[str, CityResults]:
    return city({"summary": summary}).methods


def test_figures_as_text() -> None:
    assert [db(v) for v in (21.456, None, math.nan, math.inf, "x", True)] == [
        "21.46",
        "-",
        "-",
        "-",
        "-",
        "-",
    ]
    assert db(-0.001, sign=True) == "0.00"
    assert db(0.5, sign=True, unit=True) == "+0.50 dB"
    assert [duration(v) for v in (3, 99.96, 245, 7620, None)] == [
        "3.0 s",
        "1 min 40 s",
        "4 min 05 s",
        "2 h 07 min",
        "-",
    ]


def test_matrix_table_lists_every_block_of_every_method(record: CityRecord) -> None:
    text = matrix_table(record.methods, BLOCKS)
    for figure in ("24.50", "23.50", "22.50", "20.00", "18.00", "0.712", "12.5", "4,096"):
        assert figure in text
    assert "\033" not in text
    assert text.index("fine-tuning") < text.index("modules, random") < text.index("ours (MIM)")
    assert max(len(line) for line in text.splitlines()) <= 80


def test_matrix_table_panels_stand_under_each_other_where_it_is_narrow(record: CityRecord) -> None:
    wide, narrow = (matrix_table(record.methods, BLOCKS, width=width) for width in (100, 40))
    assert len(narrow.splitlines()) > len(wide.splitlines())
    heads = [line for line in narrow.splitlines() if line.startswith("after")]
    assert len(heads) == 4
    assert all(line.split() == ["after", *BLOCKS] for line in heads)


def test_matrix_table_columns_are_aligned_with_and_without_color(record: CityRecord) -> None:
    plain, color = (matrix_table(record.methods, BLOCKS, color=c) for c in (False, True))
    for code in ("\033[0m", "\033[1m", "\033[2m", "\033[31m", "\033[32m"):
        color = color.replace(code, "")
    assert [line.rstrip() for line in color.splitlines()] == [line.rstrip() for line in plain.splitlines()]


def test_matrix_table_marks_loss(record: CityRecord) -> None:
    text = matrix_table(record.methods, BLOCKS, color=True)
    assert "\033[31m 20.00\033[0m" in text
    assert "\033[31m 24.50" not in text


def test_matrix_table_of_a_run_that_has_just_begun() -> None:
    assert "no results yet" in matrix_table({}, [])
    text = matrix_table(methods({"mim": {"matrix": [[20.0]]}, "odd\nname": {}}), ["a very long name of a block"])
    assert "20.00" in text
    assert "a very long~" in text
    text = matrix_table(methods({"mim": {"matrix": [[20.0, None], [None, math.nan]]}}), ["one"])
    assert "block 2" in text


def test_matrix_table_of_many_blocks_keeps_its_width() -> None:
    matrix = [[20.0 + i if i <= k else None for i in range(8)] for k in range(8)]
    text = matrix_table(methods({"mim": {"matrix": matrix}}), [f"district {i} north" for i in range(8)])
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "27.00" in text
    assert "8 dis~" in text


def test_a_terminal_of_any_width_is_kept(record: CityRecord) -> None:
    for width in (40, 60, 80, 120):
        lines = terminal(city_table("", record.methods, BLOCKS, {"mim": 20.0}), width=width).splitlines()
        assert max(map(len, lines)) <= width
        text = " ".join(lines)
        for figure in ("0.712", "12.5", "4,096", "24.50"):
            assert figure in text
        assert text.count("ours (MIM)") == text.count("method")


def test_a_block_is_one_line_and_the_end_has_all_tables(record: CityRecord) -> None:
    line = block_line(record.methods, BLOCKS[0], 1, 64)
    assert "\n" not in line
    assert line.startswith("learned one (1 of 64), mean PSNR in dB of the blocks so far: ")
    matrix = [[20.0 if i <= k else None for i in range(64)] for k in range(64)]
    many = CityRecord(system="city", tasks=tuple(map(str, range(64))), methods=methods({"mim": {"matrix": matrix}}))
    assert len(city_text(many).splitlines()) < 20  # its matrix has 64 columns, which fit no terminal
    assert "after" in city_text(record)


def test_a_method_without_a_sequence_has_one_row(many: dict[str, Any]) -> None:
    text = matrix_table(city(many).methods, many["blocks"], width=40)
    panel = text.split("offline\n")[-1].splitlines()
    assert [line.split()[0] for line in panel[:2]] == ["after", "three"]
    assert panel[1].split()[1:] == ["23.50", "23.00", "22.00"]


def test_summary_markdown(metrics: dict[str, Any]) -> None:
    metrics["blocks"][0] = "<b>|x"
    text = summary_markdown(city(metrics))
    lines = text.splitlines()
    assert lines[0].startswith("|  | method |")
    assert "&lt;b&gt;\\|x" in lines[0]
    row = next(line for line in lines if "ours (MIM)" in line)
    assert "24.50" in row
    assert "21.50" in row
    assert "2 min 05 s in all" in text
    assert len({line.replace("\\|", "").count("|") for line in lines[:6]}) == 1


def test_summary_markdown_of_nothing() -> None:
    assert "method" in summary_markdown(city({}))
    assert "-" in summary_markdown(city({"summary": {"mim": {}}}))
