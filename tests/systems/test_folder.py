"""A run's folder: what goes in comes out, whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib

import pytest
import torch
import yaml

from mclnf_fast.errors import InputError
from mclnf_fast.systems.city.options import CityConfig, read_config
from mclnf_fast.systems.common.config_file import with_options
from mclnf_fast.systems.common.folder import RunFolder, plain


def folder(tmp_path: pathlib.Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "city", {"steps": 3})


def test_a_configuration_survives_yaml():
    config = with_options(
        CityConfig(),
        {"data": pathlib.Path("a/b"), "blocks": (2, 3), "methods": ("mim", "mod"), "adapt.lr": 3e-3, "threads": 2},
    )
    assert read_config(yaml.safe_load(yaml.safe_dump(plain(config)))) == config
    assert read_config(json.loads(json.dumps(plain(CityConfig())))) == CityConfig()


def test_create_and_reopen(tmp_path):
    folder(tmp_path)
    again, config = RunFolder.reopen(tmp_path / "run", "city")
    assert again.path == tmp_path / "run"
    assert config == {"steps": 3}


def test_without_a_name_the_newest_run_is_reopened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = RunFolder.create(None, "city", {})
    assert made.path.parent == pathlib.Path("outputs/city")
    RunFolder.create(pathlib.Path("outputs/city/1999-01-01_000000"), "city", {})
    assert RunFolder.reopen(None, "city")[0].path == made.path


def test_a_new_run_wants_a_place_of_its_own(tmp_path):
    folder(tmp_path)
    with pytest.raises(InputError, match="must be new or empty"):
        folder(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be new or empty"):
        RunFolder.create(tmp_path / "file", "city", {})
    with pytest.raises(InputError, match="must be a folder that can be written"):
        RunFolder.create(tmp_path / "file" / "below", "city", {})
    assert (tmp_path / "file").read_text() == ""


def test_state_comes_back_bit_for_bit(tmp_path):
    run = folder(tmp_path)
    assert run.load_state("a") is None
    tensors = {"x": torch.randn(3, 4), "n": torch.tensor(7), "mask": torch.tensor([True, False])}
    meta = {"psnr": [21.123456789012345, 1e-300], "curve": {"4": 0.1 + 0.2}}
    run.save_state("a", tensors, meta)
    found, described = run.load_state("a")
    assert described == meta
    assert set(found) == set(tensors)
    for key, value in tensors.items():
        assert torch.equal(found[key], value)
        assert found[key].dtype == value.dtype


def test_a_write_that_fails_leaves_the_last_good_state(tmp_path, monkeypatch):
    run = folder(tmp_path)
    run.save_state("a", {"x": torch.ones(2)}, {"k": 1})

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            run.save_state("a", {"x": torch.zeros(2)}, {"k": 2})
    tensors, meta = run.load_state("a")
    assert meta == {"k": 1}
    assert torch.equal(tensors["x"], torch.ones(2))
    assert not list(run.path.rglob("*.tmp"))


def test_leftovers_of_a_killed_process_are_cleared_and_nothing_else(tmp_path):
    run = folder(tmp_path)
    run.save_state("a", {"x": torch.ones(2)}, {})
    left = run.path / "state" / ".a.safetensors.999999999.tmp"
    mine = run.path / f".metrics.json.{os.getpid()}.tmp"
    for file in (left, mine):
        file.write_bytes(b"half")
    run.clean()
    assert not left.exists()
    assert mine.exists()
    assert run.load_state("a") is not None


def test_discard_removes_the_files_of_create_and_no_others(tmp_path):
    run = folder(tmp_path)
    run.discard()
    assert not run.path.exists()
    run = folder(tmp_path)
    run.save_state("a", {"x": torch.ones(2)}, {})
    run.discard()
    assert run.load_state("a") is not None


def test_errors_name_the_file_that_does_not_fit(tmp_path):
    run = folder(tmp_path)
    wanted = r"resume: .*state/mim\.safetensors must be the state of this configuration"
    with pytest.raises(InputError, match=wanted), run.must_fit("mim"):
        raise KeyError("learner.params.0")
