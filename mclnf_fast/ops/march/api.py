"""The public marching function: it checks its arguments, and a backend computes the samples."""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor

from mclnf_fast.checks import check_bool, check_no_nan, check_number, check_tensor, values_can_be_read
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import refuse_transformed
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, cuda_library, register
from mclnf_fast.ops.march import autograd, reference
from mclnf_fast.ops.march.reference import MOST_BINS, Samples

REMEDY = "The samples of a ray have no derivative: differentiate in positions computed from them"

autograd.join()


@torch.no_grad()
def march_rays(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor | None,
    aabb: Tensor,
    *,
    bins: int | None = None,
    step: float | None = None,
    near: float | Tensor = 0.0,
    far: float | Tensor = math.inf,
    stratified: bool = False,
    seed: int = 0,
    early_stop_eps: float = 0.0,
    backend: str | None = "auto",
) -> Samples:
    """Cut the part of each ray inside a box into bins and return those whose middle is in an occupied cell.

    A ray is `origin + t direction`, t in units of the direction, which need not have length 1. Its part inside the box
    and between near and far is cut into `bins` equal bins, or into steps of length `step` (the last one shorter). With
    `stratified`, each interior edge moves by up to half a bin (stratified sampling, arXiv 2003.08934 eq. 2, of edges
    instead of points, so that the bins still tile the ray), by a hash of (seed, ray, edge): the same seed gives the
    same bits on every backend; give another one at every training step.

    Samples are ordered by ray, then by t. A ray that misses the box, or whose direction is 0, has none. There is no
    gradient: the rays are constants here and the results do not require grad; differentiate through positions computed
    from them.

    Args:
        origins: [R, 3], float32 or float64.
        directions: [R, 3].
        occupancy: None: all occupied. bool [X, Y, Z], or [L, X, Y, Z] for L nested levels: level k spans the
            box scaled by 2^k about its center, a point belongs to the finest level that contains it, and the
            coarsest one is the box that is marched through. Or float32 densities of these shapes: occupied if above 0.
        aabb: [2, 3], lowest and highest corner of the box (of level 0), with the dtype of origins.
        bins: number of bins, 1 to 2^24. Exactly one of bins and step is given.
        step: length of a bin in units of t, above 0; at most 2^24 bins per ray.
        near: t at which marching begins, a number or [R].
        far: t at which it ends, a number or [R].
        stratified: whether to jitter the edges.
        seed: a 64-bit integer.
        early_stop_eps: in [0, 1). Above 0, with a density grid, a ray ends as soon as its transmittance
            `exp(-sum density length)` through the occupied bins has fallen below it.
        backend: "auto", "cuda", "cpu" or "reference".

    Returns:
        Samples(t_starts [N], t_ends [N], ray_ids int64 [N], packed_info int64 [R, 2]). N depends on the data, so that
        CUDA waits for it once.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a wrong shape, device or value. NaN and infinity in rays and a box whose lowest corner is not below
            its highest are checked on the CPU only; elsewhere such rays have no samples.
        RuntimeError: a torch.func transform or forward-mode differentiation works on one of the tensors.
        BackendError: a backend asked for by name can't serve.

    Example:
        >>> origins, directions = torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
        >>> march_rays(origins, directions, None, box, bins=2).t_starts.tolist()
        [1.0, 2.0]
    """
    refuse_transformed("march_rays", REMEDY, origins=origins, directions=directions, occupancy=occupancy, aabb=aabb)
    refuse_transformed("march_rays", REMEDY, near=near, far=far)
    rays, device, dtype = check_box(origins, directions, aabb)
    grid = check_occupancy(occupancy, device, early_stop_eps)
    chosen_bins, chosen_step = check_bins(bins, step)
    check_bool("stratified", stratified)
    near_each, near_value = _bound("near", near, rays, device, dtype)
    far_each, far_value = _bound("far", far, rays, device, dtype)
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be a 64-bit integer, got {seed!r}")
    function = _OP.serving(backend, device, dtype)
    bounds = (near_each, far_each, near_value, far_value)
    options = (chosen_bins, chosen_step, stratified, seed, float(early_stop_eps))
    samples: Samples = function(origins, directions, grid, aabb, bounds, options)
    return samples


_Bounds = tuple[Tensor | None, Tensor | None, float, float]
_Options = tuple[int, float, bool, int, float]


def _reference(
    origins: Tensor, directions: Tensor, grid: Tensor | None, aabb: Tensor, bounds: _Bounds, options: _Options
) -> Samples:
    rays = origins.shape[:1]
    near, far = (origins.new_full(rays, value) if t is None else t for t, value in zip(bounds[:2], bounds[2:]))
    return reference.march_rays(origins, directions, grid, aabb, near, far, *options)


def _compiled(
    origins: Tensor, directions: Tensor, grid: Tensor | None, aabb: Tensor, bounds: _Bounds, options: _Options
) -> Samples:
    return Samples(*COMPILED.march_rays_fwd(origins, directions, grid, aabb, *bounds, *options))


