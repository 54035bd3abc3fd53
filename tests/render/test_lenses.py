"""Lenses: OpenCV's formulas, the way back from every pixel, and pixels that have no ray, wherever rays are used."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fields import SPEC, in_cells, lively
from torch import Tensor

from mclnf_fast.data import turntable
from mclnf_fast.data.graphics.mesh import make_mesh
from mclnf_fast.data.graphics.mesh_render import render_mesh
from mclnf_fast.data.graphics.raycast import RayCaster, Solids
from mclnf_fast.data.objects import ObjectSets, ObjectViews
from mclnf_fast.data.objects_write import write_objects
from mclnf_fast.data.readers.boxes import footprint, object_box
from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank
from mclnf_fast.render import Cells, Projection, RayPool, RenderSettings, make_lens, render_views, view_rays
from mclnf_fast.render.cameras import Cameras, cameras_between, cat_cameras, look_at
from mclnf_fast.render.lenses import table as table_module
from mclnf_fast.render.lenses.inverse import directions_at
from mclnf_fast.render.lenses.lens import project
from mclnf_fast.render.lenses.views import distances_in, half_views, pixels_with_rays
from mclnf_fast.render.objects import ObjectPool
from mclnf_fast.render.orbit import orbit
from mclnf_fast.tasks.rays import PosedImages

PERSPECTIVE, FISHEYE, FOV = Projection.PERSPECTIVE, Projection.EQUIDISTANT, Projection.FOV
WIDTH, HEIGHT, FOCAL = 96, 72, 60.0  # half the diagonal is a radian
LENSES = {
    "SIMPLE_RADIAL": (PERSPECTIVE, {"k1": -0.08}),
    "RADIAL": (PERSPECTIVE, {"k1": 0.12, "k2": 0.05}),
    "OPENCV": (PERSPECTIVE, {"k1": -0.21, "k2": 0.06, "p1": 2e-3, "p2": -3e-3}),
    "five": (PERSPECTIVE, {"k1": -0.2, "k2": 0.05, "k3": -0.004, "k4": 1e-3, "p1": 1e-3, "p2": 1e-3}),
    "FULL_OPENCV": (
        PERSPECTIVE,
        {"k1": 0.3, "k2": 0.02, "k3": 1e-3, "d1": 0.5, "d2": 0.04, "d3": 1e-3, "p1": -1e-3, "p2": 2e-3},
    ),
    "OPENCV_FISHEYE": (FISHEYE, {"k1": 0.03, "k2": -6e-3, "k3": 4e-4, "k4": 1e-4}),
    "SIMPLE_FISHEYE": (FISHEYE, {}),
    "THIN_PRISM_FISHEYE": (
        FISHEYE,
        {"k1": -0.02, "k2": 2e-3, "p1": 2e-3, "p2": -1e-3, "k3": 1e-4, "k4": 0, "s1": 2e-3, "s2": -3e-3},
    ),
    "FOV": (FOV, {"omega": 0.9}),
}


def seen_at(projection: Projection, known: dict[str, float], direction: np.ndarray) -> tuple[float, float]:
    """Where OpenCV's documentation puts a direction (x right, y down, z ahead), one number at a time."""
    a, b = direction[0] / direction[2], direction[1] / direction[2]
    c = {name: known.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "d1", "d2", "d3", "p1", "p2", "s1", "s2")}
    r = math.sqrt(a**2 + b**2)
    if projection == FOV:  # Devernay and Faugeras
        factor = math.atan(2 * r * math.tan(known["omega"] / 2)) / known["omega"] / r
        return a * factor, b * factor
    if projection == FISHEYE:
        theta = math.atan2(math.hypot(direction[0], direction[1]), direction[2])
        a, b = theta * direction[0] / math.hypot(*direction[:2]), theta * direction[1] / math.hypot(*direction[:2])
        r = theta
    top = 1 + c["k1"] * r**2 + c["k2"] * r**4 + c["k3"] * r**6 + c["k4"] * r**8
    factor = top / (1 + c["d1"] * r**2 + c["d2"] * r**4 + c["d3"] * r**6)
    x = a * factor + 2 * c["p1"] * a * b + c["p2"] * (r**2 + 2 * a**2) + c["s1"] * r**2
    y = b * factor + c["p1"] * (r**2 + 2 * b**2) + 2 * c["p2"] * a * b + c["s2"] * r**2
    return x, y


