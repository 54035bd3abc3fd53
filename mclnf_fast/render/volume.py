"""Volume rendering of a bank: rays in, pixels out (NeRF, arXiv 2003.08934, eq. 3).

`render_modules` and `render_objects` are differentiable; `render_fused` gives the pixels of the first without a
gradient. Whole pictures, and scenes of several cells, are rendered in `render.views`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import evaluate_params, split_params
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.losses import check_field
from mclnf_fast.render.samples import (
    UNIT_BOX,
    Rays,
    RaySamples,
    sample_between,
    sample_in_cells,
    to_cells,
)
from mclnf_fast.render.settings import RenderSettings, check_convention
from mclnf_fast.spec import FieldSpec


class Rendered(NamedTuple):
    """Pixels.

    Attributes:
        color: [R, 3] in 0 ... 1, the background included.
        opacity: [R] in 0 ... 1.
        depth: [R], mean distance along the ray, scene units.
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor


def evaluate_samples(
    params: Sequence[Tensor], spec: FieldSpec, samples: RaySamples, settings: RenderSettings
) -> Tensor:
    """Return the raw outputs [N, 4] of the field at the samples; `params` as `FieldBank.stacked`.

    Raises:
        ValueError: the field does not fit the settings' shading.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec, settings = FieldSpec(3, 4, width=8, hidden_layers=1), RenderSettings.between(samples_per_ray=8)
    >>> samples, _ = sample_between(torch.zeros(2, 5, 3), torch.ones(2, 5, 3), settings)
    >>> evaluate_samples(initial_parameters(spec, 2), spec, samples, settings).shape
    torch.Size([80, 4])
    """
    check_field(spec, settings)
    return evaluate_params(params, spec, samples.x, samples.offsets, settings.backend)


def composite_samples(raw: Tensor, samples: RaySamples, settings: RenderSettings) -> Rendered:
    """Return the pixels of raw outputs [N, 4] at the samples of rays; depth in units of `Cells.unit`.

    >>> cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
    >>> rays = Rays.through_one_module(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    >>> settings = RenderSettings(samples_per_ray=4)
    >>> samples = sample_in_cells(rays, cells, settings)
    >>> composite_samples(torch.zeros(4, 4), samples, settings).color.tolist()
    [[0.5, 0.5, 0.5]]
    """
    density, color = settings.shading.density_and_color(raw)
    return composite(density, color, samples.t_starts, samples.t_ends, samples.packed_info, settings)


def composite(
    density: Tensor, color: Tensor, t_starts: Tensor, t_ends: Tensor, packed_info: Tensor, settings: RenderSettings
) -> Rendered:
    """Return the pixels of rays whose samples have density [N] and color [N, 3], in front of the settings' background.

    t_starts, t_ends and packed_info are those of `RaySamples`; depth is in their units.

    >>> one_ray = torch.tensor([[0, 1]])
    >>> args = torch.tensor([0.0]), torch.tensor([[0.2, 0.4, 0.6]]), torch.zeros(1), torch.ones(1), one_ray
    >>> composite(*args, RenderSettings()).opacity.tolist()  # the last sample stands behind, which is not opacity
    [0.0]
    """
    fixed = settings.shading.background_color
    if fixed is not None:
        background = ops.constant(fixed, color)
        out = ops.composite(density, color, t_starts, t_ends, packed_info, background, backend=settings.backend)
        return Rendered(out.color, out.opacity, out.depth)
    missed = ops.constant(settings.shading.missed, color)
    if color.shape[0] == 0:
        background = missed.expand(packed_info.shape[0], -1).contiguous()
        out = ops.composite(density, color, t_starts, t_ends, packed_info, background, backend=settings.backend)
        return Rendered(out.color, out.opacity, out.depth)
    # The depth of what is behind is the end of the last sample: a hole in the ground would else be at the camera.
    last = (packed_info.sum(1) - 1).clamp(min=0)
    hit = (packed_info[:, 1] > 0)[:, None]
    background = torch.where(hit, color.index_select(0, last), missed)
    out = ops.composite(density, color, t_starts, t_ends, packed_info, background, backend=settings.backend)
    end = torch.where(hit[:, 0], t_ends[last], t_ends.new_zeros(()))
    return Rendered(out.color, out.opacity, out.depth + (1 - out.opacity) * end)


