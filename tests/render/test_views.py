"""Pictures of a bank from cameras: the pixels of its rays, in place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fields import SPEC, four_cells, in_cells, in_world, lively

import mclnf_fast as mf
from mclnf_fast.render import (
    Cameras,
    Rays,
    RenderSettings,
    ray_losses,
    render_fused,
    render_modules,
    render_objects,
    render_scene,
    render_views,
    sample_between,
    sample_in_cells,
    view_rays,
)
from mclnf_fast.render.cameras import look_at

SIZE = (5, 7)  # height, width


def bank_of(spec: mf.FieldSpec, *params: torch.Tensor) -> mf.FieldBank:
    bank = mf.FieldBank(spec, modules=len(params[0]))
    with torch.no_grad():
        for leaf, value in zip(bank.stacked, params, strict=True):
            leaf.copy_(value)
    return bank


def cameras_around(middle: torch.Tensor, views: int = 3) -> Cameras:
    g = torch.Generator().manual_seed(0)
    position = middle + 4 * torch.nn.functional.normalize(torch.randn(views, 3, generator=g), dim=-1)
    return Cameras(look_at(position, middle.expand(views, 3)), 8.0, 8.0, 3.5, 2.5, SIZE[1], SIZE[0])


@pytest.mark.parametrize("background", [None, (1.0, 1.0, 1.0)])
def test_a_scene_is_the_pixels_of_its_rays(background) -> None:
    cells = four_cells()
    bank = bank_of(SPEC, *in_world(lively(SPEC), SPEC, cells))
    cameras, settings = cameras_around(torch.tensor([10.0, -4.0, 2.0])), in_cells(9, background, chunk=8)
    pictures = render_views(bank, cameras, settings, cells)
    assert [tuple(t.shape) for t in pictures] == [(3, *SIZE, 3), (3, *SIZE), (3, *SIZE)]
    assert not pictures.color.requires_grad
    for view in range(3):
        pixels = render_scene(bank.stacked, SPEC, *cameras.view_rays(view), cells, settings)
        for picture, flat in zip(pictures, pixels):
            assert torch.equal(picture[view].flatten(0, 1), flat)


@pytest.mark.parametrize("convention", ["blog", "learnit"])
def test_objects_are_the_pixels_of_their_rays(convention) -> None:
    bank = bank_of(SPEC, *(torch.cat(pair) for pair in zip(lively(SPEC, 1), lively(SPEC, 2))))
    cameras = cameras_around(torch.zeros(3))
    settings = replace(RenderSettings.between(samples_per_ray=6, convention=convention), chunk=8)
    pictures = render_views(bank, cameras, settings)
    assert [tuple(t.shape) for t in pictures] == [(2, 3, *SIZE, 3), (2, 3, *SIZE), (2, 3, *SIZE)]
    for view in range(3):
        origins, directions = view_rays(cameras, view, settings)
        depth = -(directions @ cameras.c2w[view, :, 2])
        assert torch.allclose(depth, torch.ones(())) == (convention == "learnit")
        rays = (t.expand(2, *t.shape) for t in (origins, directions))
        pixels = render_objects(bank.stacked, SPEC, *rays, settings)
        for picture, flat in zip(pictures, pixels):
            torch.testing.assert_close(picture[:, view].flatten(1, 2), flat, atol=1e-6, rtol=1e-6)


def test_no_camera_is_no_picture() -> None:
    bank, none = mf.FieldBank(SPEC, modules=4), cameras_around(torch.zeros(3))[:0]
    assert render_views(bank, none, RenderSettings(), four_cells()).color.shape == (0, *SIZE, 3)
    assert render_views(bank, none, RenderSettings.between()).opacity.shape == (4, 0, *SIZE)


@pytest.mark.parametrize("spec", [SPEC, mf.FieldSpec(6, 4, 16, 2, activation="tanh")], ids=["position", "view"])
@pytest.mark.parametrize("background", ["last_sample", "white", (0.3, 0.2, 0.9)])
@pytest.mark.parametrize("density", ["relu", "exp"])
@pytest.mark.parametrize("first", [False, True])
def test_every_shading_goes_every_way(spec, background, density, first) -> None:
    """The loss, compositing and the fused renderer agree on each shading, and so do both ways to cut rays."""
    shading = mf.Shading(density, first, 0.7, background=background, view_directions=spec.in_dim == 6)
    params = lively(spec)
    cameras = cameras_around(torch.zeros(3), 1)
    origins, directions = cameras.view_rays(0)
    colors = torch.rand(len(origins), 3, generator=torch.Generator().manual_seed(1))

    settings = RenderSettings(8, shading=shading)
    cell, rays = mf.render.Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]])), Rays.through_one_module(origins, directions)
    pixels = render_modules(params, spec, rays, cell, settings)
    assert 0.05 < float(pixels.opacity.mean()) < 1
    loss = ray_losses(params, spec, sample_in_cells(rays, cell, settings), colors, settings)
    torch.testing.assert_close(loss[0], (pixels.color - colors).square().mean())
    for ours, theirs in zip(render_fused(params, spec, rays, cell, settings), pixels):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    settings = RenderSettings(8, 2.5, 5.5, "learnit", shading)
    pixels = render_objects(params, spec, origins[None], directions[None], settings)
    samples, _ = sample_between(origins[None], directions[None], settings)
    loss = ray_losses(params, spec, samples, colors[None], settings)
    torch.testing.assert_close(loss[0], (pixels.color - colors).square().mean())


def test_unusable_arguments() -> None:
    bank, cameras = mf.FieldBank(SPEC, modules=4), cameras_around(torch.zeros(3))
    with pytest.raises(ValueError, match="cells must be 4, one for each module, got None"):
        render_views(bank, cameras, RenderSettings())
    with pytest.raises(ValueError, match="cells must be None under the convention blog, got 4"):
        render_views(bank, cameras, RenderSettings.between(), four_cells())
    with pytest.raises(ValueError, match="cells must be 3, one for each module, got 4"):
        render_views(mf.FieldBank(SPEC, modules=3), cameras, RenderSettings(), four_cells())
    with pytest.raises(ValueError, match=r"settings\.convention must be cell here, got 'blog'"):
        render_scene(bank.stacked, SPEC, *cameras.view_rays(0), four_cells(), RenderSettings.between())
    with pytest.raises(ValueError, match=r"settings\.convention must be blog or learnit here, got 'cell'"):
        render_objects(bank.stacked, SPEC, torch.zeros(4, 1, 3), torch.ones(4, 1, 3), RenderSettings())
    seen = mf.FieldBank(mf.FieldSpec(6, 4, 8, 1), modules=4)
    with pytest.raises(ValueError, match=r"spec must have in_dim 3 and out_dim 4 \(shading.view_directions is False\)"):
        render_views(seen, cameras, RenderSettings(), four_cells())
    samples, _ = sample_between(torch.zeros(4, 2, 3), torch.ones(4, 2, 3), RenderSettings.between())
    with pytest.raises(ValueError, match=r"colors must be \[R, 3\] or \[T, R / T, 3\] of 8 rays, got \[4, 3, 3\]"):
        ray_losses(bank.stacked, SPEC, samples, torch.zeros(4, 3, 3), RenderSettings.between())
