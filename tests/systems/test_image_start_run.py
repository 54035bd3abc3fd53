"""Small whole runs of `run image-start`: what they leave, that they go on where they were stopped, and bad options."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import CountedCalls, metrics_of, predictions, results, run_system

import mclnf_fast as mf
from mclnf_fast.cli import main
from mclnf_fast.data.procedural.faces.faces import procedural_faces
from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors
from mclnf_fast.metrics import psnr
from mclnf_fast.render.cameras import Cameras, look_at
from mclnf_fast.systems.common import run as frame
from mclnf_fast.systems.image_start.options import ImageStartConfig, defaults_of
from mclnf_fast.systems.starts import job as start_job
from mclnf_fast.systems.starts.options import preset_config

TINY = [
    "--count", "5", "--test", "2", "--size", "16", "--steps", "4", "--width", "8", "--hidden-layers", "2", "--w0", "30",
    "--adam-steps", "8", "--adam-lrs", "0.0001", "0.01", "--meta.steps", "6", "--meta.tasks", "2", "--match-steps", "5",
    "--rates", "0.001", "--threads", "1",
]  # fmt: skip


OTHERS = ("standard", "constant", "matched", "shuffled")


def run(out: pathlib.Path, *words: object) -> dict[str, Any]:
    return run_system("image-start", TINY, out, *words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("images") / "whole"
    run(out)
    return out


def test_a_run_writes_all_that_a_report_needs(finished):
    metrics = metrics_of(finished)
    assert list(metrics["initializations"]) == ["meta", *OTHERS, "adam_0", "adam_1", "mean"]
    assert metrics["steps"] == [0, 1, 2, 4, 8]
    assert metrics["inner_steps"] == 2
    assert list(metrics["initializations"]["meta"]["curve"]) == ["0", "1", "2", "4"]
    assert metrics["initializations"]["meta"]["kept"] == [0, 1, 2, 4]
    assert metrics["initializations"]["adam_1"]["lr"] == 0.01
    assert "reached" not in metrics["initializations"]["meta"]
    assert all(len(metrics["initializations"][k]["reached"]) == 2 for k in (*OTHERS, "adam_0", "adam_1"))
    assert metrics["meta"]["curve"][-1][0] == 6
    assert not set(metrics["names"]["train"]) & set(metrics["names"]["test"])
    assert {p["kind"] for p in metrics["pictures"]} == {"sheet", "curve"}
    page = (finished / "report.html").read_text()
    assert page.count("data:image/") == 2
    assert all(text in page for text in ("meta-learned", "Adam 0.01", "steps to match"))
    assert not re.search(r"(src|href)=\"http", page)


def test_scores_agree_with_the_stored_pictures(finished):
    """PSNR from the kept pictures, to their 8 bits and where nothing is clipped; and all steps are whole images'."""
    metrics = metrics_of(finished)
    truth = predictions(finished, "truth")
    assert truth.shape == (2, 16, 16, 3)
    mean = metrics["initializations"].pop("mean")["after"]
    own = procedural_faces(5, 16, seed=0, test=2, validation=2)
    assert mean == pytest.approx([float(psnr(own.train.values.mean(0), v)) for v in own.test.values], abs=1e-4)
    for name, row in metrics["initializations"].items():
        for k, step in enumerate(row["kept"]):
            made = predictions(finished, name)[k]
            exact = psnr(made / 255, truth / 255, keep_first=True).tolist()
            assert row["curve"][str(step)] == pytest.approx(exact, abs=0.3)
        fit = {step: [-10 * torch.tensor(v).log10().item() for v in values] for step, values in row["fit"].items()}
        assert all(row["curve"][step] == pytest.approx(fit[step], abs=1e-3) for step in fit)
    target = metrics["initializations"]["meta"]["curve"]["2"]
    for name in ("standard", "adam_0", "adam_1"):
        row = metrics["initializations"][name]
        for image, reached in enumerate(row["reached"]):
            logged = {int(s): values[image] for s, values in row["curve"].items() if int(s) < row["steps"]}
            if reached is None:
                assert max(logged.values()) < target[image]
            else:
                assert all(v < target[image] for s, v in logged.items() if s < reached)


def test_two_steps_are_those_of_the_learned_start(finished):
    start = mf.load(finished)
    assert (start.tuning["steps"], start.tuning["lr"], start.bank.spec.w0) == (2, 0.05, 30.0)
    truth = predictions(finished, "truth")
    one = start.adapt(truth[0].numpy())
    kept = predictions(finished, "meta")
    assert float((one.picture(16, 16)[0] * 255 - kept[2, 0]).abs().max()) < 1.0
    assert float((start.adapt(truth[0], steps=0).picture(16, 16)[0] * 255 - kept[0, 0]).abs().max()) < 1.0
    assert one.picture(5, 40).shape == (1, 5, 40, 3)
    assert start.adapt(torch.rand(7, 9, 3)).picture(7, 9).shape == (1, 7, 9, 3)
    with pytest.raises(InputError, match=r"image must be \[H, W, 3\]"):
        start.adapt(truth[0, ..., 0])
    with pytest.raises(InputError, match=r"image must be finite and in 0 ... 1"):
        start.adapt(torch.full((4, 4, 3), 2.0))
    with pytest.raises(InputError, match="steps must be at least 0, got -1"):
        start.adapt(truth[0], steps=-1)
    with pytest.raises(InputError, match="height and width must be at least 1"):
        one.picture(0, 4)


