"""From the ray of each sample to the samples of each ray."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor, values_can_be_read

INDICES = (torch.int64, torch.int32)


@torch.no_grad()
def pack_info(ray_indices: Tensor, n_rays: int | None = None) -> Tensor:
    """Return (first sample, count) of each ray, [R, 2] with the dtype of the indices.

    Args:
        ray_indices: int64 or int32 [N], the ray of each sample, rising.
        n_rays: R; None: up to the last ray that has a sample, which waits for a GPU.

    Raises:
        TypeError, ValueError: no such indices, or one that is not below `n_rays`.

    >>> pack_info(torch.tensor([0, 2, 2]), n_rays=4).tolist()
    [[0, 1], [1, 0], [1, 2], [3, 0]]
    """
    check_tensor("ray_indices", ray_indices, (None,), INDICES, what="[N]")
    if n_rays is None:
        n_rays = int(ray_indices.max()) + 1 if ray_indices.numel() else 0
    check_ray_indices(ray_indices, n_rays)
    counts = torch.zeros(n_rays, dtype=ray_indices.dtype, device=ray_indices.device)
    counts.index_add_(0, ray_indices, torch.ones_like(ray_indices))
    return torch.stack([counts.cumsum(0, dtype=counts.dtype) - counts, counts], dim=-1)


def check_ray_indices(ray_indices: Tensor, n_rays: int | None) -> int:
    """Check that the indices are those of rays, on the CPU their values too, and return the number of rays.

    Raises TypeError or ValueError.

    >>> check_ray_indices(torch.tensor([0, 1]), 2)
    2
    """
    check_tensor("ray_indices", ray_indices, (None,), INDICES, what="[N]")
    if isinstance(n_rays, bool) or not isinstance(n_rays, int) or n_rays < 0:
        raise ValueError(f"n_rays must be an int of at least 0, given with ray_indices, got {n_rays!r}")
    if values_can_be_read(ray_indices) and ray_indices.numel():
        least, most = (int(t) for t in ray_indices.aminmax())
        if least < 0 or most >= n_rays:
            raise ValueError(f"ray_indices must be in 0 ... {n_rays - 1}, below n_rays, got {least} ... {most}")
    return n_rays


def runs(ray_indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ray of each run of equal indices, int64 [G], and (first sample, count) of the runs, int64 [G, 2].

    If the indices rise, as those of a sampler do, a run is a ray that has samples.

    >>> runs(torch.tensor([0, 2, 2]))
    (tensor([0, 2]), tensor([[0, 1],
            [1, 2]]))
    """
    rays, counts = torch.unique_consecutive(ray_indices, return_counts=True)
    return rays.to(torch.int64), torch.stack([counts.cumsum(0) - counts, counts], dim=-1)
