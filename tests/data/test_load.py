"""Readers: every dialect from small written trees, every kind of bad input, and the real data where it is."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mclnf_fast.data import load_scene
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

W, H = 12, 8


def poses(count: int, seed: int = 0, height: float = 1.5) -> np.ndarray:
    """Cameras on a loop that look down at the ground about the origin, float64 [count, 4, 4]."""
    angle = torch.linspace(0, 2 * math.pi, count + 1)[:-1] + seed
    position = torch.stack([2 * torch.cos(angle), 2 * torch.sin(angle), torch.full_like(angle, height)], 1)
    out = np.tile(np.eye(4), (count, 1, 1))
    out[:, :3] = look_at(position, position * torch.tensor([0.6, 0.6, 0.0])).double().numpy()
    return out


def picture(seed: int, size=(W, H), mode="RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    channels = {"RGB": 3, "RGBA": 4}[mode]
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8))


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def dump(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def nerfstudio(root: Path, count: int = 9, **extra) -> dict:
    frames = []
    for k, pose in enumerate(poses(count)):
        save(root / f"images/{k}.png", picture(k))
        frames.append({"file_path": f"images/{k}.png", "transform_matrix": pose.tolist()})
    content = {"fl_x": 10.0, "fl_y": 11.0, "cx": 6.5, "cy": 4.0, "w": W, "h": H, "frames": frames, **extra}
    dump(root / "transforms.json", content)
    return content


def split_tree(root: Path, raw: bool) -> None:
    """The same two blocks in MatrixCity's split or raw dialect, positions given in units of 100 m."""
    for b, block in enumerate(("block_2", "block_10")):
        for s, split in enumerate(("train", "test")):
            frames = []
            for k, pose in enumerate(poses(3 - s, seed=b)):
                folder = f"{split}/{block}" + ("_test" if raw and s else "")
                save(root / folder / f"{k:04d}.png", picture(10 * b + 5 * s + k))
                if raw:
                    matrix = pose.copy()
                    matrix[:3, :3] /= 100
                    matrix[:3, 3] *= 100
                    frames.append({"frame_index": k, "rot_mat": matrix.tolist()})
                else:
                    frames.append({"file_path": f"../../{folder}/{k:04d}.png", "transform_matrix": pose.tolist()})
            content = {"camera_angle_x": 1.0, "frames": frames}
            if raw:
                dump(root / folder / "transforms.json", content)
            else:
                dump(root / "pose" / block / f"transforms_{split}.json", content)


def test_the_raw_dialect_equals_the_split_dialect(tmp_path):
    split_tree(tmp_path / "a", raw=False)
    split_tree(tmp_path / "b", raw=True)
    one, two = load_scene(tmp_path / "a"), load_scene(tmp_path / "b")
    assert [block.name for block in one.blocks] == [block.name for block in two.blocks] == ["block_2", "block_10"]
    assert one.unit == two.unit == "100 m"
    torch.testing.assert_close(one.aabb, two.aabb)
    for first, second in zip(one.blocks, two.blocks, strict=True):
        for split in ("train", "test"):
            x, y = getattr(first, split), getattr(second, split)
            assert torch.equal(x.images, y.images)
            torch.testing.assert_close(x.cameras.c2w, y.cameras.c2w, atol=1e-6, rtol=0)
            torch.testing.assert_close(x.cameras.fx, torch.full((len(x),), 0.5 * W / math.tan(0.5)))
            torch.testing.assert_close(x.cameras.fx, y.cameras.fy)
    raw_block = load_scene(tmp_path / "b/train/block_2", holdout_every=0)
    torch.testing.assert_close(raw_block.blocks[0].train.cameras.c2w, one.blocks[0].train.cameras.c2w)


def test_matrixcity_names_and_places(tmp_path):
    root = tmp_path / "small_city" / "aerial"
    split_tree(root, raw=False)
    for path in (tmp_path, tmp_path / "small_city", root, root / "pose"):
        assert len(load_scene(path).blocks) == 2
    assert [b.name for b in load_scene(root, blocks=["block_10"]).blocks] == ["block_10"]
    with pytest.raises(InputError, match="block_7"):
        load_scene(root, blocks=["block_7"])
    (root / "pose/block_all").mkdir()
    train = (root / "pose/block_2/transforms_train.json").read_text()
    (root / "pose/block_all/transforms_train.json").write_text(train)
    assert [b.name for b in load_scene(root).blocks] == ["block_2", "block_10"]
    box = load_scene(root).blocks[0].aabb
    assert float(box[0, 2]) < 0 < float(box[1, 2])


