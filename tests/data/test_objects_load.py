"""Objects from files: a written tree comes back to the bit, SRN, NeRF-synthetic, and every kind of bad input."""

import dataclasses
import importlib
import json
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mclnf_fast.data import ObjectSets, load_objects, procedural_cars, sphere_cameras, write_objects
from mclnf_fast.data.readers.objects_read import read_rgba, shrink
from mclnf_fast.errors import InputError
from mclnf_fast.render.orbit import middle_of, up_of

SIZE = 24


@pytest.fixture(scope="module")
def made() -> ObjectSets:
    return procedural_cars(4, 1, views=3, size=SIZE)


@pytest.fixture(scope="module")
def tree(made, tmp_path_factory) -> Path:
    return write_objects(made, tmp_path_factory.mktemp("objects") / "cars")


@pytest.fixture
def copy(tree, tmp_path) -> Path:
    """A tree that a test may damage."""
    shutil.copytree(tree, tmp_path / "cars")
    return tmp_path / "cars"


def same(one: ObjectSets, two: ObjectSets) -> None:
    for mine, theirs in ((one.train, two.train), (one.test, two.test)):
        assert [item.name for item in mine] == [item.name for item in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a.images, b.images)
            for name in ("c2w", "fx", "fy", "cx", "cy"):
                assert torch.equal(getattr(a.cameras, name), getattr(b.cameras, name)), name
    assert (one.near, one.far) == (two.near, two.far)


def names(sets: ObjectSets) -> tuple[list[str], list[str]]:
    return [item.name for item in sets.train], [item.name for item in sets.test]


def srn_tree(root: Path, ids: dict[str, int], category: str = "cars", views: int = 3) -> None:
    """`<category>_<split>/<id>` with white pictures that hold a gray square with one white pixel."""
    for k, (place, _) in enumerate(ids.items()):
        folder = root / place.format(category)
        (folder / "rgb").mkdir(parents=True)
        (folder / "pose").mkdir()
        cameras = sphere_cameras(views, SIZE, 1, k)
        for v in range(views):
            picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
            picture[6:18, 6:18] = 100 + k + v
            Image.fromarray(picture).save(folder / f"rgb/{v:06d}.png")
            c2w = np.eye(4)
            c2w[:3] = cameras.c2w[v].double().numpy()
            c2w[:, 1:3] *= -1  # OpenCV's axes
            (folder / f"pose/{v:06d}.txt").write_text(" ".join(f"{value:.9f}" for value in c2w.reshape(-1)))
        focal, middle = 2 * float(cameras.fx[0]), float(SIZE)
        (folder / "intrinsics.txt").write_text(
            f"{focal:.9f} {middle} {middle} 0.\n0. 0. 0.\n1.\n{2 * SIZE} {2 * SIZE}\n"
        )


def test_a_written_tree_comes_back_to_the_bit(made, tree):
    same(load_objects(tree), made)
    meta = json.loads((tree / "car_000/transforms.json").read_text())
    assert set(meta["frames"][0]) >= {"file_path", "transform_matrix"}
    assert math.isclose(
        0.5 * SIZE / math.tan(0.5 * meta["camera_angle_x"]), float(made.train[0].cameras.fx[0]), rel_tol=1e-6
    )
    splits = json.loads((tree / "car_splits.json").read_text())
    assert splits["train"] == ["car_000", "car_001", "car_002"]
    assert splits["test"] == ["car_003"]
    assert not [path for path in tree.parent.iterdir() if path.name.startswith(".")]


