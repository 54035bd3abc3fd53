"""`mclnf-fast table` and the report of a run: the files, their texts, refusals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_run import run_metrics, signals, values, write_run
from html_pages import checked_page
from PIL import Image

from mclnf_fast.cli import main
from mclnf_fast.errors import InputError
from mclnf_fast.report import save_png, signal_table, write_signal_report
from mclnf_fast.report.protocol.run_folder import read_runs
from mclnf_fast.report.table import write_tables

COMMAND = "mclnf-fast table runs --out out"


@pytest.fixture
def image_run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "faces", run_metrics(seeds=2, signals=2), values("image"))


@pytest.fixture
def city_run(tmp_path: Path, metrics: dict[str, Any], picture: Any) -> Path:
    folder = tmp_path / "city"
    save_png(folder / "images" / "strip.png", picture)
    metrics["pictures"] = [{"file": "images/strip.png", "kind": "strip", "caption": "Refinement."}]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_tables_of_runs_of_every_kind(tmp_path: Path, image_run: Path, city_run: Path) -> None:
    audio = write_run(tmp_path / "speech", run_metrics("audio", methods=["mod", "mim"], seeds=1, signals=2, last=100))
    out = tmp_path / "out"
    assert main(["table", str(image_run), str(audio), str(city_run), "--out", str(out)]) == 0
    command = f"mclnf-fast table {image_run} {audio} {city_run} --out {out}"
    names = sorted(p.name for p in out.iterdir())
    assert names == [
        "a_test_city_strip.png", "faces_2_x_2_patches_qualitative.png", "forgetting.png", "meta_training.png",
        "mim_against_mod.png", "psnr_over_steps.png", "signals.csv", "table.csv", "table.html",
        "table.md",
    ]  # fmt: skip
    text = (out / "table.md").read_text()
    for part in (
        "speech, 1 s: step 100",
        "faces, 2 x 2 patches: step 4096",
        "A test city",
    ):
        assert part in text
    assert "Relations" not in text
    # At the head, under the table of PSNR, the five tables beside it and of the city, and the six figures.
    assert text.count(f"ade by `{command}`") == 1 + 1 + 5 + 6
    assert text.count("mclnf-fast run image --data faces --seeds 2") >= 8
    assert "No figure of any paper is reproduced or claimed here" in text
    shown = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert sorted(shown) == [n for n in names if n.endswith(".png")]
    page = checked_page(out / "table.html")
    assert page.count("data:image/png;base64,") == len(shown)
    for part in ("No figure of any paper", "<b>", "<u>", f"figure: {command}", "23.50", "SI-SDR (dB), step 100"):
        assert part in page
    lines = list(csv.DictReader((out / "table.csv").open()))
    assert {r["run"] for r in lines} == {"faces, 2 x 2 patches", "speech, 1 s", "A test city"}
    city = [r for r in lines if r["run"] == "A test city" and r["method"] == "finetune"]
    assert {(r["metric"], r["statistic"]): float(r["mean"]) for r in city}["psnr", "forgetting"] == 2.0


def test_cities_alone(tmp_path: Path, city_run: Path) -> None:
    written = write_tables([city_run], tmp_path / "out", COMMAND)
    assert [p.name for p in written] == ["a_test_city_strip.png", "table.md", "table.csv", "table.html"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "## PSNR" not in text
    row = next(line for line in text.splitlines() if "| ours (MIM) |" in line)
    assert "**23.50**" in row
    assert "| 0 |" in row  # exactly nothing forgotten
    with Image.open(tmp_path / "out" / "a_test_city_strip.png") as signed:
        assert signed.height > 12


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    image_run = write_run(tmp_path / "faces", run_metrics(methods=["offline"], seeds=1, signals=1, last=4))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    (out / "table.md").write_text("old")
    write_tables([image_run], out, COMMAND)
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    assert first["mine.txt"] == b"keep"
    assert first["table.md"] != b"old"
    write_tables([image_run], out, COMMAND)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == first


def test_runs_of_one_title_can_be_distinguished(tmp_path: Path) -> None:
    metrics = run_metrics(methods=["mod"], seeds=1, signals=1, last=4)
    folders = [write_run(tmp_path / n, metrics) for n in ("a/one", "a/two", "b/one")]
    labels = [r.label for r in read_runs(folders)]
    assert labels[1] == "faces, 2 x 2 patches (two)"
    assert len(set(labels)) == 3
    assert len({r.stem for r in read_runs(folders)}) == 3


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["table", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_bad_input_is_reported_in_one_line(tmp_path: Path, image_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "there is no such folder" in refused(capsys, tmp_path / "nowhere", "--out", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no metrics.json" in refused(capsys, empty, "--out", out)
    (empty / "config.yaml").write_text("steps: 1\n")
    assert "must be finished, but has no metrics.json yet; --resume" in refused(capsys, empty, "--out", out)
    (empty / "metrics.json").write_text("{corrupt")
    assert "must be JSON" in refused(capsys, empty, "--out", out)
    for content, said in (
        ("[]", "must hold a mapping"),
        ("{}", "holds neither system, summary nor seeds"),
        ('{"seeds": {}}', "no method"),
    ):
        (empty / "metrics.json").write_text(content)
        assert said in refused(capsys, empty, "--out", out)
    (empty / "metrics.json").write_text('{"summary": {}}')
    assert "no method's results" in refused(capsys, empty, "--out", out)
    assert "named twice" in refused(capsys, image_run, image_run, "--out", out)
    assert "--out" in refused(capsys, image_run)
    assert "RUN" in refused(capsys, "--out", out)
    assert not out.exists()
    out.write_text("a file")
    assert "must be a folder, but it is a file" in refused(capsys, image_run, "--out", out)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    metrics = run_metrics(methods=["mod", "mim"], seeds=2, signals=1, last=8)
    del metrics["seeds"]["1"]["methods"]["mim"]
    with pytest.raises(InputError, match="must be finished, but mim has no results for seed 1"):
        read_runs([write_run(tmp_path / "a", metrics)])
    metrics = run_metrics(methods=["mod", "mim"], seeds=1, signals=1, last=8)
    del metrics["seeds"]["0"]["methods"]["mim"]["curve"]["psnr"]["8"]
    with pytest.raises(InputError, match="mim has no PSNR at the last step, 8"):
        read_runs([write_run(tmp_path / "b", metrics)])
    metrics = run_metrics(methods=["mod"], seeds=1, signals=1, last=8)
    metrics["config"]["methods"] = ["mod", "ewc"]
    with pytest.raises(InputError, match="ewc has no results"):
        read_runs([write_run(tmp_path / "c", metrics)])


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(
    tmp_path: Path, image_run: Path, without: Callable[[str], None], package: str
) -> None:
    without(package)
    with pytest.raises(InputError, match=rf"needs {package}.*pip install matplotlib jinja2"):
        write_tables([image_run], tmp_path / "out", COMMAND)
    assert not (tmp_path / "out").exists()


def test_report_of_a_run(tmp_path: Path, picture: Any) -> None:
    metrics = run_metrics(seeds=2, signals=3)
    for kind in ("qualitative", "curve", "own kind"):
        save_png(tmp_path / "images" / f"{kind}.png", picture)
        metrics["pictures"].append({"kind": kind, "file": f"images/{kind}.png", "caption": f"the {kind} picture"})
    (tmp_path / "config.yaml").write_text("seed: 0 # <tag>\n")
    path = write_signal_report(tmp_path, signals(metrics))
    assert path == tmp_path / "report.html"
    text = checked_page(path)
    for part in ("faces, 2 x 2 patches", "forgotten by the modules, bit for bit", "ours (MIM)", "own kind"):
        assert part in text
    for part in (
        "a note",
        "mclnf-fast run image",
        "a machine, 2 cores",
        "20 min 34 s in all",
        "No figure of any paper",
    ):
        assert part in text
    assert "seed: 0 # &lt;tag&gt;" in text
    assert "--m8: #c44e00" in text
    assert '<span class="dot look-8"></span>ours (MIM)' in text
    assert text.count("data:image/png;base64,") == 3
    assert text.index("the qualitative picture") < text.index("Results") < text.index("the curve picture")
    assert "images/x.png is missing" in checked_page(
        write_signal_report(tmp_path, signals({"pictures": [{"kind": "curve", "file": "images/x.png"}]}))
    )


def test_report_escapes_text_from_outside(tmp_path: Path) -> None:
    evil = '<b>x</b>"}$\\bad{$'
    metrics = run_metrics(methods=["mod", "finetune"], seeds=1, signals=2)
    metrics["title"] = metrics["command"] = metrics["machine"] = evil
    metrics["notes"], metrics["signals"]["test"] = [evil], [evil, evil]
    rows = metrics["seeds"]["0"]["methods"]
    rows[evil] = {**rows["mod"], "category": evil}
    metrics["seeds"]["0"]["starts"][evil] = metrics["seeds"]["0"]["starts"]["oml"]
    text = checked_page(write_signal_report(tmp_path, signals(metrics)))
    assert "<b>x" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    write_tables([write_run(tmp_path / "run", metrics)], tmp_path / "out", evil)
    assert "<b>x" not in checked_page(tmp_path / "out" / "table.html")


@pytest.mark.parametrize("key", [*run_metrics(methods=["mod"], seeds=1, signals=1, last=2)])
def test_report_and_table_of_partial_metrics(tmp_path: Path, key: str) -> None:
    metrics = run_metrics(methods=["mod", "er"], seeds=1, signals=2, last=2)
    for rest in ({k: v for k, v in metrics.items() if k != key}, {**metrics, key: None}):
        assert "<h1>" in checked_page(write_signal_report(tmp_path, signals(rest)))
        assert signal_table(signals(rest))


def test_relations_are_reported_when_they_are_asked_for(tmp_path: Path, image_run: Path) -> None:
    claim = "forgetting of mod and mim exactly zero"
    metrics = run_metrics(seeds=2, signals=2)
    text = signal_table(signals(metrics))
    assert "PSNR in dB, 2 test signals, 2 seeds" in text
    assert claim not in text
    assert max(map(len, text.splitlines())) <= 80
    assert signal_table(signals({})) == "no results yet"
    assert claim not in checked_page(write_signal_report(tmp_path, signals(metrics)))
    metrics["config"]["relations"] = True
    assert f"{claim}, of fine-tuning at least 3 dB: holds" in signal_table(signals(metrics))
    assert claim in checked_page(write_signal_report(tmp_path, signals(metrics)))
    assert main(["table", str(image_run), "--out", str(tmp_path / "out"), "--check"]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    for part in ("## Relations that must hold", "not measured", "**holds**"):
        assert part in table
