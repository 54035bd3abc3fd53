"""Cameras: rays against the pinhole formulas, slices, other resolutions, and what is refused."""

import math

import pytest
import torch

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, cameras_between, cat_cameras, check_poses, look_at


def some_cameras(count: int = 3, width: int = 7, height: int = 5) -> Cameras:
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(count, 3, generator=generator) * 4
    target = torch.randn(count, 3, generator=generator)
    focal = 5 + torch.rand(count, generator=generator)
    return Cameras(look_at(position, target), focal, focal * 1.1, focal * 0 + 3.4, focal * 0 + 2.6, width, height)


def test_rays_follow_the_pinhole_formula():
    cameras = some_cameras()
    origins, directions = cameras.view_rays(1)
    assert origins.shape == directions.shape == (35, 3)
    for pixel in (0, 6, 17, 34):
        row, column = divmod(pixel, 7)
        local = torch.tensor(
            [(column + 0.5 - 3.4) / cameras.fx[1], -(row + 0.5 - 2.6) / cameras.fy[1], -1.0],
            dtype=torch.float64,
        )
        expected = cameras.c2w[1, :, :3].double() @ local
        torch.testing.assert_close(directions[pixel].double(), expected / expected.norm(), atol=1e-6, rtol=0)
        assert torch.equal(origins[pixel], cameras.c2w[1, :, 3])
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(35))


def test_rays_mix_views_and_agree_with_view_rays():
    cameras = some_cameras()
    ids, pixels = torch.tensor([2, 0, 1, 2]), torch.tensor([3, 34, 0, 3])
    origins, directions = cameras.rays(ids, pixels)
    for k in range(4):
        whole = cameras.view_rays(int(ids[k]))
        assert torch.equal(directions[k], whole[1][pixels[k]])
        assert torch.equal(origins[k], whole[0][pixels[k]])
    none = cameras.rays(ids[:0], pixels[:0])
    assert none[0].shape == none[1].shape == (0, 3)


def test_the_centre_looks_along_minus_z_and_up_is_up():
    pose = torch.eye(4)[None]
    cameras = Cameras(pose, 10.0, 10.0, 2.5, 2.5, 5, 5)
    directions = cameras.view_rays(0)[1].reshape(5, 5, 3)
    torch.testing.assert_close(directions[2, 2], torch.tensor([0.0, 0.0, -1.0]))
    assert directions[0, 2, 1] > 0 > directions[4, 2, 1]
    assert directions[2, 4, 0] > 0 > directions[2, 0, 0]


def test_corner_rays_enclose_the_picture():
    cameras = some_cameras()
    corners = cameras.corner_rays()[1][0]
    middle = torch.nn.functional.normalize(corners.sum(0), dim=0)
    widest = (corners @ middle).min()
    assert bool((cameras.view_rays(0)[1] @ middle >= widest - 1e-6).all())


def test_index_slice_length_and_join():
    cameras = some_cameras(4)
    assert len(cameras) == 4
    assert len(cameras[1:3]) == 2
    picked = cameras[torch.tensor([3, 0])]
    assert torch.equal(picked.c2w[0], cameras.c2w[3])
    assert torch.equal(cat_cameras([cameras[:1], cameras[1:]]).c2w, cameras.c2w)
    assert len(cameras[0:0]) == 0
    with pytest.raises(TypeError, match="slice or a LongTensor"):
        cameras[1]
    with pytest.raises(IndexError, match="view must be in"):
        cameras.view_rays(4)


def test_scaled_keeps_the_field_of_view():
    cameras = some_cameras(2, 8, 6)
    half = cameras.scaled(0.5)
    assert (half.width, half.height) == (4, 3)
    torch.testing.assert_close(half.corner_rays()[1], cameras.corner_rays()[1])
    with pytest.raises(InputError, match="factor"):
        cameras.scaled(0)


def test_resized_stretches_each_axis_by_its_own_factor():
    cameras = some_cameras()
    wide = cameras.resized(21, 10)
    for name, factor in (("fx", 3), ("cx", 3), ("fy", 2), ("cy", 2)):
        torch.testing.assert_close(getattr(wide, name), factor * getattr(cameras, name))
    assert (wide.width, wide.height) == (21, 10)


