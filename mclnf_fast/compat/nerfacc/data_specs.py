"""Samples and intervals along rays, dense [R, S] or packed [N]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RaySamples:
    """Samples along rays.

    Attributes:
        vals: [R, S], or packed [N] with `packed_info` or `ray_indices`.
        packed_info: int64 [R, 2], (first sample, count) of each ray.
        ray_indices: int64 [N], the ray of each sample.
        is_valid: bool [N], whether a place holds a sample, of a traversal with `over_allocate`.

    >>> RaySamples(torch.rand(4), packed_info=torch.tensor([[0, 1], [1, 3]])).device
    device(type='cpu')
    """

    vals: Tensor
    packed_info: Tensor | None = None
    ray_indices: Tensor | None = None
    is_valid: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.vals.device


@dataclass
class RayIntervals:
    """Edges of intervals along rays; neighbors share an edge, which is then the right one of one and the left of the
    other.

    Attributes:
        vals: [R, E], or packed [N] with `packed_info` or `ray_indices`, and `is_left` and `is_right`.
        packed_info: int64 [R, 2], (first edge, count) of each ray.
        ray_indices: int64 [N], the ray of each edge.
        is_left: bool [N], whether an interval begins at the edge.
        is_right: bool [N], whether an interval ends at the edge.

    >>> RayIntervals(torch.tensor([[0.0, 1.0, 3.0]])).vals.shape  # one ray, two intervals
    torch.Size([1, 3])
    """

    vals: Tensor
    packed_info: Tensor | None = None
    ray_indices: Tensor | None = None
    is_left: Tensor | None = None
    is_right: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """The device of the edges."""
        return self.vals.device
