"""The ray caster against closed forms and against a plain float64 loop over all solids."""

import math

import pytest
import torch

from mclnf_fast.data.graphics.raycast import (
    GROUND,
    SKY,
    RayCaster,
    Solids,
    box_entry,
    ellipsoid_entry,
    rectangle_pairs,
)
from mclnf_fast.data.procedural.city.district import make_district
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

UP = torch.tensor([0.0, 0.0, 1.0])


def solids(boxes=(), ellipsoids=()) -> Solids:
    def table(rows):
        return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)

    return Solids(table(boxes), table(ellipsoids))


def down_camera(height=10.0, size=4, focal=4.0) -> Cameras:
    pose = look_at(torch.tensor([[0.0, 0.0, height]]), torch.zeros(1, 3))
    return Cameras(pose, focal, focal, size / 2, size / 2, size, size)


def centre_samples(cameras: Cameras):
    pixel = torch.arange(cameras.width * cameras.height)[:, None]
    return pixel % cameras.width + 0.5, torch.div(pixel, cameras.width, rounding_mode="floor") + 0.5


def split(vector):
    return [torch.tensor([float(v)]) for v in vector]


def test_box_entry_closed_form():
    inverse = [1 / part for part in split((1.0, 1e-9, 1e-9))]
    assert float(box_entry(split((2, -1, -1)), split((3, 1, 1)), inverse)) == pytest.approx(2.0)
    assert math.isinf(float(box_entry(split((2, 1, -1)), split((3, 2, 1)), inverse)))  # beside
    assert math.isinf(float(box_entry(split((-3, -1, -1)), split((-2, 1, 1)), inverse)))  # behind
    assert math.isinf(float(box_entry(split((-1, -1, -1)), split((1, 1, 1)), inverse)))  # inside
    diagonal = torch.tensor([1.0, 2.0, 2.0]) / 3
    got = box_entry(split((1, -9, -9)), split((2, 9, 9)), [1 / part for part in split(diagonal)])
    assert float(got) == pytest.approx(3.0)


def test_ellipsoid_entry_closed_form():
    radius = split((2, 1, 0.5))
    assert float(ellipsoid_entry(split((10, 0, 0)), radius, split((1, 0, 0)))) == pytest.approx(8.0)
    assert float(ellipsoid_entry(split((0, 0, -10)), radius, split((0, 0, -1)))) == pytest.approx(9.5)
    # At half a half-axis off the center the chord is sqrt(3) / 2 of the full one.
    expected = 10 - 2 * math.sqrt(0.75)
    assert float(ellipsoid_entry(split((10, 0.5, 0)), radius, split((1, 0, 0)))) == pytest.approx(expected)
    assert math.isinf(float(ellipsoid_entry(split((10, 1.1, 0)), radius, split((1, 0, 0)))))
    assert math.isinf(float(ellipsoid_entry(split((-10, 0, 0)), radius, split((1, 0, 0)))))


def test_the_ground_plane_and_the_sky():
    cameras = down_camera()
    hits = RayCaster(solids(), UP).cast(cameras, 0, (0, 4), *centre_samples(cameras))
    assert bool((hits.solid == GROUND).all())
    torch.testing.assert_close(hits.distance * -hits.directions[2], torch.full((16, 1), 10.0))
    pose = look_at(torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[9.0, 0.0, 5.0]]))
    level = Cameras(pose, 4.0, 4.0, 2.0, 2.0, 4, 4)
    hits = RayCaster(solids(), UP).cast(level, 0, (0, 4), *centre_samples(level))
    assert bool((hits.solid[:8] == SKY).all())
    assert bool((hits.solid[8:] == GROUND).all())


def test_a_box_under_the_camera():
    cameras = down_camera(focal=40.0)
    hits = RayCaster(solids([(-1, -1, 0, 1, 1, 4)]), UP).cast(cameras, 0, (0, 4), *centre_samples(cameras))
    assert bool((hits.solid == 0).all())
    torch.testing.assert_close(hits.distance * -hits.directions[2], torch.full((16, 1), 6.0))


def brute_force(solids_: Solids, origins, directions):
    """Distance [N] to the first hit in float64, one solid at a time."""
    o, d = origins.double(), directions.double()
    best = torch.where(d[:, 2] < 0, -o[:, 2] / d[:, 2], torch.inf)
    for row in solids_.boxes.double():
        one, two = (row[:3] - o) / d, (row[3:] - o) / d
        near, far = torch.minimum(one, two).amax(1), torch.maximum(one, two).amin(1)
        best = torch.where((near <= far) & (near > 0) & (near < best), near, best)
    for row in solids_.ellipsoids.double():
        p, q = (o - row[:3]) / row[3:], d / row[3:]
        a, b, c = (q * q).sum(1), (p * q).sum(1), (p * p).sum(1) - 1
        root = b * b - a * c
        t = (-b - root.clamp_min(0).sqrt()) / a
        best = torch.where((root > 0) & (t > 0) & (t < best), t, best)
    return best


