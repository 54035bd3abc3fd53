"""`mf.ops.render_rays` by the Triton kernel: on CUDA tensors, and on CPU tensors where Triton interprets."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops.bank_mlp import reference as bank
from mclnf_fast.ops.bank_mlp.triton import launch
from mclnf_fast.ops.bank_mlp.triton import table as bank_table
from mclnf_fast.ops.bank_mlp.triton.bank import precision, programs
from mclnf_fast.ops.render_rays.reference import Options, Pixels
from mclnf_fast.ops.render_rays.triton import table
from mclnf_fast.ops.render_rays.triton.kernel import render
from mclnf_fast.spec import ACTIVATIONS, FieldSpec

CHUNKS_A_PROGRAM = 4  # so that a program whose rays are short takes more of them


@functools.lru_cache(maxsize=64)
def architecture(device: torch.device) -> int:
    """Ten times the compute capability; Hopper's where Triton interprets."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def along_ray(spec: FieldSpec, extra: Tensor | None) -> tuple[launch.Network, Tensor | None] | None:
    """The network, and what it takes of a ray behind the position, with the spherical harmonics of that worked out;
    None where they are those of the position."""
    ints, floats = spec.packed
    head, parts, inputs = list(ints[:8]), list(ints[8:]), spec.in_dim
    for at in range(0, len(parts), 5):
        kind, start, dims, degree, _ = parts[at : at + 5]
        if kind != launch.SPHERICAL:
            continue
        if extra is None or start < 3:
            return None
        extra = torch.cat((extra, bank.spherical_harmonics(degree, extra[:, start - 3 : start - 3 + dims])), 1)
        parts[at : at + 5] = [0, inputs, degree * degree, 0, 0]
        inputs += degree * degree
    return launch.network([inputs, *head[1:], *parts], floats), extra


def render_rays(
    origins: Tensor,
    directions: Tensor,
    ray_offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    aabb: Tensor,
    occupancy: Tensor | None,
    extra: Tensor | None,
    background: Tensor | None,
    options: Options,
) -> Pixels | None:
    """Arguments as `mf.ops.render_rays`, checked; None where the kernel's registers do not hold the network."""
    if (split := along_ray(spec, extra)) is None:
        return None
    net, extra = split
    kind = bank_table.product_kind(weights[0].dtype, precision(weights[0].dtype) == "tf32")
    shape = table.render_shape(kind, net.widest, net.skips != 0, architecture(origins.device))
    if shape is None:
        return None
    rays, modules, device = origins.shape[0], weights[0].shape[0], origins.device
    # Where a module's rays end before R, or wrong offsets leave rays out, what stands behind is all that is seen.
    pixels = Pixels(origins.new_zeros(rays, net.outputs - 1), origins.new_zeros(rays), origins.new_zeros(rays))
    if rays == 0 or modules == 0:
        return pixels
    cells = None if occupancy is None else (occupancy > 0).contiguous().view(torch.uint8)
    levels, x, y, z = (1, 0, 0, 0) if cells is None else (1, *cells.shape)[-4:]
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with guard:
        working = programs(device, shape.warps)
        per_chunk = max(shape.rows, -(-rays // (working * CHUNKS_A_PROGRAM)))
        most = launch.most_tiles(rays, modules, per_chunk)
        render[launch.grid(most, working)](
            origins.contiguous(),
            directions.contiguous(),
            origins if extra is None else extra.contiguous(),
            aabb.contiguous(),
            origins if cells is None else cells,
            origins if background is None else background.contiguous(),
            *pixels,
            ray_offsets.contiguous(),
            launch.starts(ray_offsets.diff(), per_chunk),
            launch.column_table(net, device),
            tuple(t.contiguous() for t in weights),
            tuple(t.contiguous() for t in biases),
            float(options.near),
            float(options.far),
            float(options.step or 0),
            float(options.most_raw),
            -math.log(options.early_stop_eps) if options.early_stop_eps > 0 else math.inf,
            modules,
            per_chunk,
            STEPS=launch.halvings(modules),
            BINS=options.bins or 0,
            LEVELS=levels,
            X=x,
            Y=y,
            Z=z,
            BACKGROUND=0 if background is None else background.dim(),
            LAST=options.last_behind,
            DENSITY=ACTIVATIONS.index(options.density),
            COLOR=ACTIVATIONS.index(options.color),
            ROWS=shape.rows,
            PRECISION=precision(weights[0].dtype),
            **net.constants(),
            num_warps=shape.warps,
            num_stages=shape.stages,
        )
    return pixels
