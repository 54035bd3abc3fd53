"""Sums of weighted values along rays; `volrend` hands them on, where the original has them."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.checks import check_tensor
from mclnf_fast.compat.nerfacc.pack import check_ray_indices


def accumulate_along_rays(
    weights: Tensor, values: Tensor | None = None, ray_indices: Tensor | None = None, n_rays: int | None = None
) -> Tensor:
    """Return the sums of weighted values along each ray, [R, D].

    Args:
        weights: [..., S], or packed [N].
        values: like weights with an axis [D] more; None: 1, with D = 1.
        ray_indices: int [N], of packed samples, in any order.
        n_rays: R, with ray_indices.

    Differentiable in weights and values, and added in a fixed order on a GPU too. Raises TypeError or ValueError.

    >>> accumulate_along_rays(torch.tensor([0.5, 0.25, 1.0]), None, torch.tensor([0, 0, 2]), n_rays=3)
    tensor([[0.7500],
            [0.0000],
            [1.0000]])
    """
    weighted = _weighted(weights, values, ray_indices)
    if ray_indices is None:
        return weighted.sum(-2)
    return ops.segment_sum(weighted, ray_indices.to(torch.int64), check_ray_indices(ray_indices, n_rays))


def accumulate_along_rays_(
    weights: Tensor, values: Tensor | None = None, ray_indices: Tensor | None = None, outputs: Tensor | None = None
) -> None:
    """Add the sums of `accumulate_along_rays` to `outputs` [R, D], in place.

    >>> outputs = torch.ones(2, 1)
    >>> accumulate_along_rays_(torch.tensor([0.5, 0.25]), None, torch.tensor([1, 1]), outputs)
    >>> outputs
    tensor([[1.0000],
            [1.7500]])
    """
    weighted = _weighted(weights, values, ray_indices)
    if ray_indices is None:
        check_tensor("outputs", outputs, (*weighted.shape[:-2], weighted.shape[-1]), None, weighted.device, "[R, D]")
        assert outputs is not None
        outputs.add_(weighted.sum(-2))
        return
    check_tensor("outputs", outputs, (None, weighted.shape[-1]), None, weighted.device, "[R, D]")
    assert outputs is not None
    check_ray_indices(ray_indices, outputs.shape[0])
    outputs.index_put_((ray_indices.to(torch.int64),), weighted.to(outputs.dtype), accumulate=True)


def _weighted(weights: Tensor, values: Tensor | None, ray_indices: Tensor | None) -> Tensor:
    check_tensor("weights", weights, None if ray_indices is None else (None,), what="[N], with ray_indices")
    if ray_indices is not None:
        check_tensor("ray_indices", ray_indices, tuple(weights.shape), None, weights.device, "[N], like weights,")
    if values is None:
        return weights[..., None]
    check_tensor(
        "values", values, (*weights.shape, None), None, weights.device, "[..., D], like weights with an axis more"
    )
    return weights[..., None] * values
