"""The rasteriser against closed forms: coverage, depth, perspective, light; and what it refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mclnf_fast.data.graphics.mesh import Mesh, face_normals, join, make_mesh, to_linear, to_srgb
from mclnf_fast.data.graphics.mesh_parts import box, ellipsoid, loft, turned
from mclnf_fast.data.graphics.mesh_render import GROUND_LIGHT, SKY_LIGHT, SUN, SUN_LIGHT, render_mesh
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

RED = torch.tensor([0.5, 0.0, 0.0])
BLUE = torch.tensor([0.0, 0.0, 0.5])


def above(height: float = 2.0, size: int = 64, focal: float = 64.0) -> Cameras:
    """A camera at (0, 0, height) that looks straight down: image x is world x, image y is world -y."""
    pose = torch.eye(4)[None]
    pose[0, 2, 3] = height
    return Cameras(pose, focal, focal, 0.5 * size, 0.5 * size, size, size)


def flat(*corners: tuple[float, float, float], color=RED) -> Mesh:
    """One triangle, or two of a quad, of one color, open."""
    faces = [[0, 1, 2]] if len(corners) == 3 else [[0, 1, 2], [0, 2, 3]]
    return make_mesh(torch.tensor(corners), torch.tensor(faces), color.expand(len(faces), 3))


def square(half: float, z: float = 0.0, color=RED) -> Mesh:
    return flat((-half, -half, z), (half, -half, z), (half, half, z), (-half, half, z), color=color)


def alpha(image: torch.Tensor) -> torch.Tensor:
    return image[..., 3].double() / 255


def light_from(normal: torch.Tensor) -> torch.Tensor:
    sun = max(0.0, float(normal @ torch.tensor(SUN)) / math.sqrt(sum(v * v for v in SUN)))
    up = 0.5 + 0.5 * float(normal[2])
    return sun * torch.tensor(SUN_LIGHT) + up * torch.tensor(SKY_LIGHT) + (1 - up) * torch.tensor(GROUND_LIGHT)


def test_a_triangle_covers_the_samples_that_lie_in_it():
    # In pixels; the camera stands 2 above z = 0 and has 32 pixels a unit there.
    spots = torch.tensor([[10.3, 12.7], [50.9, 20.2], [22.4, 55.1]], dtype=torch.float64)
    world = [(float(x - 32) / 32, -float(y - 32) / 32, 0.0) for x, y in spots]
    image = render_mesh(flat(*world), above(), samples=16)[0]
    a, b, c = spots
    area = 0.5 * abs(float((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]))
    assert abs(float(alpha(image).sum()) - area) < 0.005 * area
    one = render_mesh(flat(*world), above(), samples=1)[0, ..., 3] > 0
    # One sample lies in the pixel's middle.
    y, x = torch.meshgrid(torch.arange(64).double() + 0.5, torch.arange(64).double() + 0.5, indexing="ij")
    inside = torch.ones(64, 64, dtype=torch.bool)
    for p, q in ((a, b), (b, c), (c, a)):
        inside &= (q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) >= 0
    assert torch.equal(one, inside)


def test_alpha_counts_samples_at_an_edge():
    # The square's right edge runs at x = 40 + share of a pixel, upright: n-rooks samples see sixteenths.
    for share in (0.0, 0.25, 0.5, 0.75):
        half = (8 + share) / 32
        column = alpha(render_mesh(square(half), above(), samples=4)[0])[32, 40]
        assert abs(float(column) - share) < 1e-2, share


def test_coverage_is_exact_to_a_fraction_of_a_thousandth_of_a_pixel():
    for reach, want in ((8.4996, False), (8.5004, True)):  # pixel 40 has its sample at 40.5
        image = render_mesh(square(reach / 32), above(), samples=1)[0]
        assert bool(image[32, 40, 3]) is want
        assert bool(image[23, 32, 3]) is want


def test_colors_at_an_edge_are_straight():
    image = render_mesh(square(0.26), above(), samples=4)[0]
    shown = image[image[..., 3] > 0]
    assert len(shown[..., 3].unique()) > 1
    assert len(shown[:, :3].unique(dim=0)) == 1  # not darkened where coverage is partial
    assert not image[image[..., 3] == 0].any()


def test_a_cube_seen_straight_on():
    white = torch.tensor([0.6, 0.6, 0.6])
    cube = box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5), white.numpy())
    camera = Cameras(look_at(torch.tensor([[3.0, 0.0, 0.0]]), torch.zeros(1, 3)), 80.0, 80.0, 32.0, 32.0, 64, 64)
    image = render_mesh(cube, camera, samples=4)[0]
    # The front face is 2.5 away: 32 pixels a side, exactly those from 16 to 48.
    want = torch.zeros(64, 64, dtype=torch.uint8)
    want[16:48, 16:48] = 255
    assert torch.equal(image[..., 3], want)
    color = to_srgb(white * light_from(torch.tensor([1.0, 0.0, 0.0])))
    assert torch.equal(image[16:48, 16:48, :3].reshape(-1, 3).unique(dim=0)[0], (color * 255 + 0.5).to(torch.uint8))
    assert len(image[16:48, 16:48, :3].reshape(-1, 3).unique(dim=0)) == 1


def test_a_point_lies_where_the_camera_projects_it():
    generator = torch.Generator().manual_seed(3)
    position = torch.randn(6, 3, generator=generator)
    position = 3 * position / position.norm(dim=1, keepdim=True)
    target = 0.2 * torch.randn(6, 3, generator=generator)
    cameras = Cameras(look_at(position, target, torch.linspace(0, 2, 6)), 280.0, 300.0, 120.0, 136.0, 256, 240)
    speck = ellipsoid((0.1, -0.2, 0.15), (0.03, 0.03, 0.03), RED.numpy())
    images = render_mesh(speck, cameras, samples=16)
    for view in range(6):
        weight = alpha(images[view])
        y, x = torch.meshgrid(torch.arange(240).double() + 0.5, torch.arange(256).double() + 0.5, indexing="ij")
        at = torch.stack([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        origin, direction = cameras.rays_at(torch.tensor([view]), at[:1].float(), at[1:].float())
        away = torch.tensor([[0.1, -0.2, 0.15]]) - origin
        assert float(torch.linalg.cross(away, direction).norm()) < 1e-3  # a tenth of a pixel


def test_the_nearer_face_hides_the_farther_whatever_the_order():
    near, far = square(0.3, z=0.2), square(0.6, z=-0.2, color=BLUE)
    for mesh in (join([near, far]), join([far, near])):
        image = render_mesh(mesh, above(), samples=4)[0]
        assert image[32, 32, 0] > 0
        assert image[32, 32, 2] == 0
        assert image[32, 32 + 15, 2] > 0
        assert image[32, 32 + 15, 0] == 0
    # Two faces that cross: on each side the nearer one, to the sample.
    cross = join([flat((-1, -1, -0.5), (1, -1, 0.5), (1, 1, 0.5), (-1, 1, -0.5)), square(1.0, color=BLUE)])
    image = render_mesh(cross, above(), samples=1)[0]
    assert bool((image[:, 33:, 0] > 0).all())
    assert bool((image[:, :31, 2] > 0).all())


def test_no_gap_between_faces_that_share_an_edge():
    generator = torch.Generator().manual_seed(0)
    # A fan and a fine grid with moved inner points fill the picture: every sample is covered.
    n = 24
    y, x = torch.meshgrid(torch.linspace(-2, 2, n), torch.linspace(-2, 2, n), indexing="ij")
    grid = torch.stack([x, y, torch.zeros_like(x)], -1)
    grid[1:-1, 1:-1] += 0.1 * (torch.rand(n - 2, n - 2, 3, generator=generator) - 0.5)
    ids = torch.arange(n * n).reshape(n, n)
    a, b, c, d = (t.reshape(-1) for t in (ids[:-1, :-1], ids[:-1, 1:], ids[1:, 1:], ids[1:, :-1]))
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    mesh = make_mesh(grid.reshape(-1, 3), faces, torch.rand(len(faces), 3, generator=generator))
    camera = Cameras(look_at(torch.tensor([[0.3, -0.4, 1.5]]), torch.zeros(1, 3)), 90.0, 90.0, 32.0, 32.0, 64, 64)
    assert bool((render_mesh(mesh, camera, samples=9)[..., 3] == 255).all())


def test_textures_are_perspective_correct():
    # A long strip on the ground, u along it, seen at a slant: the texture is a step at u = 0.5.
    texture = torch.zeros(1, 64, 3)
    texture[:, 32:] = 0.9
    strip = flat((0.0, -0.5, 0.0), (8.0, -0.5, 0.0), (8.0, 0.5, 0.0), (0.0, 0.5, 0.0), color=torch.ones(3))
    corners = torch.tensor([[[0.0, 0], [1, 0], [1, 1]], [[0.0, 0], [1, 1], [0, 1]]])
    mesh = replace(strip, uv=corners, texture_ids=torch.zeros(2, dtype=torch.int64), textures=(texture,))
    camera = Cameras(
        look_at(torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[3.0, 0.0, 0.0]])), 64.0, 64.0, 32.0, 32.0, 64, 64
    )
    image = render_mesh(mesh, camera, samples=1)[0]
    rows = torch.arange(64)[image[:, 32, 3] > 0]
    origin, direction = camera.rays_at(
        torch.zeros(64, dtype=torch.int64), torch.full((64,), 32.5), torch.arange(64) + 0.5
    )
    along = origin[:, 0] - direction[:, 0] * origin[:, 2] / direction[:, 2]
    bright = image[rows, 32, 0] > 100
    assert bool(bright.any())
    assert not bool(bright.all())
    clear = (along[rows] - 4.0).abs() > 0.13  # the step is blurred over one texel
    assert torch.equal(bright[clear], (along[rows] > 4.0)[clear])


def test_texture_rows_go_down_and_repeat():
    texture = torch.zeros(2, 2, 3)
    texture[0, 0, 0] = texture[0, 1, 1] = texture[1, 0, 2] = 0.8  # red and green above, blue and black below
    corners = torch.tensor([[[2.0, -1], [3, -1], [3, 0]], [[2.0, -1], [3, 0], [2, 0]]])
    base = square(0.9)
    mesh = replace(
        base, colors=torch.ones(2, 3, 3), uv=corners, texture_ids=torch.zeros(2, dtype=torch.int64), textures=(texture,)
    )
    image = render_mesh(mesh, above())[0, ..., :3]
    # The middles of the texels, where nothing is blended.
    a, b, c, d = image[18, 18], image[18, 46], image[46, 18], image[46, 46]
    assert [int(v.argmax()) for v in (a, b, c)] == [0, 1, 2]
    assert int(d.max()) < 60 < int(a.max())


def test_an_open_mesh_is_lit_on_the_side_that_is_seen_and_a_closed_one_hides_its_back():
    sheet = square(0.5)
    below = Cameras(torch.diag(torch.tensor([1.0, -1, -1, 1]))[None].clone(), 64.0, 64.0, 32.0, 32.0, 64, 64)
    below.c2w[0, 2, 3] = -2.0
    for camera, normal in ((above(), [0.0, 0, 1]), (below, [0.0, 0, -1])):
        want = (to_srgb(RED * light_from(torch.tensor(normal))) * 255 + 0.5).to(torch.uint8)
        assert torch.equal(render_mesh(sheet, camera)[0, 32, 32, :3], want)
        # The same with the faces turned over.
        turned_over = make_mesh(sheet.vertices, sheet.faces.flip(1), RED.expand(2, 3))
        assert torch.equal(render_mesh(turned_over, camera)[0, 32, 32, :3], want)
    assert bool(render_mesh(replace(sheet, closed=True), above())[0, 32, 32, 3])
    assert not bool(render_mesh(replace(sheet, closed=True), below)[..., 3].any())


def test_geometry_behind_or_around_the_camera():
    assert not render_mesh(square(1.0, z=5.0), above(2.0))[..., 3].any()
    # The ground reaches behind a camera that looks along it: all below the horizon is covered, nothing above.
    ground = flat((-40.0, -40, 0), (40.0, -40, 0), (40.0, 40, 0), (-40.0, 40, 0))
    camera = Cameras(look_at(torch.tensor([[0.0, 0, 1]]), torch.tensor([[1.0, 0, 1]])), 64.0, 64.0, 32.0, 32.0, 64, 64)
    cover = alpha(render_mesh(ground, camera)[0])
    assert bool((cover[:33] == 0).all())
    assert bool((cover[34:] == 1).all())


def test_parts_are_closed_and_look_outward():
    rings = torch.tensor([[[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]]).numpy()
    tower = loft(
        np.concatenate([rings, rings * 0.5 + [0, 0, 1.0]]), RED.expand(1, 4, 3).numpy(), RED.expand(2, 3).numpy()
    )
    profile = torch.tensor([[0.5, -0.2], [1.0, -0.2], [1.0, 0.2], [0.5, 0.2]]).numpy()
    for mesh, volume, tolerance in (
        (box((0.0, 0.0, 0.0), (1.0, 2.0, 3.0), RED.numpy()), 6.0, 1e-5),
        (box((0.0, 0.0, 0.0), (1.0, 2.0, 3.0), RED.numpy(), 0.1), 3 * (2 - 4 * 0.005), 1e-5),
        (tower, (4 + 1 + 2) / 3, 1e-5),
        (ellipsoid((3.0, 0.0, 0.0), (1.0, 0.5, 0.25), RED.numpy(), 24), 4 / 3 * math.pi * 0.125, 0.01),
        (turned(profile, RED.expand(3, 3).numpy(), (0.0, 1.0, 0.0), 96), math.pi * 0.4, 0.01),
    ):
        a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
        found = float((a * torch.linalg.cross(b, c)).sum() / 6)
        assert abs(found - volume) < tolerance * volume + 1e-6
        # Each edge is used once in each direction.
        edges = torch.cat([mesh.faces[:, (0, 1)], mesh.faces[:, (1, 2)], mesh.faces[:, (2, 0)]])
        assert len(edges.unique(dim=0)) == len(edges)
        assert torch.equal(edges.unique(dim=0), edges.flip(1).unique(dim=0))


def test_normals_are_smooth_over_flat_edges_only():
    round_one = ellipsoid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), RED.numpy(), 12)
    inner = round_one.vertices[round_one.faces].norm(dim=2) > 0.9
    outward = torch.nn.functional.normalize(round_one.vertices[round_one.faces], dim=2)
    assert float((1 - (round_one.normals * outward).sum(2))[inner].max()) < 0.02
    cube = box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), RED.numpy())
    unit = torch.nn.functional.normalize(face_normals(cube.vertices, cube.faces), dim=1)
    torch.testing.assert_close(cube.normals, unit[:, None].expand(-1, 3, -1))


def test_the_same_call_gives_the_same_bytes_and_srgb_turns_back():
    mesh = join(
        [ellipsoid((0.0, 0.0, 0.0), (0.5, 0.4, 0.3), RED.numpy()), box((0, 0, 0), (0.4, 0.4, 0.5), BLUE.numpy())]
    )
    camera = Cameras(look_at(torch.tensor([[2.0, 1.0, 1.0]]), torch.zeros(1, 3)), 64.0, 64.0, 32.0, 32.0, 64, 64)
    assert torch.equal(render_mesh(mesh, camera), render_mesh(mesh, camera))
    values = torch.arange(256) / 255
    torch.testing.assert_close(to_srgb(to_linear(values)), values, atol=1e-5, rtol=0)


def test_bad_meshes_and_options_are_refused():
    good = square(0.5)
    for broken, message in (
        ({"vertices": good.vertices.double()}, "vertices: must be torch.float32"),
        ({"vertices": good.vertices * math.nan}, "vertices: must be finite"),
        ({"faces": good.faces + 9}, "from 0 to 3, one was 12"),
        ({"faces": good.faces - 1}, "from 0 to 3, one was -1"),
        ({"colors": good.colors[:1]}, "colors: must be"),
        ({"normals": good.normals[:, :1]}, "normals: must be"),
        ({"uv": torch.zeros(2, 3, 2)}, "given together"),
        ({"uv": torch.zeros(2, 3, 2), "texture_ids": torch.zeros(2, dtype=torch.int64)}, "from -1 to -1"),
    ):
        with pytest.raises(InputError, match=message):
            replace(good, **broken)
    for samples in (0, 3, -4):
        with pytest.raises(InputError, match="samples"):
            render_mesh(good, above(), samples=samples)
    empty = make_mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
    assert not render_mesh(empty, above()).any()
    with pytest.raises(InputError, match="at least one face"):
        empty.into_ball()
    with pytest.raises(InputError, match="one point"):
        make_mesh(torch.ones(3, 3), torch.tensor([[0, 1, 2]]), RED[None]).into_ball()
    with pytest.raises(InputError, match="at least one mesh"):
        join([])