def test_a_start_of_another_system_is_refused(finished, tmp_path):
    learned = mf.load(finished)
    camera = Cameras(look_at(torch.tensor([[0.0, 0.0, 4.0]]), torch.zeros(1, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    with pytest.raises(InputError, match="render serves results that are rendered along rays, got one of image-start"):
        learned.render(camera)
    with pytest.raises(InputError, match="data and view must be an image of a result of image-start"):
        learned.adapt(torch.rand(4, 4, 3), camera)
    with pytest.raises(InputError, match=r"with bank\.safetensors in it"):
        mf.load(tmp_path)


def test_a_killed_run_comes_to_the_same_bits(finished, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    monkeypatch.setattr(frame, "SAVE_EVERY", 0.0)
    steps = CountedCalls(monkeypatch, start_job.MetaTrainer, "step", limit=3)
    assert main(["run", "image-start", *TINY, "--out", str(out)]) == 130
    assert not (out / "metrics.json").exists()
    steps.limit = None
    assert main(["run", "image-start", "--resume", str(out)]) == 0
    assert steps.count == 6  # it went on, and did not start over
    metrics, before = (metrics_of(folder) for folder in (out, finished))
    assert results(metrics) == results(before)
    assert metrics["meta"]["curve"] == before["meta"]["curve"]
    ours, theirs = (load_tensors(folder / "bank.safetensors")[0] for folder in (out, finished))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_a_folder_of_pictures(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for k in range(4):
        pixels = torch.randint(256, (20, 24, 3), dtype=torch.uint8, generator=generator)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(tmp_path / "in" / f"{k}.png")
    found = run_system("image-start", TINY[4:], tmp_path / "out", "--data", tmp_path / "in", "--test", "1")
    assert found["size"] == [16, 16]
    assert len(found["names"]["test"]) == 1
    assert found["names"]["test"][0].endswith(".png")


def test_the_papers_numbers():
    config = preset_config(ImageStartConfig, "paper")
    config.check()
    spec = config.field.spec
    assert (spec.activation, spec.w0, spec.width, len(spec.layer_shapes)) == ("sine", 200.0, 256, 5)
    assert spec.num_parameters == 198_915
    assert config.field.offset == 0.5
    assert config.data.size == 178
    meta = config.meta
    assert (meta.algorithm, meta.first_order, meta.inner_lr, meta.inner_steps) == ("maml", False, 1e-2, 2)
    assert (meta.outer_lr, meta.tasks, meta.steps) == (1e-5, 3, 150_000)
    assert 1e-4 in config.adam_lrs
    assert defaults_of("image-start", ["--preset=paper"]) == config
    assert defaults_of("image-start", ["--quick"]).run.quick
    for words in ([], ["--quick"]):
        defaults_of("image-start", words).check()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--steps", "0"], ["steps must be at least 1, got 0"]),
        (["--steps", "1"], ["steps must be at least meta.inner_steps (2), got 1"]),
        (["--test", "5"], ["test must be below count (5)", "got 5"]),
        (["--size", "8"], ["size must lie in 16", "got 8"]),
        (["--adam-lrs", "0.1", "0.1"], ["adam-lrs must be different numbers", "0.1, 0.1"]),
        (["--adam-steps", "0"], ["adam-steps must be at least 1, got 0"]),
        (["--w0", "nan"], ["w0 must be above 0", "nan"]),
        (["--meta.inner-lr", "0"], ["meta.inner_lr must be above 0", "0"]),
        (["--seed", "-1"], ["seed must lie in", "-1"]),
        (["--preset", "huge"], ["preset must be one of paper, small, got 'huge'"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--device", "cuda:99"], ["device must be", "cuda:99"]),
    ],
)
def test_unusable_options_get_one_line(words, parts, refused):
    # A count beside a folder is refused before the folder is looked for.
    refused(["image-start", *(TINY[4:] if "--data" in words else TINY), *words], parts)


@pytest.mark.parametrize("offset", [0.5, 0.0])
def test_the_offset_is_the_mean_output_of_a_random_initialization(offset, tmp_path):
    found = run(tmp_path / "run", "--offset", offset, "--meta.steps", "1", "--initializations", "standard", "meta")
    assert found["config"]["field"]["offset"] == offset
    first = predictions(tmp_path / "run", "standard")[0].float() / 255
    # A random network spreads about its mean; what lies below 0 is cut off in a picture.
    assert float(first.mean()) == pytest.approx(offset, abs=0.1)