def test_writing_leaves_nothing_half_done_and_takes_nothing_away(made, tree, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="must not exist yet or be empty, holds 'car_000'"):
        write_objects(made, tree)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="was something else"):
        write_objects(made, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    other = dataclasses.replace(made, near=1.25, far=7.5)
    same(load_objects(write_objects(other, tmp_path / "empty")), other)

    def corrupt(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", corrupt)
    with pytest.raises(InputError, match="No space left"):
        write_objects(made, tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_a_tree_without_splits_is_split_by_seed(copy):
    (copy / "car_splits.json").unlink()
    for seed in range(3):
        train, test = names(load_objects(copy, seed=seed))
        assert sorted(train + test) == [f"car_{k:03d}" for k in range(4)]
        assert len(test) == 1
        assert names(load_objects(copy, seed=seed)) == (train, test)
    assert len({names(load_objects(copy, seed=seed))[1][0] for seed in range(8)}) > 1
    assert len(load_objects(copy, test=2).test) == 2
    some = load_objects(copy, limit=2, views=1)
    assert (len(some.train), len(some.test)) == (1, 1)
    assert len(some.train[0]) == 1
    one = load_objects(copy / "car_001")
    assert names(one) == ([], ["car_001"])


def test_splits_may_be_called_val_and_lie_beside_the_category(copy, tmp_path):
    (copy / "car_splits.json").unlink()
    top = tmp_path / "top"
    top.mkdir()
    copy.rename(top / "cars")
    (top / "chair_splits.json").write_text(json.dumps({"train": ["car_003", "car_001"], "val": ["car_000"]}))
    sets = load_objects(top)
    assert names(sets) == (["car_003", "car_001"], ["car_000"])
    assert (sets.near, sets.far) == (2.0, 6.0)
    assert any("1 objects that chair_splits.json does not name" in note for note in sets.notes)
    assert any("validation set is tested on" in note for note in sets.notes)


def test_srn_is_turned_scaled_and_cut_out(tmp_path):
    srn_tree(tmp_path / "srn", {"{}_train/a": 0, "{}_train/b": 0, "{}_val/c": 0, "{}_test/d": 0})
    sets = load_objects(tmp_path / "srn")
    assert names(sets) == (["cars_train/a", "cars_train/b"], ["cars_test/d"])
    assert (sets.near, sets.far) == (0.8, 1.8)
    want = sphere_cameras(3, SIZE, 1, 0)
    item = sets.train[0]
    torch.testing.assert_close(item.cameras.c2w, want.c2w, atol=1e-6, rtol=0)
    torch.testing.assert_close(item.cameras.fx, want.fx)
    torch.testing.assert_close(item.cameras.cx, want.cx)
    alpha = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    alpha[6:18, 6:18] = 255
    assert torch.equal(item.images[..., 3], alpha.expand(3, -1, -1))
    assert item.images[1, 8, 8].tolist() == [101, 101, 101, 255]
    # The ids of one folder, and one object, alone.
    assert len(load_objects(tmp_path / "srn/cars_train").train) == 1
    assert names(load_objects(tmp_path / "srn/cars_train/a")) == ([], ["a"])
    srn_tree(tmp_path / "other", {"{}_train/a": 0, "{}_test/b": 0}, "chairs")
    assert (load_objects(tmp_path / "other").near, load_objects(tmp_path / "other").far) == (1.25, 2.75)


def blender_scene(root: Path, seed: int, counts: dict[str, int]) -> None:
    root.mkdir(parents=True)
    for split, count in counts.items():
        cameras = sphere_cameras(count, SIZE, seed)
        frames = []
        for k in range(count):
            (root / split).mkdir(exist_ok=True)
            pixels = np.random.default_rng(k).integers(0, 256, (SIZE, SIZE, 4), np.uint8)
            Image.fromarray(pixels).save(root / split / f"r_{k}.png")
            c2w = np.eye(4)
            c2w[:3] = cameras.c2w[k].double().numpy()
            frames.append({"file_path": f"./{split}/r_{k}", "transform_matrix": c2w.tolist()})
        (root / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))


def test_a_scene_is_one_object_and_a_folder_of_scenes_several(tmp_path):
    for k, name in enumerate(("chair", "drums", "mic")):
        blender_scene(tmp_path / "all" / name, k, {"train": 3, "val": 1, "test": 2})
    one = load_objects(tmp_path / "all/mic")
    assert names(one) == ([], ["mic"])
    mic = one.test[0]
    assert (len(mic), mic.train_views) == (5, 3)
    want = torch.cat((sphere_cameras(3, SIZE, 2).c2w, sphere_cameras(2, SIZE, 2).c2w))
    assert torch.equal(mic.cameras.c2w, want)
    files = [
        tmp_path / f"all/mic/{part}/r_{k}.png" for part, count in (("train", 3), ("test", 2)) for k in range(count)
    ]
    for image, file in zip(mic.images, files, strict=True):
        assert np.array_equal(image.numpy(), read_rgba(file)[0])
    torch.testing.assert_close(mic.cameras.fx, torch.full((5,), 0.5 * SIZE / math.tan(0.35)))
    assert (one.near, one.far) == (2.0, 6.0)
    few = load_objects(tmp_path / "all/mic", views=1).test[0]
    assert (len(few), few.train_views) == (2, 1)
    assert torch.equal(few.images, mic.images[[0, 3]])
    several = load_objects(tmp_path / "all")
    train, test = names(several)
    assert sorted(train + test) == ["chair", "drums", "mic"]
    assert {(len(item), item.train_views) for item in several.train} == {(3, None)}
    assert {(len(item), item.train_views) for item in several.test} == {(5, 3)}
    blender_scene(tmp_path / "alone", 0, {"train": 2})
    alone = load_objects(tmp_path / "alone")
    assert names(alone) == ([], ["alone"])
    assert (len(alone.test[0]), alone.test[0].train_views) == (2, None)
    blender_scene(tmp_path / "val", 0, {"train": 2, "val": 1})
    assert load_objects(tmp_path / "val").test[0].train_views == 2
    with pytest.raises(InputError, match="must have no views kept to test on"):
        write_objects(one, tmp_path / "written")


def test_sizes_are_reduced_by_area_and_alpha(copy):
    full, half = load_objects(copy), load_objects(copy, size=SIZE // 2)
    for a, b in zip(full.train, half.train, strict=True):
        torch.testing.assert_close(b.cameras.fx, a.cameras.fx / 2)
        torch.testing.assert_close(b.cameras.cx, a.cameras.cx / 2)
        blocks = a.images.double().reshape(3, SIZE // 2, 2, SIZE // 2, 2, 4).permute(0, 1, 3, 2, 4, 5).flatten(3, 4)
        weight = blocks[..., 3:]
        color = (blocks[..., :3] * weight).sum(3) / weight.sum(3).clamp_min(1e-9)
        assert float((b.images[..., :3].double() - color).abs().max()) <= 0.51
        assert float((b.images[..., 3].double() - weight.mean(3)[..., 0]).abs().max()) <= 0.51
    # A sharp edge stays as red as it was: what is transparent has no say in the color.
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3] = (200, 0, 0, 255)
    small = shrink(rgba, 4)
    assert small.shape == (3, 4, 4)
    assert set(map(tuple, small[..., :3][small[..., 3] > 0].tolist())) == {(200, 0, 0)}
    assert small[1, :, 3].tolist() == [255, 255, 0, 0]
    assert np.array_equal(shrink(rgba, 6), rgba)


def test_transparency_of_pictures(tmp_path):
    opaque = np.full((4, 4, 3), 255, np.uint8)
    opaque[0, 0] = 254
    Image.fromarray(opaque).save(tmp_path / "rgb.png")
    assert (read_rgba(tmp_path / "rgb.png")[0][..., 3] == 255).all()
    assert read_rgba(tmp_path / "rgb.png", white=True)[0][..., 3].sum() == 255
    # An alpha that says nothing does not hide the white; one that does is kept.
    rgba = np.concatenate([opaque, np.full((4, 4, 1), 255, np.uint8)], 2)
    Image.fromarray(rgba).save(tmp_path / "full.png")
    assert read_rgba(tmp_path / "full.png", white=True)[0][..., 3].sum() == 255
    rgba[1, 1, 3] = 7
    Image.fromarray(rgba).save(tmp_path / "some.png")
    assert np.array_equal(read_rgba(tmp_path / "some.png", white=True)[0], rgba)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def corrupt_png(root: Path) -> None:
    path = root / "car_001/r_001.png"
    path.write_bytes(path.read_bytes()[:-30])


def other_size(root: Path) -> None:
    Image.new("RGBA", (8, 8)).save(root / "car_001/r_001.png")


FAULTS = {
    "corrupt": (corrupt_png, "car_001/r_001.png: must be a whole readable image"),
    "gone": (lambda root: (root / "car_001/r_001.png").unlink(), "must be an image, was not there"),
    "size": (other_size, "all images must have one size, 24x24 as the first, was 8x8"),
    "pose": (
        lambda root: edit(root / "car_001/transforms.json", lambda c: c["frames"][1].pop("transform_matrix")),
        r"frames\[1\] transform_matrix: must be a 4x4 matrix",
    ),
    "skew": (
        lambda root: edit(
            root / "car_001/transforms.json", lambda c: c["frames"][1]["transform_matrix"][0].__setitem__(0, 3.0)
        ),
        "must be a rotation",
    ),
    "focal": (
        lambda root: edit(
            root / "car_001/transforms.json",
            lambda c: (c.pop("camera_angle_x"), [(f.pop("fl_x"), f.pop("fl_y")) for f in c["frames"]]),
        ),
        "must have 'fl_x' or 'camera_angle_x'",
    ),
    "views": (lambda root: edit(root / "car_001/transforms.json", lambda c: c["frames"].clear()), "at least one view"),
    "json": (lambda root: (root / "car_001/transforms.json").write_text("{"), "must be readable JSON"),
    "folder": (lambda root: shutil.rmtree(root / "car_001"), "must be the folder of an object, was not there"),
    "outside": (
        lambda root: edit(
            root / "car_001/transforms.json", lambda c: c["frames"][0].update(file_path="../../secret.png")
        ),
        "must stay inside the data folder",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_object_is_skipped_and_named_or_refused(copy, fault, caplog):
    damage, message = FAULTS[fault]
    Image.new("RGBA", (SIZE, SIZE)).save(copy.parent / "secret.png")
    damage(copy)
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        sets = load_objects(copy)
    assert names(sets) == (["car_000", "car_002"], ["car_003"])
    assert any("skipped as unusable: car_001" in note for note in sets.notes)
    assert "skipped" in caplog.text
    assert "car_001" in caplog.text
    with pytest.raises(InputError, match=message):
        load_objects(copy, strict=True)


def test_objects_of_another_size_want_a_size(copy):
    for path in (copy / "car_002").glob("*.png"):
        Image.open(path).resize((12, 12)).save(path)
    edit(copy / "car_002/transforms.json", lambda c: c.update(w=12, h=12))
    assert names(load_objects(copy))[0] == ["car_000", "car_001"]
    with pytest.raises(InputError, match="images must be 24x24 as those of 'car_000', were 12x12: set a size"):
        load_objects(copy, strict=True)
    assert len(load_objects(copy, size=12, strict=True).train) == 3


SRN_FAULTS = {
    "pose": (lambda f: (f / "pose/000001.txt").unlink(), "000001.txt: must be a text file, was not there"),
    "numbers": (lambda f: (f / "pose/000001.txt").write_text("1 2 3"), "must be 4x4 numbers, was '1 2 3'"),
    "words": (lambda f: (f / "pose/000001.txt").write_text("a " * 16), "must be 4x4 numbers"),
    "first": (lambda f: (f / "intrinsics.txt").write_text("x\n8 8"), "first line must be f cx cy 0"),
    "last": (lambda f: (f / "intrinsics.txt").write_text("9 4 4 0\n8"), "last line must be H W"),
    "zero": (lambda f: (f / "intrinsics.txt").write_text("0 4 4 0\n8 8"), "must be positive"),
    "none": (lambda f: (f / "intrinsics.txt").write_text(""), "first line must be"),
    "missing": (lambda f: (f / "intrinsics.txt").unlink(), "intrinsics.txt: must be a text file, was not there"),
    "rgb": (lambda f: shutil.rmtree(f / "rgb"), "rgb: must be a folder of pictures, was not there"),
    "empty": (lambda f: [p.unlink() for p in (f / "rgb").iterdir()], "must hold pictures, has none"),
}


@pytest.mark.parametrize("fault", SRN_FAULTS)
def test_a_bad_srn_object_is_skipped_or_refused(tmp_path, fault):
    srn_tree(tmp_path, {"{}_train/a": 0, "{}_train/b": 0, "{}_test/c": 0})
    damage, message = SRN_FAULTS[fault]
    damage(tmp_path / "cars_train/b")
    assert names(load_objects(tmp_path)) == (["cars_train/a"], ["cars_test/c"])
    with pytest.raises(InputError, match=message):
        load_objects(tmp_path, strict=True)


def test_missing_and_unsplittable_data_is_refused(copy, tmp_path):
    for change, message in (
        (lambda c: c.update(train="car_000"), "key 'train' must be a list of folder names, was str"),
        (lambda c: c.update(train=[1]), "must be a list of folder names"),
        (lambda c: c.update(train=["car_003"]), "'car_003' stands twice"),
        (lambda c: c.update(train=["../cars2"]), "must stay inside the data folder"),
        (lambda c: c.update(near="far"), "key 'near' must be a finite number"),
        (lambda c: c.update(near=7.0), "near < far"),
        (lambda c: (c.pop("train"), c.pop("test")), "must name objects under 'train' and 'test'"),
    ):
        before = (copy / "car_splits.json").read_text()
        edit(copy / "car_splits.json", change)
        with pytest.raises(InputError, match=message):
            load_objects(copy)
        (copy / "car_splits.json").write_text(before)
    (copy / "chair_splits.json").write_text("{}")
    with pytest.raises(InputError, match=r"must hold one \*_splits.json, holds car_splits.json, chair_splits.json"):
        load_objects(copy)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "note.txt").write_text("x")
    for call, message in (
        (lambda: load_objects(tmp_path / "nothing"), "must hold <object>/transforms.json.*has none of them"),
        (lambda: load_objects(tmp_path / "missing"), "must be a folder of objects, was not there"),
        (lambda: load_objects(tmp_path / "note.txt"), "must be a folder or a mesh .*, was '.txt'"),
        (lambda: load_objects(copy, size=0), "size: must be None or from 1 to 4096, was 0"),
        (lambda: load_objects(copy, views=0), "views: must be None or from 1"),
        (lambda: load_objects(copy, test=0), "test: must be a share"),
        (lambda: load_objects(copy, limit=0), "limit"),
        (lambda: load_objects(copy, seed=-1), "seed"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_set_that_is_bad_as_a_whole_is_refused(copy):
    (copy / "car_003/transforms.json").write_text("{")
    with pytest.raises(InputError, match=r"none of the 1 objects to test is usable; .*car_003"):
        load_objects(copy)


def test_too_much_for_memory_is_refused(copy, monkeypatch):
    module = importlib.import_module("mclnf_fast.data.readers.objects")  # the name in the package is the function
    monkeypatch.setattr(module, "MOST_BYTES", 4 * 3 * SIZE * SIZE * 4 - 1)
    with pytest.raises(InputError, match=r"4 objects would take .*: set a limit, fewer views or a smaller size"):
        load_objects(copy)
    assert len(load_objects(copy, views=2).train) == 3


def test_the_real_microphone(shared_data):
    sets = load_objects(shared_data("nerf/mic"), size=50, views=6)
    assert names(sets) == ([], ["mic"])
    mic = sets.test[0]
    assert tuple(mic.images.shape) == (12, 50, 50, 4)
    assert mic.train_views == 6
    cover = mic.images[..., 3].double().mean() / 255
    assert 0.02 < float(cover) < 0.6
    # All cameras look at the scene's middle from 4 away, as the format has it.
    torch.testing.assert_close(mic.cameras.centers.norm(dim=1), torch.full((12,), 4.03), atol=0.05, rtol=0)
    assert float(middle_of(mic.cameras).norm()) < 0.01
    torch.testing.assert_close(up_of(mic.cameras), torch.tensor([0, 0, 1.0], dtype=torch.float64), atol=1e-3, rtol=0)
