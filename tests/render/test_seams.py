"""A bank of four modules that all are one and the same function renders as that one function does: no seams."""

from dataclasses import replace

import places
import pytest
import torch
from fields import SPEC, four_cells, in_cells, in_world, lively, one_cell_over, rays_across

from mclnf_fast.render import Cells, Rays, RenderSettings, render_modules, render_scene
from mclnf_fast.spec import FieldSpec


def scene_network(spec: FieldSpec) -> tuple[torch.Tensor, ...]:
    """A network of scene coordinates near (10, -4): the first layer is shifted there and made slower."""
    params = list(lively(spec))
    layers = len(spec.layer_shapes)
    params[0] = params[0].clone()
    params[0][:, :3] *= 0.4
    params[layers] = params[layers] - torch.tensor([10.0, -4.0, 2.5]) @ params[0][0, :3]
    return tuple(params)


def single(params, spec, cells, origins, directions, settings):
    """The same pixels by one network in one box, with the bins that `render_scene` takes."""
    hull = cells.hull()
    ratio = float((hull[1] - hull[0]).norm() / (cells.grown[:, 1] - cells.grown[:, 0]).norm(dim=-1).mean())
    bins = max(settings.samples_per_ray, round(settings.samples_per_ray * ratio))
    whole = one_cell_over(cells)
    # Densities are per unit of the *cells*; the one box is larger, so its densities must be scaled.
    scaled = [p.clone() for p in in_world(params, spec, whole)]
    scaled[-1][:, 0] += torch.log(torch.tensor(whole.unit / cells.unit))
    settings = replace(settings, samples_per_ray=bins)
    return render_modules(tuple(scaled), spec, Rays.through_one_module(origins, directions), whole, settings)


@places.whole
@pytest.mark.parametrize("background", [None, (0.9, 0.5, 0.1)])
@pytest.mark.parametrize("margin", [1.0, 1.15, 1.6])
def test_four_modules_render_as_the_one_function_that_they_are(need, backend, background, margin):
    need("bank_mlp", backend)
    cells, params = four_cells(margin), scene_network(SPEC)
    settings = in_cells(40, background, backend=backend)
    origins, directions = rays_across(cells, 300)
    ours = render_scene(in_world(params, SPEC, cells), SPEC, origins, directions, cells, settings)
    theirs = single(params, SPEC, cells, origins, directions, settings)
    assert float(theirs.opacity.std()) > 0.02
    for name, a, b in zip(ours._fields, ours, theirs):
        torch.testing.assert_close(a, b, atol=3e-5, rtol=3e-5, msg=lambda m, name=name: f"{name}: {m}")


@places.devices
@pytest.mark.parametrize(
    ("start", "end"),
    [
        ((7.0, -7.5, 3.5), (13.5, -1.0, 1.5)),  # through the corner where all four meet
        ((6.0, -5.5, 2.0), (14.0, -5.4, 2.0)),  # across the border along x
        ((9.0, -8.0, 2.0), (9.1, -1.0, 2.2)),  # across the border along y
        ((10.0, -8.0, 2.0), (10.0, -1.0, 2.0)),  # in the border itself
        ((10.1, -3.9, 9.0), (10.1, -3.9, 0.0)),  # straight down in the blending zone of all four
    ],
)
def test_rays_in_and_across_the_blending_zones(start, end):
    cells, params = four_cells(), scene_network(SPEC)
    settings = in_cells(60, (0.0, 0.0, 0.0))
    origins = torch.tensor([start])
    directions = torch.nn.functional.normalize(torch.tensor([end]) - origins, dim=-1)
    ours = render_scene(in_world(params, SPEC, cells), SPEC, origins, directions, cells, settings)
    theirs = single(params, SPEC, cells, origins, directions, settings)
    assert float(theirs.opacity) > 0.3
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=3e-5, rtol=3e-5)


@places.devices
def test_with_viewing_directions():
    spec = FieldSpec(6, 4, 16, 2, activation="tanh")
    cells, params = four_cells(), scene_network(spec)
    settings = in_cells(30, (0.2, 0.2, 0.2), spec)
    origins, directions = rays_across(cells, 100)
    bank = in_world(params, spec, cells)
    ours = render_scene(bank, spec, origins, directions, cells, settings)
    theirs = single(params, spec, cells, origins, directions, settings)
    torch.testing.assert_close(ours.color, theirs.color, atol=3e-5, rtol=3e-5)
    blind = [p.clone() for p in bank]
    blind[0][:, 3:] = 0
    without = render_scene(tuple(blind), spec, origins, directions, cells, settings)
    assert float((without.color - ours.color).abs().max()) > 0.01


