"""Made cars and the cameras around them: same seed same bytes, a family, exact poses; and what the sets refuse."""

import math
from dataclasses import replace

import pytest
import torch

from mclnf_fast.data import ObjectSets, ObjectViews, procedural_cars, render_car, sphere_cameras, turntable
from mclnf_fast.data.procedural.cars.cars import car_mesh
from mclnf_fast.data.procedural.cars.plan import STYLES, draw_car
from mclnf_fast.errors import InputError


def test_cars_have_the_shapes_that_are_asked_for():
    done = []
    sets = procedural_cars(3, 1, views=4, size=40, progress=lambda k, n: done.append((k, n)))
    assert [item.name for item in sets.train] == ["car_000", "car_001"]
    assert [item.name for item in sets.test] == ["car_002"]
    assert (sets.near, sets.far) == (2.0, 6.0)
    assert done == [(1, 3), (2, 3), (3, 3)]
    for item in (*sets.train, *sets.test):
        assert tuple(item.images.shape) == (4, 40, 40, 4)
        cover = item.images[..., 3].double().mean((1, 2)) / 255
        assert bool((cover > 0.08).all())  # it fills a good part of the picture
        assert bool((cover < 0.6).all())
        edge = torch.cat([item.images[:, 0], item.images[:, -1], item.images[:, :, 0], item.images[:, :, -1]], 1)
        assert not edge[..., 3].any()  # and lies in it whole
        levels = item.images[..., 3].unique()
        assert len(levels) == 5  # four samples a pixel


def test_the_same_seed_gives_the_same_bytes_and_a_car_depends_on_its_number_alone():
    one, two = procedural_cars(2, 1, views=3, size=32, seed=5), procedural_cars(3, 1, views=3, size=32, seed=5)
    for a, b in ((one.train[0], two.train[0]), (one.test[0], two.train[1])):
        assert a.name == b.name
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.cameras.c2w, b.cameras.c2w)
    other = procedural_cars(2, 1, views=3, size=32, seed=6)
    assert not torch.equal(one.train[0].images, other.train[0].images)
    assert not torch.equal(one.train[0].cameras.c2w, other.train[0].cameras.c2w)
    assert not torch.equal(one.train[0].cameras.c2w, one.test[0].cameras.c2w)
    assert torch.equal(render_car(5, 1, one.test[0].cameras), one.test[0].images)
    assert not torch.equal(render_car(6, 1, one.test[0].cameras), one.test[0].images)
    assert not torch.equal(render_car(5, 0, one.test[0].cameras), one.test[0].images)


def test_cars_are_closed_lie_in_the_unit_ball_and_differ():
    styles = set()
    shapes = []
    for index in range(80):
        styles.add(draw_car(0, index).style)
        if index >= 12:
            continue
        mesh = car_mesh(0, index)
        assert mesh.closed
        reach = mesh.vertices[mesh.faces].norm(dim=2).max()
        assert abs(float(reach) - 1) < 1e-5
        size = mesh.vertices.amax(0) - mesh.vertices.amin(0)
        assert float(size[0]) > 1.8 * float(size[1])  # longer than wide, wider than high or nearly so
        assert float(size[1]) > 0.85 * float(size[2])
        left = mesh.vertices * torch.tensor([1.0, -1.0, 1.0])
        assert float(torch.cdist(mesh.vertices, left).amin(1).max()) < 0.05  # left as right
        volume = torch.linalg.det(mesh.vertices[mesh.faces].double()).sum() / 6
        assert float(volume) > 0.3  # the faces look outward
        shapes.append(size)
    assert styles == set(STYLES)
    apart = torch.cdist(torch.stack(shapes), torch.stack(shapes)) + torch.eye(12)
    assert float(apart.min()) > 1e-3


def test_every_car_of_many_can_be_built():
    for index in range(300):
        car = draw_car(3, index)
        assert car.screen_base < car.screen_top < car.roof_end < car.rear_base <= 0.988
        assert car.nose < car.hood <= car.belt < car.height
        if index < 12:
            assert bool(torch.isfinite(car_mesh(3, index).vertices).all())


