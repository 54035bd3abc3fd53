"""Render pictures of a bank from cameras.

`render_views` is the way from a bank and a camera to a picture; `render_scene` takes rays in place of cameras.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import FieldBank, evaluate_params
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.lenses.views import blanked, check_depths, drawable
from mclnf_fast.render.losses import check_field
from mclnf_fast.render.samples import along_axis, points_along, with_view_directions
from mclnf_fast.render.settings import RenderSettings, check_convention
from mclnf_fast.render.volume import Rendered, composite, render_objects
from mclnf_fast.spec import FieldSpec


def view_rays(cameras: Cameras, view: int, settings: RenderSettings) -> tuple[Tensor, Tensor]:
    """Return origins and directions [H W, 3] of all pixels of a view, as the settings' convention has directions.

    They have length 1, or, under `learnit`, length 1 along the camera's axis; they are NaN where a lens shows nothing.

    >>> from mclnf_fast.render.cameras import look_at
    >>> cameras = Cameras(look_at(torch.tensor([[0.0, 0.0, 4.0]]), torch.zeros(1, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    >>> origins, directions = view_rays(cameras, 0, RenderSettings())
    >>> directions.shape
    torch.Size([64, 3])
    """
    origins, directions = cameras.view_rays(view)
    if settings.convention == "learnit":
        check_depths(cameras)
        directions = along_axis(directions, -cameras.c2w[view, :, 2])
    return origins, directions


@torch.no_grad()
def render_views(bank: FieldBank, cameras: Cameras, settings: RenderSettings, cells: Cells | None = None) -> Rendered:
    """Return the pictures of a bank that cameras take.

    Args:
        bank: M modules.
        cameras: V, in the scene units of the bank (a run's result has its scale beside it).
        settings: those that the bank was learned with; another `settings.shading.background` changes the background.
        cells: of the bank's modules, if the settings' convention is `cell`: all modules are one scene. None otherwise:
            every module is an object of its own.

    Returns:
        Rendered(color [V, H, W, 3] in 0 ... 1, opacity [V, H, W], depth [V, H, W] in scene units), on the bank's
        device; of M objects [M, V, H, W, ...]. Where a lens shows nothing, all three are 0.

    Raises:
        ValueError: cells are missing, given without need, or not as many as the bank's modules; the field does not fit
            the shading.

    Example, a scene of one cell from above:
        >>> import torch
        >>> from mclnf_fast import FieldBank, FieldSpec
        >>> from mclnf_fast.render import Cameras, Cells, RenderSettings, look_at, render_views
        >>> bank = FieldBank(FieldSpec(3, 4, width=8, hidden_layers=1), modules=1)
        >>> cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
        >>> camera = Cameras(look_at(torch.tensor([[0.0, 0.0, 4.0]]), torch.zeros(1, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
        >>> render_views(bank, camera, RenderSettings(samples_per_ray=8), cells).color.shape
        torch.Size([1, 8, 8, 3])
    """
    params, device = bank.stacked, bank.stacked[0].device
    scene = settings.convention == "cell"
    if scene != (cells is not None) or (cells is not None and len(cells) != len(bank)):
        wanted = f"{len(bank)}, one for each module" if scene else f"None under the convention {settings.convention}"
        raise ValueError(f"cells must be {wanted}, got {None if cells is None else len(cells)}")
    views = []
    for view in range(len(cameras)):
        origins, directions = view_rays(cameras, view, settings)
        directions, seen = drawable(cameras, view, directions)
        origins, directions = origins.to(device), directions.to(device)
        if cells is not None:
            rendered = render_scene(params, bank.spec, origins, directions, cells, settings)
        else:
            rendered = _render_each(params, bank.spec, origins, directions, settings)
        views.append(Rendered(*(blanked(t, seen, 0 if scene else 1) for t in rendered)))
    if not views:
        shape = (*(() if scene else (len(bank),)), 0, cameras.height, cameras.width)
        return Rendered(*(torch.empty(*shape, *rest, dtype=torch.float32, device=device) for rest in ((3,), (), ())))
    axis = 0 if scene else 1
    size = (cameras.height, cameras.width)
    return Rendered(*(torch.stack(pixels, axis).unflatten(axis + 1, size) for pixels in zip(*views)))


def _render_each(
    params: Sequence[Tensor], spec: FieldSpec, origins: Tensor, directions: Tensor, settings: RenderSettings
) -> Rendered:
    """Return the pixels [M, R, ...] that every module has along the same rays [R, 3], a chunk of rays at a time."""
    modules = params[0].shape[0]
    rays = max(1, settings.chunk // modules)
    pieces = [
        render_objects(params, spec, o.expand(modules, *o.shape), d.expand(modules, *d.shape), settings)
        for o, d in zip(origins.split(rays), directions.split(rays))
    ]
    color, opacity, depth = (torch.cat(parts, 1) for parts in zip(*pieces))
    return Rendered(color.clamp(0, 1), opacity, depth)  # a sum of weights may exceed 1 by a rounding


@torch.no_grad()
def render_scene(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    cells: Cells,
    settings: RenderSettings,
) -> Rendered:
    """Return the pixels of rays through all modules that they cross, blended where grown cells overlap.

    A ray is cut into intervals as long as those that cross one cell, over the hull of all cells; the middle of each is
    evaluated by the module, or modules, whose grown cell holds it (`Cells.owners`). No gradient: this is for rendering
    a whole scene.

    Args:
        params: tensors [M, ...], as `FieldBank.stacked`; `spec` as `render_modules` takes it.
        origins, directions: [R, 3] in scene units, in any order, directions of length 1.
        cells: M.
        settings: of the convention `cell`; `chunk` rays are in memory at a time.

    Raises:
        ValueError: the field or the settings' convention does not fit.

    >>> from mclnf_fast.fields import initial_parameters
    >>> cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3], [[1.0, -1.0, -1.0], [3.0, 1.0, 1.0]]]))
    >>> spec, origins, directions = FieldSpec(3, 4, 8, 1), torch.tensor([[4.0, 0, 0]]), torch.tensor([[-1.0, 0, 0]])
    >>> render_scene(initial_parameters(spec, 2), spec, origins, directions, cells, RenderSettings(4)).color.shape
    torch.Size([1, 3])
    """
    check_convention(settings, "cell")
    check_field(spec, settings)
    pieces = [
        _render_chunk(params, spec, o, d, cells, settings)
        for o, d in zip(origins.split(settings.chunk), directions.split(settings.chunk))
    ]
    if not pieces:
        return Rendered(origins.new_zeros(0, 3), origins.new_zeros(0), origins.new_zeros(0))
    return Rendered(*(torch.cat(parts) for parts in zip(*pieces)))


def _render_chunk(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    cells: Cells,
    settings: RenderSettings,
) -> Rendered:
    """Return the pixels of `render_scene` for rays that fit into memory at once."""
    unit, hull = cells.unit, cells.hull().to(origins)
    length = float((hull[1] - hull[0]).norm()) / unit
    cell = float((cells.grown[:, 1] - cells.grown[:, 0]).norm(dim=-1).mean()) / unit
    marched = ops.march_rays(
        origins / unit,
        directions,
        None,
        hull / unit,
        bins=max(settings.samples_per_ray, round(settings.samples_per_ray * length / cell)),
        near=settings.near / unit,
        far=settings.far / unit,
        backend=settings.backend,
    )
    middle = (marched.t_starts + marched.t_ends) * (0.5 * unit)
    x = points_along(origins, directions, marched.ray_ids, middle)
    rows, modules, shares = cells.owners(x)
    local = (x[rows] - cells.centers.to(x)[modules]) / cells.halves.to(x)[modules]
    local = with_view_directions(local, directions[marched.ray_ids[rows]], settings.shading)
    offsets = torch.searchsorted(modules, torch.arange(len(cells) + 1, device=x.device))
    raw = evaluate_params(params, spec, local, offsets, settings.backend)
    density, color = settings.shading.density_and_color(raw)
    # A mixture's density is the mean of the densities, its color their density-weighted mean.
    mixed = ops.segment_sum(shares * density, rows, x.shape[0])
    emitted = ops.segment_sum((shares * density)[:, None] * color, rows, x.shape[0])
    color = emitted / mixed.clamp(min=1e-12)[:, None]
    # Samples in a gap between cells belong to nobody. They are left out and not kept as empty ones, so that the last
    # sample, which may stand behind the ray, is one that a module has evaluated.
    owned = torch.zeros_like(mixed, dtype=torch.bool)
    owned[rows] = True
    counts = ops.segment_sum(owned.to(torch.int64), marched.ray_ids, marched.packed_info.shape[0])
    packed_info = torch.stack((counts.cumsum(0) - counts, counts), 1)
    out = composite(mixed[owned], color[owned], marched.t_starts[owned], marched.t_ends[owned], packed_info, settings)
    return Rendered(out.color, out.opacity, out.depth * unit)
