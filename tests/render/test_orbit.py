"""A way around what cameras look at: middle, up, distance and field of view from the cameras, any way up."""

import math

import pytest
import torch

from mclnf_fast.data import sphere_cameras, turntable
from mclnf_fast.errors import InputError
from mclnf_fast.render import Cameras
from mclnf_fast.render.cameras import look_at
from mclnf_fast.render.orbit import middle_of, nearest, orbit, up_of

TURNS = {
    "z up": torch.eye(3),
    "y up": torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "z down": torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "tilted": torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0],
}


def moved(cameras: Cameras, turn: torch.Tensor, shift: torch.Tensor) -> Cameras:
    turn = turn * torch.linalg.det(turn)  # no reflection
    pose = turn @ cameras.c2w
    pose[:, :, 3] += shift
    return Cameras(pose, cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.width, cameras.height)


@pytest.mark.parametrize("name", TURNS)
def test_the_way_turns_and_moves_with_the_cameras(name):
    turn = TURNS[name] * torch.linalg.det(TURNS[name])
    shift = torch.tensor([5.0, -3.0, 2.0])
    ours = sphere_cameras(9, 20, 3)
    others = moved(ours, turn, shift)
    torch.testing.assert_close(middle_of(others), shift.double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(up_of(others), turn[:, 2].double(), atol=1e-4, rtol=0)
    plain = orbit(ours, 12)
    torch.testing.assert_close(orbit(others, 12).c2w, moved(plain, turn, shift).c2w, atol=1e-3, rtol=0)
    assert torch.equal(nearest(others, orbit(others, 12)), nearest(ours, plain))


def test_an_orbit_has_one_elevation_the_distance_and_the_field_of_view_of_the_cameras():
    ours = sphere_cameras(25, 40, 1)
    found = orbit(ours, 24)
    place = found.centers.double()
    heights = ours.centers[:, 2].double().sort().values
    torch.testing.assert_close(place[:, 2], heights[12].expand(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(place.norm(dim=1), torch.full((24,), 4.0, dtype=torch.float64), atol=1e-4, rtol=0)
    turn = torch.atan2(place[:, 1], place[:, 0])
    first = math.atan2(float(ours.centers[0, 1]), float(ours.centers[0, 0]))
    assert float(turn[0]) == pytest.approx(first, abs=1e-4)
    step = (turn.diff() + 2 * math.pi) % (2 * math.pi)
    torch.testing.assert_close(step, torch.full_like(step, 2 * math.pi / 24), atol=1e-5, rtol=0)
    assert (found.width, found.height) == (40, 40)
    torch.testing.assert_close(found.fx, ours.fx[:1].expand(24))
    torch.testing.assert_close(found.cx, ours.cx[:1].expand(24))
    # The pictures' tops point up, and the middle lies in their middle.
    assert bool((found.c2w[:, 2, 1] > 0).all())
    torch.testing.assert_close(found.c2w[:, 2, 0], torch.zeros(24), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.c2w[:, :, 2] * 4, found.centers, atol=1e-4, rtol=0)


def test_the_nearest_views_are_the_orbits_own_where_it_is_made_of_them():
    around = turntable(8, 16)
    assert nearest(around, around).tolist() == list(range(8))
    mixed = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4])
    assert nearest(around[mixed], around).tolist() == mixed.argsort().tolist()


def test_cameras_that_determine_little():
    """One alone, one right above, all in one direction: an orbit still, around the origin, by the pictures' tops."""
    one = turntable(8, 16)[2:3]
    assert middle_of(one).tolist() == [0, 0, 0]
    found = orbit(one, 4)
    assert bool(torch.isfinite(found.c2w).all())
    torch.testing.assert_close(found.centers.norm(dim=1), one.centers.norm(dim=1).expand(4))
    above = Cameras(look_at(torch.tensor([[0.0, 0, 3], [2, 0, 0.5], [0, 2, 0.5]]), torch.zeros(3, 3)), 9, 9, 4, 4, 8, 8)
    found = orbit(above, 6)
    torch.testing.assert_close(up_of(above), torch.tensor([0, 0, 1.0], dtype=torch.float64), atol=1e-6, rtol=0)
    # It begins where the picture from above has its lower edge: there -y.
    assert float(found.centers[0, 1]) < 0
    assert abs(float(found.centers[0, 0])) < 1e-4
    with pytest.raises(InputError, match="must be at least 1"):
        orbit(one, 0)
