"""The main job on a second device: everything is where it belongs, and learns the same as on the CPU."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from elsewhere import Elsewhere
from tiny_city import OPTIONS, results

from mclnf_fast.systems.common import options


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and lists, by path."""
    if not isinstance(value, (dict, list)):
        return {at: value}
    rows = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: leaf for name, inner in rows for key, leaf in flat(inner, f"{at}/{name}").items()}


@pytest.mark.slow
def test_a_run_elsewhere_learns_the_same(
    run_tiny: Callable[..., int], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole job with its data and parameters on a device that the CPU may not meet; then from its state."""
    # What the other methods do, one of these does too.
    methods = ("--methods", "er", "ewc", "maml_offline", "oml", "mim", "mod_random")
    words = (*OPTIONS, "--backend", "reference", "--fim.use", "both", *methods)
    assert run_tiny("--out", tmp_path / "cpu", *words) == 0
    monkeypatch.setattr(options, "check_device", lambda name: None)
    autocast = torch.autocast  # knows no such device
    monkeypatch.setattr(torch, "autocast", lambda device, **rest: autocast(device.replace("meta", "cpu"), **rest))
    with Elsewhere():
        assert run_tiny("--out", tmp_path / "there", "--device", "meta", *words) == 0
        there = flat(results(tmp_path / "there"))
        assert run_tiny("--resume", tmp_path / "there") == 0
    assert flat(results(tmp_path / "there")) == there
    here = flat(results(tmp_path / "cpu"))
    assert (here.pop("/config/run/device"), there.pop("/config/run/device")) == ("cpu", "meta")
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert there[name] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_a_gpu(run_tiny: Callable[..., int], tmp_path: pathlib.Path) -> None:
    assert run_tiny("--out", tmp_path / "cpu", *OPTIONS) == 0
    assert run_tiny("--out", tmp_path / "gpu", "--device", "cuda", *OPTIONS) == 0
    here, there = results(tmp_path / "cpu"), results(tmp_path / "gpu")
    for name, row in here["methods"].items():
        assert there["methods"][name]["psnr_mean"] == pytest.approx(row["psnr_mean"], abs=0.1)


@pytest.mark.parametrize(
    ("name", "said"),
    [("tpu", "device must be cpu, cuda or cuda:N, got 'tpu'"), ("cuda:99", "device must be one that is there")],
)
def test_a_device_that_is_not_there(
    run_tiny: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, name: str, said: str
) -> None:
    assert run_tiny("--out", tmp_path / "run", "--device", name, *OPTIONS) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
