"""The distortion loss of Mip-NeRF 360 (arXiv 2111.12077, eq. 15)."""

from __future__ import annotations

from torch import Tensor

from mclnf_fast.checks import check_tensor
from mclnf_fast.compat.nerfacc.accumulate import accumulate_along_rays
from mclnf_fast.compat.nerfacc.scan import exclusive_sum


def distortion(weights: Tensor, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor, n_rays: int) -> Tensor:
    """Return how spread out the weights of each ray are, [R, 1].

    With middles `m` and lengths `d`: `sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 d_i` over a ray. The middles must
    rise along a ray. Differentiable in weights, t_starts and t_ends.

    Args:
        weights: [N].
        t_starts: [N], where the samples begin.
        t_ends: [N], where they end.
        ray_indices: int [N], the ray of each sample; samples of a ray lie side by side.
        n_rays: R.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    >>> import torch
    >>> start = torch.tensor([0.0, 1.0])
    >>> distortion(torch.tensor([0.5, 0.5]), start, start + 1, torch.tensor([0, 0]), n_rays=1)
    tensor([[0.6667]])
    """
    check_tensor("weights", weights, (None,), what="[N]")
    for name, t in (("t_starts", t_starts), ("t_ends", t_ends), ("ray_indices", ray_indices)):
        check_tensor(name, t, tuple(weights.shape), None, weights.device, "[N], like weights,")
    middles = 0.5 * (t_starts + t_ends)
    before = middles * exclusive_sum(weights, indices=ray_indices)
    pairs = before - exclusive_sum(weights * middles, indices=ray_indices)
    loss = weights * (2 * pairs + weights * (t_ends - t_starts) / 3)
    return accumulate_along_rays(loss, None, ray_indices, n_rays)