def test_blender_composites_on_white_and_has_a_cube_about_the_object(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        frames = []
        for k, pose in enumerate(poses(count)):
            save(tmp_path / split / f"r_{k}.png", picture(k, mode="RGBA"))
            frames.append({"file_path": f"./{split}/r_{k}", "transform_matrix": pose.tolist()})
        dump(tmp_path / f"transforms_{split}.json", {"camera_angle_x": 0.8, "frames": frames})
    block = load_scene(tmp_path).blocks[0]
    assert (len(block.train), len(block.test)) == (4, 2)
    rgba = np.asarray(picture(1, mode="RGBA"), np.float64)
    expected = rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]
    assert np.abs(block.train.images[1].numpy() - expected).max() <= 1
    sides = block.aabb[1] - block.aabb[0]
    torch.testing.assert_close(sides, sides[:1].expand(3))
    torch.testing.assert_close(block.train.cameras.fx, torch.full((4,), 0.5 * W / math.tan(0.4)))


def test_nerfstudio_splits_and_per_frame_intrinsics(tmp_path):
    content = nerfstudio(tmp_path, 17)
    block = load_scene(tmp_path).blocks[0]
    assert block.test.names == ("images/0.png", "images/8.png", "images/16.png")
    assert len(load_scene(tmp_path, holdout_every=0).blocks[0].test) == 0
    assert float(block.train.cameras.cx[0]) == 6.5
    content["frames"][3] |= {"fl_x": 20.0, "k1": 0.0}
    content |= {"val_filenames": ["images/2.png"], "train_filenames": ["images/3.png", "images/4.png"]}
    dump(
        tmp_path / "transforms.json",
        {**content, "camera_model": "OPENCV", "applied_transform": np.eye(4)[:3].tolist()},
    )
    block = load_scene(tmp_path).blocks[0]
    assert (block.train.names, block.test.names) == (("images/3.png", "images/4.png"), ("images/2.png",))
    assert block.train.cameras.fx.tolist() == [20.0, 10.0]
    dump(tmp_path / "transforms.json", {**content, "test_filenames": ["images/77.png"]})
    with pytest.raises(InputError, match=r"images/77\.png"):
        load_scene(tmp_path)


def test_downscaling_is_a_box_filter_and_the_rays_stay(tmp_path):
    nerfstudio(tmp_path)
    full, half = load_scene(tmp_path).blocks[0].train, load_scene(tmp_path, downscale=2).blocks[0].train
    assert tuple(half.images.shape[1:3]) == (H // 2, W // 2)
    mean = full.images.float().reshape(-1, H // 2, 2, W // 2, 2, 3).mean((2, 4))
    assert float((half.images - mean).abs().max()) <= 1.01  # rounded once an axis
    torch.testing.assert_close(half.cameras.corner_rays()[1], full.cameras.corner_rays()[1])
    small = load_scene(tmp_path, max_side=6).blocks[0].train
    assert torch.equal(small.images, half.images)
    assert load_scene(tmp_path, max_side=100).blocks[0].train.images.shape[2] == W


def test_a_grid_gives_each_block_its_views_and_the_box_that_they_see(tmp_path):
    nerfstudio(tmp_path, 40)
    scene = load_scene(tmp_path, blocks=(2, 2))
    assert [b.name for b in scene.blocks] == ["block_1", "block_2", "block_3", "block_4"]
    counts = [len(block.train) for block in scene.blocks]
    assert sum(counts) == 35
    assert min(counts) >= 8
    assert sum(len(block.test) for block in scene.blocks) == 5
    for block in scene.blocks:
        origins, directions = block.train.cameras.view_rays(0)
        hits = origins - (origins[:, 2] / directions[:, 2])[:, None] * directions
        inside = ((hits >= block.aabb[0]) & (hits <= block.aabb[1]))[:, :2].all(1)
        assert float(inside.float().mean()) > 0.9
    with pytest.raises(InputError, match="at least"):
        load_scene(tmp_path, blocks=(7, 7))


def test_cameras_at_one_place_cannot_be_cut(tmp_path):
    content = nerfstudio(tmp_path)
    for frame in content["frames"]:
        frame["transform_matrix"] = content["frames"][0]["transform_matrix"]
    dump(tmp_path / "transforms.json", content)
    with pytest.raises(InputError, match="no training view"):
        load_scene(tmp_path, blocks=(2, 2))


def test_boxes_come_from_the_argument_the_json_or_the_points(tmp_path):
    nerfstudio(tmp_path)
    given = torch.tensor([[-1.0, -2, -3], [4, 5, 6]])
    assert torch.equal(load_scene(tmp_path, aabb=given).aabb, given)
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 3)) * [3, 2, 0.1]
    np.savez(tmp_path / "sparse_points.npz", xyz=points.astype(np.float32))
    from_npz = load_scene(tmp_path).aabb
    torch.testing.assert_close(from_npz[1, :2], torch.tensor([2.88, 1.92]), atol=0.05, rtol=0)
    assert 0.1 < float(from_npz[1, 2]) < 0.15
    columns = "".join(f"property double {axis}\n" for axis in "xyz")
    header = "ply\nformat {} 1.0\nelement vertex 5000\n" + columns + "end_header\n"
    for name, form, body in (
        ("ascii", "ascii", "\n".join(" ".join(map(repr, row)) for row in points.tolist()).encode()),
        ("binary", "binary_little_endian", points.astype("<f8").tobytes()),
    ):
        (tmp_path / f"{name}.ply").write_bytes(header.format(form).encode() + body)
        nerfstudio(tmp_path, ply_file_path=f"{name}.ply")
        torch.testing.assert_close(load_scene(tmp_path).aabb, from_npz, atol=1e-3, rtol=0)
    nerfstudio(tmp_path, aabb=given.tolist())
    assert torch.equal(load_scene(tmp_path).aabb, given)


