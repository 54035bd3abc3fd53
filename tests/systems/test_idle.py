"""Options that have no effect beside the others are named: those of the data are refused, the others noted."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import pytest
import torch
from posed_trees import looking_down, ring, write_posed
from tiny_city import OPTIONS

import mclnf_fast as mf
from mclnf_fast.cli import main
from mclnf_fast.errors import InputError
from mclnf_fast.systems import registry
from mclnf_fast.systems.city import data as city_data
from mclnf_fast.systems.city.job import run_city
from mclnf_fast.systems.city.options import CityConfig
from mclnf_fast.systems.common.config_file import options_of, with_options
from mclnf_fast.systems.common.idle import name_idle


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("city --blocks 2 2", "blocks has no effect without data, got 2 2: leave it out"),
        ("city --max-side 80", "max-side has no effect without data"),
        ("city --methods finetune --styles 3", "styles has no effect if no initialization"),
        ("image --strict", "strict has no effect without data"),
        ("image --channels 1", "channels has no effect without data"),
        ("video --stride 2", "stride has no effect without data"),
        ("audio --no-peak", "peak has no effect without data"),
        ("single-view --strict", "strict has no effect without data"),
        ("photos --limit 9", "limit has no effect without data"),
        ("ct --resize", "resize has no effect without data"),
    ],
)
def test_options_of_the_data_without_effect_are_refused(refused, words, part):
    refused(words.split(), [part])


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command line is read, and nothing is run."""
    functions = registry.System.functions
    monkeypatch.setattr(registry.System, "functions", lambda s: (lambda *_: pathlib.Path(), functions(s)[1]))


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        ("city --methods mod --adapt.memory 9 --fim.mix 0.2", ["adapt.memory", "fim.mix"]),
        ("city --methods mod --tile 4 --meta-joint.steps 9", ["tile", "meta-joint.steps"]),
        ("city --init random --meta.steps 9 --adapt.ramp 9", ["adapt.ramp", "meta.steps"]),
        ("city --methods ewc --adapt.ewc-decay 0.5 --adapt.ewc-lam 3", ["adapt.ewc-decay"]),
        ("city --methods mim --fim.lam 2 --fim.decay 0.5", ["fim.lam"]),
        ("city --methods mim --fim.lam 2 --fim.mix 0.1 --fim.use weight", ["fim.mix"]),
        ("image --methods er --init-from . --meta.steps 9", ["init-from", "meta.steps"]),
        ("image --methods mod --init-from . --meta.steps 9 --meta.inner-lr 0.1", ["meta.steps"]),
        ("image --fim.lam 2 --adapt.memory 9", []),  # `mim_weight` and `er` are among the methods
        ("ct --initializations standard meta --match-steps 9", ["match-steps"]),
        ("single-view --initializations standard --meta.steps 9 --check-steps 9", ["check-steps", "meta.steps"]),
        ("photos --preset paper --tune.steps 9", ["tune.steps"]),
        ("photos --tune.steps 9", []),
        ("image-start --quick --preset paper", []),
        # A folder stands in the place of procedural data, as was meant.
        ("single-view --data . --objects 9", ["objects"]),
        ("photos --data . --photos 9 --others 2", ["others", "photos"]),
        ("image-start --data . --count 9", ["count"]),
        ("ct --data . --jitter 0.5", ["jitter"]),
    ],
)
def test_other_options_without_effect_are_noted(capsys, only_read, words, notes):
    assert main(["run", *words.split()]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "has no effect" in line]
    assert sorted(line.split()[1] for line in lines) == sorted(notes)
    assert all(line.startswith("note: ") for line in lines)


def test_what_presets_bring_is_not_noted(capsys, only_read, tmp_path):
    for name in registry.SYSTEMS:
        for more in ([], ["--quick"], ["--data", str(tmp_path)]):
            assert main(["run", name, *more]) == 0
    assert capsys.readouterr().out == ""


