"""Systems from outside the package: found by their entry point, and named with their package if they are broken."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.cli import main
from mclnf_fast.errors import InputError
from mclnf_fast.systems import SYSTEMS, find_system, system_names

PLUGINS = pathlib.Path(__file__).resolve().parents[1] / "plugins"


@pytest.fixture
def plugins(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGINS))


def broken(folder: pathlib.Path, entry: str) -> pathlib.Path:
    """A package whose one entry point is `entry`."""
    info = folder / "bad_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mclnf_fast.systems]\n{entry}\n")
    return folder


def test_every_system_of_the_package_has_its_functions():
    for name in SYSTEMS:
        run, defaults = find_system(name).functions()
        assert defaults(name, ["--quick"]).kind == name
        assert callable(run)


def test_a_plugin_is_listed_run_and_resumed(plugins, tmp_path, capsys):
    assert system_names()[-1] == "line"
    assert main(["--help"]) == 0
    assert "  line         fit a straight line (plugin toy-plugins)" in capsys.readouterr().out
    out = tmp_path / "run"
    assert main(["run", "line", "--steps", "3", "--slope", "2", "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["system"], metrics["config"]["slope"]) == ("line", 2.0)
    assert (out / "command.txt").read_text().startswith("mclnf-fast run line --steps 3")
    assert main(["run", "line", "--resume", str(out)]) == 0
    learned = mf.load(out)
    assert (learned.system, learned.modules) == ("line", ["line"])
    assert learned.evaluate(torch.zeros(3, 1)).shape == (3, 1)


def test_a_plugin_that_cannot_be_imported(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(broken(tmp_path, "odd = no_such_module:SYSTEM")))
    with pytest.raises(InputError, match=r"plugin no_such_module:SYSTEM of the package bad-plugin is broken"):
        find_system("odd")
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())  # lines are wrapped
    assert "odd the plugin no_such_module:SYSTEM of the package bad-plugin is broken" in text
    assert main(["run", "odd"]) == 2
    assert main(["run", "village"]) == 2  # others are not touched by it


def test_a_plugin_that_is_no_system(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(broken(tmp_path, "odd = json:loads")))
    with pytest.raises(InputError, match=r"of the package bad-plugin must name a mclnf_fast\.systems\.System"):
        find_system("odd")


def test_a_plugin_with_a_name_that_is_taken(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(broken(tmp_path, "city = json:loads")))
    with pytest.raises(InputError, match="bad-plugin must take another name, city is taken"):
        find_system("city")
