"""Learning from several views: which views, that no test view is ever seen, and what is kept to look at."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tiny_objects
import torch
from PIL import Image
from tiny_runs import run_system

from mclnf_fast.cli import main
from mclnf_fast.data.objects import ObjectViews, turntable
from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors
from mclnf_fast.render import RenderSettings
from mclnf_fast.render.objects import ObjectPool, on_white
from mclnf_fast.render.orbit import nearest, orbit
from mclnf_fast.report.record import Orbit
from mclnf_fast.report.starts import single_view as report
from mclnf_fast.spec import FieldSpec, LogFrequency
from mclnf_fast.systems.single_view import job as single_view
from mclnf_fast.systems.single_view.show import SIDE, Show
from mclnf_fast.systems.single_view.views import learned_from, split_views

SIZE = 10
TINY = [
    "--size", str(SIZE), "--steps", "4", "--adapt.batch", "16", "--width", "8", "--hidden-layers", "2",
    "--samples-per-ray", "8", "--curve-views", "2", "--orbit-frames", "6", "--threads", "1",
]  # fmt: skip


def scene(root: pathlib.Path, counts: dict[str, int], test_seed: int = 0) -> pathlib.Path:
    """A NeRF-synthetic scene of a thing; its test pictures may be noise of another seed instead."""
    root.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    cameras = tiny_objects.dome(sum(counts.values()), SIZE, generator)
    images = tiny_objects.one(generator, cameras)
    at = 0
    for split, count in counts.items():
        (root / split).mkdir()
        frames = []
        for k in range(count):
            pixels = images[at].numpy()
            if split == "test" and test_seed:
                pixels = np.random.default_rng([test_seed, k]).integers(0, 256, pixels.shape, np.uint8)
            Image.fromarray(pixels).save(root / split / f"r_{k}.png")
            pose = torch.cat((cameras.c2w[at].double(), torch.tensor([[0.0, 0, 0, 1]])))
            frames.append({"file_path": f"./{split}/r_{k}", "transform_matrix": pose.tolist()})
            at += 1
        angle = 2 * float(torch.atan(0.5 * SIZE / cameras.fx[0]))
        (root / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return root


def run(out: pathlib.Path, *words: object) -> dict[str, Any]:
    return run_system("single-view", TINY, out, *words)


def learned(out: pathlib.Path) -> dict[str, torch.Tensor]:
    return load_tensors(out / "state" / "adapted_standard.safetensors")[0]


@pytest.mark.parametrize("inputs", ["all", "3"])
def test_learning_does_not_depend_on_the_test_views(tmp_path, inputs, monkeypatch):
    counts = {"train": 7, "test": 3}
    plain, noise = scene(tmp_path / "a", counts), scene(tmp_path / "b", counts, test_seed=1)
    words = [
        "--inputs",
        inputs,
        "--initializations",
        "standard",
        "--adapt.optimizer",
        "adam",
        "--steps",
        "40",
        "--adapt.lr-end",
        "1e-4",
    ]
    first = run(tmp_path / "one", "--data", plain, *words)
    monkeypatch.setattr(report, "write_pictures", lambda *_: [])  # once will do
    second = run(tmp_path / "two", "--data", noise, *words)
    ours, theirs = learned(tmp_path / "one"), learned(tmp_path / "two")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert first["initializations"]["standard"]["after"] != second["initializations"]["standard"]["after"]
    assert first["initializations"]["standard"]["input"] == second["initializations"]["standard"]["input"]
    assert first["views"]["known"] == [7 if inputs == "all" else 3]
    assert first["views"]["tested"] == [3]
    assert first["views"]["curve"] == [[7, 9]]
    assert first["title"].endswith(f"from {7 if inputs == 'all' else 3} views")
    # Every view learned from has a say.
    changed = scene(tmp_path / "c", counts)
    last = changed / "train" / f"r_{6 if inputs == 'all' else 2}.png"
    Image.fromarray(np.full((SIZE, SIZE, 4), 90, np.uint8)).save(last)
    run(tmp_path / "three", "--data", changed, *words)
    other = learned(tmp_path / "three")
    assert not all(torch.equal(ours[k], other[k]) for k in ours)
    assert first["names"] == {"test": ["a"]}
    page = (tmp_path / "one" / "report.html").read_text()
    assert "Fields of objects are learned from" in page
    assert "views learned from" in page


def test_a_killed_fit_of_many_views_comes_to_the_same_bits(tmp_path, monkeypatch):
    data = scene(tmp_path / "a", {"train": 4, "test": 2})
    words = ["--data", data, "--inputs", "all", "--initializations", "standard"]
    run(tmp_path / "whole", *words)

    def dying(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Show, "turn", dying)
        assert main(["run", "single-view", *TINY, "--out", str(tmp_path / "killed"), *map(str, words)]) == 130
    assert main(["run", "single-view", "--resume", str(tmp_path / "killed")]) == 0
    for name in ("standard", "truth", "orbit_standard", "orbit_truth"):
        ours, theirs = (
            load_tensors(tmp_path / run / "predictions" / f"{name}.safetensors")[0]["values"]
            for run in ("whole", "killed")
        )
        assert torch.equal(ours, theirs), name
    stills = [(tmp_path / run / "images" / "turntable.gif").read_bytes() for run in ("whole", "killed")]
    assert stills[0] == stills[1]


def test_without_objects_to_learn_from_only_the_standard_start_serves(tmp_path, capsys):
    data = scene(tmp_path / "a", {"train": 4, "test": 2})
    assert main(["run", "single-view", *TINY, "--data", str(data), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "initializations must be standard alone if the data holds no object to learn one from" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--inputs", "5"], "inputs must be at most 4, the views of a to learn from, got 5"),
        (["--inputs", "0"], "inputs must be all or at least 1, got 0"),
        (["--adapt.lr-end", "0"], "adapt.lr-end must be above 0"),
        (["--orbit-frames", "-1"], "orbit-frames must be at least 0, got -1"),
    ],
)
def test_unusable_inputs_get_one_line(words, message, tmp_path, capsys):
    data = scene(tmp_path / "a", {"train": 4, "test": 2})
    command = [
        "run",
        "single-view",
        *TINY,
        "--data",
        str(data),
        "--initializations",
        "standard",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*command, *words]) == 2
    assert message in capsys.readouterr().err


def thing(views: int, train_views: int | None = None) -> ObjectViews:
    cameras = turntable(views, 4)
    images = torch.arange(views, dtype=torch.uint8)[:, None, None, None].expand(views, 4, 4, 4).contiguous()
    return ObjectViews("thing", images, cameras, train_views)


@pytest.mark.parametrize(
    ("one", "inputs", "first", "known", "tested"),
    [
        (thing(6), 1, None, 1, [1, 2, 3, 4, 5]),
        (thing(6), 4, None, 4, [4, 5]),
        (thing(6), 1, 4, 1, [4, 5]),  # the notebook's: those between are neither
        (thing(6), "all", 4, 4, [4, 5]),
        (thing(4), 2, 4, 2, [2, 3]),
        (thing(6, 3), 1, None, 1, [3, 4, 5]),
        (thing(6, 3), 1, 5, 1, [3, 4, 5]),
        (thing(6, 3), "all", None, 3, [3, 4, 5]),
    ],
)
def test_the_datas_own_split_comes_first(one, inputs, first, known, tested):
    found, split = split_views(one, inputs, first)
    assert found is one
    assert (split.known, list(split.tested)) == (known, tested)


def test_of_all_views_every_fifth_is_kept_where_the_data_keeps_none():
    for views, held in ((11, [4, 9]), (3, [2]), (2, [1])):
        one = thing(views)
        found, split = split_views(one, "all")
        order = [*(k for k in range(views) if k not in held), *held]
        assert found.images[:, 0, 0, 0].tolist() == order
        assert torch.equal(found.cameras.c2w, one.cameras.c2w[order])
        assert split.known == views - len(held)
        assert [order[k] for k in split.tested] == held
    for bad, inputs in ((thing(1), 1), (thing(1), "all"), (thing(4, 4), 1)):
        with pytest.raises(InputError, match="one to test on"):
            split_views(bad, inputs)
    with pytest.raises(InputError, match="inputs must be at most 5"):
        split_views(thing(6), 6)


def test_a_start_is_learned_from_no_view_kept_to_test_on():
    assert len(learned_from(thing(6, 4), None)) == 4
    assert len(learned_from(thing(6), 5)) == 5
    assert len(learned_from(thing(6), 9)) == 6
    assert torch.equal(learned_from(thing(6, 4), 5).images, thing(6).images[:4])


def shown(one: ObjectViews, frames: int) -> Show:
    one, split = split_views(one, 1)
    settings = RenderSettings.between(samples_per_ray=8)
    pool = ObjectPool([(one.images, one.cameras)], settings)
    return Show([one], [split], pool, FieldSpec(3, 4, 8, 2, encoding=LogFrequency(20, 5.0)), settings, frames)


def test_the_turn_is_rendered_where_it_can_be_and_else_the_nearest_view_is_shown():
    plain = thing(6)
    show = shown(plain, 12)
    near = nearest(plain.cameras, orbit(plain.cameras, 12))
    assert len(set(near.tolist())) == 6
    assert torch.equal(show.true_turn(), (on_white(plain.images[near]) * 255).round().to(torch.uint8))
    assert show.about() == Orbit("thing", 12, rendered=False)
    asked = []

    def render(cameras):
        asked.append(cameras)
        return torch.full((len(cameras), cameras.height, cameras.width, 4), 255, dtype=torch.uint8)

    exact = shown(ObjectViews(plain.name, plain.images, plain.cameras, render=render), 12)
    assert exact.true_turn().eq(255).all()
    assert torch.equal(asked[0].c2w, orbit(plain.cameras, 12).c2w)
    assert exact.about() == Orbit("thing", 12, rendered=True)
    large = turntable(3, 2 * SIDE)
    images = torch.zeros(3, 2 * SIDE, 2 * SIDE, 4, dtype=torch.uint8)
    assert shown(ObjectViews("large", images, large), 2).true_turn().shape == (2, SIDE, SIDE, 3)


def test_no_turn_where_none_is_asked_for(tmp_path):
    data = scene(tmp_path / "a", {"train": 4, "test": 2})
    found = run(tmp_path / "run", "--data", data, "--initializations", "standard", "--orbit-frames", "0")
    assert {p["kind"] for p in found["pictures"]} == {"sheet", "curve"}
    assert single_view.TURNED == ("standard", "matched", "meta")
