"""Small whole runs of `run single-view`: what they leave, that they go on where they were stopped, and bad options."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import tiny_objects
import torch
from PIL import Image
from tiny_runs import CountedCalls, metrics_of, results, run_system

import mclnf_fast as mf
from mclnf_fast import data as object_data
from mclnf_fast.cli import main
from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.metrics import psnr
from mclnf_fast.render.objects import on_white
from mclnf_fast.systems.common import run as run_frame
from mclnf_fast.systems.single_view import job as single_view
from mclnf_fast.systems.single_view.options import SingleViewConfig, ViewOptions, defaults_of, single_view_preset
from mclnf_fast.systems.starts import job as start_job
from mclnf_fast.systems.starts.tuning import best_choice

TINY = [
    "--objects", "5", "--test", "2", "--views", "6", "--size", "12", "--steps", "4", "--adapt.batch", "16",
    "--width", "8", "--hidden-layers", "2", "--samples-per-ray", "8", "--meta.batch", "8",
    "--meta.steps", "6", "--meta.tasks", "2", "--meta.inner-steps", "2",
    "--match-steps", "5", "--curve-views", "2", "--orbit-frames", "5",
    "--threads", "1", "--tune.rates", "--tune.density-bias",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick_objects():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_data, "procedural_cars", tiny_objects.procedural_cars)
        yield


def run(out: pathlib.Path, *words: object) -> dict[str, Any]:
    return run_system("single-view", TINY, out, *words)


@pytest.fixture(scope="module")
def finished(quick_objects: None, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("single") / "whole"
    run(out)
    return out


def test_a_run_writes_all_that_a_report_needs(finished):
    metrics = metrics_of(finished)
    assert list(metrics["initializations"]) == ["standard", "constant", "matched", "shuffled", "meta", "white"]
    assert metrics["steps"] == [0, 1, 2, 4]
    for name, row in metrics["initializations"].items():
        assert list(row["curve"]) == (["0", "4"] if name == "white" else ["0", "1", "2", "4"])
        assert all(len(values) == 2 for values in (*row["curve"].values(), row["after"]))
        assert len(row.get("input", [])) == (0 if name == "white" else 2)
    assert metrics["views"]["tested"] == [5, 5]  # all but the one learned from
    assert metrics["views"]["curve"] == [[2, 4], [2, 4]]
    assert metrics["meta"]["curve"][-1][0] == 6
    assert not set(metrics["names"]["train"]) & set(metrics["names"]["test"])
    assert {p["kind"] for p in metrics["pictures"]} == {"sheet", "turntable", "orbit", "curve"}
    page = (finished / "report.html").read_text()
    assert page.count("data:image/") == 4
    assert all(name in page for name in ("meta-learned", "matched", "constant", "shuffled", "standard", "white"))
    assert not re.search(r"(src|href)=\"http", page)
    with Image.open(finished / "images" / "turntable.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 5


def test_scores_are_those_of_the_pictures(finished):
    """The PSNR over all other views, from the pictures that the run has kept: to their 8 bits."""
    metrics = metrics_of(finished)
    truth = load_tensors(finished / "predictions" / "truth.safetensors")[0]["values"]
    sets = tiny_objects.procedural_cars(5, 2, views=6, size=12)
    assert truth.shape == (2, 6, 12, 12, 3)
    assert torch.equal(truth[1], (on_white(sets.test[1].images) * 255).round().to(torch.uint8))
    for name in ("standard", "meta"):
        before, after = load_tensors(finished / "predictions" / f"{name}.safetensors")[0]["values"] / 255
        exact = [float(psnr(after[o, 1:], truth[o, 1:] / 255, keep_first=True).mean()) for o in range(2)]
        assert metrics["initializations"][name]["after"] == pytest.approx(exact, abs=0.02)
        own = [float(psnr(after[o, 0], truth[o, 0] / 255)) for o in range(2)]
        assert metrics["initializations"][name]["input"] == pytest.approx(own, abs=0.02)
        for pictures, step in ((before, "0"), (after, "4")):
            some = [float(psnr(pictures[o, [2, 4]], truth[o, [2, 4]] / 255, keep_first=True).mean()) for o in range(2)]
            assert metrics["initializations"][name]["curve"][step] == pytest.approx(some, abs=0.02)


def test_a_white_page_is_scored_on_the_same_views(finished):
    truth = load_tensors(finished / "predictions" / "truth.safetensors")[0]["values"] / 255
    row, white = metrics_of(finished)["initializations"]["white"], torch.ones_like(truth[0])
    for views, found in ((range(1, 6), row["after"]), ([2, 4], row["curve"]["0"]), ([2, 4], row["curve"]["4"])):
        exact = [float(psnr(white[list(views)], t[list(views)], keep_first=True).mean()) for t in truth]
        assert found == pytest.approx(exact, abs=0.02)


def test_a_rate_and_a_bias_are_chosen_for_each_and_stand_in_the_result(tmp_path, monkeypatch):
    tried = []

    def last(initialization, trials, biased):
        """Try them, and take the last: of networks this small the first, which hardly learns, may be best."""
        tried.append(best_choice(initialization, trials, biased))
        return trials.grid[-1]

    monkeypatch.setattr(start_job, "best_choice", last)
    words = ("--tune.steps", "3", "--orbit-frames", "0", "--adapt.lr", "1e-6")
    grid = ("--tune.rates", "0.3", "--tune.density-bias", "0.5")
    found = run(tmp_path / "tuned", "--initializations", "standard", "meta", *words, *grid)
    assert found["trials"] == {"choices": 4, "tasks": 2, "steps": 3}
    rows = found["initializations"]
    assert [rows[name].get("lr") for name in ("standard", "meta", "white")] == [0.3, 0.3, None]
    assert len(tried) == 2
    assert all(choice.lr in (1e-6, 0.3) and choice.density_bias in (0.0, 0.5) for choice in tried)
    learned = mf.load(tmp_path / "tuned")
    assert learned.tuning["lr"] == rows["meta"]["lr"]
    # A bias that was chosen is in the initialization that the result holds.
    plain = run(tmp_path / "plain", "--initializations", "meta", "--orbit-frames", "0")
    assert plain["initializations"]["meta"].get("density_bias") is None
    ours, theirs = (mf.load(tmp_path / name).bank.shared[-1] for name in ("tuned", "plain"))
    torch.testing.assert_close(ours - theirs, torch.tensor([[0.0, 0.0, 0.0, 0.5]]))
    # What was chosen is what a run has that is given it.
    row = rows["standard"]
    options = ("--adapt.lr", "0.3", "--density-bias", "0.5", "--orbit-frames", "0")
    given = run(tmp_path / "given", "--initializations", "standard", *options)["initializations"]["standard"]
    assert (given["curve"], given["after"]) == (row["curve"], row["after"])


def test_a_killed_run_comes_to_the_same_bits(finished, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    monkeypatch.setattr(run_frame, "SAVE_EVERY", 0.0)
    steps = CountedCalls(monkeypatch, MetaTrainer, "step", limit=3)
    words = ["run", "single-view", *TINY, "--out", str(out)]
    assert main(words) == 130
    assert not (out / "metrics.json").exists()
    assert int(load_tensors(out / "state" / "meta.safetensors")[0]["outer_steps"]) == 3
    steps.limit = None
    assert main(["run", "single-view", "--resume", str(out)]) == 0
    assert steps.count == 6  # it went on, and did not start over
    metrics = metrics_of(out)
    before = metrics_of(finished)
    assert results(metrics) == results(before)
    assert metrics["meta"]["curve"] == before["meta"]["curve"]
    for file in ("bank.safetensors", "state/adapted_meta.safetensors"):
        ours, theirs = (load_tensors(folder / file)[0] for folder in (out, finished))
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert metrics["command"].endswith(str(out))


def test_a_learned_start_serves_a_users_photo(finished, tmp_path):
    start = mf.load(finished)
    assert start.bank.spec.width == 8
    assert start.tuning["steps"] == 4
    thing = tiny_objects.procedural_cars(5, 2, views=6, size=12).test[0]
    field = start.adapt(thing.images[0].numpy(), thing.cameras[:1], seed=0)
    pictures = field.render(thing.cameras[1:3])
    assert pictures.shape == (2, 12, 12, 3)
    assert pictures.dtype == torch.uint8
    untouched = start.adapt(thing.images[0], thing.cameras[:1], steps=1).render(thing.cameras[1:3])
    assert not torch.equal(untouched, pictures)
    plain = (on_white(thing.images[0]) * 255).round().to(torch.uint8)
    assert start.adapt(plain, thing.cameras[:1]).render(thing.cameras[1:3]).shape == pictures.shape
    both = start.adapt(thing.images[:2], thing.cameras[:2])
    assert not torch.equal(both.render(thing.cameras[1:3]), pictures)
    with pytest.raises(InputError, match="camera must be 1, one per picture, got 2"):
        start.adapt(thing.images[0], thing.cameras[:2])
    with pytest.raises(InputError, match="image must be uint8"):
        start.adapt(thing.images[0].float(), thing.cameras[:1])
    with pytest.raises(InputError, match=r"with bank\.safetensors in it"):
        mf.load(tmp_path)


def test_the_texts_numbers():
    config = single_view_preset("blog")
    assert config.field.spec.num_parameters == 295_172
    assert config.field.spec.encoding.out_dim(3) == 120
    assert (config.meta.inner_steps, config.meta.inner_lr, config.meta.outer_lr) == (32, 0.5, 5e-5)
    assert (config.meta.tasks, config.meta.steps, config.steps, config.adapt.rate, config.adapt.batch) == (
        1,
        100_000,
        1000,
        0.5,
        128,
    )
    settings = config.settings(2.0, 6.0)
    assert (settings.samples_per_ray, settings.near, settings.far, settings.convention) == (128, 2.0, 6.0, "blog")
    notebook = defaults_of("single-view", ["--preset", "blog", "--convention=learnit"])
    assert notebook.meta.outer_lr == 5e-4
    assert notebook.checked_every == 10_000
    assert config.checked_every == 0
    assert notebook.check_steps == 512
    assert notebook.settings(2.0, 6.0).convention == "learnit"
    assert isinstance(mf.LogFrequency(20, 8.0), type(config.field.spec.encoding))


def test_the_notebooks_convention_learns_from_25_views_and_tests_on_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(single_view, "INPUT_VIEWS", 4)
    found = run(tmp_path / "learnit", "--convention", "learnit", "--check-every", "3", "--check-steps", "2",
                "--views", "6", "--initializations", "meta", "--curve-views", "9")  # fmt: skip
    assert found["views"]["curve"] == [[4, 5], [4, 5]]
    assert found["views"]["tested"] == [2, 2]
    assert [step for step, _ in found["meta"]["checks"]] == [3, 6]
    assert list(found["initializations"]) == ["meta", "white"]


def test_a_standard_start_alone_needs_no_meta_training(tmp_path):
    found = run(tmp_path / "standard", "--initializations", "standard")
    assert "curve" not in found["meta"]
    assert mf.load(tmp_path / "standard").initialization == "standard"


def test_a_random_starts_density_can_be_raised(tmp_path):
    before = []
    for bias in ("-50", "50"):
        run(
            tmp_path / bias,
            "--initializations",
            "standard",
            "--density-bias",
            bias,
            "--steps",
            "1",
            "--orbit-frames",
            "0",
        )
        before.append(load_tensors(tmp_path / bias / "predictions" / "standard.safetensors")[0]["values"][0])
    assert bool((before[0] == 255).all())  # nothing before white
    assert float(before[1].float().mean()) < 160  # opaque, of whatever colors


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--steps", "0"], ["steps must be at least 1, got 0"]),
        (["--samples-per-ray", "1"], ["samples-per-ray must be at least 2, got 1"]),
        (["--near", "7", "--far", "6"], ["near and far must be", "7.0 and 6.0"]),
        (["--test", "5"], ["test must be below objects (5)", "got 5"]),
        (["--views", "1"], ["views must be at least 2", "got 1"]),
        (["--adapt.lr", "nan"], ["adapt.lr must be above 0", "nan"]),
        (["--meta.outer-lr", "0"], ["meta.outer_lr must be above 0", "0"]),
        (["--meta.tasks", "0"], ["meta.tasks must be at least 1", "0"]),
        (["--initializations", "meta", "meta"], ["initializations must name different", "meta, meta"]),
        (["--density-bias", "nan"], ["density-bias must be finite", "nan"]),
        (["--seed", "-1"], ["seed must lie in", "-1"]),
        (["--preset", "huge"], ["preset must be one of blog, small, fast, got 'huge'"]),
        (["--device", "cuda:99"], ["device must be", "cuda:99"]),
    ],
)
def test_unusable_options_get_one_line(words, parts, refused):
    refused(["single-view", *TINY, *words], parts)


def test_a_configuration_is_checked_in_python_too():
    with pytest.raises(InputError, match="preset must be one of"):
        single_view_preset("huge")
    with pytest.raises(InputError, match=r"adapt\.batch must be at least 1"):
        SingleViewConfig(adapt=ViewOptions(batch=0)).check()
