"""`--precision`: half types train to float32's PSNR; it is kept with a run, shown, and refused where it can't be."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch
from tiny_city import PLAN

from mclnf_fast.cli import main
from mclnf_fast.data import write_city
from mclnf_fast.errors import InputError
from mclnf_fast.systems.city import data as city_data
from mclnf_fast.systems.city.options import CityConfig
from mclnf_fast.systems.common import checks
from mclnf_fast.systems.common.checks import check_precision
from mclnf_fast.systems.ct.options import CtConfig
from mclnf_fast.systems.signals.options import ImageConfig

IMAGE = [
    "image", "--size", "48", "--limit", "4", "--test", "2", "--patches", "1", "1", "--methods", "mod_random",
    "--steps", "256", "--width", "32", "--adapt.batch", "256", "--adapt.lr", "2e-3", "--threads", "1",
]  # fmt: skip
CITY = [
    "city", "--methods", "mod_random", "--init", "random", "--steps", "200", "--width", "32", "--hidden-layers", "2",
    "--frequencies", "3", "--samples-per-ray", "8", "--adapt.batch", "96", "--threads", "1",
]  # fmt: skip


def run(out: pathlib.Path, *words: str) -> dict:
    threads = torch.get_num_threads()
    try:
        assert main(["run", *words, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return json.loads((out / "metrics.json").read_text())


def test_an_image_in_half_types_reaches_the_psnr_of_float32(tmp_path: pathlib.Path) -> None:
    """With all roundings: the reference has them on every processor."""
    found = {}
    for precision in ("fp32", "bf16", "fp16"):
        words = ["--backend", "reference", "--precision", precision]
        metrics = run(tmp_path / precision, *IMAGE, *words)
        curve = metrics["seeds"]["0"]["methods"]["mod_random"]["curve"]["psnr"]["256"]
        found[precision] = sum(curve) / len(curve)
        text = (tmp_path / precision / "report.html").read_text()
        assert ("precision of training" in text) == (precision != "fp32")
        assert f"precision: {precision}" in (tmp_path / precision / "config.yaml").read_text()
    assert found["fp32"] > 22
    assert found["bf16"] != found["fp32"] != found["fp16"]
    assert abs(found["bf16"] - found["fp32"]) < 0.2
    assert abs(found["fp16"] - found["fp32"]) < 0.2


def test_a_city_in_bf16_reaches_the_psnr_of_float32(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {**PLAN, "width": 32, "height": 24, "train": 8, "test": 2}
    monkeypatch.setattr(city_data, "write_city", lambda *, seed=0, progress=None, **_: write_city(
        seed=seed, progress=progress, **plan))  # fmt: skip
    found = {}
    for precision in ("fp32", "bf16"):
        metrics = run(tmp_path / precision, *CITY, "--backend", "reference", "--precision", precision)
        found[precision] = metrics["methods"]["mod_random"]["psnr_mean"]
    assert found["fp32"] > 19
    assert found["bf16"] != found["fp32"]
    assert abs(found["bf16"] - found["fp32"]) < 0.2


def test_a_run_is_resumed_at_the_precision_that_it_began_with(tmp_path: pathlib.Path) -> None:
    words = [*IMAGE, "--steps", "3", "--backend", "reference"]
    wanted = run(tmp_path / "whole", *words, "--precision", "bf16")
    out = tmp_path / "again"
    run(out, *words, "--precision", "bf16")
    assert main(["run", "image", "--resume", str(out)]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert found["config"]["run"]["precision"] == "bf16"
    assert (
        found["seeds"]["0"]["methods"]["mod_random"]["curve"] == wanted["seeds"]["0"]["methods"]["mod_random"]["curve"]
    )


@pytest.mark.parametrize(
    ("system", "precision", "text"),
    [
        ("image", "tf32", "precision must be fp32 on this CPU, got tf32: GPUs alone multiply it"),
        ("audio", "fp16", "precision must be fp32 on this CPU, got fp16: no CPU kernel multiplies it"),
        ("ct", "bf16", "precision must be fp32 for ct, whose training knows no other, got bf16"),
        ("city", "int8", "precision"),
    ],
)
def test_what_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], system: str, precision: str, text: str
) -> None:
    out = tmp_path / "run"
    backend = ["--backend", "reference"] if system == "ct" else []
    assert main(["run", system, *backend, "--precision", precision, "--out", str(out)]) != 0
    said = capsys.readouterr()
    assert text in said.err + said.out
    assert not out.exists()


def test_bf16_on_the_cpu_is_refused_without_the_instruction(monkeypatch: pytest.MonkeyPatch, need) -> None:
    need("bank_mlp", "cpu")
    for dot in (True, False):
        monkeypatch.setattr(checks, "info", lambda dot=dot: {"bf16_dot": dot})
        if dot:
            check_precision("bf16", "cpu", "auto")
            continue
        with pytest.raises(InputError, match="got bf16: it has no fast dot product of bf16 pairs"):
            check_precision("bf16", "cpu", "auto")
        check_precision("bf16", "cpu", "reference")
    check_precision("tf32", "cuda:0", "auto")


def test_systems_of_one_precision_leave_it_out_of_their_help() -> None:
    assert "precision" in CtConfig.flags_without_effect()
    assert "precision" not in ImageConfig.flags_without_effect()
    assert "precision" not in CityConfig.flags_without_effect()
