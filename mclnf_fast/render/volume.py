"""Volume rendering of a bank: rays in, pixels out.

A radiance field has 4 outputs a point: a raw density and three raw colours. Density is `exp` (in units of the cells'
`unit`), colour a sigmoid; a ray is composited front to back (NeRF, arXiv 2003.08934, eq. 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import evaluate_params, split_params
from mclnf_fast.fields.functional import encode_grids
from mclnf_fast.ops._constants import constant
from mclnf_fast.ops._sums import added
from mclnf_fast.render.cells import Cells
from mclnf_fast.shading import SCENE_SHADING, Shading
from mclnf_fast.spec import FieldSpec

UNIT_BOX = ((-1.0,) * 3, (1.0,) * 3)


@dataclass(frozen=True)
class RenderSettings:
    """How rays are cut and shaded.

    bins: equal bins between a ray's entry and exit of a cell. background: colour behind everything, [3] in 0 ... 1, or
    None: what a ray sees last (its last sample) also stands behind everything, as the ground does below a city; black
    for a ray without a sample. near, far: along the ray, scene units. chunk: rays at a time where no gradient is
    needed.
    """

    bins: int = 48
    background: tuple[float, float, float] | None = None
    near: float = 0.0
    far: float = float("inf")
    chunk: int = 8192
    backend: str = "auto"

    @property
    def shading(self) -> Shading:
        """How the field's outputs become pixels."""
        return SCENE_SHADING if self.background is None else replace(SCENE_SHADING, background=self.background)


class Points(NamedTuple):
    """Sample points of rays: local coordinates [N, in_dim] grouped by module, offsets [M + 1], the rays they lie on
    (`ray_ids` [N], `packed_info` [R, 2]) and their intervals in units of the cells (t_starts, t_ends [N])."""

    x: Tensor
    offsets: Tensor
    ray_ids: Tensor
    packed_info: Tensor
    t_starts: Tensor
    t_ends: Tensor


class Rendered(NamedTuple):
    """color [R, 3], opacity [R], depth [R] in scene units."""

    color: Tensor
    opacity: Tensor
    depth: Tensor


def _along(origins: Tensor, directions: Tensor, ray_ids: Tensor, t: Tensor) -> Tensor:
    """The points [N, 3] at t [N] along the rays `ray_ids` [N] of origins, directions [R, 3]."""
    return torch.addcmul(origins.index_select(0, ray_ids), directions.index_select(0, ray_ids), t[:, None])


def with_directions(x: Tensor, directions: Tensor, spec: FieldSpec) -> Tensor:
    """Appends the viewing direction [N, 3] where the field takes 6 coordinates."""
    return torch.cat((x, torch.nn.functional.normalize(directions, dim=-1)), -1) if spec.in_dim == 6 else x


