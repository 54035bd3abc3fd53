"""What was wrong on pages as a browser shows them: cut labels, touching ticks, praise of a lost lead, mute sound."""

from __future__ import annotations

import base64
import io
import itertools
import json
import pathlib
import re
import wave
from typing import Any

import numpy as np
import pytest
from fake_run import city, initializations, run_metrics, signals, values, write_run
from html_pages import checked_page
from PIL import Image

from mclnf_fast.cli import main
from mclnf_fast.info import info
from mclnf_fast.report import write_signal_report
from mclnf_fast.report.city.claims import tiles
from mclnf_fast.report.city.maps import _log_ticks
from mclnf_fast.report.page.blocks import TableBlock
from mclnf_fast.report.page.methods import method
from mclnf_fast.report.page.page import Page, Section, named_texts, write_page
from mclnf_fast.report.page.plots import draw_curves, new_figure, plain_axes, save, shown_ticks
from mclnf_fast.report.page.tables import Cell, Row, Table, terminal
from mclnf_fast.report.protocol.qualitative import _most_different
from mclnf_fast.report.starts.descriptions import DESCRIPTIONS


@pytest.mark.parametrize("last", [20.0, 20.2])
def test_no_label_of_a_line_is_cut(tmp_path: pathlib.Path, last: float) -> None:
    looks = {key: method(key) for key in ("a_method_from_outside_with_a_very_long_name", "mod", "mim", "er")}
    figure = new_figure(6.0, 3.0)
    axes = figure.add_axes((0.1, 0.15, 0.6, 0.83))
    plain_axes(axes, "steps", "dB")
    draw_curves(axes, {key: {1: (10.0, None), 64: (last, None)} for key in looks}, looks)
    with Image.open(save(figure, tmp_path / "a.png")) as image:
        pixels = np.asarray(image.convert("L"))
    border = np.concatenate([pixels[:3].ravel(), pixels[-3:].ravel(), pixels[:, :3].ravel(), pixels[:, -3:].ravel()])
    assert border.min() == 255


@pytest.mark.parametrize("steps", [[0, 1, 4, 16, 20], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600], [0, 640], [3]])
def test_ticks_do_not_touch(steps: list[int]) -> None:
    shown = shown_ticks(steps)
    assert shown[-1] == steps[-1]
    assert len(shown) <= 8
    assert all(b >= 1.3 * a for a, b in itertools.pairwise(shown))


def test_figures_are_written_in_one_way() -> None:
    texts = dict(named_texts({"a": 1e5, "b": 1e3, "c": 0.00025, "d": 1e-5, "e": {"x": 2e9}}))
    assert texts == {"a": "100,000", "b": "1,000", "c": "0.00025", "d": "1e-5", "e": "x 2,000,000,000"}


def test_a_lead_that_is_lost_at_the_end_is_not_praised() -> None:
    rows = {"mod": {"16": 18.0, "640": 19.0}, "mod_random": {"16": 17.0, "640": 19.5}}
    blocks = {"mod": [{"640": 18.9}, {"640": 19.1}], "mod_random": [{"640": 19.5}, {"640": 19.5}]}
    record = city(
        {"summary": {m: {"psnr_at_step": curve, "psnr_at_step_by_task": blocks[m]} for m, curve in rows.items()}}
    )
    (tile,) = (t for t in tiles(record) if "random initialization" in t.label)
    assert (tile.value, tile.good) == ("-0.50 dB", False)
    assert tile.label.replace("\u00a0", " ").endswith("at the last step, 640 (+1.00 dB at step 16) (± 0.10 dB)")


def test_phases_have_a_unit_and_the_processor_a_name(tmp_path: pathlib.Path) -> None:
    text = checked_page(write_signal_report(tmp_path, signals(run_metrics(methods=["mod"], seeds=1, signals=1))))
    assert re.search(r"learning 16.min 40.s", text)
    assert "a machine, 2 cores" in text.split("</header>")[0]
    cpu = pathlib.Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpu.read_text()) if cpu.is_file() else []
    if names:
        assert names[0].strip() in info()["machine"]


