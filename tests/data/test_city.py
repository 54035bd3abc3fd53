"""The procedural city: plan, cameras that keep to their block, pictures, and the cache on disk."""

import json
import os
import shutil
import threading

import pytest
import torch

from mclnf_fast.data import (
    CityRenderer,
    block_views,
    city_cache_dir,
    city_views,
    expanded,
    load_scene,
    make_district,
    views_inside,
    write_city,
)
from mclnf_fast.data.procedural.city.district import CELL, HEIGHTS, TOP
from mclnf_fast.data.procedural.city.ground import pulses, within
from mclnf_fast.data.procedural.city.views import sees
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

TINY = {
    "width": 16, "height": 12, "train": 3, "test": 1, "meta_districts": 1, "meta_train": 2,
    "meta_test": 1, "city": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_city(tmp_path_factory.mktemp("city") / "made", seed=4, **TINY)


def test_a_district_depends_on_its_seed_alone():
    one, same, other = make_district(1), make_district(1), make_district(2)
    assert torch.equal(one.solids.boxes, same.solids.boxes)
    assert torch.equal(one.materials, same.materials)
    assert one.solids.boxes.shape != other.solids.boxes.shape or not torch.equal(one.solids.boxes, other.solids.boxes)
    with pytest.raises(InputError, match="blocks"):
        make_district(0, (0, 2))


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_taller_than_promised(seed):
    district = make_district(seed)
    low, high = district.solids.bounds()
    assert float(high[:, 2].max()) <= TOP < HEIGHTS[1]
    assert float(low[:, 2].min()) >= 0
    boxes = district.block_boxes()
    assert boxes.shape == (4, 2, 3)
    torch.testing.assert_close(boxes[:, 1, :2] - boxes[:, 0, :2], torch.full((4, 2), CELL))
    assert float(boxes.mean((0, 1))[:2].abs().max()) == 0


def test_block_views_keep_inside_the_expanded_cell_ray_by_ray():
    box = make_district(0).block_boxes()[2]
    cameras = block_views(box, 12, (24, 18), seed=3)
    limits = expanded(box)
    torch.testing.assert_close(limits[1, :2] - limits[0, :2], torch.full((2,), 1.15 * CELL))
    assert len(cameras) == 12
    for view in range(12):
        origins, directions = cameras.view_rays(view)
        for level in HEIGHTS:
            at = origins + ((level - origins[:, 2]) / directions[:, 2])[:, None] * directions
            assert bool(((at >= limits[0] - 1e-2) & (at <= limits[1] + 1e-2))[:, :2].all())
    assert not bool(views_inside(cameras, box).all())  # the cell itself would be too narrow: the test has teeth


def test_block_views_see_the_whole_cell_from_several_sides():
    box = make_district(0).block_boxes()[0]
    cameras = block_views(box, 40, (96, 72), seed=0)
    steps = (torch.arange(12) + 0.5) / 12
    grid = torch.cartesian_prod(steps, steps) * CELL + box[0, :2]
    seen = sees(cameras, torch.cat([grid, torch.zeros(144, 1)], 1))
    assert int(seen.sum(0).min()) >= 3
    ahead = -cameras.c2w[:, :, 2]
    down = torch.rad2deg(torch.asin(-ahead[:, 2]))
    assert float(down.min()) >= 41.9
    assert int((down > 79).sum()) >= 5
    assert int((down < 68).sum()) >= 20
    quarter = torch.div(torch.atan2(ahead[:, 1], ahead[:, 0]) + torch.pi, torch.pi / 2, rounding_mode="floor")
    assert torch.bincount(quarter.long().clamp_max(3), minlength=4).min() >= 4


def test_views_differ_by_seed_and_repeat_for_one():
    box = make_district(0).block_boxes()[0]
    one, same, other = (block_views(box, 5, (16, 12), seed) for seed in (1, 1, 2))
    assert torch.equal(one.c2w, same.c2w)
    assert not torch.equal(one.c2w, other.c2w)
    assert len(block_views(box, 0, (16, 12), 0)) == 0


def test_city_views_see_all_blocks():
    boxes = make_district(0).block_boxes()
    cameras = city_views(boxes, 3, (96, 72), 0, ring=195.0)
    centers = boxes.mean(1) * torch.tensor([1.0, 1.0, 0.0])
    assert len(cameras) == 3
    assert bool(sees(cameras, centers).all())


def test_pulses_are_the_mean_of_the_train():
    x, blur = torch.tensor([0.5, 0.0, 0.2, 7.43]), torch.tensor([0.1, 0.1, 0.7, 3.0])
    steps = (torch.arange(20001) / 20000 - 0.5)[:, None]
    phase = (x + blur * steps) % 1.0
    expected = ((phase - 0.5).abs() < 0.2).double().mean(0).float()
    torch.testing.assert_close(pulses(x, 0.4, blur), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(within(torch.tensor([-2.0, 0.0, 0.25]), torch.ones(3)), torch.tensor([0.0, 0.5, 0.75]))


def test_pictures_repeat_bit_for_bit_whatever_the_threads():
    district = make_district(0, (1, 1))
    cameras = block_views(district.block_boxes()[0], 2, (24, 18), 0)
    renderer = CityRenderer(district)
    before = torch.get_num_threads()
    ticks = []
    one = renderer.render(cameras, seed=7, progress=lambda done, total: ticks.append((done, total)))
    assert torch.get_num_threads() == before
    assert ticks == [(1, 2), (2, 2)]
    try:
        torch.set_num_threads(1)
        assert torch.equal(one, CityRenderer(district).render(cameras, seed=7))
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(one, renderer.render(cameras, seed=8))
    with pytest.raises(InputError, match="samples"):
        renderer.render(cameras, samples=5)


def test_more_samples_converge_to_the_same_picture():
    district = make_district(0, (1, 1))
    cameras = block_views(district.block_boxes()[0], 1, (64, 48), 0)
    renderer = CityRenderer(district)
    few, many = (renderer.render(cameras, samples=count).float() for count in (4, 64))
    assert float((few - many).abs().mean()) < 8
    assert float(few.mean() - many.mean()) == pytest.approx(0, abs=1.5)
    assert float(many.std()) > 25  # a place, not a plain field


def test_a_view_at_the_sky_is_the_sky():
    district = make_district(0, (1, 1))
    pose = look_at(torch.tensor([[0.0, 0.0, 100.0]]), torch.tensor([[10.0, 0.0, 110.0]]))
    image = CityRenderer(district).render(Cameras(pose, 20.0, 20.0, 4.0, 3.0, 8, 6))
    assert bool((image == image[0, 0, 0]).all())


def test_the_tree_is_matrixcitys(tiny):
    names = {p.relative_to(tiny.root).as_posix() for p in tiny.root.rglob("*") if p.is_file()}
    assert "small_city/aerial/train/block_1/0002.png" in names
    assert "small_city/aerial/test/block_4/0000.png" in names
    assert "small_city/aerial/test/city/0000.png" in names
    assert "meta_city_1/aerial/pose/block_4/transforms_test.json" in names
    content = json.loads((tiny.target / "pose/block_2/transforms_train.json").read_text())
    assert content["frames"][1]["file_path"] == "../../train/block_2/0001.png"
    assert content["aabb"] == [[0.0, -2.0, -0.01], [2.0, 0.0, 0.46]]
    assert {"camera_angle_x", "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k4", "p1", "p2"} <= set(content)


def test_round_trip_gives_the_same_poses_boxes_and_images(tiny):
    scene = load_scene(tiny.root)
    district = make_district(4 * 1000)
    boxes = district.block_boxes()
    renderer = CityRenderer(district)
    assert [block.name for block in scene.blocks] == ["block_1", "block_2", "block_3", "block_4"]
    assert scene.unit == "100 m"
    for k, block in enumerate(scene.blocks):
        torch.testing.assert_close(block.aabb, boxes[k] / 100)
        for split, views in (("train", block.train), ("test", block.test)):
            seed = ((4 * 64) * 4096 + k) * 2 + (split == "test")
            cameras = block_views(boxes[k], TINY[split], (16, 12), seed)
            torch.testing.assert_close(views.cameras.centers * 100, cameras.centers)
            assert torch.equal(views.cameras.c2w[:, :, :3], cameras.c2w[:, :, :3])
            torch.testing.assert_close(views.cameras.fx, cameras.fx)
            assert torch.equal(views.images, renderer.render(cameras, seed=seed))
    city = load_scene(tiny.target, blocks=["city"]).block("city")
    assert (len(city.train), len(city.test)) == (0, 1)
    assert len(load_scene(tiny.meta[0]).blocks) == 4


def digest(paths):
    return {p.relative_to(paths.root).as_posix(): p.read_bytes() for p in paths.root.rglob("*") if p.is_file()}


def test_the_same_options_give_the_same_bytes(tiny, tmp_path):
    assert digest(write_city(tmp_path / "again", seed=4, **TINY)) == digest(tiny)


def test_a_good_cache_is_kept_and_a_damaged_one_rebuilt(tiny, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(tiny.root, place)
    ticks = []

    def again(**changed):
        ticks.clear()
        write_city(place, seed=4, progress=lambda done, total: ticks.append((done, total)), **{**TINY, **changed})
        return len(ticks)

    assert again() == 0
    picture = place / "small_city/aerial/train/block_1/0001.png"
    picture.write_bytes(picture.read_bytes()[:50])
    assert again() == 29
    assert ticks[-1] == (29, 29)
    assert picture.read_bytes() == (tiny.root / picture.relative_to(place)).read_bytes()
    picture.unlink()
    assert again() == 29
    (place / "city.json").unlink()
    assert again() == 29
    assert again(train=2) == 25  # other options: stale
    assert not [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_a_folder_of_someone_elses_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        write_city(tmp_path, **TINY)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_failed_run_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_city(tmp_path / "city", progress=stop, **TINY)
    assert os.listdir(tmp_path) == []


def test_two_writers_at_once_agree(tiny, tmp_path):
    results = []
    writers = [
        threading.Thread(target=lambda: results.append(write_city(tmp_path / "city", seed=4, **TINY))) for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(results) == 2
    assert digest(results[0]) == digest(tiny)
    assert os.listdir(tmp_path) == ["city"]


@pytest.mark.parametrize(("option", "value"), [("train", -1), ("width", 0), ("color", 3), ("samples", 6)])
def test_bad_options_are_named(tmp_path, option, value):
    with pytest.raises(InputError, match=option):
        write_city(tmp_path / "city", **{**TINY, option: value})


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MCLNF_FAST_CACHE", str(tmp_path))
    assert city_cache_dir() == tmp_path
    monkeypatch.delenv("MCLNF_FAST_CACHE")
    assert city_cache_dir().parts[-2:] == (".cache", "mclnf_fast")
