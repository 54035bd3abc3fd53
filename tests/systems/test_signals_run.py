"""Small whole runs of `run image`, `run video` and `run audio`: what they leave, and what unusable options get."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest
import torch
from PIL import Image

import mclnf_fast as mf
from mclnf_fast.cli import main
from mclnf_fast.data.cut import Cut
from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.metrics import psnr
from mclnf_fast.systems.city.options import CityConfig
from mclnf_fast.systems.common.config_file import with_options
from mclnf_fast.systems.signals.data import load, meta_initialization, random_initialization
from mclnf_fast.systems.signals.options import (
    DEFAULT_METHODS,
    AudioConfig,
    AudioOptions,
    ImageConfig,
    SirenOptions,
    VideoConfig,
)

TINY = [
    "--steps", "4", "--limit", "5", "--width", "8", "--hidden-layers", "2", "--threads", "1", "--adapt.batch", "16",
    "--adapt.fast-layers", "1", "--adapt.memory", "20", "--meta.steps", "2", "--meta.batch", "16",
    "--meta.tasks", "2", "--meta.validate-every", "1", "--fim.refresh", "2",
]  # fmt: skip
KINDS = {
    "image": ["--size", "16"],
    "video": ["--size", "16", "--frames", "4"],
    "audio": ["--seconds", "0.02", "--rate", "8000"],
}


def run(kind: str, out: pathlib.Path, *words: object) -> dict[str, Any]:
    threads = torch.get_num_threads()
    try:
        assert main(["run", kind, *KINDS[kind], *TINY, "--out", str(out), *map(str, words)]) == 0
    finally:
        torch.set_num_threads(threads)
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def curves(metrics: dict[str, Any]) -> dict[str, Any]:
    return {m: row["curve"] for seed in metrics["seeds"].values() for m, row in seed["methods"].items()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("signals") / "image"
    run("image", out)
    return out


def test_an_image_run_writes_all_that_a_report_needs(image):
    metrics = json.loads((image / "metrics.json").read_text())
    assert metrics["steps"] == [1, 2, 4]
    assert metrics["measures"] == ["psnr", "ssim"]
    methods = metrics["seeds"]["0"]["methods"]
    assert list(methods) == list(DEFAULT_METHODS)
    tests = len(metrics["names"]["test"])
    for name, row in methods.items():
        assert set(row["curve"]["psnr"]) == {"0", "1", "2", "4"}
        assert all(len(values) == tests for values in row["curve"]["psnr"].values())
        assert row["category"] == METHODS[name].category
        assert row["seconds_per_step"] > 0
    starts = metrics["seeds"]["0"]["initializations"]
    assert set(starts) == {"joint", "oml", "modules"}
    assert [point[0] for point in starts["modules"]["curve"]] == [1, 2]
    assert all(isinstance(point[2], float) for point in starts["modules"]["curve"])
    sizes = {row["parameters"] for row in methods.values()}
    assert max(sizes) / min(sizes) < 1.05  # matched
    shape = (tests, 16, 16, 3)
    assert all(load_tensors(f)[0]["values"].shape == shape for f in (image / "predictions").iterdir())
    assert "report.html" in {f.name for f in image.iterdir()}


def test_the_result_is_that_of_the_predictions(image):
    learned = mf.load(image)
    assert (learned.system, learned.method, learned.shading) == ("image", "mim", None)
    assert learned.frame.axes == ("row", "column")
    tests = json.loads((image / "metrics.json").read_text())["names"]["test"]
    assert learned.modules[:4] == [f"{tests[0]} patch {k}" for k in (1, 2, 3, 4)]
    assert len(learned.modules) == 4 * len(tests)
    cut = Cut((16, 16), (2, 2), (1.0, 1.0))
    values = load_tensors(image / "predictions" / "mim.safetensors")[0]["values"]
    for signal in range(len(tests)):
        for task in range(4):
            x = cut.coordinates(task, "local")
            y = learned.evaluate(x, torch.full((len(x),), 4 * signal + task)).clamp(0, 1)
            assert torch.allclose(y.reshape(8, 8, 3), values[signal][cut.box(task)], atol=1e-5)


def test_a_network_per_signal_is_a_result_too(tmp_path):
    metrics = run("audio", tmp_path / "run", "--methods", "finetune")
    learned = mf.load(tmp_path / "run")
    assert (learned.method, learned.modules) == ("finetune", metrics["names"]["test"])
    assert learned.evaluate(torch.zeros(2, 1), [0, 0]).shape == (2, 1)


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_the_other_kinds_run(kind, tmp_path):
    metrics = run(kind, tmp_path / kind, "--methods", "finetune", "mod", "mim", "--seeds", "0", "1")
    assert metrics["measures"] == ["psnr", "si_sdr" if kind == "audio" else "ssim"]
    assert set(metrics["seeds"]) == {"0", "1"}
    assert metrics["rate"] is not None
    assert set(metrics["seeds"]["1"]["methods"]) == {"finetune", "mod", "mim"}


def test_a_run_goes_on_where_it_was_stopped(image, tmp_path):
    before = curves(json.loads((image / "metrics.json").read_text()))
    out = tmp_path / "copy"
    out.mkdir()
    for file in image.rglob("*"):
        if file.is_file() and file.stem not in ("method_0_mim", "start_0_modules", "metrics"):
            (out / file.relative_to(image)).parent.mkdir(parents=True, exist_ok=True)
            (out / file.relative_to(image)).write_bytes(file.read_bytes())
    assert main(["run", "image", "--resume", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert curves(metrics) == before
    assert metrics["command"] == json.loads((image / "metrics.json").read_text())["command"]  # what made the run


def test_starts_of_a_former_run_serve(image, tmp_path):
    again = run("image", tmp_path / "again", "--init-from", image, "--methods", "mod", "oml")
    before = curves(json.loads((image / "metrics.json").read_text()))
    assert curves(again) == {name: before[name] for name in ("oml", "mod")}
    assert again["seeds"]["0"]["initializations"]["modules"]["source"] == str(image)


def test_meta_training_with_fisher_information_has_a_start_of_its_own(tmp_path):
    metrics = run(
        "image", tmp_path / "fim", "--methods", "mod", "mim", "--meta.fim-inner", "weight", "--meta.fim-outer", "both"
    )
    assert set(metrics["seeds"]["0"]["initializations"]) == {"modules", "modules_fim"}
    first = {m: row["psnr"]["0"] for m, row in curves(metrics).items()}
    assert first["mod"] != first["mim"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--patches", "20", "1"], ["parts must lie in", "(20, 1)"]),
        (["--adapt.fast-layers", "3"], ["fast-layers must lie in 1 ... 2", "got 3"]),
        (["--seeds", "1", "1"], ["seeds must be different", "(1, 1)"]),
        (["--adapt.lr", "nan"], ["adapt.lr must be above 0", "nan"]),
        (["--adapt.fall", "1.5"], ["adapt.fall must lie in [0, 1]", "1.5"]),
        (["--meta.inner-steps", "0"], ["meta.inner_steps must be at least 1", "0"]),
        (["--fim.mix", "1"], ["mix must be", "1"]),
        (["--steps", "0"], ["steps must be at least 1"]),
        (["--w0", "0"], ["w0 must be above 0"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--init-from", "nowhere"], ["init-from: nowhere"]),
    ],
)
def test_unusable_options_get_one_line(words, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert main(["run", "image", *KINDS["image"], *TINY, "--out", "run", "--methods", "mod", "oml", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("mclnf-fast: ")
    assert "\n" not in error
    assert all(part in error for part in parts), error


def test_sound_of_any_length_has_the_same_range_of_coordinates_a_second():
    for seconds in (0.5, 1.0, 3.0):
        config = AudioOptions(seconds=seconds)
        assert config.span == (50.0 * seconds,)
        assert config.box_span == (12.5 * seconds,)
    assert AudioOptions(seconds=3.0, coordinate_span=50.0).span == (50.0,)
    with pytest.raises(InputError, match=r"coordinate-span must be above 0 and finite, got -1"):
        AudioOptions(coordinate_span=-1.0).check()


def test_meta_training_of_sound_begins_at_the_signals_mean():
    config = AudioConfig(data=AudioOptions(seconds=0.02, rate=8000, limit=4), field=SirenOptions(offset=0.25))
    signals = load(config).train
    random = random_initialization(config, config.spec(1, 4, modular=True), 0)
    *rest, last = meta_initialization(config, random, signals)
    assert all(a is b for a, b in zip(rest, random))
    torch.testing.assert_close(last - random[-1], (signals.values.mean() - 0.25).expand_as(last))
    plain = dataclasses.replace(config, meta=dataclasses.replace(config.meta, center=False))
    assert meta_initialization(plain, random, signals) is random


def test_meta_training_needs_other_signals(tmp_path, capsys):
    Image.new("RGB", (32, 32), (10, 200, 30)).save(tmp_path / "one.png")
    words = [
        "run",
        "image",
        *KINDS["image"],
        *TINY,
        "--data",
        str(tmp_path / "one.png"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 2
    assert "meta-training needs signals" in capsys.readouterr().err
    assert main([*words, "--methods", "finetune"]) == 0


def test_a_folder_that_holds_something_is_not_overwritten(image, capsys):
    assert main(["run", "image", *KINDS["image"], *TINY, "--out", str(image)]) == 2
    assert "must be new or empty" in capsys.readouterr().err


@pytest.mark.parametrize("offset", [0.0, 0.5, -0.25])
def test_the_offset_is_the_mean_output_of_a_random_initialization(offset):
    config = AudioConfig(data=AudioOptions(seconds=0.02, rate=8000, limit=4), field=SirenOptions(offset=offset))
    plain = dataclasses.replace(config, field=SirenOptions())
    spec = config.spec(1, 4, modular=True)
    moved, still = (random_initialization(c, spec, 3) for c in (config, plain))
    assert all(torch.equal(a, b) for a, b in zip(moved[:-1], still[:-1]))
    torch.testing.assert_close(moved[-1] - still[-1], torch.full_like(moved[-1], offset))


def test_the_offset_of_the_command_line_reaches_the_networks(tmp_path):
    words = ("--methods", "finetune", "--meta.steps", "1")
    at_0, at_half = (
        run("audio", tmp_path / o, *words, "--offset", o)["seeds"]["0"]["methods"]["finetune"]["curve"]["psnr"]["0"]
        for o in ("0", "0.5")
    )
    # Silence is 0.5: a network that begins there is far nearer than one that begins at 0.
    assert min(at_half) > max(at_0) + 3


@pytest.mark.parametrize(("kind", "name"), [("image", "mean picture"), ("video", "mean clip"), ("audio", "silence")])
def test_what_nobody_has_to_learn_stands_beside_the_methods(kind, name, tmp_path, capsys):
    metrics = run(kind, tmp_path / kind, "--methods", "mod_random")
    truth = load_tensors(tmp_path / kind / "predictions" / "truth.safetensors")[0]["values"]
    answer = torch.full_like(truth, 0.5)
    if kind != "audio":
        cls = {"image": ImageConfig, "video": VideoConfig}[kind]
        sizes = {"size": 16} if kind == "image" else {"size": 16, "frames": 4}
        train = load(with_options(cls(), {"limit": 5, **sizes})).train.values
        answer = train.mean(0).expand_as(truth)
    assert metrics["trivial"]["name"] == name
    assert metrics["trivial"]["measures"]["psnr"] == pytest.approx(psnr(answer, truth, keep_first=True).tolist())
    mean = sum(metrics["trivial"]["measures"]["psnr"]) / len(truth)
    assert f"{name}  " in capsys.readouterr().out
    assert f"{mean:.2f}" in (tmp_path / kind / "report.html").read_text()


def test_every_method_makes_as_many_steps_on_as_many_samples(image):
    rows = json.loads((image / "metrics.json").read_text())["seeds"]["0"]["methods"]
    assert {row["steps"] for row in rows.values()} == {4 * 4}
    assert {row["samples"] for name, row in rows.items() if name != "er"} == {16 * 16}
    assert rows["er"]["samples"] == 2 * 16 * 16  # replay takes as many again
    wide, module = rows["offline"], rows["mod"]
    assert wide["operations"] == 6 * wide["samples"] * wide["parameters"]
    assert module["operations"] == 6 * module["samples"] * module["parameters"] / 4  # a step trains one of four


@pytest.mark.parametrize(("inner", "warm"), [("sgd", 4), ("adam", 0)])
def test_the_first_steps_are_by_the_optimizer_that_the_initialization_was_learned_through(inner, warm):
    meta = MetaConfig(inner_steps=4, inner=inner, algorithm="reptile", inner_lr=0.02)
    config = dataclasses.replace(ImageConfig(), meta=meta).adapting()
    assert (config.warm_steps, config.warm_lr) == (warm, 0.02)


def test_adams_rate_rises_within_a_few_steps_in_signals_and_slowly_in_a_city():
    assert ImageConfig().adapting().ramp == AudioConfig().adapting().ramp == 8
    assert CityConfig().adapting("mod").ramp == 64