def test_sound_can_be_played(tmp_path: pathlib.Path) -> None:
    metrics = run_metrics("audio", methods=["mod", "mim"], seeds=1, signals=2, last=100)
    write_run(tmp_path, metrics, values("audio"))
    text = checked_page(write_signal_report(tmp_path, signals(metrics)))
    sounds = re.findall(r'<audio controls preload="metadata" src="data:audio/wav;base64,([^"]+)"></audio>', text)
    assert len(sounds) == 2 * 3  # two clips: the truth and two methods
    with wave.open(io.BytesIO(base64.b64decode(sounds[0]))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, metrics["rate"])
        assert file.getnframes() > 0
    image = run_metrics("image", methods=["mod"], seeds=1, signals=1)
    assert "<audio" not in checked_page(write_signal_report(tmp_path / "image", signals(image)))


def test_the_detail_shows_something() -> None:
    """The methods differ most where the picture is black; the detail is taken where there is something to see."""
    truth = np.zeros((32, 32, 3), np.uint8)
    truth[16:, 16:] = np.random.default_rng(0).integers(0, 255, (16, 16, 3))
    good, bad = truth.copy(), truth.copy()
    bad[:8, :8] = 255
    bad[20:28, 20:28] ^= 64
    top, left = _most_different(truth, [good, bad], (8, 8))
    assert truth[top : top + 8, left : left + 8].std() > 10


def test_a_method_of_a_plugin_stands_with_its_category() -> None:
    from mclnf_fast.report.page.methods import looks

    shown = looks({"mim": "MCL", "offline": "OL", "anchored_to_something": "CL", "er": "CL"})
    assert [look.category for look in shown.values()] == ["OL", "CL", "CL", "MCL"]


def test_a_row_without_a_category_has_an_empty_cell() -> None:
    rows = (Row("", "mean", "mean picture", (Cell("1"),)), Row("CL", "er", "ER", (Cell("2"),)))
    assert "?" not in terminal(Table("", ("PSNR",), rows))


def row(last: float) -> dict[str, Any]:
    return {"curve": {"0": [9.0, 9.5], "8": [last, last]}, "after": [last, last], "seconds": 1.0, "steps": 8}


def test_the_table_takes_runs_of_every_system(tmp_path: pathlib.Path) -> None:
    folders = []
    for name in DESCRIPTIONS:
        starts = {"meta": row(30.0), "standard": row(18.0)}
        record = initializations({"system": name, "title": f"a run of {name}", "steps": [0, 8], "starts": starts})
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(record.to_json()))
        folders.append(str(tmp_path / name))
    folders.append(str(write_run(tmp_path / "faces", run_metrics(methods=["mod"], seeds=1, signals=2))))
    assert main(["table", *folders, "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert "## Initializations" in text
    assert all(f"### a run of {name}" in text for name in DESCRIPTIONS)
    page = checked_page(tmp_path / "out" / "table.html")
    assert all(f"a run of {name}" in page for name in DESCRIPTIONS)
    lines = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert sum(",meta,psnr,logged," in line for line in lines) == 2 * len(DESCRIPTIONS)


def test_powers_of_ten_are_written_in_one_way() -> None:
    assert [text for _, text in _log_ticks(1.8, 5.2)] == ["100", "1,000", "1e4", "1e5"]
    assert [text for _, text in _log_ticks(-4.1, 0.1)] == ["1e-4", "0.001", "0.01", "0.1", "1"]


def test_a_table_of_many_columns_is_set_closer_and_scrolls_apart_from_its_notes(tmp_path: pathlib.Path) -> None:
    for columns, dense in ((9, False), (10, True)):
        table = Table("", tuple(map(str, range(columns))), (Row("", "a", "a", (Cell("1"),) * columns),), ("a note",))
        text = write_page(tmp_path / "page.html", Page("", {}, [Section("s", [TableBlock(table)])])).read_text()
        assert ('class="wide dense"' in text) == dense
        inside = text.split('<div class="scroll">')[1].split("</div>")[0]
        assert "</table>" in inside
        assert "a note" not in inside
