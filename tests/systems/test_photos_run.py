"""Small whole runs of `run photos`: what they leave, halves that never mix, interpolation, resume, and bad options."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_photos import write_photos
from tiny_runs import CountedCalls, metrics_of, predictions, run_system

import mclnf_fast as mf
from mclnf_fast import data
from mclnf_fast.artifacts import interpolate
from mclnf_fast.cli import main
from mclnf_fast.data.photos import split_counts
from mclnf_fast.data.procedural.place.place import place_cameras
from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.learn.params import interpolated
from mclnf_fast.metrics import psnr
from mclnf_fast.systems.common import run as run_frame
from mclnf_fast.systems.photos.options import PhotosConfig, defaults_of
from mclnf_fast.systems.starts import job as start_job
from mclnf_fast.systems.starts.options import preset_config

TINY = [
    "--photos", "9", "--test", "3", "--validation", "2", "--size", "12", "--steps", "4", "--adapt.batch", "16",
    "--width", "8", "--hidden-layers", "2", "--samples-per-ray", "8", "--meta.batch", "8",
    "--meta.steps", "6", "--meta.tasks", "2", "--meta.inner-steps", "2",
    "--match-steps", "5", "--check-every", "3", "--frames", "3", "--threads", "1",
    "--tune.rates", "--tune.density-bias",
]  # fmt: skip


def run(out: pathlib.Path, *words: object) -> dict[str, Any]:
    return run_system("photos", TINY, out, *words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("photos") / "whole"
    run(out)
    return out


@pytest.fixture(scope="module")
def sets() -> data.PhotoSets:
    return data.procedural_photos(9, test=3, validation=2, size=12)


def adapted(folder: pathlib.Path, kind: str) -> tuple[torch.Tensor, ...]:
    tensors = load_tensors(folder / "state" / "adapted_meta.safetensors")[0]
    return tuple(tensors[f"{kind}.{i}"] for i in range(sum(k.startswith(kind) for k in tensors)))


def test_a_run_writes_all_that_a_report_needs(finished):
    metrics = metrics_of(finished)
    assert list(metrics["initializations"]) == ["standard", "constant", "matched", "shuffled", "meta", "mean"]
    mean = metrics["initializations"].pop("mean")
    assert mean["curve"] == {"0": mean["after"], "4": mean["after"]}
    for row in metrics["initializations"].values():
        assert list(row["curve"]) == ["0", "1", "2", "4"]
        assert all(len(row[key]) == 3 for key in ("after", "input", "whole", "others"))
        assert list(row["between"]) == list(row["faded"]) == ["0.0", "0.25", "0.5", "0.75", "1.0"]
        assert row["between"]["0.0"] == row["faded"]["0.0"]
        assert row["curve"]["4"] == row["after"]
    assert [step for step, _ in metrics["meta"]["checks"]] == [3, 6]
    assert {p["kind"] for p in metrics["pictures"]} == {"sheet", "strip", "way", "curve"}
    page = (finished / "report.html").read_text()
    assert page.count("data:image/") == 4
    assert all(words in page for words in ("Photo by photo", "Between two photos", "from other places"))
    assert not re.search(r"(src|href)=\"http", page)
    with Image.open(finished / "images" / "way.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 4  # 3 there and 1 back


def test_scores_are_those_of_the_pictures(finished, sets):
    metrics = metrics_of(finished)["initializations"]["meta"]
    truth = predictions(finished, "truth")
    assert torch.equal(truth, torch.cat([photo.images[..., :3] for photo in sets.test]))
    before, left, whole = predictions(finished, "meta") / 255
    for pictures, columns, known in (
        (before, slice(6, 12), metrics["curve"]["0"]),
        (left, slice(6, 12), metrics["after"]),
        (left, slice(0, 6), metrics["input"]),
        (whole, slice(0, 12), metrics["whole"]),
    ):
        ours, theirs = pictures[:, :, columns].flatten(1), truth[:, :, columns].flatten(1) / 255
        assert psnr(ours, theirs, keep_first=True).tolist() == pytest.approx(known, abs=0.05)


def test_right_halves_are_never_learned_from(finished, tmp_path, monkeypatch, sets):
    """Other right halves of the test photos: the same weights from the left ones, other weights from the whole."""

    def torn(count: int, **options: Any) -> data.PhotoSets:
        made = data_photos(count, **options)
        for photo in made.test:
            photo.images[:, :, 6:, :3] = 255 - photo.images[:, :, 6:, :3]
        return made

    data_photos = data.procedural_photos
    monkeypatch.setattr(data, "procedural_photos", torn)
    found = run(tmp_path / "torn", "--initializations", "meta", "--others", 0, "--frames", 2)
    assert all(torch.equal(a, b) for a, b in zip(adapted(finished, "left"), adapted(tmp_path / "torn", "left")))
    assert not torch.equal(adapted(finished, "whole")[0], adapted(tmp_path / "torn", "whole")[0])
    row = metrics_of(finished)["initializations"]["meta"]
    assert found["initializations"]["meta"]["input"] == row["input"]
    assert found["initializations"]["meta"]["after"] != row["after"]


def test_between_two_fields_the_ends_are_theirs(finished, sets):
    start = mf.load(finished)
    assert start.scale == pytest.approx(2.0 / (1.2 * 42.0))
    a, b = (start.adapt(photo.images[0, ..., :3].numpy(), photo.cameras) for photo in sets.test[:2])
    ways = interpolate(a, b, (0.0, 0.3, 1.0))
    for w, p, q in zip(ways.bank.stacked, a.bank.stacked, b.bank.stacked):
        assert torch.equal(w[0].view(torch.int32), p[0].view(torch.int32))
        assert torch.equal(w[2].view(torch.int32), q[0].view(torch.int32))
        assert torch.allclose(w[1], 0.7 * p[0] + 0.3 * q[0], atol=1e-6)
    seen = place_cameras(3, 12, 9, 5)
    pictures = ways.render_each(seen)
    assert torch.equal(pictures[0], a.render(seen[:1])[0])
    assert torch.equal(pictures[2], b.render(seen[2:])[0])
    assert torch.equal(interpolate(a, b, 0.3).render(seen[1:2])[0], pictures[1])
    with pytest.raises(InputError, match="weights must be at least one finite number"):
        interpolate(a, b, float("nan"))
    with pytest.raises(InputError, match="a and b must be one module each"):
        interpolate(ways, b, 0.5)
    with pytest.raises(InputError, match="cameras must be 3, one per object, got 1"):
        ways.render_each(seen[:1])


def test_ends_keep_the_sign_of_zero():
    a, b = (torch.tensor([[-0.0, 1.0]]),), (torch.tensor([[2.0, -0.0]]),)
    ends = interpolated(a, b, torch.tensor([0.0, 1.0]))[0]
    assert torch.equal(ends.view(torch.int32), torch.cat((a[0], b[0])).view(torch.int32))
    with pytest.raises(ValueError, match="1 module or 3, one a weight, got 2"):
        interpolated((ends,), (ends,), torch.zeros(3))


def test_the_mean_photo_is_that_of_the_training_photos(finished, sets):
    mean = torch.stack([photo.images[0, ..., :3] / 255 for photo in sets.train]).mean(0)
    half = mean.shape[1] // 2
    exact = [float(psnr(mean[:, half:], photo.images[0, :, half:, :3] / 255)) for photo in sets.test]
    assert metrics_of(finished)["initializations"]["mean"]["after"] == pytest.approx(exact, abs=1e-3)


def test_each_initialization_takes_the_rate_that_was_chosen_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(start_job, "best_choice", lambda initialization, trials, biased: trials.grid[-1])
    words = ("--initializations", "standard", "--others", 0, "--frames", 2, "--tune.steps", 2, "--tune.tasks", 1)
    found = run(tmp_path / "tuned", *words, "--adapt.lr", 1e-6, "--tune.rates", 0.3)
    assert found["initializations"]["standard"]["lr"] == 0.3
    assert found["trials"] == {"choices": 2, "tasks": 1, "steps": 2}
    given = run(tmp_path / "given", *words, "--adapt.lr", 0.3)
    rows = [metrics["initializations"]["standard"] for metrics in (found, given)]
    assert rows[0]["after"] == rows[1]["after"]
    assert "trials" not in given


def test_a_killed_run_comes_to_the_same_bits(finished, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    monkeypatch.setattr(run_frame, "SAVE_EVERY", 0.0)
    steps = CountedCalls(monkeypatch, MetaTrainer, "step", limit=4)
    assert main(["run", "photos", *TINY, "--initializations", "standard", "meta", "--out", str(out)]) == 130
    steps.limit = None
    assert main(["run", "photos", "--resume", str(out)]) == 0
    assert steps.count == 6
    ours, theirs = (metrics_of(folder) for folder in (out, finished))
    assert list(ours["initializations"]) == ["standard", "meta", "mean"]
    for name, row in ours["initializations"].items():
        assert {**row, "seconds": 0} == {**theirs["initializations"][name], "seconds": 0}
    assert ours["meta"]["checks"] == theirs["meta"]["checks"]


def test_a_folder_without_a_truth(tmp_path):
    write_photos(tmp_path / "data", [(12, 10)] * 6)
    found = run(
        tmp_path / "run", "--data", tmp_path / "data", "--test", 2, "--validation", 0, "--initializations", "meta"
    )
    row = found["initializations"]["meta"]
    assert "others" not in row
    assert "between" not in row
    assert "checks" not in found["meta"]
    assert {p["kind"] for p in found["pictures"]} == {"sheet", "strip", "way", "curve"}


def test_the_papers_numbers():
    config = preset_config(PhotosConfig, "paper")
    assert config.field.spec.num_parameters == 295_172
    assert config.field.spec.encoding.out_dim(3) == 120
    meta = config.meta
    assert (meta.steps, meta.tasks, meta.inner_steps, meta.inner_lr, meta.outer_lr) == (150_000, 1, 64, 1.0, 5e-4)
    assert meta.algorithm == "reptile"
    rates = (config.meta.batch, config.adapt.batch, config.field.samples_per_ray, config.steps, config.adapt.lr)
    assert rates == (64, 64, 128, 256, 1.0)
    settings, scale = config.field.settings(10.0, 20.0, "auto")
    assert scale == 0.05
    assert (settings.near, settings.far) == pytest.approx((0.05 * 9.0, 0.05 * 24.0))
    assert settings.shading.background == "last_sample"
    assert split_counts(1000, config.data.test, config.data.validation) == (20, 5)


def test_presets():
    assert defaults_of("photos", []) == preset_config(PhotosConfig, "small")
    assert (
        defaults_of("photos", ["--preset=paper"])
        == preset_config(PhotosConfig, "paper")
        == PhotosConfig(preset="paper")
    )
    quick = defaults_of("photos", ["--quick"])
    assert quick.meta.steps < preset_config(PhotosConfig, "small").meta.steps
    settings, scale = quick.field.settings(10.0, 20.0, "auto")
    assert settings.far == pytest.approx(2.0)
    assert scale == pytest.approx(2.0 / 24.0)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--steps", "0"], ["steps must be at least 1, got 0"]),
        (["--samples-per-ray", "1"], ["samples-per-ray must be at least 2, got 1"]),
        (["--near", "7", "--far", "6"], ["near and far must be"]),
        (["--test", "8"], ["test, validation: must leave a photo to learn from of 9", "were 8 and 2"]),
        (["--frames", "1"], ["frames must be at least 2, got 1"]),
        (["--scale", "0"], ["scale must be above 0", "0"]),
        (["--meta.inner-lr", "nan"], ["meta.inner_lr must be above 0", "nan"]),
        (["--initializations", "meta", "meta"], ["initializations must name different", "meta, meta"]),
        (["--preset", "huge"], ["preset must be one of paper, small, got 'huge'"]),
        (["--device", "cuda:99"], ["device must be", "cuda:99"]),
        (["--data", "nowhere"], ["nowhere: must be a folder of posed photos"]),
    ],
)
def test_unusable_options_get_one_line(words, parts, refused):
    refused(["photos", *TINY, *words], parts)