def constant(spec: FieldSpec, raw: list[list[float]]) -> tuple[torch.Tensor, ...]:
    """A bank whose module m gives raw[m] everywhere."""
    shapes = [(len(raw), *s) for s in spec.layer_shapes] + [(len(raw), s[1]) for s in spec.layer_shapes]
    params = [torch.zeros(s) for s in shapes]
    params[-1] = torch.tensor(raw)
    return tuple(params)


@places.devices
@pytest.mark.parametrize("backwards", [False, True])
def test_a_ray_through_two_modules_composites_in_order(backwards):
    """Two homogeneous cells, red then green along x, against the closed form; margin 1 so that nothing mixes."""
    boxes = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]], [[2.0, 0.0, 0.0], [4.0, 2.0, 2.0]]])
    cells = Cells(boxes, 1.0)
    density = torch.tensor([0.7, 1.9])  # per unit of the cells, which is 1.0 here
    raw = [[float(density[0].log()), 20.0, -20.0, -20.0], [float(density[1].log()), -20.0, 20.0, -20.0]]
    params = constant(SPEC, raw)
    origin, step = ([5.0, 1.0, 1.0], -1.0) if backwards else ([-1.0, 1.0, 1.0], 1.0)
    out = render_scene(
        params,
        SPEC,
        torch.tensor([origin]),
        torch.tensor([[step, 0.0, 0.0]]),
        cells,
        in_cells(34, (0.0, 0.0, 1.0)),  # 48 bins over both: the border is an edge
    )
    first, second = (density[1], density[0]) if backwards else (density[0], density[1])
    near = 1 - torch.exp(-2 * first)
    far = torch.exp(-2 * first) * (1 - torch.exp(-2 * second))
    red, green = (far, near) if backwards else (near, far)
    expected = torch.stack((red, green, 1 - near - far))
    torch.testing.assert_close(out.color[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.opacity[0], near + far, atol=1e-5, rtol=1e-5)


@places.devices
def test_a_gap_between_cells_is_empty_and_the_last_sample_stands_behind_it():
    """The ray leaves the only cell that it meets long before it leaves the hull."""
    boxes = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]], [[6.0, 6.0, 0.0], [8.0, 8.0, 2.0]]])
    params = constant(SPEC, [[-1.0, 20.0, 20.0, -20.0], [3.0, -20.0, 20.0, -20.0]])
    out = render_scene(
        params,
        SPEC,
        torch.tensor([[-1.0, 1.0, 1.0]]),
        torch.tensor([[1.0, 0.0, 0.0]]),
        Cells(boxes, 1.0),
        RenderSettings(samples_per_ray=64),
    )
    torch.testing.assert_close(out.color, torch.tensor([[1.0, 1.0, 0.0]]), atol=1e-5, rtol=0)
    # A quarter of a bin more or less at the cell's end, where a bin is 2 / 64 of the cell's diagonal at most.
    expected = 1 - torch.exp(-2 * torch.tensor(-1.0).exp())
    torch.testing.assert_close(out.opacity[0], expected, atol=0.03, rtol=0)


@places.devices
def test_chunks_change_nothing():
    cells, params = four_cells(), scene_network(SPEC)
    origins, directions = rays_across(cells, 70)
    bank = in_world(params, SPEC, cells)
    whole = render_scene(bank, SPEC, origins, directions, cells, RenderSettings(samples_per_ray=20))
    for chunk in (1, 7, 69, 70):
        parts = render_scene(bank, SPEC, origins, directions, cells, RenderSettings(samples_per_ray=20, chunk=chunk))
        for a, b in zip(parts, whole):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@places.devices
def test_rays_that_miss_and_no_rays():
    cells, bank = four_cells(), constant(SPEC, [[5.0, 9.0, 9.0, 9.0]] * 4)
    away, up = torch.tensor([[0.0, 0.0, 100.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    for background, seen in ((None, 0.0), ((0.5, 0.5, 0.5), 0.5)):
        settings = in_cells(48, background)
        out = render_scene(bank, SPEC, away, up, cells, settings)
        assert torch.equal(out.color, torch.full((1, 3), seen))
        assert float(out.opacity) == 0.0
        assert float(out.depth) == 0.0
        none = render_scene(bank, SPEC, away[:0], up[:0], cells, settings)
        assert [tuple(t.shape) for t in none] == [(0, 3), (0,), (0,)]
