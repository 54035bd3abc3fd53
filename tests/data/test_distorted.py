"""Lens distortion in a `transforms.json`: each pixel gets its bent ray, through every door."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from posed import DOORS, posed, through

from mclnf_fast.cli import main
from mclnf_fast.data import load_scene
from mclnf_fast.errors import InputError
from mclnf_fast.render import Projection
from mclnf_fast.render.cameras import Cameras

OPENCV = {"k1": -0.2, "k2": 0.05, "p1": 0.002, "p2": -0.003}
FISHEYE = {"k1": 0.03, "k2": -6e-3, "k3": 4e-4, "k4": 1e-4, "camera_model": "OPENCV_FISHEYE"}


def shown_at(cameras: Cameras, view: int, pixel: int, c: dict, fisheye: bool = False) -> tuple[float, float]:
    """The pixel at which OpenCV's formulas show the ray of a pixel: it is to be that one."""
    direction = cameras.view_rays(view)[1][pixel].double() @ cameras.c2w[view, :, :3].double()
    x, y, z = (direction * torch.tensor([1.0, -1.0, -1.0])).tolist()
    k1, k2, k3, k4, p1, p2 = (c.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    a, b = x / z, y / z
    r2 = a * a + b * b
    if fisheye:
        r = math.sqrt(r2)
        angle = math.atan(r)
        scale = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8) / r
        a, b = a * scale, b * scale
    else:
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
        a, b = (
            a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a * a),
            b * radial + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b,
        )
    column = float(cameras.fx[view]) * a + float(cameras.cx[view]) - 0.5
    return column, float(cameras.fy[view]) * b + float(cameras.cy[view]) - 0.5


def check(cameras: Cameras, view: int, c: dict, fisheye: bool = False) -> None:
    for pixel in (0, 15, 100, 191):
        row, column = divmod(pixel, 16)
        assert shown_at(cameras, view, pixel, c, fisheye) == pytest.approx((column, row), abs=1e-5)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("words", [OPENCV, {"k1": 0.1}, {**OPENCV, "k3": 0.01, "k4": 0.004}])
@pytest.mark.parametrize("model", ["OPENCV", None])
def test_coefficients_bend_the_rays(tmp_path, door, words, model):
    posed(tmp_path / "one", top={**words, "camera_model": model})
    cameras = load_views(door, tmp_path)
    for view in (0, 4):
        check(cameras, view, words)


def load_views(door: str, root) -> Cameras:
    """The cameras with their lenses; `through` returns those of photos without."""
    if door != "photos":
        return through(door, root)[0]
    from mclnf_fast.data import load_photos
    from mclnf_fast.render.cameras import cat_cameras

    sets = load_photos(root / "one", test=1, validation=0)
    return cat_cameras([photo.cameras for photo in (*sets.test, *sets.train)])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "words", [FISHEYE, {"is_fisheye": True, "k1": 0.05}, {"fisheye": True, "k1": 0.05, "k2": 0.01}, {"is_fisheye": 1}]
)
def test_fisheyes_by_either_key(tmp_path, door, words):
    posed(tmp_path / "one", top=words)
    cameras = load_views(door, tmp_path)
    for view in (0, 5):
        check(cameras, view, words, fisheye=True)


def test_a_frames_own_lens_stands_above_the_files(tmp_path):
    own = {1: {"k1": 0.07, "fl_x": 25.0}, 3: {"k1": 0, "k2": 0.0}, 4: {"camera_model": "OPENCV_FISHEYE", "k1": 0.02}}
    posed(tmp_path / "one", top=OPENCV, frame=lambda k: own.get(k, {}))
    cameras, _ = through("scene", tmp_path)
    for view in range(6):
        check(cameras, view, own.get(view, OPENCV), fisheye=view == 4)
    assert cameras.fx.tolist() == [20, 25, 20, 20, 20, 20]
    assert cameras[3:4].lens is None


def test_full_opencv_has_a_denominator(tmp_path):
    words = {"k1": 0.3, "k2": 0.02, "k3": 1e-3, "k4": 0.5, "k5": 0.04, "k6": 1e-3}
    posed(tmp_path / "one", top={**words, "camera_model": "FULL_OPENCV"})
    cameras, _ = through("scene", tmp_path)
    direction = cameras.view_rays(0)[1][0].double() @ cameras.c2w[0, :, :3].double()
    a, b = float(direction[0] / -direction[2]), float(-direction[1] / -direction[2])
    r2 = a * a + b * b
    radial = (1 + 0.3 * r2 + 0.02 * r2**2 + 1e-3 * r2**3) / (1 + 0.5 * r2 + 0.04 * r2**2 + 1e-3 * r2**3)
    assert (20 * a * radial + 8, 20 * b * radial + 6) == pytest.approx((0.5, 0.5), abs=1e-5)


def test_a_city_bends_its_rays_too(tmp_path):
    root = posed(tmp_path / "one", top=OPENCV)
    content = json.loads((root / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["file_path"] = "../../" + frame["file_path"]
    (root / "pose/block_1").mkdir(parents=True)
    (root / "transforms.json").unlink()
    (root / "pose/block_1/transforms_train.json").write_text(json.dumps(content))
    check(load_scene(root, holdout_every=0).blocks[0].train.cameras, 2, OPENCV)


def test_reduced_pictures_keep_their_lens(tmp_path):
    posed(tmp_path / "one", top=OPENCV)
    whole = load_scene(tmp_path / "one", holdout_every=0).blocks[0].train.cameras
    half = load_scene(tmp_path / "one", holdout_every=0, downscale=2).blocks[0].train.cameras
    ids, x, y = torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 15.0]), torch.tensor([2.0, 9.0])
    torch.testing.assert_close(half.rays_at(ids, x / 2, y / 2)[1], whole.rays_at(ids, x, y)[1])


