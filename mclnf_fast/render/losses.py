"""The loss of rays: the squared error of the pixels that a bank's samples are composited to.

Every system that learns from pixels gets its loss here, whichever way its rays were cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import split_params
from mclnf_fast.fields.functional import encode_grids
from mclnf_fast.render.samples import RaySamples
from mclnf_fast.render.settings import RenderSettings
from mclnf_fast.spec import FieldSpec


def ray_losses(
    params: Sequence[Tensor],
    spec: FieldSpec,
    samples: RaySamples,
    colors: Tensor,
    settings: RenderSettings,
    ray_weight: Tensor | None = None,
) -> Tensor:
    """Return the loss of every module: the weighted mean squared color error of its rays.

        L_m = mean over the rays r of module m and over channels of  w_r (pixel_r - colors_r)^2

    A pixel is composited from the ray's samples in front of `settings.shading.background` (`Shading` has the formula).
    The same as compositing and then taking the error, and faster to learn from: `ops.bank_ray_mse` takes a few rays at
    a time through the network, the pixels and back, so that no activation is written to memory.

    Args:
        params: tensors [M, ...], as `FieldBank.stacked`.
        spec: of 3 coordinates, or 6 with `settings.shading.view_directions`, and 4 outputs.
        samples: of R rays grouped by module, of `sample_in_cells` or `sample_between`.
        colors: [R, 3], or [T, R / T, 3], in 0 ... 1.
        settings: of the shading and the backend.
        ray_weight: [R]; None: ones. The mean is over rays and channels, not over weights.

    Returns:
        [M]; differentiable in `params` twice. If you differentiate twice, compositing (`render_modules`) is faster.

    Raises:
        ValueError: a shape does not fit; and as `ops.bank_ray_mse`.

    Example, with another background than the one that the field was made for:
        >>> import torch
        >>> from dataclasses import replace
        >>> from mclnf_fast import FieldSpec
        >>> from mclnf_fast.fields import initial_parameters
        >>> from mclnf_fast.render import RenderSettings, ray_losses, sample_between
        >>> spec, settings = FieldSpec(3, 4, width=8, hidden_layers=1), RenderSettings.between(samples_per_ray=8)
        >>> params = initial_parameters(spec, 2, generator=torch.Generator().manual_seed(0))
        >>> settings = replace(settings, shading=replace(settings.shading, background=(0.5, 0.7, 1.0)))
        >>> samples, _ = sample_between(torch.zeros(2, 5, 3), torch.ones(2, 5, 3), settings)
        >>> ray_losses(params, spec, samples, torch.rand(2, 5, 3), settings).shape
        torch.Size([2])
    """
    check_field(spec, settings)
    rays = samples.packed_info.shape[0]
    if colors.shape[-1:] != (3,) or colors.numel() != 3 * rays:
        raise ValueError(f"colors must be [R, 3] or [T, R / T, 3] of {rays} rays, got {list(colors.shape)}")
    target, missed = colors.reshape(-1, 3), settings.shading.missed
    if settings.shading.background == "last_sample" and any(missed):
        # The op has black for a ray without samples: of a target that is as much darker the error is the same.
        empty = samples.packed_info[:, 1:] == 0
        target = torch.where(empty, target - ops.constant(missed, target), target)
    missed_error = None
    if settings.shading.background == "last_sample" and samples.per_ray is not None:
        # The op would put the color of an empty sample behind a ray that misses its cell: what such a ray adds to the
        # loss depends on no parameter.
        hit = samples.packed_info[:, 1] > 0
        weight = torch.ones_like(target[:, 0]) if ray_weight is None else ray_weight
        missed_error = torch.where(hit, 0.0, weight * target.square().mean(-1))
        ray_weight = torch.where(hit, weight, 0.0)
    weights, biases, tables = split_params(params, spec)
    x = samples.x
    if tables:  # the compiled loss takes features, not grids
        x = encode_grids(x, samples.offsets, tables, spec, settings.backend)
    losses = ops.bank_ray_mse(
        x,
        samples.boundaries,
        samples.ray_offsets,
        weights,
        biases,
        samples.deltas,
        target,
        spec.mlp,
        settings.shading,
        ray_weight=ray_weight,
        backend=settings.backend,
    )
    return losses if missed_error is None else losses + _module_means(missed_error, samples.ray_offsets)


def _module_means(values: Tensor, ray_offsets: Tensor) -> Tensor:
    """Return the mean of the values [R] of every module's rays, 0 without any: [M]."""
    counts = ray_offsets.diff()
    modules = torch.arange(len(counts), device=values.device)
    owner = torch.repeat_interleave(modules, counts, output_size=len(values))
    return ops.segment_sum(values, owner, len(counts)) / counts.clamp(min=1)


def check_field(spec: FieldSpec, settings: RenderSettings) -> None:
    """Raise ValueError if a field does not take and give what the settings' shading needs.

    >>> check_field(FieldSpec(3, 4), RenderSettings())
    """
    coordinates = 6 if settings.shading.view_directions else 3
    if spec.in_dim != coordinates or spec.out_dim != 4:
        raise ValueError(
            f"spec must have in_dim {coordinates} and out_dim 4 (shading.view_directions is "
            f"{settings.shading.view_directions}), got {spec.in_dim} and {spec.out_dim}"
        )
