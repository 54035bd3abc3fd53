"""Cutting a signal's grid of samples into tasks: patches of an image, groups of frames, windows of audio."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mclnf_fast.errors import InputError

Frame = Literal["local", "global"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Which samples of a grid each task owns: contiguous boxes, row-major, every sample in exactly one.

    grid: samples an axis, such as (178, 178), (frames, height, width) or (length,). parts: boxes an axis, as many
    numbers; where an axis does not divide evenly the first boxes are one sample longer. span: half the range of the
    coordinates an axis, 1 for [-1, 1]; box_span: that of local coordinates, None: the same.

    Raises InputError where there are more parts than samples.
    """

    grid: tuple[int, ...]
    parts: tuple[int, ...]
    span: tuple[float, ...]
    box_span: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not (len(self.grid) == len(self.parts) == len(self.span)) or not self.grid:
            raise InputError(f"parts must be {len(self.grid)} numbers, one an axis of {self.grid}, got {self.parts}")
        for size, parts in zip(self.grid, self.parts):
            if parts < 1 or parts > size:
                raise InputError(f"parts must lie in 1 ... the samples of their axis {self.grid}, got {self.parts}")

    @property
    def tasks(self) -> int:
        """Number of boxes."""
        return math.prod(self.parts)

    def box(self, task: int) -> tuple[slice, ...]:
        """The samples of a task, an axis each."""
        if not 0 <= task < self.tasks:
            raise IndexError(f"task must lie in [0, {self.tasks}), got {task}")
        places = list(itertools.product(*(range(p) for p in self.parts)))[task]
        found = []
        for size, parts, place in zip(self.grid, self.parts, places):
            each, longer = divmod(size, parts)
            begin = place * each + min(place, longer)
            found.append(slice(begin, begin + each + (place < longer)))
        return tuple(found)

    def coordinates(self, task: int, frame: Frame) -> Tensor:
        """[n, axes] in the order of the grid's axes. `local`: the same range for each box, so that one shared start
        serves all boxes; `global`: boxes in their places, so that one network can tell them apart."""
        box = self.box(task)
        if frame == "local":
            axes = [_line(cut.stop - cut.start, span) for cut, span in zip(box, self.box_span or self.span)]
        else:
            axes = [_line(size, span)[cut] for size, cut, span in zip(self.grid, box, self.span)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))

    def values(self, signals: Tensor, task: int) -> Tensor:
        """The samples of a task: signals [S, *grid, C] -> [S, n, C]."""
        return signals[(slice(None), *self.box(task))].reshape(len(signals), -1, signals.shape[-1])

    def assemble(self, pieces: Sequence[Tensor]) -> Tensor:
        """What `values` took apart: one [S, n, C] a task -> [S, *grid, C]."""
        first = pieces[0]
        whole = first.new_empty(len(first), *self.grid, first.shape[-1])
        for task, piece in enumerate(pieces):
            box = self.box(task)
            whole[(slice(None), *box)] = piece.reshape(len(piece), *(b.stop - b.start for b in box), piece.shape[-1])
        return whole


def _line(size: int, span: float) -> Tensor:
    """`size` coordinates from -span to span; the middle for one."""
    return torch.linspace(-span, span, size) if size > 1 else torch.zeros(1)
