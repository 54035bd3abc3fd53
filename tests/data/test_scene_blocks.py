"""How a scene is cut into blocks that all have views to test on, and where its box is from."""

from __future__ import annotations

import json
import pathlib
import struct

import numpy as np
import pytest
import torch
from posed_trees import looking_down, ring, write_posed

from mclnf_fast.data import load_scene
from mclnf_fast.errors import InputError

# 18 places; 0, 8 and 16, which are held out of the whole scene, are all in the quarter of low x and low y.
QUARTERS = [(-1, -1), (1, -1), (-1, 1), (1, 1)]
ORDER = [0, 1, 2, 3, 1, 2, 3, 0, 0, 1, 2, 3, 1, 2, 3, 0, 0, 0]
PLACES = [(QUARTERS[q][0] + 0.02 * k, QUARTERS[q][1] + 0.03 * k) for k, q in enumerate(ORDER)]


def frames_of(scene) -> tuple[set[str], set[str]]:
    train = {name for block in scene.blocks for name in block.train.names}
    return train, {name for block in scene.blocks for name in block.test.names}


def test_a_block_without_a_held_out_view_holds_out_its_own(tmp_path):
    write_posed(tmp_path / "photos", *looking_down(PLACES))
    scene = load_scene(tmp_path / "photos", blocks=(2, 2))
    assert [block.name for block in scene.blocks] == ["block_1", "block_2", "block_3", "block_4"]
    assert all(len(block.train) and len(block.test) for block in scene.blocks)
    train, test = frames_of(scene)
    assert not train & test
    assert len(train | test) == 18
    # What was held out of the whole scene still is; each other block gives the first of its own.
    assert {f"images/{k:02d}.png" for k in (0, 8, 16)} < test
    assert len(test) == 6
    notes = " ".join(scene.notes)
    assert all(
        f"{name} has none of the views that were held out" in notes for name in ("block_2", "block_3", "block_4")
    )
    assert "block_1" not in notes


def test_a_split_of_the_data_is_kept_and_a_block_without_test_views_is_merged(tmp_path):
    own = ["images/00.png", "images/01.png"]  # low y only: the quarters of high y have none
    write_posed(tmp_path / "photos", *looking_down(PLACES), test_filenames=own)
    scene = load_scene(tmp_path / "photos", blocks=(2, 2))
    train, test = frames_of(scene)
    assert test == set(own)
    assert len(train) == 16
    assert {block.name for block in scene.blocks} == {"block_1", "block_2"}
    notes = " ".join(scene.notes)
    assert "block_3 has" in notes
    assert "merged with block_1" in notes
    assert "block_4 has" in notes
    assert "merged with block_2" in notes
    # The merged block covers what its views see.
    for block in scene.blocks:
        low, high = block.train.cameras.centers[:, :2].amin(0), block.train.cameras.centers[:, :2].amax(0)
        assert bool((block.aabb[0, :2] < low).all() and (block.aabb[1, :2] > high).all())


def test_a_block_of_a_single_view_is_merged(tmp_path):
    places = [(-1.0, 0.0), (-1.0, 0.1), (-1.0, 0.2), (1.0, 0.0)]
    write_posed(tmp_path / "photos", *looking_down(places))
    # Frames 0 and 2 are held out: the right column has frame 3 alone, which has to be trained on.
    scene = load_scene(tmp_path / "photos", blocks=(2, 1), holdout_every=2)
    assert [block.name for block in scene.blocks] == ["block_1"]
    assert len(scene.blocks[0].train) == 2
    assert "block_2 has 1 view, none to test on: merged with block_1." in scene.notes


def test_no_test_views_are_asked_for(tmp_path):
    write_posed(tmp_path / "photos", *looking_down(PLACES))
    scene = load_scene(tmp_path / "photos", blocks=(2, 2), holdout_every=0)
    assert [len(block.test) for block in scene.blocks] == [0, 0, 0, 0]
    assert sum(len(block.train) for block in scene.blocks) == 18


def misses(block) -> int:
    """Rays of the training pictures that miss the block's own box."""
    from mclnf_fast.render import Cells
    from mclnf_fast.systems.city.cover import crosses

    cell = Cells(block.aabb[None], 1.0)
    cameras = block.train.cameras
    return sum(int((~crosses(*cameras.view_rays(v), cell)).sum()) for v in range(len(cameras)))


def test_no_ray_misses_the_box_of_pictures_around_something(tmp_path):
    scene = load_scene(write_posed(tmp_path / "phone", *ring(9)))
    assert misses(scene.blocks[0]) == 0
    assert "with all cameras inside" in scene.notes[0]
    assert bool((scene.aabb[1] < 8).all())


