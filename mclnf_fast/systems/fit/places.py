"""The coordinates of a signal's samples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.data.cut import Cut
from mclnf_fast.data.signals import SPAN_PER_SECOND, SignalKind


@dataclasses.dataclass(frozen=True)
class Places:
    """The range of the coordinates of a signal, the same for all sizes.

    Attributes:
        low, high: of each axis; the first sample lies at `low`.
        ends: whether the last sample lies at `high`; else a sample's width before it, as the pixels of
            `run image-start`.

    >>> Places((-1.0,), (1.0,)).grid((3,)).tolist()
    [[-1.0], [0.0], [1.0]]
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    ends: bool = True

    @classmethod
    def of(cls, kind: SignalKind, seconds: float = 1.0) -> Places:
        """Return the coordinates that `run image`, `video` and `audio` have: sound per second, the others -1 to 1.

        >>> Places.of("audio", 0.5).high
        (25.0,)
        """
        axes = {"image": 2, "video": 3, "audio": 1}[kind]
        span = SPAN_PER_SECOND * seconds if kind == "audio" else 1.0
        return cls((-span,) * axes, (span,) * axes)

    @classmethod
    def of_frame(cls, low: Sequence[float], high: Sequence[float], unit: str) -> Places:
        """Return the coordinates of a run's result, whose initialization was learned in them.

        >>> Places.of_frame([0.0, 0.0], [1.0, 1.0], "side of the picture").ends
        False
        """
        return cls(tuple(map(float, low)), tuple(map(float, high)), unit != "side of the picture")

    @functools.lru_cache(maxsize=64)  # noqa: B019 (frozen; signals of one size must share the very same tensor)
    def grid(self, shape: tuple[int, ...]) -> Tensor:
        """Return the coordinates of a grid's samples, row by row, float32 [n, axes]."""
        if self.ends and all(low == -high for low, high in zip(self.low, self.high)):
            return Cut(shape, (1,) * len(shape), self.high).coordinates(0, "local")
        axes = []
        for size, low, high in zip(shape, self.low, self.high):
            step = (high - low) / max(1, size - 1 if self.ends else size)
            axes.append(low + step * torch.arange(size, dtype=torch.float32))
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))

    def described(self) -> dict[str, object]:
        """Return the coordinates as plain data."""
        return {"low": list(self.low), "high": list(self.high), "ends": self.ends}

    @classmethod
    def from_plain(cls, low: Sequence[float], high: Sequence[float], ends: bool) -> Places:
        """Return the coordinates that `described` made into plain data.

        >>> Places.from_plain(**Places((0.0,), (1.0,)).described())
        Places(low=(0.0,), high=(1.0,), ends=True)
        """
        return cls(tuple(map(float, low)), tuple(map(float, high)), bool(ends))
