"""Folders of COLMAP: cameras, poses and points of text and binary models, or an error that names the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from colmap_files import MODELS, POINTS, posed_images, ring, write_binary, write_pictures, write_text
from PIL import Image

from mclnf_fast.cli import main
from mclnf_fast.data import load_photos, load_scene
from mclnf_fast.data.readers.registry import choose
from mclnf_fast.errors import InputError
from mclnf_fast.render import Projection, make_lens
from mclnf_fast.render.lenses.lens import cat_lenses, project

NAMES = [f"{k}.png" for k in range(6)]
WRITERS = {"txt": write_text, "bin": write_binary}
OPENCV = ("OPENCV", 16, 12, MODELS["OPENCV"][1])


def folder(
    root: Path, *, model="sparse/0", write=write_binary, cameras=None, names=NAMES, points=POINTS, used=None
) -> Path:
    """A folder of COLMAP whose pictures all have the first camera, or those of `used`."""
    cameras = {1: OPENCV} if cameras is None else cameras
    used = [next(iter(cameras))] * len(names) if used is None else used
    write(root / model, cameras, posed_images(ring(len(names)), names, used), points)
    sizes = {name: cameras[number][1:3] for name, number in zip(names, used) if number in cameras}
    write_pictures(root / "images", names, sizes)
    return root


def views(root: Path, **options):
    return load_scene(root, holdout_every=0, **options).blocks[0].train


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("model", ["sparse/0", "colmap/sparse/0", "sparse", "colmap", ""])
def test_poses_are_those_that_were_written(tmp_path, ending, model):
    root = folder(tmp_path / "one", model=model, write=WRITERS[ending])
    found = views(root)
    assert found.names == tuple(f"images/{name}" for name in NAMES)
    torch.testing.assert_close(found.cameras.c2w.double(), torch.from_numpy(ring(6)[:, :3]), atol=1e-6, rtol=0)
    assert found.cameras.fx.tolist() == [20] * 6
    assert (found.cameras.fy[0].item(), found.cameras.cx[0].item(), found.cameras.cy[0].item()) == (21, 8.5, 6.25)
    assert bool((found.images[2] == torch.tensor([40, 100, 200], dtype=torch.uint8)).all())


def test_a_scene_is_that_of_a_transforms_json(tmp_path):
    """The same cameras, box and split as nerfstudio's reader makes of the same poses, pictures and points."""
    names = [f"{k:02d}.png" for k in range(12)]
    colmap = load_scene(folder(tmp_path / "one", names=names, write=write_text))
    root = folder(tmp_path / "two", names=names)
    frames = [{"file_path": f"images/{n}", "transform_matrix": pose.tolist()} for n, pose in zip(names, ring(12))]
    intrinsics = dict(zip(("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"), MODELS["OPENCV"][1]))
    content = {**intrinsics, "frames": frames, "applied_transform": np.eye(4)[:3].tolist()}
    (root / "transforms.json").write_text(json.dumps(content))
    other = load_scene(root)
    torch.testing.assert_close(colmap.aabb, other.aabb)
    assert colmap.notes[0] == other.notes[0].replace(".bin", ".txt")
    for part in ("train", "test"):
        ours, theirs = (getattr(scene.blocks[0], part) for scene in (colmap, other))
        assert ours.names == theirs.names
        for view in range(len(ours)):
            torch.testing.assert_close(ours.cameras.view_rays(view), theirs.cameras.view_rays(view), atol=1e-6, rtol=0)
    inner = np.quantile(POINTS[:, :2], [0.02, 0.98], axis=0)
    torch.testing.assert_close(colmap.aabb[:, :2].double(), torch.from_numpy(inner), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_as_text_and_binary(tmp_path, name):
    cameras = {7: (name, 16, 12, MODELS[name][1])}
    text, binary = (views(folder(tmp_path / ending, write=write, cameras=cameras)) for ending, write in WRITERS.items())
    rays = [part.cameras.view_rays(3)[1] for part in (text, binary)]
    assert torch.equal(*rays)
    assert text.unmasked is None
    p = MODELS[name][1]
    fx, fy, cx, cy = (p[0], *p[:3]) if name.startswith(("SIMPLE", "RADIAL")) else p[:4]
    assert [getattr(text.cameras, key)[0].item() for key in ("fx", "fy", "cx", "cy")] == [fx, fy, cx, cy]
    if "PINHOLE" in name:
        assert text.cameras.lens is None
    else:
        kind = (
            Projection.FOV if name == "FOV" else Projection.EQUIDISTANT if "FISHEYE" in name else Projection.PERSPECTIVE
        )
        assert text.cameras.lens.projection[0] == kind
    for pixel in (0, 15, 191):
        direction = rays[0][pixel].double() @ text.cameras.c2w[3, :, :3].double()
        row, column = divmod(pixel, 16)
        x, y = shown_at(name, p, direction.numpy() * [1, -1, -1])
        assert (fx * x + cx, fy * y + cy) == pytest.approx((column + 0.5, row + 0.5), abs=2e-5)


def shown_at(name: str, p: list[float], direction: np.ndarray) -> tuple[float, float]:
    """Where COLMAP's formulas show a direction, divided by the focal lengths."""
    u, v = direction[:2] / direction[2]
    r = np.hypot(u, v)
    if "FISHEYE" in name:
        u, v = np.arctan(r) / r * np.array([u, v])
        r = np.arctan(r)
    e = p[3:] if name in ("SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE") else p[4:]
    radial, du, dv = 0.0, 0.0, 0.0
    if name in ("SIMPLE_RADIAL", "SIMPLE_RADIAL_FISHEYE"):
        radial = e[0] * r**2
    elif name in ("RADIAL", "RADIAL_FISHEYE", "OPENCV"):
        radial = e[0] * r**2 + e[1] * r**4
    elif name == "OPENCV_FISHEYE":
        radial = e[0] * r**2 + e[1] * r**4 + e[2] * r**6 + e[3] * r**8
    elif name == "FULL_OPENCV":
        top = 1 + e[0] * r**2 + e[1] * r**4 + e[4] * r**6
        radial = top / (1 + e[5] * r**2 + e[6] * r**4 + e[7] * r**6) - 1
    elif name == "THIN_PRISM_FISHEYE":
        radial = e[0] * r**2 + e[1] * r**4 + e[4] * r**6 + e[5] * r**8
        du, dv = e[6] * r**2, e[7] * r**2
    elif name == "FOV":
        radial = np.arctan(2 * r * np.tan(e[0] / 2)) / (r * e[0]) - 1
    if name in ("OPENCV", "FULL_OPENCV", "THIN_PRISM_FISHEYE"):
        du += 2 * e[2] * u * v + e[3] * (r**2 + 2 * u**2)
        dv += 2 * e[3] * u * v + e[2] * (r**2 + 2 * v**2)
    return u + u * radial + du, v + v * radial + dv


@pytest.mark.parametrize("ending", WRITERS)
def test_cameras_sizes_and_names_of_every_kind(tmp_path, ending):
    names = ["left/b 1.png", "left/a.png", "right side/a.png", "c.png"]
    cameras = {3: ("SIMPLE_PINHOLE", 12, 16, [25.0, 6.0, 8.0]), 9: OPENCV}
    root = folder(tmp_path / "one", write=WRITERS[ending], cameras=cameras, names=names, used=[3, 9, 3, 9])
    found = views(root)
    assert found.names == tuple(f"images/{name}" for name in sorted(names))
    assert found.cameras.fx.tolist() == [20, 20, 25, 25]
    assert tuple(found.images.shape) == (4, 16, 16, 3)
    assert found.unmasked.sum((1, 2)).tolist() == [192] * 4
    assert bool(found.unmasked[2, :, :12].all())
    poses = dict(zip(names, ring(4)))
    torch.testing.assert_close(
        found.cameras.c2w.double(),
        torch.from_numpy(np.stack([poses[n] for n in sorted(names)]))[:, :3],
        atol=1e-6,
        rtol=0,
    )


def test_a_quaternion_of_any_length_is_a_rotation(tmp_path):
    root = folder(tmp_path / "one", write=write_text)
    lines = (root / "sparse/0/images.txt").read_text().split("\n")
    words = lines[2].split()
    words[1:5] = [repr(-1.7 * float(word)) for word in words[1:5]]
    lines[2] = " ".join(words)
    (root / "sparse/0/images.txt").write_text("\n".join(lines))
    torch.testing.assert_close(views(root).cameras.c2w[0].double(), torch.from_numpy(ring(6)[0, :3]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask_name", ["{}.png", "{}"])
def test_masks_of_a_folder(tmp_path, mask_name):
    names = ["left/0.png", *NAMES[1:]]
    root = folder(tmp_path / "one", names=names)
    mask = np.full((12, 16), 255, np.uint8)
    mask[:, 10:] = 0
    for name in ("left/0.png", "3.png"):
        path = root / "masks" / mask_name.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    found = views(root)
    for name, unmasked in zip(found.names, found.unmasked):
        masked = name in ("images/left/0.png", "images/3.png")
        assert torch.equal(unmasked, torch.from_numpy(mask > 0) | (not masked))
    with pytest.raises(InputError, match="masks are not read of photos"):
        load_photos(root, test=1)
    for path in list((root / "masks").rglob("*.png")):
        path.rename(path.with_name(f"mask_{path.name}"))
    with pytest.raises(InputError, match=r"masks: must hold masks named as the pictures are \(1\.png\.png\)"):
        views(root)


def test_pictures_without_a_pose_are_noted_and_poses_without_a_picture_refused(tmp_path):
    root = folder(tmp_path / "one")
    write_pictures(root / "images", ["more/x.png", "y.png"])
    (root / "sparse/1").mkdir()
    notes = load_scene(root).notes
    assert "2 pictures in images have no pose in the model and are left out." in notes
    assert "Of 2 models in sparse the first is read; others: 1." in notes
    (root / "images/4.png").unlink()
    with pytest.raises(InputError, match=r"images/4\.png: must be an image, was not there \(named in .*images\.bin\)"):
        load_scene(root)


def test_pictures_may_lie_beside_the_model(tmp_path):
    root = folder(tmp_path / "one", model="")
    for name in NAMES:
        (root / "images" / name).rename(root / name)
    (root / "images").rmdir()
    assert views(root).names == tuple(NAMES)


@pytest.mark.parametrize(("points", "source"), [(POINTS, "points3D"), (POINTS[:0], "the ground"), (None, "the ground")])
def test_the_box_is_that_of_the_points(tmp_path, points, source):
    assert source in load_scene(folder(tmp_path / "one", points=points)).notes[-1]


def test_photos_take_their_depths_from_the_points_that_they_show(tmp_path):
    photos = load_photos(folder(tmp_path / "one"), test=1, validation=0)
    assert photos.test[0].cameras.lens is not None
    distance = np.linalg.norm(ring(1)[0, :3, 3])
    assert distance - 1.8 < photos.near < distance - 0.8
    assert distance + 0.8 < photos.far < distance + 1.8


def test_a_transforms_json_stands_above_a_model(tmp_path):
    root = folder(tmp_path / "one")
    assert choose("scene", root).name == "colmap"
    (root / "transforms.json").touch()
    assert choose("scene", root).name == "nerfstudio"


def test_a_model_far_from_the_origin_is_moved(tmp_path):
    poses = ring(6)
    poses[:, :3, 3] += [500000.3, 4649776.2, 100.1]
    root = folder(tmp_path / "one")
    write_binary(root / "sparse/0", {1: OPENCV}, posed_images(poses, NAMES, [1] * 6), POINTS + poses[0, :3, 3])
    scene = load_scene(root, holdout_every=0)
    found = scene.blocks[0].train.cameras.centers.double() + torch.tensor(scene.origin, dtype=torch.float64)
    torch.testing.assert_close(found, torch.from_numpy(poses[:, :3, 3]), atol=1e-3, rtol=0)


def test_the_command_line_learns_from_a_model(tmp_path, capsys):
    root = folder(tmp_path / "one", names=[f"{k}.png" for k in range(9)])
    words = ["--width", "8", "--hidden-layers", "1", "--samples-per-ray", "4", "--steps", "2", "--init", "random"]
    arguments = ["run", "city", "--data", str(root), "--out", str(tmp_path / "run"), "--methods", "mod_random"]
    assert main([*arguments, *words, "--threads", "1"]) == 0
    assert "points in sparse/0/points3D.bin" in capsys.readouterr().out


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("cameras", "OPENCV", "EUCM", "model must be one of SIMPLE_PINHOLE, .*, was EUCM"),
        ("cameras", " -0.003", "", "model OPENCV must have 8 parameters .*, has 7"),
        ("cameras", " -0.003", " nan", "must have finite parameters"),
        ("cameras", "16 12", "16", "must be a camera's number, model, width"),
        ("cameras", "1 OPENCV 16", "1 OPENCV 17", r"'w' in cameras\.txt must be the image's 16, was 17"),
        ("cameras", "1 OPENCV", "2 OPENCV", "image '0.png' must have a camera of cameras.txt, has 1"),
        ("images", " 1 3.png", " one 3.png", "must be an image's number, quaternion"),
        ("images", " 1 3.png", " 1 2.png", "'2.png' stands twice"),
        ("images", " 1 3.png", " 1 ../../3.png", "inside the data folder"),
        ("images", " 1 3.png", " 1 /etc/3.png", "must be relative"),
    ],
)
def test_faults_of_text_are_named(tmp_path, file, old, new, message):
    root = folder(tmp_path / "one", write=write_text)
    replaced(root / f"sparse/0/{file}.txt", old, new)
    with pytest.raises(InputError, match=message) as caught:
        load_scene(root)
    assert f"{file}.txt" in str(caught.value) or "images.txt" in str(caught.value)


def test_a_quaternion_without_length_is_named(tmp_path):
    root = folder(tmp_path / "one", write=write_text)
    (root / "sparse/0/images.txt").write_text("1 0 0 0 0 1 2 3 1 0.png\n\n")
    with pytest.raises(InputError, match=r"images\.txt: image '0\.png' must have a quaternion of length 1"):
        load_scene(root)
    (root / "sparse/0/images.txt").write_text("1 1 0 0 0 inf 2 3 1 0.png\n\n")
    with pytest.raises(InputError, match="a finite translation"):
        load_scene(root)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_damaged_binary_files_are_named(tmp_path, name):
    root = folder(tmp_path / "one")
    path = root / "sparse/0" / name
    whole = path.read_bytes()
    for damaged in (b"", whole[:-3], whole[: len(whole) // 2], whole + b"\0", struct.pack("<Q", 1 << 60) + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_scene(root)


@pytest.mark.parametrize(("number", "was"), [(99, r"unknown \(99\)"), (11, r"RAD_TAN_THIN_PRISM_FISHEYE \(11\)")])
def test_an_unknown_model_of_a_binary_file_is_named(tmp_path, number, was):
    root = folder(tmp_path / "one")
    path = root / "sparse/0/cameras.bin"
    content = path.read_bytes()
    path.write_bytes(content[:12] + struct.pack("<i", number) + content[16:])
    with pytest.raises(InputError, match=rf"cameras\.bin: camera 1: model must be one of .*, was {was}"):
        load_scene(root)


def test_real_photos_show_their_points_where_the_lens_does(shared_data, tmp_path):
    """A reconstruction of OpenSfM as a model of COLMAP: colors of its points are those of the photos at their places,
    19.2 dB with the lens, 14.8 dB without; more than 250 pixels from the center 18.8 and 12.8 dB."""
    source = shared_data("nerf_city/berlin_street")
    content = json.loads((source / "reconstruction.json").read_text())[0]
    (camera,) = content["cameras"].values()
    focal, names = 800 * camera["focal"], sorted(content["shots"])
    model = ("RADIAL", 800, 600, [focal, 400.0, 300.0, camera["k1"], camera["k2"]])
    rows = []
    for k, name in enumerate(names):
        shot = content["shots"][name]
        turn = np.array(shot["rotation"])
        half = np.linalg.norm(turn) / 2
        rotation = [np.cos(half), *(np.sin(half) * turn / (2 * half))]
        rows.append((k + 1, [*rotation, *shot["translation"]], 1, name))
    points = np.array([point["coordinates"] for point in content["points"].values()])
    colors = np.array([point["color"] for point in content["points"].values()])
    write_text(tmp_path / "sparse/0", {1: model}, rows, points)
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / name).write_bytes((source / "images" / name).read_bytes())
    found, places = views(tmp_path), torch.from_numpy(points)

    def quality(lens) -> float:
        errors = []
        for view, image in enumerate(found.images):
            pose = found.cameras.c2w[view].double()
            local = (places - pose[:, 3]) @ pose[:, :3] * torch.tensor([1.0, -1.0, -1.0])
            x, y = project(lens.pick(torch.tensor([view])), local)
            at = torch.stack((focal * x / 400, focal * y / 300), -1)
            inside = (at.abs() < 1).all(1) & (torch.hypot(focal * x, focal * y) > 250)
            sampled = torch.nn.functional.grid_sample(
                image.permute(2, 0, 1)[None].double(), at[None, None, inside], align_corners=False
            )
            errors.append((sampled[0, :, 0].T - torch.from_numpy(colors)[inside]).square())
        return float(10 * torch.log10(255**2 / torch.cat(errors).mean()))

    pinholes = cat_lenses([make_lens(Projection.PERSPECTIVE, {})] * 3, [1] * 3)
    bent, plain = quality(found.cameras.lens), quality(pinholes)
    print(f"{bent:.1f} dB with the lens, {plain:.1f} dB without")
    assert bent > plain + 4