FOLDS = {"k1": -0.9}  # at a tangent of 0.609, which is seen 8.1 pixels from the center


def test_pixels_beyond_a_fold_are_masked_in_scenes(tmp_path):
    posed(tmp_path / "one", top=FOLDS)
    views = load_scene(tmp_path / "one", holdout_every=3).blocks[0]
    y, x = torch.meshgrid(torch.arange(12) - 5.5, torch.arange(16) - 7.5, indexing="ij")
    seen = torch.hypot(x, y) < 20 * 2 / 3 * math.sqrt(1 / 2.7)
    assert 100 < int(seen.sum()) < 192
    scene = load_scene(tmp_path / "one", holdout_every=3, blocks=(2, 1))
    for part in (views.train, views.test, *(block.train for block in scene.blocks)):
        assert all(torch.equal(mask, seen) for mask in part.unmasked)


@pytest.mark.parametrize("door", ["objects", "photos"])
def test_doors_without_masks_refuse_pixels_beyond_a_fold(tmp_path, door):
    posed(tmp_path / "one", top=FOLDS)
    with pytest.raises(InputError, match=rf"images.0\.png: must be shown by its lens as a whole, since {door} have no"):
        through(door, tmp_path)


def test_what_is_masked_is_noted(tmp_path):
    posed(tmp_path / "one", top=FOLDS)
    assert "Pixels at which a lens shows nothing" in load_scene(tmp_path / "one").notes[0]
    posed(tmp_path / "two", top=OPENCV)
    assert "masked" not in " ".join(load_scene(tmp_path / "two").notes)


def test_a_picture_that_no_ray_reaches_is_refused(tmp_path):
    posed(tmp_path / "one", top=FOLDS, frame=lambda k: {"cx": 40.0} if k == 2 else {})
    with pytest.raises(InputError, match=r"2\.png: must have a pixel that its lens shows"):
        through("scene", tmp_path)


@pytest.mark.parametrize("door", DOORS)
def test_a_fisheyes_focal_length_does_not_follow_from_an_angle(tmp_path, door):
    posed(tmp_path / "one", top={**FISHEYE, "fl_x": None, "camera_angle_x": 1.0})
    with pytest.raises(InputError, match="must have 'fl_x'"):
        through(door, tmp_path)


def test_pictures_of_several_sizes_keep_their_pixels(tmp_path):
    sizes = {1: (12, 16), 4: (10, 8)}

    def picture(k):
        w, h = sizes.get(k, (16, 12))
        return Image.fromarray(np.full((h, w, 3), (40 * k, 100, 200), np.uint8))

    def frame(k):
        w, h = sizes.get(k, (16, 12))
        return {"w": w, "h": h, "cx": w / 2 + 0.25, **({"mask_path": "mask.png"} if k == 4 else {})}

    root = posed(tmp_path / "one", picture=picture, frame=frame, top=OPENCV)
    mask = np.full((8, 10), 255, np.uint8)
    mask[:2] = 0
    Image.fromarray(mask).save(root / "mask.png")
    views = load_scene(root, holdout_every=0).blocks[0].train
    assert tuple(views.images.shape) == (6, 16, 16, 3)
    for k in range(6):
        w, h = sizes.get(k, (16, 12))
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[2 if k == 4 else 0 : h, :w] = True
        assert torch.equal(views.unmasked[k], inside)
        assert bool((views.images[k][inside] == torch.tensor([40 * k, 100, 200], dtype=torch.uint8)).all())
        assert (views.cameras.cx[k].item(), views.cameras.cy[k].item()) == (w / 2 + 0.25, h / 2)
        check(views.cameras, k, OPENCV)
    assert views.names[4] == "images/4.png"
    assert "each lies in the upper left of 16x16" in load_scene(root).notes[0]
    halves = load_scene(root, holdout_every=0, downscale=2).blocks[0].train
    assert tuple(halves.images.shape) == (6, 8, 8, 3)
    assert (halves.cameras.fx[1].item(), halves.cameras.cx[1].item()) == (10, 3.125)
    assert int(halves.unmasked[1].sum()) == 6 * 8


def test_a_city_is_learned_through_a_lens(tmp_path, capsys):
    posed(tmp_path / "one", top=FOLDS, count=9)
    words = ["--width", "8", "--hidden-layers", "1", "--samples-per-ray", "4", "--steps", "4", "--init", "random"]
    arguments = ["run", "city", "--data", str(tmp_path / "one"), "--out", str(tmp_path / "run"), "--threads", "1"]
    assert main([*arguments, *words, "--methods", "mod_random", "finetune", "mim"]) == 0
    assert "of the pixels carry no loss and are not scored" in capsys.readouterr().out
    metrics = (tmp_path / "run/metrics.json").read_text()
    assert "NaN" not in metrics
    with Image.open(tmp_path / "run/images/fisher.png") as image:
        assert len(image.getcolors(1 << 20)) > 10


def test_the_projection_is_the_files(tmp_path):
    posed(tmp_path / "one", top=FISHEYE)
    assert set(through("scene", tmp_path)[0].lens.projection.tolist()) == {int(Projection.EQUIDISTANT)}