def camera(projection: Projection, known: dict[str, float], focal: float = FOCAL, count: int = 1) -> Cameras:
    angle = torch.arange(count) / 3
    position = 4 * torch.stack((angle.cos(), angle.sin(), torch.full((count,), 0.5)), 1)
    pose = look_at(position, torch.zeros_like(position))
    return Cameras(pose, focal, 1.1 * focal, 47.0, 37.5, WIDTH, HEIGHT, make_lens(projection, known))


FOLDED = camera(PERSPECTIVE, {"k1": -0.5})
"""Folds over at sqrt(2/3) = 0.816, which is seen 32.7 pixels from the center: the corners have no ray."""


def in_own_axes(cameras: Cameras, directions: Tensor, view: int = 0) -> np.ndarray:
    """World directions in OpenCV's axes of a camera, fp64."""
    return ((directions.double() @ cameras.c2w[view, :, :3].double()) * torch.tensor([1.0, -1.0, -1.0])).numpy()


@pytest.mark.parametrize("name", LENSES)
def test_every_pixel_has_the_direction_that_is_seen_there(name):
    projection, known = LENSES[name]
    cameras = camera(projection, known)
    assert pixels_with_rays(cameras) is None
    _, directions = cameras.view_rays(0)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(WIDTH * HEIGHT))
    local = in_own_axes(cameras, directions)
    for pixel in (0, 5, WIDTH - 1, 30 * WIDTH + 70, WIDTH * HEIGHT - 1):
        x, y = seen_at(projection, known, local[pixel])
        row, column = divmod(pixel, WIDTH)
        assert x * FOCAL + 47.0 == pytest.approx(column + 0.5, abs=3e-5)  # directions are float32
        assert y * 1.1 * FOCAL + 37.5 == pytest.approx(row + 0.5, abs=3e-5)


@pytest.mark.parametrize("name", LENSES)
def test_the_way_back_misses_no_pixel_by_a_millionth(name):
    """In fp64, before directions are rounded, at the size of a photo."""
    projection, known = LENSES[name]
    lens, focal = make_lens(projection, known), 2500.0
    x, y = torch.meshgrid(torch.linspace(-2000, 2000, 81), torch.linspace(-1500, 1500, 61), indexing="ij")
    x, y = x.reshape(-1).double() / focal, y.reshape(-1).double() / focal
    directions = directions_at(lens, x, y)
    assert bool(directions.isfinite().all())
    there = torch.tensor([seen_at(projection, known, d) for d in directions.numpy() if d[0] or d[1]])
    kept = (x != 0) | (y != 0)
    error = torch.hypot(there[:, 0] - x[kept], there[:, 1] - y[kept]).max() * focal
    assert float(error) < 1e-6
    again = torch.stack(project(lens, 3.7 * directions), 1)
    assert float((again - torch.stack((x, y), 1)).abs().max() * focal) < 1e-6


def test_a_fisheye_sees_behind_itself():
    cameras = camera(FISHEYE, {}, focal=20.0)
    local = in_own_axes(cameras, cameras.view_rays(0)[1]).reshape(HEIGHT, WIDTH, 3)
    assert local[37, 95, 2] == pytest.approx(math.cos(math.hypot(95.5 - 47, (37.5 - 37.5) / 1.1) / 20), abs=1e-6)
    assert local[37, 95, 2] < -0.7
    narrow = camera(FISHEYE, {}, focal=10.0)  # pi radians are 31 pixels
    seen = pixels_with_rays(narrow)
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    assert torch.equal(seen[0], torch.hypot((x - 47) / 10, (y - 37.5) / 11) < math.pi)


