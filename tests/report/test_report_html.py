"""The plots, the claims and the HTML report."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_run import city
from html_pages import Checker, checked_page
from PIL import Image

from mclnf_fast.errors import InputError
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.report import check_extra, write_city_report
from mclnf_fast.report.city.claims import changed, initialization_gains, sentences, tiles
from mclnf_fast.report.city.plots import forgetting_figure, meta_figure, phase_figure, steps_figure
from mclnf_fast.report.page.methods import method
from mclnf_fast.report.page.plots import save, spread
from mclnf_fast.report.record import MetaTraining


def report(folder: Path, metrics: dict[str, Any]) -> str:
    path = write_city_report(folder, city(metrics))
    assert path == folder / "report.html"
    return checked_page(path)


def test_report_shows_everything(run_dir: Path, metrics: dict[str, Any]) -> None:
    text = report(run_dir, metrics)
    for part in ("A test city", "24.50", "-4.00", "no change", "0.712", "21.50", "2 min 05 s", "2.13.0"):
        assert part in text
    for part in (
        "mclnf-fast run city",
        "the first picture",
        "a note",
        "a machine, 2 cores",
        "block_1: step at which ours (MIM) has the final PSNR of ours (mod)</dt><dd>48<",
    ):
        assert part in text
    assert "exactly 0\u00a0dB" in text
    assert "data:image/png;base64," in text
    assert text.count("<svg") == 4
    assert "seed: 0 # &lt;tag&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert str(run_dir) not in text
    assert sorted(p.name for p in run_dir.iterdir()) == ["config.yaml", "images", "report.html"]


def test_report_is_the_same_twice(run_dir: Path, metrics: dict[str, Any]) -> None:
    assert report(run_dir, metrics) == report(run_dir, metrics)


def test_report_escapes_text_from_outside(run_dir: Path, metrics: dict[str, Any]) -> None:
    evil = '<b>x</b>"$x_1$'
    metrics["blocks"][0] = evil
    metrics["title"] = metrics["machine"] = metrics["command"] = evil
    metrics["versions"][evil] = evil
    metrics["notes"], metrics["phases"][evil] = [evil], 3.0
    metrics["comparison"]["mim_steps_to_mod_final"][evil] = 3
    metrics["pictures"] += [{"file": "images/a.png", "kind": evil, "caption": evil}]
    metrics["summary"][evil] = metrics["summary"]["mim"]
    text = report(run_dir, metrics)
    assert "<b>x" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text


@pytest.mark.parametrize("key", ["title", "blocks", "machine", "versions", "meta", "summary", "pictures"])
def test_report_of_partial_metrics(tmp_path: Path, metrics: dict[str, Any], key: str) -> None:
    del metrics[key]
    assert "<h1>" in report(tmp_path, metrics)


def test_report_of_nothing_one_method_and_one_block(tmp_path: Path, metrics: dict[str, Any]) -> None:
    assert "<h1>" in report(tmp_path, {})
    row = metrics["summary"]["mim"]
    assert "ours (MIM)" in report(tmp_path, {"summary": {"mim": row}})
    single = {**row, "matrix": [[24.5]]}
    text = report(tmp_path, {"blocks": ["one"], "summary": {"mim": single}})
    assert "nothing can be forgotten" in text
    assert "forgot exactly" not in text
    for k in row:
        report(tmp_path, {"summary": {"mim": {j: v for j, v in row.items() if j != k}, "mod": {}}})
    empty = dict.fromkeys(metrics, None)
    report(tmp_path, {**empty, "system": "city"})
    report(tmp_path, {**empty, "system": "city", "summary": {"mim": dict.fromkeys(row), "mod": None}})
    with pytest.raises(InputError, match=r"metrics\.json: tasks must be a list, got 3"):
        report(tmp_path, {"blocks": 3})


def test_report_names_a_missing_picture_and_refuses_one_outside(tmp_path: Path, metrics: dict[str, Any]) -> None:
    assert "images/a.png is missing" in report(tmp_path, metrics)
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    metrics["pictures"] = [{"file": "../secret.png", "kind": "strip"}]
    with pytest.raises(InputError, match="inside the run folder"):
        write_city_report(tmp_path / "run", city(metrics))


def test_claims_agree_with_the_figures(metrics: dict[str, Any]) -> None:
    said = " ".join(sentences(city(metrics)))
    assert "lost 4.00 dB on one" in said
    assert "5.25 dB above at step 16" in said
    assert "0.25 dB above plain modules: 23.50 against 23.25 dB" in said
    assert [tile.value for tile in tiles(city(metrics))] == ["0 dB", "4.00 dB", "+1.25 dB", "23.50 dB"]
    metrics["summary"]["mim"]["psnr_mean"] = 23.0
    assert "0.25 dB below plain modules" in " ".join(sentences(city(metrics)))
    metrics["summary"]["mim"]["psnr_mean"] = 23.24
    assert "level with plain modules" in " ".join(sentences(city(metrics)))


def test_ten_methods(tmp_path: Path, many: dict[str, Any]) -> None:
    said = sentences(city(many))
    assert said[2] == (
        "Of the same size, ER lost 2.00 dB on one, EWC lost 2.00 dB on one, MAML + CL lost 2.00 dB on one "
        "and OML lost 2.00 dB on one."
    )
    assert said[3] == (
        "One network that is trained on all blocks at once reaches 22.80 dB (offline) and 23.13 dB (MAML, offline) on "
        "average."
    )
    page = write_city_report(tmp_path, city(many)).read_text()
    Checker().feed(page)
    assert "10 methods do this side by side" in page
    for words in (
        "The initialization by MAML",
        "twice the samples per step",
        "MAML, offline",
        "replayed from a reservoir",
    ):
        assert words in page
    # What met all blocks at once has one row, after the last block.
    matrices = page.split("Block by block")[1].split("Curves")[0]
    assert matrices.count("<tr><td>one</td>") == 8
    assert matrices.count("<tr><td>three</td>") == 10
    for colors in ({method(m).color for m in METHODS}, {method(m).dark for m in METHODS}):
        assert len(colors) == len(METHODS) == 12


def test_claims_notice_the_smallest_change(metrics: dict[str, Any]) -> None:
    assert not changed(city(metrics).methods["mim"])
    moved = copy.deepcopy(metrics)
    moved["summary"]["mim"]["matrix"][2][1] += 1e-9
    assert changed(city(moved).methods["mim"])
    assert "exactly 0 dB" not in " ".join(sentences(city(moved)))
    assert tiles(city(moved))[0].good is False


def test_start_is_compared_at_a_logged_step() -> None:
    curves = {"mod": {"psnr_at_step": {"1": 10.0, "20": 15.0}}, "mod_random": {"psnr_at_step": {"20": 14.0}}}
    assert initialization_gains(city({"summary": curves})) == [(20, 1.0)]
    assert initialization_gains(city({"summary": {"mod": curves["mod"]}})) == []


def test_plots_are_written(tmp_path: Path, metrics: dict[str, Any]) -> None:
    record = city(metrics)
    paths = [
        save(steps_figure(record.methods), tmp_path / "a.png"),
        save(forgetting_figure(record.methods, ["<b>", "$x_1", "c"]), tmp_path / "b.png"),
        save(phase_figure(metrics["phases"]), tmp_path / "c.png"),
        save(meta_figure(record.initializations["modules"]), tmp_path / "d.png"),
    ]
    for path in paths:
        with Image.open(path) as image:
            assert image.width > 700
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png", "d.png"]


def test_plots_of_nothing(tmp_path: Path) -> None:
    save(steps_figure({}), tmp_path / "a.svg")
    one = city({"summary": {"mim": {"psnr_at_step": {"0": 3.0, "1": 5.0}, "matrix": [[20.0]]}}}).methods
    save(steps_figure(one), tmp_path / "a.svg")
    save(forgetting_figure({}, []), tmp_path / "a.svg")
    save(forgetting_figure(one, ["one"]), tmp_path / "a.svg")
    save(phase_figure({}), tmp_path / "a.svg")
    save(phase_figure({"meta": 0.0}), tmp_path / "a.svg")
    save(meta_figure(MetaTraining()), tmp_path / "a.svg")
    with pytest.raises(ValueError, match="path must end with"):
        save(phase_figure({}), tmp_path / "a.xyz")


def test_labels_are_moved_apart_only_where_they_would_touch() -> None:
    assert spread([1.0, 5.0], 1.0) == [1.0, 5.0]
    assert spread([1.0, 1.0, 5.0], 1.0) == [0.5, 1.5, 5.0]
    places = spread([1.0, 1.1, 1.9, 2.0], 1.0)
    assert all(b - a >= 1.0 - 1e-9 for a, b in itertools.pairwise(places))


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(
    tmp_path: Path, metrics: dict[str, Any], without: Callable[[str], None], package: str
) -> None:
    check_extra()
    without(package)
    with pytest.raises(InputError, match=rf"needs {package}.*pip install matplotlib jinja2"):
        check_extra()
    with pytest.raises(InputError, match=r"pip install matplotlib jinja2"):
        write_city_report(tmp_path, city(metrics))
    assert not (tmp_path / "report.html").exists()