def set_pose(content, value):
    content["frames"][2]["transform_matrix"] = value


def change(key, value):
    return lambda content: content.__setitem__(key, value)


def in_frame(key, value):
    return lambda content: content["frames"][2].__setitem__(key, value)


ROTATED = np.diag([1.0, 2.0, 1.0, 1.0]).tolist()
MIRRORED = np.diag([1.0, -1.0, 1.0, 1.0]).tolist()
NAN = [[math.nan] * 4] * 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("frames"), "'frames' must be a list"),
        (change("frames", []), "at least one view"),
        (change("frames", [3]), r"frames\[0\] must be an object"),
        (lambda c: set_pose(c, ROTATED), r"frames\[2\].*rotation"),
        (lambda c: set_pose(c, MIRRORED), "reflection"),
        (lambda c: set_pose(c, NAN), "finite"),
        (lambda c: set_pose(c, [[1, 0], [0, 1]]), "4x4"),
        (lambda c: set_pose(c, [[1, 0, 0, 0]] * 3 + [[1]]), "4x4"),
        (lambda c: set_pose(c, "eye"), "4x4"),
        (lambda c: set_pose(c, None), "4x4"),
        (lambda c: c["frames"][2].pop("file_path"), "file_path"),
        (in_frame("file_path", 3), "file_path"),
        (in_frame("file_path", "images/none.png"), r"none\.png.*not there"),
        (in_frame("file_path", "../outside.png"), "inside the data folder"),
        (in_frame("file_path", "/etc/hostname"), "must be relative"),
        (in_frame("file_path", "C:\\a.png"), "must be relative"),
        (in_frame("file_path", "images"), "must be an image"),
        (in_frame("w", 13), "'w'"),
        (in_frame("fl_x", -3.0), "positive"),
        (in_frame("fl_x", "ten"), "fl_x"),
        (in_frame("fl_x", math.inf), "fl_x"),
        (lambda c: [c.pop("fl_x"), c.pop("fl_y")], "camera_angle_x"),
        (change("k5", 0.1), "'k5' must be 0"),
        (in_frame("p3", -0.1), "undistort"),
        (change("camera_model", "FISHEYE624"), "undistort"),
        (change("is_fisheye", "equisolid"), "must be true or false"),
        (change("aabb", [[0, 0, 0], [1, 1, -1]]), "aabb"),
        (change("applied_transform", [1, 2]), "applied_transform"),
        (change("train_filenames", "all"), "train_filenames"),
        (change("ply_file_path", "../points.ply"), "inside the data folder"),
        (change("ply_file_path", "none.ply"), r"none\.ply"),
    ],
)
def test_bad_json_is_named(tmp_path, damage, message):
    root = tmp_path / "data"
    save(tmp_path / "outside.png", picture(0))
    content = nerfstudio(root)
    damage(content)
    dump(root / "transforms.json", content)
    with pytest.raises(InputError, match=message):
        load_scene(root)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"[" * 100_000])
def test_text_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(InputError, match=r"transforms\.json"):
        load_scene(tmp_path)