def test_beyond_the_fold_there_is_no_ray():
    seen = pixels_with_rays(FOLDED)
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    radius = torch.hypot((x - 47) / FOCAL, (y - 37.5) / (1.1 * FOCAL))
    assert torch.equal(seen[0], radius < 2 / 3 * math.sqrt(2 / 3))
    _, directions = FOLDED.view_rays(0)
    assert torch.equal(directions.isnan().any(1), ~seen.flatten())
    assert torch.equal(directions.isnan().all(1), ~seen.flatten())
    # The innermost of the directions that share a pixel is its ray: before the fold, at 39 degrees.
    assert np.nanmax(np.degrees(np.arccos(in_own_axes(FOLDED, directions)[:, 2]))) < 39.3


def test_tangential_terms_fold_where_their_jacobian_does():
    lens = {"k1": -0.5, "p1": 0.02, "p2": 0.01}
    cameras = camera(PERSPECTIVE, lens)
    seen = pixels_with_rays(cameras)[0].flatten()
    local = in_own_axes(cameras, cameras.view_rays(0)[1])
    for pixel in seen.nonzero()[:, 0].tolist()[::97]:
        x, y = seen_at(PERSPECTIVE, lens, local[pixel])
        row, column = divmod(pixel, WIDTH)
        assert (x * FOCAL + 47, y * 1.1 * FOCAL + 37.5) == pytest.approx((column + 0.5, row + 0.5), abs=1e-4)

    # Far outside Newton's method meets places on the next branch, which are no rays.
    across = local[seen.numpy()]
    assert np.max(np.hypot(across[:, 0], across[:, 1]) / across[:, 2]) < 0.8165
    assert not bool(seen[[0, WIDTH - 1, WIDTH * HEIGHT - 1]].any())


def test_a_mirrored_place_is_no_ray():
    """The map folds within the reach of its radial terms; beyond, its Jacobian is negative."""
    known = {"k1": -0.3134944438934326, "k2": 0.04431650787591934, "p1": -0.04586317762732506}
    known |= {"p2": -0.0969126746058464, "s1": 0.027477098628878593, "s2": 0.16445164382457733}
    x, y = torch.tensor([-0.09375, 0.1]), torch.tensor([0.78125, 0.1])
    assert directions_at(make_lens(PERSPECTIVE, known), x, y).isnan().any(1).tolist() == [True, False]


def test_views_mix_lenses_and_pinholes():
    parts = [camera(*LENSES[name]) for name in ("OPENCV", "FOV", "OPENCV_FISHEYE")]
    plain = replace(parts[0], lens=None)
    cameras = cat_cameras([plain, *parts])
    assert cat_cameras([plain, plain]).lens is None
    ids, pixels = torch.tensor([3, 0, 2, 1, 3]), torch.tensor([5, 6, 7, 8, 9])
    _, directions = cameras.rays(ids, pixels)
    for k in range(5):
        alone = [plain, *parts][int(ids[k])].view_rays(0)[1][pixels[k]]
        torch.testing.assert_close(directions[k], alone, atol=1e-6, rtol=0)
    assert cameras[:1].lens is None
    assert torch.equal(cameras[:1].view_rays(0)[1], plain.view_rays(0)[1])
    picked = cameras[torch.tensor([2, 1])]
    assert torch.equal(picked.lens.projection, torch.tensor([int(FOV), int(PERSPECTIVE)]))


def test_rays_are_the_same_from_a_table_and_one_by_one(monkeypatch):
    cameras = camera(*LENSES["OPENCV"], count=3)
    ids, pixels = torch.tensor([2, 0, 1]), torch.tensor([5, 700, 6000])
    _, tabled = cameras.rays(ids, pixels)
    assert len(cameras._table[0]) == WIDTH * HEIGHT  # one lens, one table
    monkeypatch.setattr(table_module, "TABLE_PIXELS", 0)
    _, drawn = replace(cameras).rays(ids, pixels)
    torch.testing.assert_close(drawn, tabled, atol=1e-6, rtol=0)


