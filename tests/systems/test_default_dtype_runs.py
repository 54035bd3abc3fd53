"""A run of any system ends the same when its caller's default dtype is float64."""

from __future__ import annotations

import importlib
import pathlib

import pytest
import torch
from torch import Tensor

from mclnf_fast.cli import main
from mclnf_fast.fields.io import load_tensors

RUNS = {
    "image": ("signals", ["--size", "16", "--methods", "mod", "mim"]),
    "ct": ("ct", []),
    "image-start": ("image_start", []),
    "photos": ("photos", []),
    "single-view": ("single_view", []),
}


def learned(system: str, out: pathlib.Path) -> dict[str, Tensor]:
    """The bank that a tiny run leaves."""
    module, words = RUNS[system]
    options = importlib.import_module(f"test_{module}_run").TINY
    assert main(["run", system, *options, *words, "--out", str(out)]) == 0
    return load_tensors(out / "bank.safetensors")[0]


@pytest.mark.slow
@pytest.mark.parametrize("system", list(RUNS))
def test_the_bank_of_a_run_does_not_depend_on_the_default_dtype(tmp_path, system):
    want = learned(system, tmp_path / "one")
    torch.set_default_dtype(torch.float64)
    try:
        got = learned(system, tmp_path / "two")
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == value.dtype, name
        assert torch.equal(got[name], value), name
