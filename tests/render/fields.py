"""Small fields and rays for the tests of rendering."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import places
import torch
from torch import Tensor

from mclnf_fast.fields import initial_parameters
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.render.cameras import Cameras, look_at
from mclnf_fast.shading import SCENE_SHADING, Color
from mclnf_fast.spec import FieldSpec

SPEC = FieldSpec(3, 4, 16, 2, activation="tanh")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_cells(
    samples_per_ray: int, background: Color | None = None, spec: FieldSpec = SPEC, **options: Any
) -> RenderSettings:
    """Settings of rays in cells, in front of a background (None: a ray's last sample), for fields of a spec."""
    behind = "last_sample" if background is None else background
    shading = replace(SCENE_SHADING, background=behind, view_directions=spec.in_dim == 6)
    return RenderSettings(samples_per_ray, shading=shading, **options)


def four_cells(margin: float = 1.15) -> Cells:
    """2 x 2 cells of unlike sides about (10, -4), heights 1 to 4."""
    x, y = (8.0, 10.0, 13.0), (-7.0, -4.0, -2.0)
    boxes = [[[x[i], y[j], 1.0], [x[i + 1], y[j + 1], 4.0]] for i in range(2) for j in range(2)]
    return Cells(torch.tensor(boxes), margin)


def one_cell_over(cells: Cells) -> Cells:
    """One cell, without a margin, that is the hull of `cells`."""
    return Cells(cells.hull()[None], 1.0)


def lively(spec: FieldSpec, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """One network [1, ...] with a density and colors that vary over its box."""
    params = [p * 1.5 for p in places.put(initial_parameters(spec, 1, dtype, generator=generator(seed)))]
    params[-1] = params[-1] + torch.tensor([0.3, 0.2, -0.2, 0.1], dtype=dtype)
    return tuple(params)


def in_world(params: tuple[Tensor, ...], spec: FieldSpec, cells: Cells) -> tuple[Tensor, ...]:
    """A bank whose modules all are one function of *scene* coordinates.

    `params` is a network of scene coordinates p (first three inputs). A module sees x = (p - center) / half of its
    grown cell, so its first layer is W' = half * W and b' = b + center W: every module is the same function of p.
    """
    layers = len(spec.layer_shapes)
    out = [p.expand(len(cells), *p.shape[1:]).clone() for p in params]
    centers, halves = cells.centers.to(out[0]), cells.halves.to(out[0])
    out[0][:, :3] = params[0][:, :3] * halves[:, :, None]
    out[layers] = params[layers] + torch.einsum("mi,io->mo", centers, params[0][0, :3])
    return tuple(out)


def rays_across(cells: Cells, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rays from points about the hull to points inside it; about half cross several cells."""
    g = generator(seed)
    hull = places.put(cells.hull())
    middle, size = hull.mean(0), hull[1] - hull[0]
    target = hull[0] + torch.rand(count, 3, generator=g) * size
    away = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    origins = middle + away * size.norm()
    return origins, torch.nn.functional.normalize(target - origins, dim=-1)


def some_images(views: int, width: int, height: int, seed: int = 0) -> tuple[Tensor, Cameras]:
    """Random pictures and cameras that look at the box [-1, 1]^3 from outside it."""
    g = generator(seed)
    position = torch.nn.functional.normalize(torch.randn(views, 3, generator=g), dim=-1) * 2.5
    cameras = Cameras(
        look_at(position, torch.zeros(views, 3)), 1.2 * width, 1.2 * width, width / 2, height / 2, width, height
    )
    return torch.randint(0, 256, (views, height, width, 3), generator=g, dtype=torch.uint8), cameras
