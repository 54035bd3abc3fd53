"""Small whole runs of `run ct`: what they leave, that they go on where they were stopped, and bad options."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import CountedCalls, metrics_of, predictions, results, run_system

import mclnf_fast as mf
from mclnf_fast.cli import main
from mclnf_fast.data.procedural.phantoms import draw_phantoms, phantom_projections
from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors
from mclnf_fast.metrics import psnr
from mclnf_fast.render.parallel_beam import back_project, even_angles, project
from mclnf_fast.systems.common import run as frame
from mclnf_fast.systems.ct import job as ct
from mclnf_fast.systems.ct.classical import RELAXATIONS, skimage_installed
from mclnf_fast.systems.ct.options import CtConfig, defaults_of
from mclnf_fast.systems.starts import job as start_job
from mclnf_fast.systems.starts.options import preset_config

TINY = [
    "--count", "6", "--test", "2", "--size", "16", "--steps", "4", "--width", "8", "--hidden-layers", "2",
    "--frequencies", "8", "--meta-views", "5", "--match-steps", "5", "--meta.steps", "6", "--meta.tasks", "2",
    "--meta.inner-steps", "2", "--rates", "0.03", "0.003", "--threads", "1",
]  # fmt: skip


STARTS = ("standard", "constant", "matched", "shuffled", "meta")
CLASSICAL = ("fbp", "hann", "sart") if skimage_installed() else ("fbp",)


def run(out: pathlib.Path, *words: object) -> dict[str, Any]:
    return run_system("ct", TINY, out, *words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("ct") / "whole"
    run(out)
    return out


def test_a_run_writes_all_that_a_report_needs(finished):
    metrics = metrics_of(finished)
    assert list(metrics["initializations"]) == [*STARTS, *CLASSICAL, "linear", "mean"]
    for name in STARTS:
        row = metrics["initializations"][name]
        assert list(row["curve"]) == ["0", "1", "2", "4"]
        assert list(row["fit"]) == ["0", "1", "2"]  # the losses before the steps that follow
        assert row["lr"] in (0.03, 0.003)
        assert all(len(values) == 2 for values in (*row["curve"].values(), row["after"]))
    assert metrics["projections"] == 6
    assert not set(metrics["names"]["train"]) & set(metrics["names"]["test"])
    assert {p["kind"] for p in metrics["pictures"]} == {"sheet", "curve"}
    page = (finished / "report.html").read_text()
    assert page.count("data:image/") == 2
    assert all(name in page for name in (*STARTS[:-1], "meta-learned", "back-projection", "mean slice"))
    assert metrics["trials"] == {"choices": 2, "tasks": 3, "steps": 4}
    if skimage_installed():
        assert metrics["initializations"]["sart"]["lr"] in RELAXATIONS
    for name in ("constant", "matched"):
        row = metrics["initializations"][name]
        assert row["distilled_steps"] == 5
        assert f"{name}: distilled in 5 Adam steps, {100 * row['residual']:.2g} % of the outputs" in page
    assert "best of 2 choices of its rate" in page
    assert not re.search(r"(src|href)=\"http", page)


def test_scores_are_those_of_the_pictures(finished):
    metrics, truth = metrics_of(finished), predictions(finished, "truth")
    assert truth.shape == (2, 16, 16, 1)
    for name, row in metrics["initializations"].items():
        made = predictions(finished, name)
        for k, step in enumerate((0, 4)[: len(made)]):
            exact = psnr(made[k] / 255, truth / 255, keep_first=True).tolist()
            assert row["curve"][str(step)] == pytest.approx(exact, abs=0.05)
    sinograms = project(truth[..., 0] / 255, even_angles(6))
    classical = back_project(sinograms, even_angles(6)).clamp(0, 1)
    assert float((classical * 255 - predictions(finished, "fbp")[0, ..., 0]).abs().max()) < 3


def test_rates_are_judged_by_their_results(tmp_path, monkeypatch):
    monkeypatch.setattr(ct, "TUNED_ON", 1)
    found = run(tmp_path / "rates", "--initializations", "standard", "--rates", "1e-6", "0.03")
    assert found["initializations"]["standard"]["lr"] == 0.03  # the other stays where it began
    assert "curve" not in found["meta"]
    assert mf.load(tmp_path / "rates").initialization == "standard"


def test_a_learned_start_serves_a_users_sinogram(finished):
    start = mf.load(finished)
    assert start.frequencies.shape == (8, 2)
    assert (start.tuning["steps"], start.tuning["optimizer"]) == (4, "adam")
    truth, angles = predictions(finished, "truth")[..., 0] / 255, even_angles(6)
    sinogram = project(truth[:1], angles)[0]
    field = start.adapt(sinogram.numpy(), angles.numpy())
    kept = predictions(finished, "meta")[1, 0, ..., 0]
    assert float((field.picture(16)[0, ..., 0] * 255 - kept).abs().max()) < 1.5
    assert field.picture(40).shape == (1, 40, 40, 1)
    before = start.adapt(sinogram, angles, steps=0).picture(16)[0, ..., 0]
    assert float((before * 255 - predictions(finished, "meta")[0, 0, ..., 0]).abs().max()) < 1.0
    with pytest.raises(InputError, match=r"sinogram and angles must be \[V, N\] and \[V\]"):
        start.adapt(sinogram, angles[:3])
    with pytest.raises(InputError, match="must be finite"):
        start.adapt(sinogram / 0, angles)
    with pytest.raises(InputError, match="steps must be at least 0"):
        start.adapt(sinogram, angles, steps=-1)
    with pytest.raises(InputError, match="height and width must be at least 1"):
        field.picture(0)


def test_a_killed_run_comes_to_the_same_bits(finished, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    monkeypatch.setattr(frame, "SAVE_EVERY", 0.0)
    steps = CountedCalls(monkeypatch, start_job.MetaTrainer, "step", limit=3)
    assert main(["run", "ct", *TINY, "--out", str(out)]) == 130
    assert not (out / "metrics.json").exists()
    steps.limit = None
    assert main(["run", "ct", "--resume", str(out)]) == 0
    assert steps.count == 6  # it went on, and did not start over
    metrics, before = (metrics_of(folder) for folder in (out, finished))
    assert results(metrics) == results(before)
    ours, theirs = (load_tensors(folder / "bank.safetensors")[0] for folder in (out, finished))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_exact_measurements_are_those_of_the_ellipses(tmp_path, monkeypatch):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    inside = ct.Slices.measured

    def spied(slices: Any, ids: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        found = inside(slices, ids, angles)
        seen.append((angles, found))
        return found

    monkeypatch.setattr(ct.Slices, "measured", spied)
    run(tmp_path / "exact", "--measured", "exact", "--initializations", "standard", "--jitter", "0.5")
    angles, found = seen[-1]  # of the test slices, the last of the family
    exact = phantom_projections(draw_phantoms(6, 0, 0.5)[4:], even_angles(6), 16)
    assert torch.equal(angles, even_angles(6))
    assert torch.equal(found, exact)


def test_a_folder_of_slices(tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(5):
        pixels = torch.zeros(24, 24, dtype=torch.uint8)
        pixels[6 + k : 14 + k, 8:16] = 200
        Image.fromarray(pixels.numpy()).save(tmp_path / "in" / f"{k}.png")
    found = run_system(
        "ct",
        TINY[4:],
        tmp_path / "out",
        "--data",
        tmp_path / "in",
        "--test",
        "1",
        "--initializations",
        "standard",
        "meta",
    )
    assert list(found["initializations"]) == ["standard", "meta", *CLASSICAL, "linear", "mean"]
    assert len(found["names"]["test"]) == 1


def test_the_papers_numbers():
    config = preset_config(CtConfig, "paper")
    config.check()
    spec = config.field.spec
    assert (config.data.size, config.field.frequencies, config.field.sigma) == (256, 256, 30.0)
    assert (spec.in_dim, spec.width, len(spec.layer_shapes), spec.activation) == (512, 256, 5, "relu")
    assert spec.output_activation == "sigmoid"
    meta = config.meta
    assert (meta.algorithm, meta.inner_lr, meta.inner_steps, meta.outer_lr) == ("reptile", 10.0, 12, 5e-5)
    assert (meta.steps, config.data.meta_views, config.data.views, config.steps) == (100_000, 20, 6, 1000)
    assert (config.rates, config.optimizer, config.meta.inner) == ((10.0,), "sgd", "sgd")
    with pytest.raises(InputError, match="optimizer must be one of adam, sgd, got 'lbfgs'"):
        dataclasses.replace(config, optimizer="lbfgs").check()
    assert defaults_of("ct", ["--preset=paper"]) == config
    for words in ([], ["--quick"]):
        defaults_of("ct", words).check()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--views", "0"], ["views must be at least 1, got 0"]),
        (["--meta-views", "0"], ["meta-views must be at least 1, got 0"]),
        (["--rates", "0"], ["rates must be different numbers above 0", "got 0"]),
        (["--initializations", "meta", "meta"], ["initializations must name different", "meta, meta"]),
        (["--sigma", "0"], ["sigma must be above 0", "0"]),
        (["--jitter", "2"], ["jitter must lie in 0 ... 1", "2"]),
        (["--test", "6"], ["test must be below count (6)", "got 6"]),
        (["--measured", "exact", "--data", "."], ["measured must be sampled with data of a folder"]),
        (["--preset", "huge"], ["preset must be one of paper, small, got 'huge'"]),
        (["--hidden-layers", "31"], ["hidden-layers must lie in 1 ... 30", "31"]),
    ],
)
def test_unusable_options_get_one_line(words, parts, refused):
    refused(["ct", *TINY, *words], parts)
