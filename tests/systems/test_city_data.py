"""The city on a folder of posed pictures: blocks without test views, the box of the scene, rays that miss it."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib

import numpy as np
import pytest
import torch
from posed_trees import FOCAL, SIZE, looking_down, ring, write_posed
from tiny_city import OPTIONS, PLAN

import mclnf_fast as mf
from mclnf_fast.cli import main
from mclnf_fast.data import write_city
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.render import Cameras, Cells, look_at
from mclnf_fast.report.city.tables import city_table, steps_table
from mclnf_fast.report.page.tables import terminal
from mclnf_fast.report.record import read_record
from mclnf_fast.systems.city import data as city_data
from mclnf_fast.systems.city.cover import cover, crosses
from mclnf_fast.systems.city.options import CityConfig
from mclnf_fast.systems.common.config_file import with_options

QUARTERS = [(-1, -1), (1, -1), (-1, 1), (1, 1)]
ORDER = [0, 1, 2, 3, 1, 2, 3, 0, 0, 1, 2, 3, 1, 2, 3, 0, 0, 0]  # frames 0, 8 and 16 all stand in one quarter
PLACES = [(QUARTERS[q][0] + 0.02 * k, QUARTERS[q][1] + 0.03 * k) for k, q in enumerate(ORDER)]
COLOR = (200, 100, 50)


def config(folder: pathlib.Path, **options: object) -> CityConfig:
    values = {"data": folder, "init": "random", "width": 8, "hidden-layers": 1, "frequencies": 2, "samples-per-ray": 4}
    return with_options(CityConfig(), values | options)


def load(folder: pathlib.Path, **options: object) -> city_data.CityData:
    return city_data.load(config(folder, **options), lambda _: None)


def test_a_run_on_blocks_of_which_most_have_no_held_out_view(tmp_path, capsys):
    folder = write_posed(tmp_path / "photos", *looking_down(PLACES))
    words = ["--data", str(folder), "--blocks", "2", "2", "--init", "random", "--methods", "mod_random", *OPTIONS]
    assert main(["run", "city", "--out", str(tmp_path / "run"), *words]) == 0
    record = read_record(tmp_path / "run" / "metrics.json")
    assert record.tasks == ("block_1", "block_2", "block_3", "block_4")
    assert sum(facts.train + facts.test for facts in record.block_facts.values()) == 18
    assert all(facts.train and facts.test for facts in record.block_facts.values())
    assert any("block_3 has none of the views that were held out" in note for note in record.notes)
    printed = capsys.readouterr().out
    assert "note: block_3 has none of the views that were held out" in printed
    assert "  mean color  " in printed
    # 10 steps of 24 rays on each of 4 blocks; a ray has 4 samples, a sample 6 operations per parameter.
    row = record.methods["mod_random"]
    assert (row.steps_total, row.rays) == (40, 960)
    assert row.operations == 6 * 960 * 4 * (row.parameters // 4)
    assert mf.load(tmp_path / "run").frame.unit == "unit of the data"


def test_a_block_that_cannot_be_learned_is_left_out_by_name(tmp_path, monkeypatch):
    scene = city_data.load_scene(write_posed(tmp_path / "photos", *looking_down(PLACES)), blocks=(2, 2))
    none = torch.arange(0)
    blocks = (dataclasses.replace(scene.blocks[0], test=scene.blocks[0].test.pick(none)), *scene.blocks[1:])
    monkeypatch.setattr(city_data, "load_scene", lambda *_, **__: dataclasses.replace(scene, blocks=blocks))
    data = load(tmp_path / "photos")
    assert [task.name for task in data.tasks] == ["block_2", "block_3", "block_4"]
    assert "block_1 is left out: it has no view to test on." in data.notes
    blocks = tuple(dataclasses.replace(block, train=block.train.pick(none)) for block in blocks)
    with pytest.raises(InputError, match="block_1 is left out: it has no view to train on and none to test on"):
        load(tmp_path / "photos")


def test_rays_that_miss_the_box_have_the_color_of_those_in_the_training_pictures(tmp_path, caplog):
    folder = write_posed(tmp_path / "photos", *ring(9), color=COLOR)
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        data = load(folder, box=(-0.5, -0.5, -0.5, 0.5, 0.5, 0.5))
    (task,) = data.tasks
    missed = data.settings.shading.missed
    assert missed == pytest.approx([c / 255 for c in COLOR], abs=1e-6)
    share = data.cover.facts[task.name].missed
    assert 0.5 < share < 0.95
    assert "--box" in caplog.text
    assert any(f"{share:.0%}" in note and "--box" in note for note in data.notes)
    params = initial_parameters(task.spec, 1)
    picture = task.render(params, task.test_cameras, 0)
    outside = ~crosses(*task.test_cameras.view_rays(0), task.cells).reshape(picture.shape[:2])
    assert bool(outside.any())
    assert not bool(outside.all())
    assert torch.allclose(picture[outside], torch.tensor(missed), atol=1e-6)
    assert not torch.allclose(picture[~outside], torch.tensor(missed), atol=1e-2)
    # The whole scene in one picture, and the loss, agree with the pictures of the task.
    whole = mf.render.render_scene(params, task.spec, *task.test_cameras.view_rays(0), task.cells, data.settings)
    assert torch.allclose(whole.color.reshape(picture.shape), picture, atol=1e-5)
    batch = task.draw(500, torch.Generator().manual_seed(0))
    rays = mf.render.Rays.through_one_module(batch[0][0], batch[1][0])
    pixels = mf.render.render_modules(params, task.spec, rays, task.cells, data.settings, seed=3).color
    error = (pixels - batch[2][0]).square().mean()
    assert float(task.loss(params, batch, seed=3)) == pytest.approx(float(error), rel=1e-5)
    # Nothing is left to be learned outside: those rays have no error.
    missing = ~crosses(rays.origins, rays.directions, task.cells)
    assert float((pixels - batch[2][0])[missing].abs().max()) < 1e-5


def test_without_a_miss_nothing_changes(tmp_path):
    folder = write_posed(tmp_path / "photos", *ring(9), color=COLOR)
    data = load(folder)
    assert data.cover.facts["photos"].missed == 0
    assert data.settings == config(folder).settings
    assert not any("--box" in note for note in data.notes)


def test_the_result_of_a_run_keeps_the_color_of_missed_rays(tmp_path):
    folder = write_posed(tmp_path / "photos", *ring(9), color=COLOR)
    words = ["--data", str(folder), "--init", "random", "--methods", "mod_random", *OPTIONS, "--box"]
    box = ["-0.5", "-0.5", "-0.5", "0.5", "0.5", "0.5"]
    assert main(["run", "city", "--out", str(tmp_path / "run"), *words, *box]) == 0
    learned = mf.load(tmp_path / "run")
    assert learned.cells.boxes.flatten().tolist() == [float(v) for v in box]
    away = Cameras(look_at(torch.tensor([[0.0, 4.0, 0.0]]), torch.tensor([[0.0, 8.0, 0.0]])), FOCAL, FOCAL, 6, 4, *SIZE)
    assert learned.render(away)[0].reshape(-1, 3).unique(dim=0).tolist() == [list(COLOR)]
    record = json.loads((tmp_path / "run/metrics.json").read_text())
    assert record["block_facts"]["photos"]["box"] == [[-0.5] * 3, [0.5] * 3]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--box", "0", "0", "0", "1", "1", "1"], ["box has no effect without data, got 0.0 0.0"]),
        (["--styles", "0"], ["styles must be at least 1"]),
        (["--styles", "2", "--init", "random"], ["styles has no effect if no initialization"]),
        (["--data", "photos", "--box", "0", "0", "0", "1", "1", "-1"], ["box: the upper corner must be above"]),
        (["--data", "photos", "--box", "0", "0", "0", "1", "1", "nan"], ["box: the upper corner must be above"]),
    ],
)
def test_options_that_cannot_be(refused, words, parts):
    refused(["city", *words], parts)


def test_crossing_is_what_the_march_does():
    generator = torch.Generator().manual_seed(0)
    cell = Cells(torch.tensor([[[-1.0, -0.5, 0.0], [1.0, 2.0, 1.0]]]))
    origins = 3 * torch.randn(4000, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    directions[:500, 0] = 0.0  # along faces
    samples = mf.ops.march_rays(origins, directions, None, cell.grown[0], bins=1)
    hits = samples.packed_info[:, 1] > 0
    assert bool(hits.any())
    assert not bool(hits.all())
    assert torch.equal(crosses(origins, directions, cell), hits)


def test_the_mean_color_is_what_nobody_has_to_learn(tmp_path):
    folder = write_posed(tmp_path / "photos", *ring(9))
    data = load(folder)
    (block,) = data.blocks
    color = block.train.images.double().mean((0, 1, 2)) / 255
    psnr = [-10 * np.log10(float((view.double() / 255 - color).square().mean())) for view in block.test.images]
    facts = cover(data.tasks).facts["photos"]
    assert facts.mean_color == pytest.approx(np.mean(psnr), abs=1e-4)
    assert (facts.train, facts.test) == (7, 2)


def test_tables_have_the_row_that_nobody_has_to_learn():
    from mclnf_fast.report.record import CityResults

    methods = {"mod": CityResults(psnr_mean=20.0, psnr_at_step={0: 9.0, 4: 20.0}, steps_total=8, rays=80)}
    table = city_table("", methods, ["north"], trivial=12.345)
    assert (table.rows[0].key, table.rows[0].cells[0].text) == ("trivial", "12.35")
    assert table.rows[1].cells[table.heads.index("rays")].text == "80"
    assert [cell.text for cell in steps_table(methods, 12.345).rows[0].cells] == ["12.35", "12.35"]
    assert [row.key for row in city_table("", methods, ["north"]).rows] == ["mod"]
    # It belongs to no category of methods: its place stays empty.
    assert terminal(table).splitlines()[1].split()[:2] == ["mean", "color"]


def test_initializations_are_learned_on_districts_of_several_styles(tmp_path, monkeypatch):
    asked = []

    def tiny(**options: object) -> object:
        asked.append(options)
        return write_city(tmp_path / f"city_{len(asked)}", **PLAN)

    monkeypatch.setattr(city_data, "write_city", tiny)
    data = city_data.load(with_options(CityConfig(), {"methods": ("mod",), "styles": 2}), lambda _: None)
    assert [options.get("styles") for options in asked] == [None, 2]
    assert (asked[1]["meta_districts"], asked[1]["train"], asked[1]["city"]) == (2, 0, 0)
    assert "Initializations were meta-learned on other, procedural districts of 2 styles." in data.notes
    folder = write_posed(tmp_path / "photos", *looking_down(PLACES))
    load(folder, init="meta", methods=("mod",), styles=2)
    assert [options.get("styles") for options in asked] == [None, 2, 2]  # no target where a folder is learned
