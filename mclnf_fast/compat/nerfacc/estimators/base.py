"""What the estimators share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AbstractEstimator(nn.Module):
    """An estimator of where along a ray something is seen; it samples rays, and learns from the field."""

    _dummy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_dummy", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device that the estimator was moved to."""
        return self._dummy.device

    def sampling(self, *args: object, **kwargs: object) -> tuple[Tensor, ...]:
        """Sample rays."""
        raise NotImplementedError

    def update_every_n_steps(self, *args: object, **kwargs: object) -> float | None:
        """Learn from the field."""
        raise NotImplementedError