def test_other_sizes_units_and_devices_keep_the_lens():
    cameras = camera(*LENSES["OPENCV"])
    small = cameras.resized(WIDTH // 2, HEIGHT // 3).in_units(0.1).to("cpu")
    x, y = torch.tensor([10.0, 90.0]), torch.tensor([9.0, 60.0])
    ids = torch.zeros(2, dtype=torch.int64)
    torch.testing.assert_close(small.rays_at(ids, x / 2, y / 3)[1], cameras.rays_at(ids, x, y)[1])


def test_a_lens_that_bends_nothing_is_none():
    cameras = camera(PERSPECTIVE, {})
    assert cameras.lens is None


def test_on_the_way_between_two_cameras_the_nearer_ones_lens_holds():
    a, b = camera(*LENSES["OPENCV"]), camera(*LENSES["FOV"])
    way = cameras_between(a, b, torch.tensor([0.2, 0.9]))
    assert way.lens.projection.tolist() == [int(PERSPECTIVE), int(FOV)]
    assert cameras_between(replace(a, lens=None), replace(b, lens=None), torch.tensor([0.2])).lens is None


def test_an_orbit_is_of_pinholes():
    assert orbit(camera(*LENSES["OPENCV"], count=3), 4).lens is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: make_lens(PERSPECTIVE, {"k9": 0.1}), "coefficients: must be among k1"),
        (lambda: make_lens(PERSPECTIVE, {"k1": math.nan}), "coefficients: must be finite"),
        (lambda: make_lens(FOV, {"omega": 3.2}), "omega: must be in"),
        (lambda: replace(camera(FISHEYE, {}, count=3), lens=camera(FISHEYE, {}, count=2).lens), "lens: must be a Lens"),
        (lambda: replace(camera(FISHEYE, {}), lens="fisheye"), "lens: must be a Lens"),
    ],
)
def test_bad_lenses_are_named(change, message):
    with pytest.raises(InputError, match=message):
        change()


def test_a_pool_never_draws_a_pixel_without_a_ray():
    images = torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    seen = pixels_with_rays(FOLDED)
    pool = RayPool(images, FOLDED, 4)
    assert len(pool) == int(seen.sum())
    generator = torch.Generator().manual_seed(0)
    tiles = torch.arange(pool.tiles)
    for ids in (
        pool.uniform(500, generator),
        pool.in_tiles(tiles, generator)[0],
        pool.pixel_ids(torch.arange(len(pool))),
    ):
        assert bool(seen.flatten()[ids].all())
        assert bool(pool.batch(ids).directions.isfinite().all())
    left = torch.zeros_like(seen)
    left[:, :, : WIDTH // 2] = True
    assert len(RayPool(images, FOLDED, 4, left)) == int((seen & left).sum())
    with pytest.raises(InputError, match="at which a lens shows something"):
        RayPool(images, FOLDED, 4, ~seen)


def test_a_pixel_without_a_ray_is_black_and_not_scored():
    seen = pixels_with_rays(FOLDED)[0]
    cells, params = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]])), lively(SPEC)
    settings = in_cells(6, (1.0, 1.0, 1.0), backend="reference")
    images = torch.full((1, HEIGHT, WIDTH, 3), 200, dtype=torch.uint8)
    task = PosedImages("one", (images, FOLDED), (images, FOLDED), cells, SPEC, settings)
    picture = task.render(params, FOLDED, 0)
    assert torch.equal(picture[~seen], torch.zeros_like(picture[~seen]))
    assert bool((picture[seen] > 0).any(-1).all())
    error = (picture.double()[seen] - 200 / 255).square().mean()
    assert float(task.view_error(picture, 0)) == pytest.approx(float(error))
    bank = FieldBank(SPEC, modules=1)
    views = render_views(bank, FOLDED, settings, cells)
    assert all(bool(t.isfinite().all()) for t in views)
    assert bool((views.color[0][~seen] == 0).all())
    assert bool((views.opacity[0][~seen] == 0).all())
    each = render_views(bank, FOLDED, replace(RenderSettings.between(4), backend="reference"))
    assert bool((each.color[0, 0][~seen] == 0).all())
    assert bool((each.color[0, 0][seen] > 0).any())


