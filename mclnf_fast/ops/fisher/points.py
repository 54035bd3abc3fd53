"""What Fisher scores are taken of."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Points(NamedTuple):
    """A batch as `fisher_scores` and its kin take it: points x [N, in] grouped by `offsets` [M + 1], the gradient of
    each sample's loss in the field's values grad_y [N, out], and the sample (ray) of each point [N], None where each
    point is one."""

    x: Tensor
    offsets: Tensor
    grad_y: Tensor
    sample_ids: Tensor | None
    num_samples: int
