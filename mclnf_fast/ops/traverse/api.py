"""The public traversal: it checks its arguments, and a backend computes the samples."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.checks import check_no_nan, check_number, check_tensor, values_can_be_read
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import refuse_transformed
from mclnf_fast.ops._dispatch import Backend, always, by_dtype, cpu_library, cuda_library, register
from mclnf_fast.ops.march.api import REMEDY
from mclnf_fast.ops.traverse import autograd, reference
from mclnf_fast.ops.traverse.reference import Traversal

_DTYPES = (torch.float32, torch.float64)

autograd.join()


@torch.no_grad()
def traverse_grids(
    origins: Tensor,
    directions: Tensor,
    cells: Tensor,
    aabbs: Tensor,
    enters: Tensor,
    exits: Tensor,
    hits: Tensor,
    near: Tensor,
    far: Tensor,
    *,
    step: float,
    cone: float = 0.0,
    limit: int = 0,
    mask: Tensor | None = None,
    backend: str | None = "auto",
) -> Traversal:
    """Cut rays into steps and return those whose middle is in an occupied cell of one of several grids.

    The edges of the steps of a ray are `t_0 = near` and `t_(k+1) = t_k + max(step, cone t_k)`, whatever is occupied. A
    step is a sample if its middle lies before `far` and in an occupied cell of the first grid that holds it: a grid
    covers those of a higher number, as a fine level covers a coarse one. With `step = 0` the samples are the occupied
    cells themselves, cut at near and far.

    This is what nerfacc's `traverse_grids` computes; `march_rays` begins where a ray enters the box instead. There is
    no gradient: differentiate through positions computed from the samples.

    Args:
        origins: [R, 3], float32 or float64.
        directions: [R, 3], not 0.
        cells: bool [G, X, Y, Z], whether each cell of the grids is occupied.
        aabbs: [G, 6], lowest and highest corner of the box of each grid.
        enters: [R, G], the t at which the rays enter the boxes.
        exits: [R, G], the t at which they leave them.
        hits: bool [R, G], whether they meet them; else enters and exits are not looked at.
        near: [R], finite; where the steps begin.
        far: [R], where they end, at the latest.
        step: length of a step in units of t, at least 0; at most 2^24 steps per ray.
        cone: growth of the steps with t, at least 0.
        limit: most samples of a ray; 0: any number.
        mask: bool [R], which rays are traversed; the others have no sample. None: all.
        backend: "auto", "cuda", "cpu" or "reference".

    Returns:
        Traversal(t_starts [N], t_ends [N], ray_ids int64 [N], packed_info int64 [R, 2], stops [R]). `stops` is the t at
        which the next sample would begin: a further call with `near=stops` continues where `limit` ended a ray. N
        depends on the data, so that CUDA waits for it once.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a wrong shape, device or value. NaN, and a `near` that is not finite, are checked on the CPU only;
            elsewhere such rays have no samples.
        RuntimeError: a torch.func transform or forward-mode differentiation works on one of the tensors.
        BackendError: a backend asked for by name can't serve.

    Example:
        >>> t = torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([[True]])
        >>> rays = torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> box, zero = torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]]), torch.zeros(1)
        >>> cells = torch.tensor([True, False]).reshape(1, 1, 1, 2)
        >>> traverse_grids(*rays, cells, box, *t, zero, zero + 9, step=0.5).t_starts.tolist()
        [1.0, 1.5]
    """
    tensors = {"origins": origins, "directions": directions, "aabbs": aabbs, "near": near, "far": far}
    refuse_transformed("traverse_grids", REMEDY, enters=enters, exits=exits, **tensors)
    check_tensor("origins", origins, (None, 3), _DTYPES, what="[R, 3]")
    rays, dtype, device = origins.shape[0], origins.dtype, origins.device
    check_tensor("directions", directions, (rays, 3), dtype, device, "[R, 3]")
    check_tensor("cells", cells, (None, None, None, None), torch.bool, device, "[G, X, Y, Z]")
    if not 0 < cells.numel() < 2**31:
        raise ValueError(f"cells must have at least 1 and fewer than 2^31 cells, got shape {list(cells.shape)}")
    grids = cells.shape[0]
    check_tensor("aabbs", aabbs, (grids, 6), dtype, device, "[G, 6]")
    for name, t, kind in (("enters", enters, dtype), ("exits", exits, dtype), ("hits", hits, torch.bool)):
        check_tensor(name, t, (rays, grids), kind, device, "[R, G]")
    for name, t in (("near", near), ("far", far)):
        check_tensor(name, t, (rays,), dtype, device, "[R]")
    if mask is not None:
        check_tensor("mask", mask, (rays,), torch.bool, device, "[R]")
    for name, t in (("origins", origins), ("directions", directions), ("far", far)):
        check_no_nan(name, t)
    if values_can_be_read(near) and not bool(near.isfinite().all()):
        raise ValueError("near must be finite, got infinity or NaN")
    check_number("step", step, 0.0)
    check_number("cone", cone, 0.0)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise ValueError(f"limit must be an int of at least 0, got {limit!r}")
    function = _OP.serving(backend, device, dtype)
    result: Traversal = function(
        origins, directions, mask, cells, aabbs, enters, exits, hits, near, far, float(step), float(cone), limit
    )
    return result


def _compiled(*arguments: object) -> Traversal:
    return Traversal(*COMPILED.traverse_grids_fwd(*arguments))


_OP = register(
    "traverse_grids",
    passes_transforms=True,
    cuda=Backend(cuda_library, _compiled),
    cpu=Backend(by_dtype(cpu_library, _DTYPES), _compiled),
    reference=Backend(always, reference.traverse_grids),
)