def in_cells(origins: Tensor, directions: Tensor, ray_offsets: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """Rays [R, 3], grouped by module, in the coordinates of their grown cells, the box [-1, 1]^3: t then counts in
    units of the cells."""
    modules = torch.arange(len(cells), device=origins.device)
    owner = torch.repeat_interleave(modules, ray_offsets.diff(), output_size=origins.shape[0])
    # index_select throughout: advanced indexing by rows takes four times as long.
    centers = cells.centers.to(origins).index_select(0, owner)
    halves = cells.halves.to(origins).index_select(0, owner)
    return (origins - centers) / halves, directions * (cells.unit / halves)


def sample_in_cells(
    origins: Tensor,
    directions: Tensor,
    ray_offsets: Tensor,
    cells: Cells,
    settings: RenderSettings,
    spec: FieldSpec,
    occupancy: Tensor | None = None,
    seed: int | None = None,
) -> Points:
    """Cuts every ray into bins within the grown cell of the module that it is grouped under.

    All cells are the box [-1, 1]^3 in their own coordinates, so that one march serves every module of the bank.

    Args:
        origins, directions: [R, 3] in scene units, grouped by module; directions of length 1.
        ray_offsets: int64 [M + 1].
        occupancy: bool grid of the unit box, the same for every module, or None.
        seed: of the jitter of the bins' borders; None: no jitter.
    """
    o, d = in_cells(origins, directions, ray_offsets, cells)
    unit = cells.unit
    marched = ops.march_rays(
        o,
        d,
        occupancy,
        constant(UNIT_BOX, origins),
        bins=settings.bins,
        near=settings.near / unit,
        far=settings.far / unit,
        stratified=seed is not None,
        seed=seed or 0,
        backend=settings.backend,
    )
    middle = (marched.t_starts + marched.t_ends) * 0.5
    x = _along(o, d, marched.ray_ids, middle)
    if spec.in_dim == 6:
        x = with_directions(x, directions.index_select(0, marched.ray_ids), spec)
    starts = torch.cat((marched.packed_info[:, 0], marched.packed_info.new_tensor([x.shape[0]])))
    return Points(x, starts[ray_offsets], marched.ray_ids, marched.packed_info, marched.t_starts, marched.t_ends)


def evaluate(params: Sequence[Tensor], spec: FieldSpec, points: Points, settings: RenderSettings) -> Tensor:
    """Raw field values [N, 4] at the points; `params` as `FieldBank.stacked`."""
    return evaluate_params(params, spec, points.x, points.offsets, settings.backend)


def composite_points(raw: Tensor, points: Points, settings: RenderSettings) -> Rendered:
    """raw [N, 4] -> pixels; depth in units of the cells."""
    return _composite(
        *settings.shading.density_and_color(raw), points.t_starts, points.t_ends, points.packed_info, settings
    )


def _composite(
    density: Tensor, color: Tensor, t_starts: Tensor, t_ends: Tensor, packed_info: Tensor, settings: RenderSettings
) -> Rendered:
    last, behind = None, settings.shading.background_color
    if behind is not None:
        background = constant(behind, color)
    elif color.shape[0] == 0:
        background = color.new_zeros(packed_info.shape[0], color.shape[1])
    else:
        last = (packed_info.sum(1) - 1).clamp(min=0)
        hit = (packed_info[:, 1] > 0)[:, None]
        background = torch.where(hit, color.index_select(0, last), color.new_zeros(()))
    out = ops.composite(density, color, t_starts, t_ends, packed_info, background, backend=settings.backend)
    if last is None:
        return Rendered(out.color, out.opacity, out.depth)
    end = torch.where(hit[:, 0], t_ends[last], t_ends.new_zeros(()))
    return Rendered(out.color, out.opacity, out.depth + (1 - out.opacity) * end)


def module_losses(
    params: Sequence[Tensor],
    spec: FieldSpec,
    points: Points,
    ray_offsets: Tensor,
    colors: Tensor,
    settings: RenderSettings,
    ray_weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error [M] of the pixels of each module's rays against colors [R, 3], over rays and channels, each
    ray times its weight [R].

    The same as of `composite_points`, and faster where it is learned from: by `ops.bank_ray_mse`.

    Args:
        points: of rays grouped by module, as `sample_in_cells` gives them; ray_offsets int64 [M + 1].
    """
    weights, biases, tables = split_params(params, spec)
    x = encode_grids(points.x, points.offsets, tables, spec, settings.backend) if tables else points.x
    return ops.bank_ray_mse(
        x,
        torch.cat((points.packed_info[:, 0], points.packed_info.new_tensor([x.shape[0]]))),
        ray_offsets,
        weights,
        biases,
        points.t_ends - points.t_starts,
        colors,
        spec.mlp,
        settings.shading,
        ray_weight=ray_weight,
        backend=settings.backend,
    )


def render_modules(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    ray_offsets: Tensor,
    cells: Cells,
    settings: RenderSettings,
    occupancy: Tensor | None = None,
    seed: int | None = None,
) -> Rendered:
    """Every ray through the one module that it is grouped under: training, meta-batches, and a task's own views.

    Differentiable in `params`, to the second order. Arguments as `sample_in_cells`.
    """
    points = sample_in_cells(origins, directions, ray_offsets, cells, settings, spec, occupancy, seed)
    out = composite_points(evaluate(params, spec, points, settings), points, settings)
    return Rendered(out.color, out.opacity, out.depth * cells.unit)


@torch.no_grad()
def render_scene(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    cells: Cells,
    settings: RenderSettings,
) -> Rendered:
    """Every ray through all modules that it crosses, blended where grown cells overlap (`Cells.owners`).

    The ray is cut into bins as long as those that cross one cell, over the hull of all cells; each bin's middle is
    evaluated by the module, or modules, whose grown cell holds it. No gradient: this is for looking at a whole scene.

    Args:
        origins, directions: [R, 3] in scene units, in any order.
    """
    pieces = [
        _scene_chunk(params, spec, o, d, cells, settings)
        for o, d in zip(origins.split(settings.chunk), directions.split(settings.chunk))
    ]
    if not pieces:
        return Rendered(origins.new_zeros(0, 3), origins.new_zeros(0), origins.new_zeros(0))
    return Rendered(*(torch.cat(parts) for parts in zip(*pieces)))


def _scene_chunk(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    cells: Cells,
    settings: RenderSettings,
) -> Rendered:
    unit, hull = cells.unit, cells.hull().to(origins)
    length = float((hull[1] - hull[0]).norm()) / unit
    cell = float((cells.grown[:, 1] - cells.grown[:, 0]).norm(dim=-1).mean()) / unit
    bins = max(settings.bins, round(settings.bins * length / cell))
    marched = ops.march_rays(
        origins / unit,
        directions,
        None,
        hull / unit,
        bins=bins,
        near=settings.near / unit,
        far=settings.far / unit,
        backend=settings.backend,
    )
    middle = (marched.t_starts + marched.t_ends) * (0.5 * unit)
    x = _along(origins, directions, marched.ray_ids, middle)
    rows, modules, shares = cells.owners(x)
    local = (x[rows] - cells.centers.to(x)[modules]) / cells.halves.to(x)[modules]
    local = with_directions(local, directions[marched.ray_ids[rows]], spec)
    offsets = torch.searchsorted(modules, torch.arange(len(cells) + 1, device=x.device))
    raw = evaluate_params(params, spec, local, offsets, settings.backend)
    density, color = settings.shading.density_and_color(raw)
    # A mixture's density is the mean of the densities, its colour their density-weighted mean.
    mixed = added(shares * density, rows, x.shape[0])
    emitted = added((shares * density)[:, None] * color, rows, x.shape[0])
    color = emitted / mixed.clamp(min=1e-12)[:, None]
    # Where cells leave a gap nothing stands, and the last thing that a ray sees is its last sample in a cell.
    owned = torch.zeros_like(mixed, dtype=torch.bool)
    owned[rows] = True
    counts = added(owned.to(torch.int64), marched.ray_ids, marched.packed_info.shape[0])
    packed_info = torch.stack((counts.cumsum(0) - counts, counts), 1)
    out = _composite(mixed[owned], color[owned], marched.t_starts[owned], marched.t_ends[owned], packed_info, settings)
    return Rendered(out.color, out.opacity, out.depth * unit)
