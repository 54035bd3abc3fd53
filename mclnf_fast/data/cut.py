"""Cuts a signal's grid of samples into tasks: patches of an image, groups of frames, windows of audio."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mclnf_fast.errors import InputError

CoordinateFrame = Literal["local", "global"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """A division of a grid into tasks: contiguous boxes in row-major order, every sample in exactly one of them.

    Attributes:
        grid: samples per axis, such as (178, 178), (frames, height, width) or (length,).
        parts: boxes per axis; when an axis does not divide evenly, its first boxes are one sample longer.
        span: half the range of the coordinates of each axis, 1 for [-1, 1].
        box_span: the same for local coordinates; None: as `span`.

    Raises:
        InputError: other than one number per axis, or more parts than samples.

    >>> cut = Cut((4, 6), (2, 2), (1.0, 1.0))
    >>> cut.tasks, cut.box(3)
    (4, (slice(2, 4, None), slice(3, 6, None)))
    """

    grid: tuple[int, ...]
    parts: tuple[int, ...]
    span: tuple[float, ...]
    box_span: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not (len(self.grid) == len(self.parts) == len(self.span)) or not self.grid:
            raise InputError(f"parts must be {len(self.grid)} numbers, one per axis of {self.grid}, got {self.parts}")
        for size, parts in zip(self.grid, self.parts):
            if parts < 1 or parts > size:
                raise InputError(f"parts must lie in 1 ... the samples of their axis {self.grid}, got {self.parts}")

    @property
    def tasks(self) -> int:
        """Number of boxes."""
        return math.prod(self.parts)

    def box(self, task: int) -> tuple[slice, ...]:
        """Return the samples of a task, one slice per axis.

        Raises:
            IndexError: no such task.
        """
        if not 0 <= task < self.tasks:
            raise IndexError(f"task must lie in [0, {self.tasks}), got {task}")
        position = list(itertools.product(*(range(p) for p in self.parts)))[task]
        slices = []
        for size, parts, index in zip(self.grid, self.parts, position):
            # Sizes differ by one at most. A shorter last box instead would be a task that is easier than the others.
            length, longer = divmod(size, parts)
            begin = index * length + min(index, longer)
            slices.append(slice(begin, begin + length + (index < longer)))
        return tuple(slices)

    def coordinates(self, task: int, frame: CoordinateFrame) -> Tensor:
        """Return the coordinates of a task's samples, [n, axes] in the order of the grid's axes.

        "local" gives each box the same range, so that one shared initialization serves all boxes; "global" keeps boxes
        in their places, so that one network can distinguish them.
        """
        box = self.box(task)
        if frame == "local":
            axes = [_axis(samples.stop - samples.start, span) for samples, span in zip(box, self.box_span or self.span)]
        else:
            axes = [_axis(size, span)[samples] for size, samples, span in zip(self.grid, box, self.span)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))

    def values(self, signals: Tensor, task: int) -> Tensor:
        """Return the samples of a task: signals [S, *grid, C] -> [S, n, C]."""
        return signals[(slice(None), *self.box(task))].reshape(len(signals), -1, signals.shape[-1])

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:
        """Invert `values`: put one [S, n, C] per task together to [S, *grid, C].

        >>> cut, signals = Cut((5,), (2,), (1.0,)), torch.arange(5.0).reshape(1, 5, 1)
        >>> torch.equal(cut.assemble([cut.values(signals, task) for task in range(2)]), signals)
        True
        """
        # Every sample is in exactly one box, so nothing of the empty tensor is left.
        whole = pieces[0].new_empty(len(pieces[0]), *self.grid, pieces[0].shape[-1])
        for task, piece in enumerate(pieces):
            box = self.box(task)
            whole[(slice(None), *box)] = piece.reshape(len(piece), *(b.stop - b.start for b in box), piece.shape[-1])
        return whole


def _axis(size: int, span: float) -> Tensor:
    """Return `size` coordinates from -span to span; a single one lies in the middle."""
    # linspace would put a single sample at -span, at the edge of the range that the shared initialization has seen.
    return torch.linspace(-span, span, size, dtype=torch.float32) if size > 1 else torch.zeros(1, dtype=torch.float32)
