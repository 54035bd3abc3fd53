"""Rendering rays through their own modules: closed forms, depth, backgrounds, gradients, isolation."""

from dataclasses import replace

import places
import pytest
import torch
from fields import SPEC, four_cells, generator, in_cells, in_world, lively, rays_across
from torch import Tensor

from mclnf_fast.render import Cells, Rays, RenderSettings, render_modules, sample_in_cells
from mclnf_fast.shading import SCENE_SHADING
from mclnf_fast.spec import FieldSpec

CUBE = Cells(torch.tensor([[[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]]), 1.0)  # unit of length: 2


def homogeneous(raw: list[float], spec: FieldSpec = SPEC, modules: int = 1) -> tuple[Tensor, ...]:
    shapes = [(modules, *s) for s in spec.layer_shapes] + [(modules, s[1]) for s in spec.layer_shapes]
    params = [torch.zeros(s) for s in shapes]
    params[-1] = torch.tensor(raw).expand(modules, 4).clone()
    return tuple(params)


def along_x(count: int = 1) -> Rays:
    return Rays(
        torch.tensor([[-3.0, 2.0, 2.0]]).repeat(count, 1),
        torch.tensor([[1.0, 0.0, 0.0]]).repeat(count, 1),
        torch.tensor([0, count]),
    )


@places.whole
@pytest.mark.parametrize("bins", [1, 7, 48])
def test_a_homogeneous_medium_has_its_closed_form_for_any_number_of_bins(need, backend, bins):
    need("bank_mlp", backend)
    settings = in_cells(bins, (0.0, 0.25, 1.0), backend=backend)
    out = render_modules(homogeneous([-0.5, 1.0, -2.0, 0.0]), SPEC, along_x(), CUBE, settings)
    # 4 scene units are 2 units of the cell; density is per unit of the cell.
    through = torch.exp(-2 * torch.tensor(-0.5).exp())
    color = torch.tensor([1.0, -2.0, 0.0]).sigmoid()
    expected = (1 - through) * color + through * torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(out.color[0], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.opacity[0], 1 - through, atol=1e-6, rtol=1e-5)


@places.devices
def test_depth_is_in_scene_units():
    """Opaque from the border on: the surface lies half a bin behind it, 3 units from the ray's origin."""
    settings = in_cells(400, (0.0, 0.0, 0.0))
    out = render_modules(homogeneous([SCENE_SHADING.max_raw_density, 0.0, 0.0, 0.0]), SPEC, along_x(), CUBE, settings)
    assert float(out.depth) == pytest.approx(3.005, abs=1e-4)
    thin = render_modules(homogeneous([0.0, 0.0, 0.0, 0.0]), SPEC, along_x(), CUBE, settings)
    # integral of t exp(-(t - 3) / 2) / 2 over 3 ... 7, with e^-1 a cell unit of 2
    e2 = torch.tensor(-2.0).exp()
    assert float(thin.depth) == pytest.approx(float(3 * (1 - e2) + 2 - 6 * e2), abs=1e-3)


@places.devices
def test_without_a_background_the_last_sample_stands_behind_everything():
    settings = RenderSettings(samples_per_ray=16)
    out = render_modules(homogeneous([-5.0, 2.0, 0.0, -2.0]), SPEC, along_x(), CUBE, settings)
    torch.testing.assert_close(out.color[0], torch.tensor([2.0, 0.0, -2.0]).sigmoid(), atol=1e-6, rtol=1e-5)
    assert 0.01 < float(out.opacity) < 0.02  # opacity stays what the field says
    assert 6.9 < float(out.depth) < 7.0


@places.whole
def test_only_the_last_sample_stands_behind(need, backend):
    need("bank_mlp", backend)
    params = lively(SPEC)
    o, d, offsets = along_x()
    settings = RenderSettings(samples_per_ray=9, backend=backend)
    points = sample_in_cells(Rays(o, d, offsets), CUBE, settings)
    plain = in_cells(9, (0.0, 0.0, 0.0), backend=backend)
    seen = render_modules(params, SPEC, Rays(o, d, offsets), CUBE, plain)
    hidden = points.x[-1]
    for l in range(3):
        hidden = hidden @ params[l][0] + params[3 + l][0]
        hidden = hidden.tanh() if l < 2 else hidden
    expected = seen.color[0] + (1 - seen.opacity[0]) * hidden[1:].sigmoid()
    out = render_modules(params, SPEC, Rays(o, d, offsets), CUBE, settings)
    torch.testing.assert_close(out.color[0], expected, atol=1e-5, rtol=1e-5)


@places.devices
@pytest.mark.parametrize(("background", "seen"), [(None, 0.0), ((0.25, 0.25, 0.25), 0.25)])
def test_rays_without_a_sample(background, seen):
    settings = in_cells(48, background)
    params = tuple(p.requires_grad_() for p in homogeneous([1.0, 1.0, 1.0, 1.0]))
    o, d, offsets = along_x(3)
    out = render_modules(params, SPEC, Rays(o, -d, offsets), CUBE, settings)
    assert torch.equal(out.color, torch.full((3, 3), seen))
    assert torch.equal(out.opacity, torch.zeros(3))
    grads = torch.autograd.grad(out.color.sum(), params, allow_unused=True)
    assert all(g is None or not bool(g.any()) for g in grads)
    some = render_modules(params, SPEC, Rays(o, d * torch.tensor([[1.0], [-1.0], [1.0]]), offsets), CUBE, settings)
    assert torch.equal(some.color[1], torch.full((3,), seen))
    assert float(some.opacity[0].detach()) > 0.5
    none = render_modules(params, SPEC, Rays(o[:0], d[:0], torch.tensor([0, 0])), CUBE, settings)
    assert [tuple(t.shape) for t in none] == [(0, 3), (0,), (0,)]


@places.devices
def test_near_and_far_are_in_scene_units():
    settings = RenderSettings(samples_per_ray=5, near=4.0, far=6.5)
    points = sample_in_cells(along_x(), CUBE, settings)
    assert float(points.t_starts[0]) * 2 == pytest.approx(4.0)
    assert float(points.t_ends[-1]) * 2 == pytest.approx(6.5)


@places.devices
def test_points_are_local_to_each_module_and_inside_its_grown_cell():
    cells = four_cells()
    offsets = torch.tensor([0, 5, 5, 12, 20])
    o, d = rays_across(cells, 20)
    points = sample_in_cells(Rays(o, d, offsets), cells, RenderSettings(samples_per_ray=8), seed=3)
    assert float(points.x.abs().max()) <= 1 + 1e-5
    owner = torch.repeat_interleave(torch.arange(4), offsets.diff())[points.ray_ids]
    assert torch.equal(owner, torch.repeat_interleave(torch.arange(4), points.offsets.diff()))
    world = points.x * cells.halves[owner] + cells.centers[owner]
    t = (points.t_starts + points.t_ends) / 2 * cells.unit
    torch.testing.assert_close(world, o[points.ray_ids] + t[:, None] * d[points.ray_ids], atol=1e-4, rtol=1e-5)


def test_dense_samples_need_all_of_a_cell():
    settings = RenderSettings(samples_per_ray=4)
    with pytest.raises(ValueError, match="dense must be False with an occupancy, got True"):
        sample_in_cells(along_x(), CUBE, settings, torch.ones(2, 2, 2, dtype=torch.bool), dense=True)
    with pytest.raises(ValueError, match="seed must be an int or None unless dense is True, got a tensor"):
        sample_in_cells(along_x(), CUBE, settings, seed=torch.tensor(1))


@places.devices
def test_dense_samples_of_several_modules_are_those_of_the_march():
    cells, offsets = four_cells(), torch.tensor([0, 5, 5, 12, 20])
    rays = Rays(*rays_across(cells, 20), offsets)
    shading = replace(RenderSettings().shading, view_directions=True)
    settings = RenderSettings(samples_per_ray=8, shading=shading)
    marched = sample_in_cells(rays, cells, settings, seed=3)
    dense = sample_in_cells(rays, cells, settings, seed=3, dense=True)
    assert (marched.per_ray, dense.per_ray) == (None, 8)
    counts = dense.packed_info[:, 1]
    assert set(counts.tolist()) == {0, 8}
    assert torch.equal(counts, marched.packed_info[:, 1])
    assert torch.equal(dense.packed_info[:, 0], 8 * torch.arange(20))
    assert torch.equal(dense.offsets, 8 * offsets)
    kept = dense.t_ends > dense.t_starts
    for name in ("x", "ray_ids", "t_starts", "t_ends"):
        assert torch.equal(getattr(dense, name)[kept], getattr(marched, name)), name


@places.devices
def test_jitter_follows_the_seed():
    def starts(seed: int | None) -> Tensor:
        return sample_in_cells(along_x(), CUBE, RenderSettings(samples_per_ray=8), seed=seed).t_starts

    assert torch.equal(starts(0), starts(0))
    assert not torch.equal(starts(0), starts(1))
    assert not torch.equal(starts(0), starts(None))


@places.devices
def test_viewing_directions_are_of_length_one_and_behind_the_position():
    settings = replace(RenderSettings(samples_per_ray=4), shading=replace(SCENE_SHADING, view_directions=True))
    rays = along_x()
    points = sample_in_cells(rays, CUBE, settings)
    assert points.x.shape == (4, 6)
    assert torch.equal(points.x[:, 3:], rays.directions.expand(4, 3))


@places.devices
def test_density_is_the_exponential_with_a_ceiling_and_color_a_sigmoid():
    density, color = SCENE_SHADING.density_and_color(torch.tensor([[0.5, 0.0, 1.0, -1.0], [50.0, 0.0, 0.0, 0.0]]))
    expected = torch.tensor([0.5, SCENE_SHADING.max_raw_density]).exp()
    torch.testing.assert_close(density, expected)
    torch.testing.assert_close(color[0], torch.tensor([0.0, 1.0, -1.0]).sigmoid())


def tiny_case(backend: str, background: tuple[float, float, float] | None):
    """Two modules, five rays, fp64: a function of all parameters."""
    spec = FieldSpec(3, 4, 3, 1, activation="tanh")
    cells = Cells(torch.tensor([[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]], [[2.0, 0.0, 0.0], [4.0, 2.0, 2.0]]]))
    params = tuple(
        torch.cat((a, b)).requires_grad_()
        for a, b in zip(lively(spec, 1, torch.float64), lively(spec, 2, torch.float64))
    )
    o, d = (t.double() for t in rays_across(cells, 5))
    settings = in_cells(4, background, backend=backend)

    def pixels(*given: Tensor) -> Tensor:
        out = render_modules(given, spec, Rays(o, d, torch.tensor([0, 2, 5])), cells, settings, seed=1)
        return torch.cat((out.color, out.opacity[:, None], out.depth[:, None]), 1)

    return pixels, params


