"""Looking at a bank without a gradient: the pixels of `render_modules`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fields import SPEC, four_cells, generator, in_cells, in_world, lively, rays_across
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.fields import initial_parameters
from mclnf_fast.render import Cells, Rays, Rendered, RenderSettings, render_fused, render_modules
from mclnf_fast.shading import Color

VIEWED = mf.FieldSpec(6, 4, 16, 2, activation="tanh")
GRID = mf.FieldSpec(3, 4, 16, 1, encoding=mf.HashGrid(2, 2, 6, base=3, growth=2.0))


Scene = tuple[tuple[Tensor, ...], mf.FieldSpec, Rays, Cells]


def scene(spec: mf.FieldSpec, count: int = 24) -> Scene:
    cells = four_cells()
    origins, directions = rays_across(cells, count)
    if spec.grids:
        params = tuple(4 * p for p in initial_parameters(spec, 4, torch.float32, generator=generator()))
    else:
        params = in_world(lively(spec), spec, cells)
    return params, spec, Rays(origins, directions, torch.tensor([0, 5, 5, 17, count])), cells


def worst(found: Rendered, wanted: Rendered) -> float:
    """Of colors and opacities, and of depths as a share of the largest."""
    scale = max(1.0, float(wanted.depth.abs().max()))
    return max(float((a - b).abs().max()) / s for a, b, s in zip(found, wanted, (1.0, 1.0, scale)))


@pytest.mark.parametrize("spec", [SPEC, VIEWED, GRID], ids=["position", "view", "grid"])
@pytest.mark.parametrize("background", [None, (0.2, 0.4, 0.9)], ids=["last behind", "background"])
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_the_pixels_of_render_modules(spec: mf.FieldSpec, background: Color | None, backend: str) -> None:
    settings = in_cells(11, background, spec, near=0.5, backend=backend)
    occupancy = torch.rand(3, 4, 5) > 0.3
    wanted = render_modules(*scene(spec), settings, occupancy)
    assert float(wanted.opacity.mean()) > 0.05
    assert worst(render_fused(*scene(spec), settings, occupancy), wanted) < 1e-6


def test_by_the_kernel(need: Callable[..., str]) -> None:
    need("render_rays", "triton")
    wanted = render_modules(*scene(VIEWED), in_cells(6, None, VIEWED))
    assert worst(render_fused(*scene(VIEWED), in_cells(6, None, VIEWED, backend="triton")), wanted) < 2e-5


def test_early_stop_and_half_weights() -> None:
    params, *rest = scene(SPEC)
    params[-1][:, 0] += 3.0
    wanted = render_fused(params, *rest, RenderSettings(20))
    stopped = render_fused(params, *rest, RenderSettings(20), early_stop_eps=0.1)
    assert 0 < float((wanted.opacity - stopped.opacity).max()) <= 0.1
    half = tuple(p.to(torch.bfloat16) for p in params)
    rounded = render_fused(half, *rest, RenderSettings(20))
    assert rounded.color.dtype == torch.float32
    assert 0 < worst(rounded, wanted) < 0.1


def test_no_ray_and_no_gradient() -> None:
    params, spec, rays, cells = scene(SPEC)
    params[0].requires_grad_()
    none = Rays(rays.origins[:0], rays.directions[:0], torch.zeros(5, dtype=torch.int64))
    out = render_fused(params, spec, none, cells, RenderSettings(4))
    assert out.color.shape == (0, 3)
    assert not out.color.requires_grad
