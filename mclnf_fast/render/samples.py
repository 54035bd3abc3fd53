"""Cut rays into samples: within the cell of a module, or between two fixed distances.

Both ways give one record of samples, so that one loss and one way through the networks serve scenes that are cut into
cells (`sample_in_cells`) and single objects or photos of a place (`sample_between`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.settings import LAST_DELTA, RenderSettings, check_convention
from mclnf_fast.shading import Shading

UNIT_BOX = ((-1.0,) * 3, (1.0,) * 3)


class Rays(NamedTuple):
    """Rays grouped by module: module m has the rays offsets[m] ... offsets[m+1]-1.

    Attributes:
        origins: [R, 3], scene units.
        directions: [R, 3], of length 1.
        offsets: int64 [M + 1].

    >>> rays = Rays.through_one_module(torch.zeros(5, 3), torch.eye(3)[[2, 2, 0, 1, 2]])
    >>> rays.offsets.tolist()
    [0, 5]
    """

    origins: Tensor
    directions: Tensor
    offsets: Tensor

    @classmethod
    def through_one_module(cls, origins: Tensor, directions: Tensor) -> Rays:
        """Return rays [R, 3] that all go through the only module of a bank."""
        return cls(origins, directions, ops.offsets_of_equal_shares(1, origins.shape[0], origins.device))


class RaySamples(NamedTuple):
    """Samples of rays, ray after ray, front to back.

    Attributes:
        x: [N, 3], what the field takes, [N, 6] with view directions; in a cell, in its coordinates.
        offsets: int64 [M + 1], of the samples of each module.
        ray_offsets: int64 [M + 1], of the rays of each module.
        packed_info: int64 [R, 2], first sample and number of samples of each ray.
        ray_ids: int64 [N], the ray of each sample.
        t_starts, t_ends: [N], the interval of each sample along its ray; in a cell, in units of `Cells.unit`.
        per_ray: samples that every ray has in `x`, in succession; those of a ray that misses its cell are empty, and
            not in `packed_info`. None: rays have samples of their own number.
    """

    x: Tensor
    offsets: Tensor
    ray_offsets: Tensor
    packed_info: Tensor
    ray_ids: Tensor
    t_starts: Tensor
    t_ends: Tensor
    per_ray: int | None = None

    @property
    def deltas(self) -> Tensor:
        """Spacing [N] of the samples."""
        return self.t_ends - self.t_starts

    @property
    def boundaries(self) -> Tensor:
        """First sample of each ray, and the number of samples: int64 [R + 1]."""
        return torch.cat((self.packed_info[:, 0], self.packed_info.new_full((1,), self.x.shape[0])))


def points_along(origins: Tensor, directions: Tensor, ray_ids: Tensor, t: Tensor) -> Tensor:
    """Return the points [N, 3] at t [N] along the rays `ray_ids` [N] of origins and directions [R, 3].

    >>> points_along(torch.zeros(1, 3), torch.ones(1, 3), torch.tensor([0]), torch.tensor([2.0])).tolist()
    [[2.0, 2.0, 2.0]]
    """
    # In two operations: whether `addcmul` rounds once or twice depends on the processor, and a fit in one call must
    # give the same bits.
    return origins.index_select(0, ray_ids) + directions.index_select(0, ray_ids) * t[:, None]


def with_view_directions(x: Tensor, directions: Tensor, shading: Shading) -> Tensor:
    """Return x [N, 3], followed by the unit directions [N, 3] if the shading's field takes them.

    >>> with_view_directions(torch.zeros(1, 3), torch.ones(1, 3), Shading(view_directions=True)).shape
    torch.Size([1, 6])
    """
    return torch.cat((x, torch.nn.functional.normalize(directions, dim=-1)), -1) if shading.view_directions else x


def to_cells(rays: Rays, cells: Cells) -> tuple[Tensor, Tensor]:
    """Return origins and directions [R, 3] in the coordinates of the rays' grown cells, the box [-1, 1]^3.

    A distance t along the rays then counts in units of `Cells.unit`, which is the same for all cells.

    >>> cells = Cells(torch.tensor([[[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]]), margin=1.0)
    >>> rays = Rays.through_one_module(torch.tensor([[4.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    >>> [t.tolist() for t in to_cells(rays, cells)]
    [[[1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]]
    """
    modules = torch.arange(len(cells), device=rays.origins.device)
    owner = torch.repeat_interleave(modules, rays.offsets.diff(), output_size=rays.origins.shape[0])
    # index_select throughout: advanced indexing by rows takes four times as long.
    centers = cells.centers.to(rays.origins).index_select(0, owner)
    halves = cells.halves.to(rays.origins).index_select(0, owner)
    return (rays.origins - centers) / halves, rays.directions * (cells.unit / halves)


def sample_in_cells(
    rays: Rays,
    cells: Cells,
    settings: RenderSettings,
    occupancy: Tensor | None = None,
    seed: Tensor | int | None = None,
    dense: bool = False,
) -> RaySamples:
    """Cut every ray into equal intervals within the grown cell of its module, one sample in the middle of each.

    All cells are the box [-1, 1]^3 in their own coordinates, so that one march serves every module of the bank.

    Args:
        rays: grouped by module, M of them.
        cells: M.
        settings: of the convention `cell`.
        occupancy: bool grid of the unit box, the same for every module; samples in empty parts are left out. None: all.
        seed: of the jitter of the intervals' borders; None: no jitter. An int64 tensor [] only if `dense`.
        dense: whether all rays have as many samples, empty ones if they miss their cell: more work, but a GPU is not
            waited for. Without occupancy alone.

    Raises:
        ValueError: the settings have another convention, `dense` with an occupancy, a tensor `seed` without it; and as
            `ops.march_rays`.

    >>> cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
    >>> rays = Rays.through_one_module(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    >>> sample_in_cells(rays, cells, RenderSettings(samples_per_ray=4)).x[:, 2].tolist()
    [0.75, 0.25, -0.25, -0.75]
    """
    check_convention(settings, "cell")
    if dense and occupancy is not None:
        raise ValueError("dense must be False with an occupancy, got True")
    if isinstance(seed, Tensor) and not dense:
        raise ValueError("seed must be an int or None unless dense is True, got a tensor")
    origins, directions = to_cells(rays, cells)
    if dense:
        return _dense(rays, origins, directions, cells, settings, seed)
    assert not isinstance(seed, Tensor)
    marched = ops.march_rays(
        origins,
        directions,
        occupancy,
        ops.constant(UNIT_BOX, origins),
        bins=settings.samples_per_ray,
        near=settings.near / cells.unit,
        far=settings.far / cells.unit,
        stratified=seed is not None,
        seed=seed or 0,
        backend=settings.backend,
    )
    middle = (marched.t_starts + marched.t_ends) * 0.5
    x = points_along(origins, directions, marched.ray_ids, middle)
    if settings.shading.view_directions:  # gathered only if needed: it is a row for every sample
        x = with_view_directions(x, rays.directions.index_select(0, marched.ray_ids), settings.shading)
    starts = torch.cat((marched.packed_info[:, 0], marched.packed_info.new_full((1,), x.shape[0])))
    return RaySamples(
        x,
        starts[rays.offsets],
        rays.offsets,
        marched.packed_info,
        marched.ray_ids,
        marched.t_starts,
        marched.t_ends,
    )


def _dense(
    rays: Rays, origins: Tensor, directions: Tensor, cells: Cells, settings: RenderSettings, seed: Tensor | int | None
) -> RaySamples:
    """Return as many samples of every ray, with origins and directions [R, 3] of the rays in their cells."""
    bins, unit, count = settings.samples_per_ray, cells.unit, len(origins)
    box = ops.constant(UNIT_BOX, origins)
    edges = ops.ray_edges(origins, directions, box, bins, settings.near / unit, settings.far / unit, seed)
    starts, ends = edges[:, :-1], edges[:, 1:]
    x = (origins[:, None] + directions[:, None] * ((starts + ends) * 0.5)[..., None]).reshape(-1, 3)
    ids = torch.arange(count, device=x.device)
    ray_ids = ids[:, None].expand(-1, bins).reshape(-1)
    if settings.shading.view_directions:
        x = with_view_directions(x, rays.directions.index_select(0, ray_ids), settings.shading)
    hit = edges[:, -1] > edges[:, 0]
    if len(cells) == 1:  # one tensor for all calls on a GPU
        offsets = ops.offsets_of_equal_shares(1, count * bins, x.device)
    else:
        offsets = rays.offsets * bins
    packed_info = torch.stack((ids * bins, torch.where(hit, bins, 0)), 1)
    return RaySamples(
        x, offsets, rays.offsets, packed_info, ray_ids, starts.reshape(-1), ends.reshape(-1), per_ray=bins
    )


def sample_distances(noise: Tensor, settings: RenderSettings) -> Tensor:
    """Return the distances t [..., S] of samples between `near` and `far`, in order, from noise [..., S] in 0 ... 1.

    With edges e = linspace(near, far, S):

        blog     t_i = l_i + (u_i - l_i) noise_i,  l_i = (e_(i-1) + e_i) / 2,  u_i = (e_i + e_(i+1)) / 2,  l_0 = near,
                 u_(S-1) = far
        learnit  t_i = e_i + noise_i (far - near) / S

    Raises:
        ValueError: noise has another number of samples, or the settings the convention `cell`.

    >>> sample_distances(torch.full((3,), 0.5), RenderSettings.between(2.0, 6.0, samples_per_ray=3)).tolist()
    [2.5, 4.0, 5.5]
    """
    check_convention(settings, *LAST_DELTA)
    if noise.shape[-1] != settings.samples_per_ray:
        raise ValueError(
            f"noise must be [..., samples_per_ray] with {settings.samples_per_ray} samples, got {list(noise.shape)}"
        )
    # In float64 and then rounded once: the edges of a float32 linspace would depend on the device.
    edges = torch.linspace(settings.near, settings.far, settings.samples_per_ray, dtype=torch.float64)
    if settings.convention == "learnit":
        width = torch.full_like(edges, (settings.far - settings.near) / settings.samples_per_ray)
        lower = edges
    else:
        middles = (edges[1:] + edges[:-1]) / 2
        lower = torch.cat((edges[:1], middles))
        width = torch.cat((middles, edges[-1:])) - lower
    return torch.addcmul(lower.to(noise), width.to(noise), noise)


def along_axis(directions: Tensor, axes: Tensor) -> Tensor:
    """Return unit directions [..., 3] scaled to length 1 along their cameras' optical axes [..., 3].

    A distance t along them is then a depth, as the convention `learnit` has it.

    >>> along_axis(torch.tensor([0.6, 0.0, -0.8]), torch.tensor([0.0, 0.0, -1.0])).tolist()
    [0.75, 0.0, -1.0]
    """
    return directions / (directions * axes).sum(-1, keepdim=True)


def sample_between(
    origins: Tensor, directions: Tensor, settings: RenderSettings, noise: Tensor | None = None
) -> tuple[RaySamples, Tensor]:
    """Cut every ray into the same number of samples between `settings.near` and `settings.far`, whatever it meets.

    Args:
        origins, directions: [T, R, 3] of T objects side by side, scene units; `RenderSettings.convention` has the
            length of directions.
        settings: of the convention `blog` or `learnit`.
        noise: [T, R, S] in 0 ... 1, see `sample_distances`; None: 0.5 everywhere, the same samples each time.

    Returns:
        The samples, with intervals that begin at 0, and their distances t [T R, S].

    Raises:
        ValueError: a shape does not fit, or the settings have the convention `cell`.

    >>> settings = RenderSettings.between(samples_per_ray=4)
    >>> samples, t = sample_between(torch.zeros(2, 5, 3), torch.ones(2, 5, 3), settings)
    >>> samples.x.shape, samples.offsets.tolist(), t.shape
    (torch.Size([40, 3]), [0, 20, 40], torch.Size([10, 4]))
    """
    tasks, rays = origins.shape[:2] if origins.dim() == 3 else (-1, -1)
    if origins.shape != (tasks, rays, 3) or directions.shape != origins.shape:
        raise ValueError(
            f"origins and directions must both be [T, R, 3], got {list(origins.shape)} and {list(directions.shape)}"
        )
    count = settings.samples_per_ray
    if noise is None:
        noise = origins.new_full((tasks, rays, count), 0.5)
    elif noise.shape != (tasks, rays, count):
        raise ValueError(f"noise must be [T, R, samples_per_ray] = [{tasks}, {rays}, {count}], got {list(noise.shape)}")
    t = sample_distances(noise, settings).reshape(tasks * rays, count)
    o, d = origins.reshape(-1, 1, 3), directions.reshape(-1, 1, 3)
    x = torch.addcmul(o, t[..., None], d).reshape(-1, 3)
    if settings.shading.view_directions:
        x = with_view_directions(x, d.expand(-1, count, -1).reshape(-1, 3), settings.shading)
    # Spacings in the place of ends: 6 + 1e-3 would have lost half of the digits of the last one.
    last = torch.full_like(t[:, :1], LAST_DELTA[settings.convention])
    deltas = torch.cat((t[:, 1:] - t[:, :-1], last), 1).reshape(-1)
    ids = torch.arange(tasks * rays, device=x.device)
    samples = RaySamples(
        x,
        ops.offsets_of_equal_shares(tasks, rays * count, x.device),
        ops.offsets_of_equal_shares(tasks, rays, x.device),
        torch.stack((ids * count, torch.full_like(ids, count)), 1),
        ids.repeat_interleave(count),
        torch.zeros_like(deltas),
        deltas,
    )
    return samples, t