@places.whole
@pytest.mark.parametrize("background", [None, (0.2, 0.4, 0.6)])
def test_gradients_in_the_parameters(need, backend, background):
    need("bank_mlp", backend, torch.float64)
    pixels, params = tiny_case(backend, background)
    assert torch.autograd.gradcheck(pixels, params)


@places.whole
@pytest.mark.parametrize("background", [None, (0.2, 0.4, 0.6)])
def test_second_order_in_the_parameters(need, backend, background):
    need("bank_mlp", backend, torch.float64)
    pixels, params = tiny_case(backend, background)
    assert torch.autograd.gradgradcheck(lambda *p: pixels(*p).square().sum(), params)


@places.whole
def test_the_rays_of_a_module_have_no_gradient_in_any_other(need, backend):
    need("bank_mlp", backend)
    cells = four_cells()
    bank = tuple(p.requires_grad_() for p in in_world(lively(SPEC), SPEC, cells))
    o, d = rays_across(cells, 40)
    offsets = torch.tensor([0, 10, 20, 30, 40])
    settings = in_cells(8, None, backend=backend)
    out = render_modules(bank, SPEC, Rays(o, d, offsets), cells, settings, seed=0)
    for module in range(4):
        rows = slice(int(offsets[module]), int(offsets[module + 1]))
        grads = torch.autograd.grad(out.color[rows].square().sum(), bank, retain_graph=True)
        for g in grads:
            others = torch.arange(4) != module
            assert not bool(g[others].any())
        assert any(bool(g[module].any()) for g in grads)


@places.devices
def test_a_module_renders_the_same_beside_others_and_alone():
    cells = four_cells()
    bank = tuple(
        p * (1 + 0.2 * torch.rand(p.shape, generator=generator())) for p in in_world(lively(SPEC), SPEC, cells)
    )
    o, d = rays_across(cells, 24)
    settings = RenderSettings(samples_per_ray=8)
    whole = render_modules(bank, SPEC, Rays(o, d, torch.tensor([0, 6, 12, 18, 24])), cells, settings)
    for m in range(4):
        rows = slice(6 * m, 6 * m + 6)
        # The same unit of density: cells of a bank share that of the largest.
        alone = Cells(cells.boxes[m : m + 1], cells.margin)
        params = [p[m : m + 1].clone() for p in bank]
        params[-1][:, 0] += torch.log(torch.tensor(alone.unit / cells.unit))
        out = render_modules(tuple(params), SPEC, Rays(o[rows], d[rows], torch.tensor([0, 6])), alone, settings)
        torch.testing.assert_close(out.color, whole.color[rows], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(out.depth, whole.depth[rows], atol=1e-4, rtol=1e-4)