def render_modules(
    params: Sequence[Tensor],
    spec: FieldSpec,
    rays: Rays,
    cells: Cells,
    settings: RenderSettings,
    occupancy: Tensor | None = None,
    seed: int | None = None,
) -> Rendered:
    """Return the pixels of rays, each through the one module that it is grouped under.

    Differentiable in `params` to the second order: for training, meta-batches, and a task's own views.

    Args:
        params: tensors [M, ...], as `FieldBank.stacked`.
        spec: of 3 coordinates, or 6 with `settings.shading.view_directions`, and 4 outputs.
        rays, cells, settings, occupancy, seed: as `sample_in_cells` takes them.

    Raises:
        ValueError: the field or the settings' convention does not fit; and as `ops.march_rays`.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec, cells = FieldSpec(3, 4, width=8, hidden_layers=1), Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
    >>> rays = Rays.through_one_module(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    >>> render_modules(initial_parameters(spec, 1), spec, rays, cells, RenderSettings(samples_per_ray=4)).color.shape
    torch.Size([1, 3])
    """
    samples = sample_in_cells(rays, cells, settings, occupancy, seed)
    out = composite_samples(evaluate_samples(params, spec, samples, settings), samples, settings)
    return Rendered(out.color, out.opacity, out.depth * cells.unit)


@torch.no_grad()
def render_fused(
    params: Sequence[Tensor],
    spec: FieldSpec,
    rays: Rays,
    cells: Cells,
    settings: RenderSettings,
    occupancy: Tensor | None = None,
    early_stop_eps: float = 0.0,
) -> Rendered:
    """Return the pixels of `render_modules` without a gradient.

    On a GPU that is one kernel (`ops.render_rays`) that writes no sample to memory and that a CUDA graph can capture
    (with `cells` on that device). Fields with learned grids, or with their density in the last output, go op by op.

    Args:
        params: tensors [M, ...], as `FieldBank.stacked`; weights may be float16 or bfloat16 beside float32 rays.
        spec, rays, cells, settings, occupancy: as `render_modules` takes them.
        early_stop_eps: in [0, 1). A ray ends once its transmittance has fallen below it (not op by op).

    Raises:
        ValueError: as `render_modules`, and `ops.render_rays`.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec, cells = FieldSpec(3, 4, width=8, hidden_layers=1), Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
    >>> rays = Rays.through_one_module(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    >>> render_fused(initial_parameters(spec, 1), spec, rays, cells, RenderSettings(samples_per_ray=4)).color.shape
    torch.Size([1, 3])
    """
    shading = settings.shading
    if spec.grids or not shading.density_first:
        return render_modules(params, spec, rays, cells, settings, occupancy)
    check_convention(settings, "cell")
    check_field(spec, settings)
    weights, biases, _ = split_params(params, spec)
    # Directions of the cells for the march, of the scene for the field: cells may be stretched.
    origins, directions = to_cells(rays, cells)
    behind = shading.background_color
    out = ops.render_rays(
        origins,
        directions,
        rays.offsets,
        weights,
        biases,
        spec,
        ops.constant(UNIT_BOX, origins),
        occupancy,
        view_directions=torch.nn.functional.normalize(rays.directions, dim=-1) if shading.view_directions else None,
        bins=settings.samples_per_ray,
        near=settings.near / cells.unit,
        far=settings.far / cells.unit,
        background=None if behind is None else ops.constant(behind, origins),
        last_behind=behind is None,
        density=shading.density_activation,
        color=shading.color_activation,
        # The op clamps before every activation, a shading before `exp` alone.
        max_raw_density=shading.max_raw_density if shading.density_activation == "exp" else float("inf"),
        early_stop_eps=early_stop_eps,
        backend=settings.backend,
    )
    color = out.color
    if behind is None and any(shading.missed):
        # The op leaves a ray without samples black; the end of any sample lies in front of its camera.
        color = torch.where((out.depth > 0)[:, None], color, ops.constant(shading.missed, color))
    return Rendered(color, out.opacity, out.depth * cells.unit)