def test_roll_turns_a_camera_about_its_own_axis():
    """By a quarter of a turn its right points where its up was, and its up where its left was."""
    position, target = torch.tensor([[1.0, -4.0, 2.0]]), torch.zeros(1, 3)
    upright = look_at(position, target)[0]
    rolled = look_at(position, target, torch.tensor([math.pi / 2]))[0]
    wanted = torch.stack([upright[:, 1], -upright[:, 0], upright[:, 2], upright[:, 3]], -1)
    torch.testing.assert_close(rolled, wanted)


def test_look_at_points_there_with_z_up():
    pose = look_at(torch.tensor([[3.0, -2.0, 5.0], [0.0, 0.0, 9.0]]), torch.zeros(2, 3))
    check_poses(pose)
    ahead = -pose[:, :, 2]
    torch.testing.assert_close(ahead[0], -pose[0, :, 3] / math.sqrt(38.0))
    torch.testing.assert_close(ahead[1], torch.tensor([0.0, 0.0, -1.0]))
    assert pose[0, 2, 1] > 0
    assert abs(float(pose[0, 2, 0])) < 1e-6


def bad_pose(kind: str) -> torch.Tensor:
    pose = torch.eye(4)[None].repeat(2, 1, 1)
    if kind == "nan":
        pose[1, 0, 3] = math.nan
    elif kind == "scaled":
        pose[1, :3, :3] *= 0.01
    elif kind == "reflection":
        pose[1, 0, 0] = -1
    elif kind == "last row":
        pose[1, 3, 0] = 1
    elif kind == "shape":
        pose = pose[:, :3, :3]
    return pose


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "pose 1 holds NaN"), ("scaled", "must be a rotation"), ("reflection", "reflection"),
        ("last row", "0 0 0 1"), ("shape", "must be"),
    ],
)  # fmt: skip
def test_bad_poses_are_named(kind, message):
    with pytest.raises(InputError, match=message):
        Cameras(bad_pose(kind), 5.0, 5.0, 2.0, 2.0, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": 0.0}, "fx"), ({"fy": math.inf}, "fy"), ({"cx": torch.zeros(3)}, "cx"),
        ({"width": 0}, "width"),
        ({"height": 2.5}, "height"),
    ],
)  # fmt: skip
def test_bad_intrinsics_are_named(change, message):
    good = {"c2w": torch.eye(4)[None], "fx": 5.0, "fy": 5.0, "cx": 2.0, "cy": 2.0, "width": 4, "height": 4}
    Cameras(**good)
    with pytest.raises(InputError, match=message):
        Cameras(**{**good, **change})


def test_cameras_on_the_way_from_one_to_another():
    seen = some_cameras(2)
    a, b = seen[:1], seen[1:]
    way = cameras_between(a, b, torch.tensor([0.0, 0.25, 1.0]))
    assert len(way) == 3  # and each a rotation, as `Cameras` checks
    assert torch.allclose(way.c2w[[0, 2]], seen.c2w, atol=1e-6)
    assert torch.allclose(way.centers[1], 0.75 * a.centers[0] + 0.25 * b.centers[0], atol=1e-6)
    assert torch.allclose(way.fx[1], 0.75 * a.fx[0] + 0.25 * b.fx[0])
    with pytest.raises(InputError, match="one camera each"):
        cameras_between(seen, b, torch.tensor([0.5]))
    pose = torch.eye(4)[None]
    turned = pose.clone()
    turned[0, 0, 0] = turned[0, 1, 1] = -1
    one, other = (Cameras(p, 5.0, 5.0, 2.0, 2.0, 4, 4) for p in (pose, turned))
    with pytest.raises(InputError, match="half a turn"):
        cameras_between(one, other, torch.tensor([0.5]))


def test_other_units_move_cameras_and_turn_none():
    seen = some_cameras(2)
    small = seen.in_units(0.05)
    assert torch.allclose(small.centers, 0.05 * seen.centers)
    assert torch.equal(small.view_rays(1)[1], seen.view_rays(1)[1])
    with pytest.raises(InputError, match="scale: must be above 0"):
        seen.in_units(0.0)
