"""The definition of rendering rays: march, bank and composite one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.ops._layers import activate
from mclnf_fast.ops.bank_mlp import bank_mlp
from mclnf_fast.ops.composite import composite
from mclnf_fast.ops.march import march_rays
from mclnf_fast.spec import FieldSpec


class Pixels(NamedTuple):
    """The pixels of rays.

    Attributes:
        color: [R, C], the background included.
        opacity: [R], the sum of the samples' weights.
        depth: [R], the sum of weight times middle of the sample, in units of t.
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor


class Options(NamedTuple):
    """The arguments of `mclnf_fast.ops.render_rays` that are no tensors."""

    bins: int | None
    step: float | None
    near: float
    far: float
    last_behind: bool
    density: str
    color: str
    max_raw_density: float
    early_stop_eps: float


def render_rays(
    origins: Tensor,
    directions: Tensor,
    ray_offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    aabb: Tensor,
    occupancy: Tensor | None,
    view_directions: Tensor | None,
    background: Tensor | None,
    options: Options,
    backend: str,
) -> Pixels:
    """Render as `mclnf_fast.ops.render_rays` by the ops that it consists of, each by `backend`."""
    marched = march_rays(
        origins,
        directions,
        occupancy,
        aabb,
        bins=options.bins,
        step=options.step,
        near=options.near,
        far=options.far,
        backend=backend,
    )
    ids, segments = marched.ray_ids, marched.packed_info
    middle = (marched.t_starts + marched.t_ends) * 0.5
    x = torch.addcmul(origins.index_select(0, ids), directions.index_select(0, ids), middle[:, None])
    if view_directions is not None:
        x = torch.cat((x, view_directions.index_select(0, ids)), 1)
    first = torch.cat((segments[:, 0], segments.new_full((1,), x.shape[0])))
    # Coordinates keep the rays' precision: in a half type, neighboring samples would be the same point.
    layers = [t.to(x.dtype) for t in (*weights, *biases)]
    raw = bank_mlp(x, first[ray_offsets], layers[: len(weights)], layers[len(weights) :], spec, backend)
    solid = activate(options.density, raw[:, 0].clamp(max=options.max_raw_density), spec.w0)
    colors = activate(options.color, raw, spec.w0)[:, 1:]
    end = middle.new_zeros(origins.shape[0])
    if options.last_behind and x.shape[0]:
        last, hit = (segments.sum(1) - 1).clamp(min=0), segments[:, 1] > 0
        background = torch.where(hit[:, None], colors.index_select(0, last), 0.0)
        end = torch.where(hit, marched.t_ends.index_select(0, last), 0.0)
    out = composite(
        solid,
        colors,
        marched.t_starts,
        marched.t_ends,
        segments,
        background,
        early_stop_eps=options.early_stop_eps,
        backend=backend,
    )
    return Pixels(out.color, out.opacity, out.depth + (1 - out.opacity) * end)
