"""The command line for people: help, suggestions, saved configurations, progress, and what is printed when."""

from __future__ import annotations

import json
import pathlib
import sys

import pytest
import torch
import yaml
from test_cli import SMALL, posed_folder, refusal

from mclnf_fast.cli import main
from mclnf_fast.systems import registry
from mclnf_fast.systems.common import progress as module
from mclnf_fast.systems.common.config_file import options_of
from mclnf_fast.systems.common.progress import TimeLeft, progress


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", [*registry.SYSTEMS])
def test_the_help_of_a_system_fits_80_columns_and_has_every_option(capsys, name):
    assert main(["run", name, "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "Seed of all random numbers." in text or "--seeds" in text
    assert "--out DIR" in text
    assert "--config FILE" in text
    assert "(default: None)" not in " ".join(text.split())
    config = type(registry.find_system(name).functions()[1](name, []))
    refused = config.flags_without_effect()
    for option in options_of(config):
        assert (f"--{option.flag}" in text) != (option.flag in refused), option.flag


def test_options_without_effect_are_refused_and_not_shown(capsys):
    config = type(registry.find_system("ct").functions()[1]("ct", []))
    assert "meta.keep" in config.flags_without_effect()
    assert "has no effect here" in refusal(capsys, "run", "ct", "--meta.keep", "0.5")


def test_the_help_of_run_lists_the_systems(capsys):
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in registry.SYSTEMS)
    assert main(["--help"]) == 0
    whole = capsys.readouterr().out
    assert max(map(len, (text + whole).splitlines())) <= 80
    assert all(f"\n  {name} " in whole for name in ("run", "fit", "table", "bench", "tune", "info"))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["rnu", "city"], "got 'rnu'; did you mean run?"),
        (["run", "imgae"], "got imgae; did you mean image?"),
        (["run", "city", "--stesp", "3"], "run city has no option --stesp; it has --steps"),
        (["table", "x", "--uot", "y"], "table: the following arguments are required: --out"),
        (["table", "x", "--out", "y", "--chek"], "unknown argument --chek; did you mean --check?"),
        (["fit", "x", "--out", "y", "--steps=--"], "fit: argument --steps: expected one argument"),
        (["tune", "--onyl", "x"], "unknown argument --onyl; did you mean --only?"),
    ],
)
def test_mistyped_words_get_the_nearest_name(capsys, words, part):
    assert part in refusal(capsys, *words)


def test_a_saved_configuration_begins_a_run(tmp_path, capsys):
    posed_folder(tmp_path / "data")
    words = ["run", "city", "--data", str(tmp_path / "data"), *SMALL]
    assert main([*words, "--out", "first"]) == 0
    assert main(["run", "city", "--config", "first/config.yaml", "--steps", "3", "--out", "second"]) == 0
    configs = [yaml.safe_load((tmp_path / run / "config.yaml").read_text()) for run in ("first", "second")]
    for config in configs:
        config["run"] = {}
    assert configs[1] == {**configs[0], "steps": 3}
    assert main(["run", "city", "--config", "first", "--out", "third"]) == 0  # the folder of a run, too
    assert json.loads((tmp_path / "third/metrics.json").read_text())["config"]["steps"] == 2
    (tmp_path / "mine.yaml").write_text(f"data: {{path: {tmp_path}/data}}\nsteps: 2\nadapt.lr: 1e-3\ninit: random\n")
    assert main(["run", "city", "--config", "mine.yaml", *SMALL, "--out", "fourth"]) == 0
    saved = yaml.safe_load((tmp_path / "fourth/config.yaml").read_text())
    assert (saved["adapt"]["lr"], saved["steps"]) == (1e-3, 2)
    capsys.readouterr()
    assert "it cannot stand beside --quick" in refusal(capsys, "run", "city", "--config", "mine.yaml", "--quick")
    assert "config: nowhere must be a YAML file, but there is nothing" in refusal(
        capsys, "run", "city", "--config", "nowhere"
    )
    (tmp_path / "mine.yaml").write_text("steps: many\n")
    assert "steps must be a whole number, got 'many'" in refusal(capsys, "run", "city", "--config", "mine.yaml")
    (tmp_path / "mine.yaml").write_text("stesp: 3\n")
    assert "unknown options stesp" in refusal(capsys, "run", "city", "--config", "mine.yaml")


def test_the_folder_of_a_run_is_printed_if_it_stays(tmp_path, capsys):
    assert main(["run", "city", "--data", "nowhere", "--out", "run", *SMALL]) == 2
    assert "run folder" not in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    posed_folder(tmp_path / "data")
    assert main(["run", "city", "--data", "data", "--out", "run", *SMALL]) == 0
    assert capsys.readouterr().out.count("run folder: run") == 1
    assert not (tmp_path / "run" / ".lock").exists()


def test_nothing_is_left_of_a_run_that_is_refused_later(tmp_path, capsys):
    tiny = ["--quick", "--steps", "1", "--size", "16", "--limit", "4", "--methods", "mod"]
    line = refusal(capsys, "run", "image", *tiny, "--init-from", "nowhere", "--out", "new/run")
    assert "init-from: nowhere must be a run folder" in line
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    refusal(capsys, "run", "image", *tiny, "--init-from", "nowhere", "--out", "mine")
    assert (tmp_path / "mine").is_dir()  # not ours to remove
    assert not list((tmp_path / "mine").iterdir())


def test_a_run_from_python_names_no_command_line(tmp_path):
    from mclnf_fast.systems.city.job import run_city
    from mclnf_fast.systems.city.options import CityConfig
    from mclnf_fast.systems.common.config_file import with_options

    posed_folder(tmp_path / "data")
    values = {"data": tmp_path / "data", "out": tmp_path / "run", "init": "random", "methods": ("mod_random",)}
    small = {"steps": 1, "adapt.batch": 8, "width": 4, "hidden-layers": 1, "frequencies": 1, "samples-per-ray": 2}
    folder = run_city(with_options(CityConfig(), {**values, **small}))
    command = json.loads((folder / "metrics.json").read_text())["command"]
    assert command == "(run city from Python, with the options in config.yaml)"


def test_the_time_left_is_right_within_two_after_a_slow_first_step():
    """The first step takes a hundred times as long as the others, as where kernels are compiled."""
    now = 0.0
    left = TimeLeft(1000, lambda: now)
    now = 10.0
    assert left.seconds(1) is None
    for made in range(2, 1000):
        now += 0.1
        rest = 0.1 * (1000 - made)
        estimate = left.seconds(made)
        assert estimate is not None
        assert 0.5 * rest <= estimate <= 2 * rest + 1e-9


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with progress("learning", 100) as bar:
        for _ in range(100):
            now += 1.0
            bar(1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "learning: 10 of 100, 10 %, 90 s left"
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    with progress("reading", None) as bar:
        for _ in range(20):
            now += 1.0
            bar(1)
    assert capsys.readouterr().out == "reading: 10 done\n"
    with progress("short", 3) as bar:
        bar(1)
    assert capsys.readouterr() == ("", "")