def test_objects_need_a_ray_for_each_pixel():
    images = torch.zeros(1, HEIGHT, WIDTH, 4, dtype=torch.uint8)
    with pytest.raises(InputError, match="object 0 must have a ray for each pixel"):
        ObjectPool([(images, FOLDED)], RenderSettings.between())
    pool = ObjectPool([(images, camera(*LENSES["OPENCV"]))], RenderSettings.between())
    assert bool(pool.batch(torch.arange(WIDTH * HEIGHT)).directions.isfinite().all())


def test_depths_along_the_axis_are_refused_of_fisheyes():
    learnit = RenderSettings.between(convention="learnit")
    with pytest.raises(InputError, match="must not be fisheyes under the convention learnit"):
        view_rays(camera(FISHEYE, {}), 0, learnit)
    cameras = camera(*LENSES["OPENCV"])
    directions = view_rays(cameras, 0, learnit)[1]
    torch.testing.assert_close(directions @ -cameras.c2w[0, :, 2], torch.ones(WIDTH * HEIGHT))


def test_what_knows_pinholes_only_refuses_lenses(tmp_path):
    bent = replace(turntable(1, 16), lens=make_lens(PERSPECTIVE, {"k1": 0.1}))
    mesh = make_mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.ones(1, 3))
    views = ObjectViews("one", torch.zeros(1, 16, 16, 4, dtype=torch.uint8), bent)
    caster = RayCaster(Solids(torch.tensor([[0.0, 0, 0, 1, 1, 1]]), torch.zeros(0, 6)), torch.tensor([0.0, 0.0, 1.0]))
    for call in (
        lambda: render_mesh(mesh, bent),
        lambda: caster.cast(bent, 0, (0, 1), torch.ones(16, 1), torch.ones(16, 1)),
        lambda: write_objects(ObjectSets("one", (), (views,), 2.0, 6.0), tmp_path / "out"),
        bent.corner_rays,
    ):
        with pytest.raises(InputError, match="must be pinholes"):
            call()


def test_boxes_follow_the_lens():
    above = Cameras(look_at(torch.tensor([[0.0, 0.0, 2.0]]), torch.zeros(1, 3)), 20.0, 20.0, 16.0, 16.0, 32, 32)
    wide = replace(above, lens=make_lens(PERSPECTIVE, {"k1": -0.2}))
    inner, outer = footprint(above, 0.0), footprint(wide, 0.0)
    assert bool((outer[0] < inner[0] - 0.1).all())
    assert bool((outer[1] > inner[1] + 0.1).all())
    # Its middle row ends at x = 0.8: u (1 - 0.2 u^2) = 0.8 at u = 1.
    assert half_views(wide).item() == pytest.approx(1.0, abs=1e-6)
    around = turntable(8, 16)
    bent = replace(around, lens=make_lens(PERSPECTIVE, {"k1": 1.0}))
    # A tangent of 0.275 on the picture is 0.25786 in space: u (1 + u^2) = 0.275.
    assert float(object_box(bent)[1, 0]) == pytest.approx(4 * 0.257855, abs=1e-3)
    assert float(object_box(around)[1, 0]) == pytest.approx(4 * 0.275, abs=1e-3)
    beyond = replace(above, lens=make_lens(FISHEYE, {}), fx=4.0, fy=4.0)  # two radians to the sides
    assert half_views(beyond).item() == pytest.approx(1.0)
    assert footprint(replace(beyond, fx=torch.tensor([2.0]), fy=torch.tensor([2.0])), 0.0) is None


def test_points_are_in_the_picture_where_the_lens_shows_them():
    above = Cameras(look_at(torch.tensor([[0.0, 0.0, 2.0]]), torch.zeros(1, 3)), 20.0, 20.0, 16.0, 16.0, 32, 32)
    points = torch.tensor([[0.0, 0.0, 0.0], [1.8, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert len(distances_in(above, 0, points)) == 1
    wide = replace(above, lens=make_lens(PERSPECTIVE, {"k1": -0.2}))
    assert distances_in(wide, 0, points).tolist() == pytest.approx([2.0, math.hypot(2, 1.8)])
    folded = replace(above, lens=make_lens(PERSPECTIVE, {"k1": -0.5}))  # 0.9 is beyond its fold, and would come back
    assert len(distances_in(folded, 0, points)) == 1
