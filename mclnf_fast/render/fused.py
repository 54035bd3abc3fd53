"""Looking at a bank: rays in, pixels out, by `ops.render_rays`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import split_params
from mclnf_fast.ops._constants import constant
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.volume import (
    UNIT_BOX,
    Rendered,
    RenderSettings,
    in_cells,
    render_modules,
)
from mclnf_fast.spec import FieldSpec


@torch.no_grad()
def render_fused(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    ray_offsets: Tensor,
    cells: Cells,
    settings: RenderSettings,
    occupancy: Tensor | None = None,
    early_stop_eps: float = 0.0,
) -> Rendered:
    """The pixels of `render_modules` without a gradient: on a GPU in one kernel that writes no sample to memory and
    that a CUDA graph can capture (with `cells` on that device), see `ops.render_rays`.

    Args:
        params: as `FieldBank.stacked`; weights may be float16 or bfloat16 beside float32 rays.
        early_stop_eps: in [0, 1). A ray ends where its transmittance has fallen below it. Fields with learned grids go
            op by op and do without.

    The others are those of `render_modules`; raises as `ops.render_rays`.
    """
    if spec.grids:
        return render_modules(params, spec, origins, directions, ray_offsets, cells, settings, occupancy)
    weights, biases, _ = split_params(params, spec)
    o, d = in_cells(origins, directions, ray_offsets, cells)
    background, unit = settings.background, cells.unit
    out = ops.render_rays(
        o,
        d,
        ray_offsets,
        weights,
        biases,
        spec,
        constant(UNIT_BOX, origins),
        occupancy,
        extra=torch.nn.functional.normalize(directions, dim=-1) if spec.in_dim == 6 else None,
        bins=settings.bins,
        near=settings.near / unit,
        far=settings.far / unit,
        background=None if background is None else constant(background, origins),
        last_behind=background is None,
        most_raw=settings.shading.max_raw_density,
        early_stop_eps=early_stop_eps,
        backend=settings.backend,
    )
    return Rendered(out.color, out.opacity, out.depth * unit)