def test_corrupt_foreign_and_huge_images_are_refused(tmp_path):
    nerfstudio(tmp_path)
    path = tmp_path / "images/4.png"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-20], b"", b"not an image at all"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"4\.png"):
            load_scene(tmp_path)
    picture(1, size=(40 * W, H)).save(path)
    with pytest.raises(InputError, match="pictures must fill at least 1 / 4 of"):
        load_scene(tmp_path)
    picture(0, size=(64, 64)).save(tmp_path / "big.jpg")
    corrupt = (tmp_path / "big.jpg").read_bytes()
    path.write_bytes(corrupt[: len(corrupt) * 2 // 3])
    with pytest.raises(InputError, match=r"4\.png"):
        load_scene(tmp_path)


def test_links_out_of_the_folder_are_refused(tmp_path):
    root = tmp_path / "data"
    nerfstudio(root)
    save(tmp_path / "secret.png", picture(3))
    (root / "images/2.png").unlink()
    os.symlink(tmp_path / "secret.png", root / "images/2.png")
    with pytest.raises(InputError, match="inside the data folder"):
        load_scene(root)


def test_matrixcity_paths_end_at_the_folder_that_holds_pose(tmp_path):
    root = tmp_path / "city"
    split_tree(root, raw=False)
    save(tmp_path / "outside.png", picture(0))
    path = root / "pose/block_2/transforms_train.json"
    content = json.loads(path.read_text())
    content["frames"][0]["file_path"] = "../../../outside.png"
    dump(path, content)
    with pytest.raises(InputError, match="inside the data folder"):
        load_scene(root)


@pytest.mark.parametrize(
    ("index", "message"), [(-1, "frame_index"), (1.5, "frame_index"), (None, "frame_index"), (9, "0009")]
)
def test_raw_frame_indices(tmp_path, index, message):
    split_tree(tmp_path, raw=True)
    path = tmp_path / "train/block_2/transforms.json"
    content = json.loads(path.read_text())
    content["frames"][0]["frame_index"] = index
    dump(path, content)
    with pytest.raises(InputError, match=message):
        load_scene(tmp_path)


def test_folders_and_options_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="must be a folder"):
        load_scene(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has none of them"):
        load_scene(tmp_path)
    nerfstudio(tmp_path)
    with pytest.raises(InputError, match="a file"):
        load_scene(tmp_path / "transforms.json")
    for options, message in (
        ({"blocks": ["block_1"]}, "no named blocks"), ({"blocks": "block_1"}, "blocks"),
        ({"blocks": (0, 1)}, "blocks"),
        ({"blocks": (1.5, 2)}, "blocks"), ({"blocks": ()}, "blocks"), ({"downscale": 0.5}, "downscale"),
        ({"downscale": math.nan}, "downscale"), ({"max_side": 0}, "max_side"),
        ({"holdout_every": 1}, "holdout_every"),
        ({"aabb": torch.zeros(2, 3)}, "aabb"), ({"aabb": torch.zeros(3)}, "aabb"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            load_scene(tmp_path, **options)


def real(name: str) -> Path:
    root = Path(os.environ.get("MCLNF_FAST_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data")
    if not (root / name).is_dir():
        pytest.skip(f"real data {name} is not in {root} (set MCLNF_FAST_DATA)")
    return root / name


def test_real_drone_photos_cut_into_four():
    scene = load_scene(real("nerf_city/caliterra_aerial"), blocks=(2, 2), max_side=120)
    assert sum(len(b.train) for b in scene.blocks) == 65
    assert sum(len(b.test) for b in scene.blocks) == 10
    for block in scene.blocks:
        assert len(block.train) >= 16
        assert len(block.test) >= 1
        assert tuple(block.train.images.shape[1:]) == (90, 120, 3)
        assert float(block.aabb[1, 2] - block.aabb[0, 2]) < 0.1
        hits = ground_hits(block.train.cameras)
        inside = ((hits >= block.aabb[0]) & (hits <= block.aabb[1]))[..., :2].all(-1)
        assert float(inside.float().mean()) > 0.9
        assert bool(((block.aabb[1] - block.aabb[0])[:2] < 2.7).all())


def ground_hits(cameras: Cameras) -> torch.Tensor:
    origins, directions = cameras.corner_rays()
    return origins - (origins[..., 2:] / directions[..., 2:]) * directions


def test_real_street_photos():
    block = load_scene(real("nerf_city/lund_street"), downscale=4).blocks[0]
    assert (len(block.train), len(block.test)) == (18, 3)
    assert float(block.aabb[0, 2]) < -0.07
    assert float(block.aabb[1, 1]) == pytest.approx(1.6267, abs=1e-3)
    assert len(load_scene(real("nerf_city/lund_street"), downscale=4, blocks=(1, 2)).blocks) == 2


def test_real_object_views():
    block = load_scene(real("nerf/mic"), downscale=8).blocks[0]
    assert (len(block.train), len(block.test)) == (80, 20)
    assert bool((block.train.images[:, 0, 0] == 255).all())
    assert 1.2 < float(block.aabb[1, 0]) < 1.7
    torch.testing.assert_close(
        block.train.cameras.fx, torch.full((80,), 25 / math.tan(0.6911112 / 2)), rtol=1e-4, atol=0
    )
