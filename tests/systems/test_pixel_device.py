"""image-start and ct on a second device: everything is where it belongs, and learns the same as on the CPU."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import torch
from elsewhere import Elsewhere

from mclnf_fast.cli import main
from mclnf_fast.systems.common import options

SHARED = [
    "--count", "6", "--test", "2", "--size", "16", "--steps", "2", "--width", "4", "--hidden-layers", "1",
    "--meta.steps", "2", "--meta.tasks", "2", "--match-steps", "2", "--backend", "reference",
]  # fmt: skip
OWN = {
    "image-start": ["--adam-steps", "2", "--w0", "10"],  # of 30, some machines round figures apart by 1e-4
    "ct": ["--frequencies", "4", "--meta.inner-steps", "2", "--rates", "3", "1"],
}


def figures(folder: pathlib.Path) -> list[float]:
    """All PSNR and losses of a run, in order."""
    starts: dict[str, Any] = json.loads((folder / "metrics.json").read_text())["initializations"]
    return [v for row in starts.values() for part in ("curve", "fit") for vs in row.get(part, {}).values() for v in vs]


@pytest.mark.parametrize("system", list(OWN))
def test_a_run_elsewhere_learns_the_same(system: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["run", system, *SHARED, *OWN[system]]
    assert main([*words, "--out", str(tmp_path / "cpu")]) == 0
    monkeypatch.setattr(options, "check_device", lambda name: None)
    with Elsewhere():
        assert main([*words, "--out", str(tmp_path / "there"), "--device", "meta"]) == 0
    here, there = (figures(tmp_path / place) for place in ("cpu", "there"))
    assert len(here) > 20
    assert there == pytest.approx(here, abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("system", list(OWN))
def test_a_run_on_a_gpu(system: str, tmp_path: pathlib.Path) -> None:
    words = ["run", system, *SHARED[:-2], *OWN[system]]
    for device in ("cpu", "cuda"):
        assert main([*words, "--out", str(tmp_path / device), "--device", device]) == 0
    assert figures(tmp_path / "cuda") == pytest.approx(figures(tmp_path / "cpu"), abs=0.1)