def test_every_flag_without_effect_is_one(tmp_path):
    """A mistyped name would never be found among the options."""
    for name in registry.SYSTEMS:
        defaults = registry.find_system(name).functions()[1](name, [])
        names = [option.flag for option in options_of(type(defaults))]
        changes: dict[str, list[Any]] = {
            "data": [None, tmp_path],
            "methods": [("mod",), ("er", "ewc", "oml", "mim")],
            "initializations": [("standard",), ("standard", "meta")],
            "init-from": [None, tmp_path],
            "fim.use": ["none", "sample", "weight"],
        }
        known = {flag: values for flag, values in changes.items() if flag in names}
        for values in itertools.product(*known.values()):
            for flag in with_options(defaults, dict(zip(known, values))).idle():
                assert any(n == flag or n.startswith(f"{flag}.") for n in names) or flag.startswith("check-"), flag


def test_from_python_too(capsys, tmp_path):
    out = {"out": tmp_path / "run"}
    with pytest.raises(InputError, match="blocks has no effect without data"):
        run_city(with_options(CityConfig(), {"blocks": (2, 2), **out}))
    config = with_options(CityConfig(), {"methods": ("mod",), "adapt.memory": 9})
    assert name_idle(config, config.baseline(), config.idle()) == [
        "adapt.memory has no effect with these methods, got 9"
    ]


def test_a_resumed_run_names_what_it_does_not_change(tmp_path, capsys):
    folder = write_posed(tmp_path / "photos", *ring(9))
    words = ["--data", str(folder), "--init", "random", "--methods", "mod_random", *OPTIONS]
    run = str(tmp_path / "run")
    assert main(["run", "city", "--out", run, *words]) == 0
    capsys.readouterr()
    assert main(["run", "city", "--out", run, *words, "--resume"]) == 0
    assert "with resume" not in capsys.readouterr().out
    assert main(["run", "city", "--resume", run, "--steps", "99"]) == 0
    assert "note: steps has no effect with resume (the run began with 10), got 99" in capsys.readouterr().out
    assert main(["run", "city", "--resume", run, "--data", str(tmp_path)]) == 2
    assert "data has no effect with resume" in capsys.readouterr().err


def test_a_wrong_path_fails_before_districts_are_rendered(tmp_path, monkeypatch):
    def rendered(**_: object) -> None:
        raise AssertionError("districts were rendered")

    monkeypatch.setattr(city_data, "write_city", rendered)
    config = with_options(CityConfig(), {"data": tmp_path / "nowhere"})
    with pytest.raises(InputError, match="nowhere: must be a folder, was not there"):
        city_data.load(config, lambda _: None)


def test_a_result_can_be_put_back_on_the_map(tmp_path):
    """Cameras in UTM coordinates: the run is relative to an origin, which stands beside the result."""
    shift = torch.tensor([500_000.25, 4_649_776.5, 0.0], dtype=torch.float64)
    positions, targets = looking_down([(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (0.0, 0.0)], 2.0)
    folder = write_posed(tmp_path / "map", positions, targets)
    move(folder, shift)
    words = ["--data", str(folder), "--init", "random", "--methods", "mod_random", *OPTIONS]
    assert main(["run", "city", "--out", str(tmp_path / "run"), *words]) == 0
    frame = mf.load(tmp_path / "run").frame
    assert frame.origin == (500_000.0, 4_649_776.0, 0.0) or frame.origin == (500_000.0, 4_649_777.0, 0.0)
    camera = torch.tensor(positions[0], dtype=torch.float64) + shift
    near = frame.from_data(camera)
    assert near.dtype == torch.float32
    assert near.abs().max() < 4
    assert torch.equal(frame.to_data(near), camera)
    # As before where nothing was moved: points are those of the files.
    plain = write_posed(tmp_path / "plain", positions, targets)
    assert main(["run", "city", "--out", str(tmp_path / "run2"), *words[2:], "--data", str(plain)]) == 0
    frame = mf.load(tmp_path / "run2").frame
    assert torch.equal(frame.to_data(near), near.double())


def move(folder: pathlib.Path, shift: torch.Tensor) -> None:
    import json

    file = folder / "transforms.json"
    content = json.loads(file.read_text())
    for frame in content["frames"]:
        for axis in range(3):
            frame["transform_matrix"][axis][3] += float(shift[axis])
    file.write_text(json.dumps(content))