def test_aabb_scale_bounds_a_guessed_box(tmp_path):
    small = load_scene(write_posed(tmp_path / "small", *ring(9), aabb_scale=2))
    half = 2 * 0.5 / 0.33
    assert torch.allclose(small.aabb, torch.tensor([[-half] * 3, [half] * 3]), atol=1e-4)
    assert "aabb_scale" in small.notes[0]
    large = load_scene(write_posed(tmp_path / "large", *ring(9), aabb_scale=128))
    assert torch.equal(large.aabb, load_scene(write_posed(tmp_path / "none", *ring(9))).aabb)
    moved = load_scene(write_posed(tmp_path / "moved", *ring(9), aabb_scale=1, scale=0.5, offset=[0.5, 0.5, 1.0]))
    assert torch.allclose(moved.aabb[:, 2], torch.tensor([-2.0, 0.0]), atol=1e-5)
    for name, wrong in (("aabb_scale", -1), ("aabb_scale", "four"), ("offset", [0, 0])):
        folder = write_posed(tmp_path / f"{name}{wrong}".replace(" ", ""), *ring(9), **{"aabb_scale": 2, name: wrong})
        with pytest.raises(InputError, match=name):
            load_scene(folder)


POINTS = np.random.default_rng(0).uniform(-1, 1, (400, 3)) * [1.0, 2.0, 3.0]
TURN = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 10.0]]  # y, z, x + 10


def colmap_binary(path: pathlib.Path) -> None:
    content = struct.pack("<Q", len(POINTS))
    for k, xyz in enumerate(POINTS):
        track = k % 3
        content += struct.pack("<QdddBBBdQ", k, *xyz, 1, 2, 3, 0.5, track) + b"\0" * 8 * track
    path.write_bytes(content)


def colmap_text(path: pathlib.Path) -> None:
    lines = [f"{k} {x!r} {y!r} {z!r} 1 2 3 0.5" + " 1 2" * (k % 3) for k, (x, y, z) in enumerate(POINTS.tolist())]
    path.write_text("\n".join(["# 3D point list", *lines]) + "\n")


@pytest.mark.parametrize(("name", "write"), [("points3D.bin", colmap_binary), ("points3D.txt", colmap_text)])
def test_points_of_colmap_are_brought_into_the_frame_of_the_poses(tmp_path, name, write):
    folder = write_posed(tmp_path / "photos", *ring(9), applied_transform=TURN)
    (folder / "colmap/sparse/0").mkdir(parents=True)
    write(folder / "colmap/sparse/0" / name)
    scene = load_scene(folder)
    inner = np.quantile(POINTS[:, [1, 2]], [0.02, 0.98], axis=0)
    assert torch.allclose(scene.aabb[:, :2], torch.tensor(inner, dtype=torch.float32), atol=1e-4)
    assert 8.5 < float(scene.aabb[0, 2]) < 9.1
    assert 10.9 < float(scene.aabb[1, 2]) < 11.5
    assert f"points in colmap/sparse/0/{name}" in scene.notes[0]
    # Without the transform nobody knows how the points lie to the poses.
    content = json.loads((folder / "transforms.json").read_text())
    del content["applied_transform"]
    (folder / "transforms.json").write_text(json.dumps(content))
    scene = load_scene(folder)
    assert f"colmap/sparse/0/{name} is not used" in scene.notes[0]
    assert "(a guess)" in scene.notes[1]


def test_damaged_points_of_colmap_are_refused_by_name(tmp_path):
    folder = write_posed(tmp_path / "photos", *ring(9), applied_transform=np.eye(4)[:3].tolist())
    (folder / "sparse/0").mkdir(parents=True)
    colmap_binary(folder / "sparse/0/points3D.bin")
    whole = (folder / "sparse/0/points3D.bin").read_bytes()
    for damaged in (b"", whole[:-3], whole[: len(whole) // 2], struct.pack("<Q", 1 << 60) + whole[8:]):
        (folder / "sparse/0/points3D.bin").write_bytes(damaged)
        with pytest.raises(InputError, match=r"points3D\.bin"):
            load_scene(folder)
    (folder / "sparse/0/points3D.bin").unlink()
    (folder / "sparse/0/points3D.txt").write_text("1 2 three 4\n")
    with pytest.raises(InputError, match=r"points3D\.txt"):
        load_scene(folder)


def test_the_option_bounds_every_block_of_a_grid(tmp_path):
    write_posed(tmp_path / "photos", *looking_down(PLACES))
    box = torch.tensor([[-1.0, -1.0, -0.1], [1.0, 1.0, 0.1]])
    scene = load_scene(tmp_path / "photos", blocks=(2, 2), aabb=box)
    assert scene.notes[0] == "Box of the scene: the option."
    for block in scene.blocks:
        assert bool((block.aabb[0] >= box[0]).all() and (block.aabb[1] <= box[1]).all())
        assert block.aabb[:, 2].tolist() == box[:, 2].tolist()