def test_a_point_of_the_car_lies_on_the_line_of_sight_in_every_view():
    # The silhouette of all views is the mesh's own: its farthest vertices fall on or beside covered pixels.
    cameras = sphere_cameras(5, 96, 2, 7)
    images = render_car(2, 7, cameras)
    mesh = car_mesh(2, 7)
    points = mesh.vertices[mesh.faces.unique()]
    for view in range(5):
        pose = cameras.c2w[view]
        local = (points - pose[:, 3]) @ pose[:, :3]
        x = cameras.fx[view] * local[:, 0] / -local[:, 2] + cameras.cx[view]
        y = -cameras.fy[view] * local[:, 1] / -local[:, 2] + cameras.cy[view]
        covered = images[view, ..., 3] > 0
        rows, columns = covered.nonzero().unbind(1)
        for found, low, high in (
            (x, columns.min(), columns.max() + 1),
            (y, rows.min(), rows.max() + 1),
        ):
            assert abs(float(found.min()) - float(low)) < 1.0
            assert abs(float(found.max()) - float(high)) < 1.0


def test_cameras_stand_on_the_upper_sphere_and_look_at_the_middle():
    cameras = sphere_cameras(200, 128, 0)
    centers = cameras.centers
    torch.testing.assert_close(centers.norm(dim=1), torch.full((200,), 4.0))
    elevation = torch.asin(centers[:, 2] / 4)
    assert 0.07 < float(elevation.min()) < 0.15
    assert 1.1 < float(elevation.max()) < 1.3
    torch.testing.assert_close(-4 * cameras.c2w[:, :, 2], -centers)  # the axis meets the origin
    assert bool((cameras.c2w[:, 2, 1] > 0).all())  # up is up
    # The unit ball fits, and little else: its outline is the cone of half angle asin(1 / 4).
    assert math.tan(math.asin(0.25)) < 64 / float(cameras.fx[0]) < 1.07 * math.tan(math.asin(0.25))


def test_a_turntable_goes_around_once():
    cameras = turntable(8, 64, elevation=0.3, radius=5.0)
    torch.testing.assert_close(cameras.centers.norm(dim=1), torch.full((8,), 5.0))
    torch.testing.assert_close(cameras.centers[:, 2], torch.full((8,), 5 * math.sin(0.3)))
    angle = torch.atan2(cameras.centers[:, 1], cameras.centers[:, 0])
    torch.testing.assert_close(angle % (2 * math.pi), torch.arange(8) * (math.pi / 4), atol=1e-5, rtol=0)
    assert math.isclose(float(torch.asin(turntable(1, 64).centers[0, 2] / 4)), math.radians(25), abs_tol=1e-5)


def test_sets_that_do_not_hold_together_are_refused():
    sets = procedural_cars(2, 1, views=2, size=16)
    one, two = sets.train[0], sets.test[0]
    small = procedural_cars(1, 1, views=2, size=8).test[0]
    for call, message in (
        (lambda: ObjectViews("a", one.images[..., :3], one.cameras), "images of 'a': must be uint8"),
        (lambda: ObjectViews("a", one.images.float(), one.cameras), "uint8"),
        (lambda: ObjectViews("a", one.images[:1], one.cameras), r"\[2, 16, 16, 4\]"),
        (lambda: ObjectViews("a", one.images[:0], one.cameras[:0]), "at least one view"),
        (lambda: replace(sets, test=()), "at least one object to test on"),
        (lambda: replace(sets, near=6.0), "near < far"),
        (lambda: replace(sets, near=-1.0), "near < far"),
        (lambda: replace(sets, far=math.inf), "finite"),
        (lambda: replace(sets, train=(one, two)), "'car_001' stands twice"),
        (lambda: replace(sets, train=(replace(small, name="b"),)), "16x16.*|.*8x8"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert isinstance(replace(sets, train=()), ObjectSets)


def test_options_out_of_range_are_refused():
    for call, message in (
        (lambda: procedural_cars(0, 1), "count"),
        (lambda: procedural_cars(2, 3), "test"),
        (lambda: procedural_cars(2, 0), "test"),
        (lambda: procedural_cars(2, 1, views=0), "views"),
        (lambda: procedural_cars(2, 1, size=4), "size"),
        (lambda: procedural_cars(2, 1, seed=-1), "seed"),
        (lambda: procedural_cars(2, 1, samples=5), "samples"),
        (lambda: render_car(-1, 0, turntable(1, 8)), "seed"),
        (lambda: sphere_cameras(0, 8, 0), "views"),
        (lambda: sphere_cameras(1, 8, -1), "seed"),
        (lambda: turntable(0, 8), "frames"),
        (lambda: turntable(1, 0), "size"),
        (lambda: turntable(1, 8, elevation=2.0), "elevation"),
        (lambda: turntable(1, 8, radius=0.5), "radius"),
    ):
        with pytest.raises(InputError, match=message):
            call()
