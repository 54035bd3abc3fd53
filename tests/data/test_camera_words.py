"""What a `transforms.json` says of its cameras is obeyed, refused by its key, or warned of, through every door."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from posed import DOORS, posed, through

from mclnf_fast.cli import main
from mclnf_fast.data import load_objects, load_scene
from mclnf_fast.errors import InputError

HALF = 8 / math.tan(0.5)  # pixels: the focal length of a field of view of 1 rad, 16 pixels wide


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("words", "fx", "fy"),
    [
        ({"camera_angle_x": 1.0}, HALF, HALF),
        ({"camera_angle_y": 1.0}, 6 / math.tan(0.5), 6 / math.tan(0.5)),
        ({"x_fov": math.degrees(1.0)}, HALF, HALF),
        ({"fl_x": 30.0, "fl_y": 31.0}, 30.0, 31.0),
        ({"intrinsic_matrix": [[30, 0, 9, 0], [0, 31, 5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, 30.0, 31.0),
        ({"K": [[30, 0, 9], [0, 31, 5], [0, 0, 1]]}, 30.0, 31.0),
    ],
)
def test_a_frames_own_focal_length_in_any_key_stands_above_the_files(tmp_path, door, words, fx, fy):
    posed(tmp_path / "one", top={"fl_y": 21.0}, frame=lambda k: words if k == 1 else {})
    cameras, _ = through(door, tmp_path)
    assert cameras.fx.tolist() == pytest.approx([20, fx, 20, 20, 20, 20], abs=1e-3)
    assert cameras.fy.tolist() == pytest.approx([21, fy, 21, 21, 21, 21], abs=1e-3)
    own = "K" in words or "intrinsic_matrix" in words
    assert (cameras.cx[1].item(), cameras.cy[1].item()) == ((9, 5) if own else (8, 6))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("top", "key"),
    [
        ({"equirectangular": True}, "equirectangular"),
        ({"is_fisheye": "equisolid"}, "is_fisheye"),
        ({"fisheye": True, "camera_model": "OPENCV"}, "is_fisheye"),
        ({"fisheye_k1": 0.1}, "fisheye_k1"),
        ({"latlong": True}, "latlong"),
        ({"is_panorama": 1}, "is_panorama"),
        ({"ftheta_p0": 0.0, "ftheta_p1": 0.9}, "ftheta_p1"),
        ({"orthographic": True}, "orthographic"),
        ({"camera_type": "fisheye"}, "camera_type"),
        ({"projection": "equirectangular"}, "projection"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model"),
        ({"camera_model": "THIN_PRISM_FISHEYE"}, "camera_model"),
        ({"camera_model": "PINHOLE", "k1": 0.1}, "k1"),
        ({"k5": 0.1}, "k5"),
        ({"s1": 0.1}, "s1"),
        ({"p3": 0.1}, "p3"),
        ({"distortion_params": [0, 0, 0.1, 0]}, "distortion_params"),
        ({"rolling_shutter": [0, 0, 0.01]}, "rolling.shutter"),
        ({"K": [[20, 1, 8], [0, 20, 6], [0, 0, 1]]}, "'K' must be without skew"),
        ({"K": [[20, 0, 8], [1, 20, 6], [0, 0, 1]]}, "'K' must be without skew"),
        ({"camera_angle_x": 0.5}, "'fl_x' and 'camera_angle_x' .* must agree"),
    ],
)
@pytest.mark.parametrize("where", ["file", "frame"])
def test_a_camera_that_is_no_pinhole_is_refused_by_its_key(tmp_path, door, top, key, where):
    if where == "file":
        posed(tmp_path / "one", top=top)
    else:
        posed(tmp_path / "one", top={"fl_x": None}, frame=lambda k: {"fl_x": 20.0, **(top if k == 2 else {})})
    with pytest.raises(InputError, match=rf"transforms\.json.*{key}"):
        through(door, tmp_path)


def test_keys_that_say_of_a_pinhole_that_it_is_one_are_read(tmp_path):
    zeros = {
        "k1": 0,
        "k4": 0.0,
        "distortion_params": [0, 0.0],
        "is_fisheye": False,
        "camera_model": "OPENCV",
        "lens": 50.0,
    }
    zeros |= {"lens": 50.0, "omniverse_version": "1", "camera_type": "PERSP", "distortion_model": "none"}
    posed(tmp_path / "one", top={**zeros, "camera_angle_x": 2 * math.atan(8 / 20), "equirectangular": False})
    assert through("scene", tmp_path)[0].fx.tolist() == [20] * 6


def test_a_camera_that_moves_while_it_looks_is_refused(tmp_path):
    other = [[1, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    posed(tmp_path / "one", frame=lambda k: {"transform_matrix_end": other} if k == 3 else {})
    with pytest.raises(InputError, match=r"frames\[3\].*'transform_matrix_end'"):
        through("scene", tmp_path)


def test_a_city_refuses_panoramas_too(tmp_path):
    root = posed(tmp_path / "one")
    content = json.loads((root / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["file_path"] = "../../images/" + frame["file_path"].split("/")[1]
    block = root / "pose/block_1"
    block.mkdir(parents=True)
    (root / "transforms.json").unlink()
    (block / "transforms_train.json").write_text(json.dumps(content))
    load_scene(root, holdout_every=0)
    (block / "transforms_train.json").write_text(json.dumps(content | {"equirectangular": True}))
    with pytest.raises(InputError, match="equirectangular"):
        load_scene(root)


@pytest.mark.parametrize("door", ["scene", "photos"])
def test_cameras_on_a_map_keep_their_distances(tmp_path, door):
    shift = (500000.3, 4649776.2, 100.1)
    box = np.array([[-1, -1, -1], [1, 1, 1]]) + np.array(shift)
    root = posed(tmp_path / "one", shift=shift, top={"aabb": box.tolist()})
    cameras, _ = through(door, tmp_path)
    frames = json.loads((root / "transforms.json").read_text())["frames"]
    want = torch.tensor([[row[3] for row in frame["transform_matrix"][:3]] for frame in frames], dtype=torch.float64)
    scene = load_scene(root, holdout_every=0)
    assert scene.origin[2] == 0  # as the file has it: heights are small
    origin = torch.tensor(scene.origin, dtype=torch.float64)
    assert float((cameras.centers.double() + origin - want).abs().max()) < 1e-3
    assert float((scene.aabb.double() + origin - torch.from_numpy(box)).abs().max()) < 1e-3
    again = load_scene(root, holdout_every=0, aabb=torch.from_numpy(box))
    assert float((again.aabb.double() + origin - torch.from_numpy(box)).abs().max()) < 1e-3
    cells = load_scene(root, holdout_every=0, blocks=(2, 1))
    assert cells.origin == scene.origin


def test_near_cameras_are_not_moved(tmp_path):
    posed(tmp_path / "one", shift=(50.0, -30.0, 8.0))
    assert load_scene(tmp_path / "one", holdout_every=0).origin == (0.0, 0.0, 0.0)


def test_objects_far_from_the_origin_are_refused(tmp_path):
    posed(tmp_path / "one", shift=(500000.3, 4649776.2, 100.1))
    with pytest.raises(InputError, match=r"must stand near the origin.*float32"):
        load_objects(tmp_path / "one")


@pytest.mark.parametrize("door", DOORS)
def test_gray_pictures_of_16_bits_keep_their_gray(tmp_path, door):
    posed(tmp_path / "one", picture=lambda k: Image.fromarray(np.full((12, 16), 32896, np.uint16)))
    _, images = through(door, tmp_path)
    assert bool((images[..., :3] == 128).all())


def test_gray_pictures_of_16_bits_of_an_srn_object(tmp_path):
    car = tmp_path / "car"
    (car / "rgb").mkdir(parents=True)
    (car / "pose").mkdir()
    Image.fromarray(np.full((8, 8), 32896, np.uint16)).save(car / "rgb/0.png")
    (car / "intrinsics.txt").write_text("10 4 4 0\n8 8\n")
    (car / "pose/0.txt").write_text(" ".join(map(str, np.eye(4).ravel())))
    assert load_objects(car).test[0].images[0, 0, 0].tolist() == [128, 128, 128, 255]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_of_any_unicode(tmp_path, encoding):
    path = posed(tmp_path / "one") / "transforms.json"
    path.write_bytes(path.read_text().encode(encoding))
    assert len(through("scene", tmp_path)[0]) == 6


@pytest.mark.parametrize("name", ["12:30:00.png", "1:2.png", "images/0:1.png"])
def test_a_name_may_hold_a_colon(tmp_path, name):
    root = posed(tmp_path / "one", frame=lambda k: {"file_path": name} if k == 0 else {})
    (root / "images/0.png").rename(root / name)
    assert len(through("scene", tmp_path)[0]) == 6


@pytest.mark.parametrize("name", ["C:\\a.png", "c:a.png", "C:/a.png", "\\\\host\\a.png"])
def test_a_drive_is_not_relative(tmp_path, name):
    posed(tmp_path / "one", frame=lambda k: {"file_path": name} if k == 0 else {})
    with pytest.raises(InputError, match="file_path must be relative"):
        through("scene", tmp_path)


def test_the_command_line_names_a_panorama(tmp_path, capsys):
    posed(tmp_path / "one", top={"equirectangular": True})
    for command in ("city", "photos", "single-view"):
        arguments = ["run", command, "--data", str(tmp_path / "one"), "--out", str(tmp_path / command)]
        assert main(arguments) == 2, command
        assert "equirectangular" in capsys.readouterr().err