def render_objects(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    settings: RenderSettings,
    noise: Tensor | None = None,
) -> Rendered:
    """Return the pixels of rays, each through the module of its object; T objects side by side are one bank.

        alpha_i = 1 - exp(-density_i (t_(i+1) - t_i)),  w_i = alpha_i prod_(j<i) (1 - alpha_j),
        pixel   = sum w_i color_i + (1 - sum w_i) background

    Differentiable in `params`. Under the convention `blog` the last spacing is endless, which makes its alpha a switch:
    0 without density, 1 with any; its derivative, 0 but within 1e-8 of the switch, is taken as 0 there too.

    Args:
        params: tensors [T, ...], as `FieldBank.stacked`; `spec` as `render_modules` takes it.
        origins, directions, settings, noise: as `sample_between` takes them.

    Returns:
        Rendered(color [T, R, 3], opacity [T, R], depth [T, R]: the mean t; `settings.far` if a ray meets nothing).

    Raises:
        ValueError: a shape does not fit, or the settings have the convention `cell`.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec, settings = FieldSpec(3, 4, width=8, hidden_layers=1), RenderSettings.between(samples_per_ray=8)
    >>> o, d = torch.tensor([0.0, 0.0, 4.0]).expand(2, 5, 3), torch.tensor([0.0, 0.0, -1.0]).expand(2, 5, 3)
    >>> render_objects(initial_parameters(spec, 2), spec, o, d, settings).color.shape
    torch.Size([2, 5, 3])
    """
    samples, t = sample_between(origins, directions, settings, noise)
    raw = evaluate_samples(params, spec, samples, settings).reshape(*t.shape, 4)
    density, color = settings.shading.density_and_color(raw)
    if settings.shading.detach_last_density:
        density = torch.cat((density[:, :-1], density[:, -1:].detach()), 1)
    fixed = settings.shading.background_color
    background = color[:, -1] if fixed is None else ops.constant(fixed, color)
    # Not `composite`: with as many samples in every ray the op takes them as a matrix, and needs no index.
    deltas = samples.t_ends.reshape(t.shape)
    out = ops.composite(
        density, color, torch.zeros_like(deltas), deltas, background=background, backend=settings.backend
    )
    depth = (out.weights * t).sum(1) + (1 - out.opacity) * settings.far
    return Rendered(*(p.reshape(*origins.shape[:2], *p.shape[1:]) for p in (out.color, out.opacity, depth)))


@torch.no_grad()
def render_pixels(
    params: Sequence[Tensor], spec: FieldSpec, origins: Tensor, directions: Tensor, settings: RenderSettings
) -> Tensor:
    """Return the colors [T, R, 3] in 0 ... 1 of any number of rays [T, R, 3], `settings.chunk` of them at a time.

    Arguments and errors as `render_objects`, without noise.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec, settings = FieldSpec(3, 4, width=8, hidden_layers=1), RenderSettings.between(samples_per_ray=8)
    >>> o, d = torch.tensor([0.0, 0.0, 4.0]).expand(2, 5, 3), torch.tensor([0.0, 0.0, -1.0]).expand(2, 5, 3)
    >>> render_pixels(initial_parameters(spec, 2), spec, o, d, settings).shape
    torch.Size([2, 5, 3])
    """
    rays = max(1, settings.chunk // max(1, origins.shape[0]))
    pieces = [
        render_objects(params, spec, o, d, settings).color
        for o, d in zip(origins.split(rays, 1), directions.split(rays, 1))
    ]
    return torch.cat(pieces, 1).clamp(0, 1) if pieces else origins.new_zeros(origins.shape)


def evaluate_points(params: Sequence[Tensor], spec: FieldSpec, x: Tensor, settings: RenderSettings) -> Tensor:
    """Return color and density [T, n, 4] of T objects at points [T, n, 3] of their scenes.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec = FieldSpec(3, 4, width=8, hidden_layers=1)
    >>> evaluate_points(initial_parameters(spec, 2), spec, torch.rand(2, 5, 3), RenderSettings.between()).shape
    torch.Size([2, 5, 4])
    """
    offsets = ops.offsets_of_equal_shares(x.shape[0], x.shape[1], x.device)
    raw = evaluate_params(params, spec, x.flatten(0, 1), offsets, settings.backend).reshape(*x.shape[:2], 4)
    density, color = settings.shading.density_and_color(raw)
    return torch.cat((color, density[..., None]), -1)