def test_every_ray_of_a_street_view_equals_brute_force():
    district = make_district(3, (1, 1))
    keep = (district.solids.boxes[:, :2].abs() < 110).all(1)
    ring = (district.solids.ellipsoids[:, :2].abs() < 110).all(1)
    some = Solids(district.solids.boxes[keep][::2], district.solids.ellipsoids[ring][::2])
    # One camera above the roofs, and one low between the houses so that solids lie beside and behind it.
    pose = look_at(
        torch.tensor([[-90.0, -80.0, 90.0], [1.0, -99.0, 6.0]]),
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 90.0, 2.0]]),
    )
    cameras = Cameras(pose, 30.0, 30.0, 16.0, 12.0, 32, 24)
    caster = RayCaster(some, district.sun)
    for view in range(2):
        expected = brute_force(some, *cameras.view_rays(view))
        hits = caster.cast(cameras, view, (0, 24), *centre_samples(cameras))
        got = hits.distance[:, 0].double()
        same = torch.isinf(expected) & torch.isinf(got) | ((got - expected).abs() < 1e-3 * expected.clamp_max(1e6))
        assert float(same.double().mean()) > 0.998  # a silhouette may fall either way in float32
        x, y = centre_samples(cameras)
        band = caster.cast(cameras, view, (8, 16), x[256:512], y[256:512])
        assert torch.equal(band.distance, hits.distance[256:512])
        assert torch.equal(band.solid, hits.solid[256:512])


def test_a_box_shadow_ends_at_the_angle_of_the_sun():
    sun = torch.tensor([1.0, 0.0, 1.0])
    caster = RayCaster(solids([(0, -5, 0, 2, 5, 10)]), sun)
    x = torch.tensor([-9.9, -10.1, -5.0, -0.5, 2.5, 30.0])
    points = torch.stack([x, torch.zeros(6), torch.zeros(6)], 1)
    assert caster.shadowed(points, UP.expand(6, 3)).tolist() == [True, False, True, True, False, False]
    aside = torch.tensor([[-5.0, 4.9, 0.0], [-5.0, 5.1, 0.0]])
    assert caster.shadowed(aside, UP.expand(2, 3)).tolist() == [True, False]
    # The roof is lit, the wall that faces away is not.
    walls = torch.tensor([[1.0, 0.0, 10.0], [0.0, 0.0, 5.0], [2.0, 0.0, 5.0]])
    normals = torch.tensor([[0.0, 0, 1], [-1.0, 0, 0], [1.0, 0, 0]])
    assert caster.shadowed(walls, normals).tolist() == [False, True, False]


def test_an_ellipsoid_shadow_is_an_ellipse():
    caster = RayCaster(solids([], [(0, 0, 20, 3, 2, 1)]), UP)
    points = torch.tensor([[2.9, 0, 0], [3.1, 0, 0], [0, 1.9, 0], [0, 2.1, 0], [2.3, 1.5, 0], [0, 0, 25.0]])
    assert caster.shadowed(points, UP.expand(6, 3)).tolist() == [True, False, True, False, False, False]


def test_shadows_of_a_city_equal_brute_force():
    district = make_district(5, (1, 1))
    caster = RayCaster(district.solids, district.sun)
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(400, 3, generator=generator) * torch.tensor([200.0, 200.0, 0.0]) - torch.tensor(
        [100.0, 100.0, 0.0]
    )
    start = points + 0.02 * UP
    expected = torch.isfinite(brute_force(district.solids, start, district.sun.expand(400, 3)))
    got = caster.shadowed(points, UP.expand(400, 3))
    # A start inside a solid (under a house) is dark here and no entry there: leave those out.
    low, high = district.solids.bounds()
    inside = ((start[:, None] > low - 0.05) & (start[:, None] < high + 0.05)).all(2).any(1)
    assert float((got == expected)[~inside].double().mean()) > 0.995
    assert 0.05 < float(got.double().mean()) < 0.95


def test_rectangle_pairs_lists_each_cell_once():
    edges = [torch.tensor(v) for v in ([1, 3, 0], [0, 2, 1], [3, 3, 2], [2, 5, 2])]
    item, cell = rectangle_pairs(*edges, width=10)
    assert list(zip(item.tolist(), cell.tolist())) == [(0, 1), (0, 2), (0, 11), (0, 12), (2, 10), (2, 11)]


def test_bad_solids_are_refused():
    with pytest.raises(InputError, match="boxes"):
        solids([(0, 0, 0, 1, 1, 0)])
    with pytest.raises(InputError, match="sun"):
        RayCaster(solids(), torch.tensor([1.0, 0.0, 0.0]))
