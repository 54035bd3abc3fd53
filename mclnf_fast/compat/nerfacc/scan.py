"""Sums and products along rays: over the last axis of dense tensors, and over the rays of packed ones."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.checks import check_tensor
from mclnf_fast.compat.nerfacc.pack import INDICES, runs

_SCANNED = (torch.float32, torch.float64)


def inclusive_sum(inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None) -> Tensor:
    """Return the sums of each value and those before it in its ray, like `inputs`.

    Args:
        inputs: [..., S], or packed [N] with one of the two others.
        packed_info: int [R, 2], (first, count) of each ray.
        indices: int [N], the ray of each value; values of a ray lie side by side.

    Differentiable any number of times. Raises ValueError or TypeError for arguments that do not fit.

    >>> inclusive_sum(torch.tensor([1.0, 2.0, 3.0]), indices=torch.tensor([0, 1, 1]))
    tensor([1., 2., 5.])
    """
    segments = _segments(inputs, packed_info, indices)
    return torch.cumsum(inputs, -1) if segments is None else _scan(inputs, segments, False, False)


def exclusive_sum(inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None) -> Tensor:
    """Return the sums of the values before each one in its ray; arguments as of `inclusive_sum`.

    >>> exclusive_sum(torch.tensor([1.0, 2.0, 3.0]), packed_info=torch.tensor([[0, 1], [1, 2]]))
    tensor([0., 0., 2.])
    """
    segments = _segments(inputs, packed_info, indices)
    return torch.cumsum(_before(inputs, 0.0), -1) if segments is None else _scan(inputs, segments, False, True)


def inclusive_prod(inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None) -> Tensor:
    """Return the products of each value and those before it in its ray; arguments as of `inclusive_sum`.

    The gradient is right at values of 0 as well.

    >>> inclusive_prod(torch.tensor([1.0, 2.0, 3.0]), indices=torch.tensor([0, 1, 1]))
    tensor([1., 2., 6.])
    """
    segments = _segments(inputs, packed_info, indices)
    return torch.cumprod(inputs, -1) if segments is None else _scan(inputs, segments, True, False)


def exclusive_prod(inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None) -> Tensor:
    """Return the products of the values before each one in its ray; arguments as of `inclusive_sum`.

    >>> exclusive_prod(torch.tensor([1.0, 2.0, 3.0]), packed_info=torch.tensor([[0, 1], [1, 2]]))
    tensor([1., 1., 2.])
    """
    segments = _segments(inputs, packed_info, indices)
    return torch.cumprod(_before(inputs, 1.0), -1) if segments is None else _scan(inputs, segments, True, True)


def _before(inputs: Tensor, first: float) -> Tensor:
    return torch.cat([torch.full_like(inputs[..., :1], first), inputs[..., :-1]], dim=-1)


def _segments(inputs: Tensor, packed_info: Tensor | None, indices: Tensor | None) -> Tensor | None:
    """Return (first, count) of the rays of packed values; None for dense ones."""
    check_tensor("inputs", inputs)
    if packed_info is None and indices is None:
        if not inputs.dim():
            raise ValueError("inputs must have at least 1 axis, got a single number")
        return None
    if packed_info is not None and indices is not None:
        raise ValueError("packed_info and indices must not be given both")
    check_tensor("inputs", inputs, (None,), what="[N], with packed_info or indices")
    if indices is not None:
        check_tensor("indices", indices, tuple(inputs.shape), INDICES, inputs.device, "[N]")
        return runs(indices)[1]
    check_tensor("packed_info", packed_info, (None, 2), INDICES, inputs.device, "[R, 2]")
    return packed_info


def _scan(inputs: Tensor, segments: Tensor, product: bool, exclusive: bool) -> Tensor:
    values = inputs if inputs.dtype in _SCANNED else inputs.float()
    factor, term = (values, None) if product else (None, values)
    packed_info = segments.to(torch.int64)
    result = ops.segment_scan(factor, term, packed_info, initial=1.0 if product else 0.0, exclusive=exclusive)
    return result.to(inputs.dtype)
