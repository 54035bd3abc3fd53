"""`mf.ops.render_rays` by the Triton kernel: on CUDA tensors, and on CPU tensors where Triton interprets."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._layers import spherical_harmonics
from mclnf_fast.ops.render_rays.reference import Options, Pixels
from mclnf_fast.ops.render_rays.triton.kernel import render
from mclnf_fast.ops.render_rays.triton.table import SceneConstants, render_shape
from mclnf_fast.ops.triton import launch
from mclnf_fast.ops.triton.bank import programs
from mclnf_fast.ops.triton.define import define
from mclnf_fast.ops.triton.precision import precision
from mclnf_fast.ops.triton.table import Shape, product_kind
from mclnf_fast.ops.triton.tiles import architecture
from mclnf_fast.packing import EncodingKind, EncodingPart, NetworkHeader, PackedNetwork
from mclnf_fast.spec import ACTIVATIONS, FieldSpec

CHUNKS_A_PROGRAM = 4  # so that a program whose rays are short takes more of them


def along_ray(spec: FieldSpec, view_directions: Tensor | None) -> tuple[list[int], list[float], Tensor | None] | None:
    """Return the packed network and the coordinates of a ray behind the position, with the spherical harmonics of these
    evaluated once per ray; None if the network takes those of the position."""
    header, w0, parts = PackedNetwork.unpack(*spec.packed)
    inputs, rest = spec.in_dim, []
    for part in parts:
        if part.kind != EncodingKind.SPHERICAL:
            rest.append(part)
            continue
        if view_directions is None or part.start < 3:
            return None
        first, features = part.start - 3, part.option**2
        view_directions = torch.cat(
            (view_directions, spherical_harmonics(part.option, view_directions[:, first : first + part.dims])), 1
        )
        rest.append(EncodingPart(EncodingKind.IDENTITY, inputs, features, 0, ()))
        inputs += features
    return *PackedNetwork(header._replace(in_dim=inputs), w0, tuple(rest)).pack(), view_directions


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
) -> Pixels | None:
    """Return the pixels, or None if the kernel's registers do not hold the network; checked arguments as
    `mf.ops.render_rays`."""
    if (split := along_ray(spec, view_directions)) is None:
        return None
    ints, floats, view_directions = split
    if not fits(tuple(ints), tuple(floats), weights[-1].dtype, weights[0].device):
        return None
    heads = [ACTIVATIONS.index(options.density), ACTIVATIONS.index(options.color)]
    eps = options.early_stop_eps
    numbers = [
        options.near,
        options.far,
        options.step or 0,
        options.max_raw_density,
        -math.log(eps) if eps > 0 else math.inf,
    ]
    tensors = (origins, directions, ray_offsets, list(weights), list(biases), aabb)
    more = (
        occupancy if occupancy is None or occupancy.dtype == torch.bool else occupancy > 0,
        view_directions,
        background,
        ints,
        floats,
        options.bins or 0,
    )
    return Pixels(*_op(*tensors, *more, options.last_behind, heads, [float(x) for x in numbers]))


def shape_of(net: launch.Network, dtype: torch.dtype, device: torch.device) -> Shape | None:
    """Return the tile of rays for a network with weights of this type; None if there is none."""
    kind = product_kind(dtype, precision(dtype) == "tf32")
    return render_shape(kind, net.widest, net.skips != 0, architecture(device))


def fits(ints: tuple[int, ...], floats: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether there is a tile; a trace takes the answer as a constant."""
    return shape_of(launch.network(ints, floats), dtype, device) is not None


vars(fits)["_dynamo_marked_constant"] = True  # as in _dispatch._chooser


def _launch(
    origins: Tensor,
    directions: Tensor,
    ray_offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    aabb: Tensor,
    occupancy: Tensor | None,
    view_directions: Tensor | None,
    background: Tensor | None,
    net_ints: list[int],
    net_floats: list[float],
    bins: int,
    last_behind: bool,
    heads: list[int],
    numbers: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    net = launch.network(net_ints, net_floats)
    shape = shape_of(net, weights[-1].dtype, weights[0].device)
    if shape is None:  # traced while TF32 was allowed
        raise RuntimeError(
            "render_rays: the network was compiled for TF32, which is no longer allowed; compile it again"
        )
    rays, modules, device = origins.shape[0], weights[0].shape[0], origins.device
    # A ray that wrong offsets give to no module stays black.
    pixels = origins.new_zeros(rays, net.outputs - 1), origins.new_zeros(rays), origins.new_zeros(rays)
    if rays == 0 or modules == 0:
        return pixels
    cells = None if occupancy is None else occupancy.contiguous().view(torch.uint8)
    levels, x, y, z = (1, 0, 0, 0) if cells is None else (1, *cells.shape)[-4:]
    scene = SceneConstants(
        bins=bins,
        levels=levels,
        x=x,
        y=y,
        z=z,
        background=0 if background is None else background.dim(),
        last=last_behind,
        density=heads[0],
        color=heads[1],
    )
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with guard:
        working = programs(device, shape.warps)
        per_chunk = max(shape.rows, -(-rays // (working * CHUNKS_A_PROGRAM)))
        render[launch.grid(launch.most_tiles(rays, modules, per_chunk), working)](
            (
                origins.contiguous(),
                directions.contiguous(),
                origins if view_directions is None else view_directions.contiguous(),
            ),
            (
                aabb.contiguous(),
                origins if cells is None else cells,
                origins if background is None else background.contiguous(),
            ),
            pixels,
            ray_offsets.contiguous(),
            launch.starts(ray_offsets.diff(), per_chunk),
            launch.column_table(net, device),
            tuple(t.contiguous() for t in weights),
            tuple(t.contiguous() for t in biases),
            tuple(numbers),
            modules,
            per_chunk,
            NET=net.constants(),
            SCENE=scene,
            ROWS=shape.rows,
            PRECISION=precision(weights[-1].dtype),
            num_warps=shape.warps,
            num_stages=shape.stages,
        )
    return pixels


_op = define("render_rays", _launch)


@_op.register_fake
def _fake(origins: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    rays, outputs = origins.shape[0], NetworkHeader.of(rest[8]).out_dim
    return origins.new_empty(rays, outputs - 1), origins.new_empty(rays), origins.new_empty(rays)