def check_box(origins: Tensor, directions: Tensor, aabb: Tensor) -> tuple[int, torch.device, torch.dtype]:
    """Check rays and box and return the number of rays, their device and dtype."""
    check_tensor("origins", origins, (None, 3), (torch.float32, torch.float64), what="[R, 3]")
    device, dtype = origins.device, origins.dtype
    check_tensor("directions", directions, tuple(origins.shape), dtype, device, "[R, 3]")
    check_tensor("aabb", aabb, (2, 3), dtype, device, "[2, 3]")
    if values_can_be_read(origins, directions, aabb):
        for name, t in (("origins", origins), ("directions", directions)):
            # A finite sum proves that all are finite, at a fraction of the cost of a test of each.
            if not math.isfinite(float(t.sum())) and not bool((finite := torch.isfinite(t).all(1)).all()):
                row = int((~finite).to(torch.uint8).argmax())
                raise ValueError(f"{name} must be finite, got {name}[{row}] = {t[row].tolist()}")
        if not bool((aabb[0] < aabb[1]).all() & torch.isfinite(aabb).all()):
            raise ValueError(f"aabb must be finite with aabb[0] < aabb[1] on every axis, got {aabb.tolist()}")
    return origins.shape[0], device, dtype


def check_occupancy(occupancy: Tensor | None, device: torch.device, early_stop_eps: float) -> Tensor | None:
    """Check the occupancy and return it with its levels, [L, X, Y, Z]."""
    check_number("early_stop_eps", early_stop_eps, 0.0, 1.0)
    if occupancy is not None:
        check_tensor("occupancy", occupancy, None, (torch.bool, torch.float32), device, "[X, Y, Z] or [L, X, Y, Z]")
        if occupancy.dim() not in (3, 4) or occupancy.numel() == 0:
            raise ValueError(
                f"occupancy must be [X, Y, Z] or [L, X, Y, Z] without an empty axis, got {list(occupancy.shape)}"
            )
        if occupancy.dim() == 4 and occupancy.shape[0] > 32:
            raise ValueError(f"occupancy must have at most 32 levels, got {occupancy.shape[0]}")
        if occupancy.numel() >= 2**31:
            raise ValueError(f"occupancy must have fewer than 2^31 cells, got {list(occupancy.shape)}")
        _check_cells(occupancy)
    if early_stop_eps > 0 and (occupancy is None or occupancy.dtype != torch.float32):
        kind = "None" if occupancy is None else str(occupancy.dtype)
        raise ValueError(f"early_stop_eps above 0 needs densities, a float32 occupancy, got occupancy {kind}")
    return occupancy[None] if occupancy is not None and occupancy.dim() == 3 else occupancy


def check_bins(bins: int | None, step: float | None) -> tuple[int, float]:
    """Check the two and return them as the kernels take them: bins = 0 means steps."""
    if (bins is None) == (step is None):
        raise ValueError(f"exactly one of bins and step must be given, got bins={bins!r}, step={step!r}")
    if bins is not None:
        if isinstance(bins, bool) or not isinstance(bins, int) or not 1 <= bins <= MOST_BINS:
            raise ValueError(f"bins must be an int of 1 ... {MOST_BINS}, got {bins!r}")
        return bins, 0.0
    if not check_number("step", step) > 0:
        raise ValueError(f"step must be a positive number, got {step!r}")
    return 0, float(step)  # type: ignore[arg-type]  # one of the two is given


# The last grid of densities that was looked at, as a weak reference, and its version then: a pass over a grid of 128^3
# cells in every call would take as long as a small march.
_looked_at: list[tuple[weakref.ref[Tensor], int]] = []


def _check_cells(occupancy: Tensor) -> None:
    """Raise ValueError for a NaN among densities, which would count as empty."""
    if occupancy.dtype == torch.bool or not values_can_be_read(occupancy):
        return
    version = -1 if occupancy.is_inference() else occupancy._version
    if version >= 0 and _looked_at and _looked_at[0][0]() is occupancy and _looked_at[0][1] == version:
        return
    check_no_nan("occupancy", occupancy)
    _looked_at[:] = [(weakref.ref(occupancy), version)]


def _bound(
    name: str, value: float | Tensor, rays: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor | None, float]:
    """Return near or far as the kernels take it: a tensor, or None and the number."""
    if isinstance(value, Tensor):
        check_tensor(name, value, (rays,), dtype, device, "[R]")
        check_no_nan(name, value)
        return value, 0.0
    return None, check_number(name, value, finite=False)


def _cpu_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in (torch.float32, torch.float64):
        return f"it works on float32 and float64 rays, got {dtype}"
    return cpu_library(device, dtype)


_OP = register(
    "march_rays",
    passes_transforms=True,
    cuda=Backend(cuda_library, _compiled),
    cpu=Backend(_cpu_reason, _compiled),
    reference=Backend(always, _reference),
)
