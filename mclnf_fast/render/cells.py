"""Which part of space a module of a bank owns.

Each module owns a box, its *cell*. It is trained and evaluated on the cell grown by a margin about its centre (1.15 as
in Mega-NeRF, arXiv 2112.10703, sec. 3.2), so that neighbours agree where they meet, and it sees coordinates local to
the grown cell, in [-1, 1]: one shared initialisation needs one input range.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.errors import InputError


@dataclass(frozen=True)
class Cells:
    """M boxes. `boxes` [M, 2, 3] (low corner, high corner) in scene units; `margin` >= 1 grows x and y.

    The height is not grown: cells are neighbours on the ground, and a scene's height range is already its own.

    Raises InputError where a box is empty, not finite or of a wrong shape.
    """

    boxes: Tensor
    margin: float = 1.15

    def __post_init__(self) -> None:
        boxes = self.boxes
        if not isinstance(boxes, Tensor) or boxes.dim() != 3 or boxes.shape[1:] != (2, 3):
            raise InputError(f"cells: boxes must be [M, 2, 3], got {getattr(boxes, 'shape', type(boxes).__name__)}")
        if not bool(torch.isfinite(boxes).all()) or not bool((boxes[:, 1] > boxes[:, 0]).all()):
            raise InputError(f"cells: every box must be finite with low < high, got {boxes.tolist()}")
        if not self.margin >= 1:
            raise InputError(f"cells: margin must be at least 1, got {self.margin}")
        object.__setattr__(self, "boxes", boxes.detach().to(torch.float32))

    def __len__(self) -> int:
        return self.boxes.shape[0]

    # Worked out once: every training step asks for them.
    @functools.cached_property
    def centers(self) -> Tensor:
        """[M, 3] of the cells (and of the grown cells)."""
        return self.boxes.mean(1)

    @functools.cached_property
    def halves(self) -> Tensor:
        """[M, 3], half the size of the grown cells."""
        half = (self.boxes[:, 1] - self.boxes[:, 0]) / 2
        return half * half.new_tensor([self.margin, self.margin, 1.0])

    @functools.cached_property
    def grown(self) -> Tensor:
        """[M, 2, 3], the grown cells."""
        return torch.stack((self.centers - self.halves, self.centers + self.halves), 1)

    @functools.cached_property
    def unit(self) -> float:
        """The scene's unit of length for densities: half the longest side of the largest cell."""
        return float((self.boxes[:, 1] - self.boxes[:, 0]).max()) / 2

    def hull(self) -> Tensor:
        """[2, 3], the smallest box that holds every grown cell."""
        grown = self.grown
        return torch.stack((grown[:, 0].amin(0), grown[:, 1].amax(0)))

    def to(self, device: torch.device | str) -> Cells:
        """The same cells on `device`."""
        return Cells(self.boxes.to(device), self.margin)

    def append(self, box: Tensor) -> Cells:
        """The same cells and one more, `box` [2, 3]."""
        return Cells(torch.cat((self.boxes, box.to(self.boxes)[None])), self.margin)

    def owners(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Who evaluates each point, and with which share.

        A point in one grown cell belongs to its module alone. Where grown cells overlap, each has a weight that falls
        from its cell's inside to 0 at the grown cell's border, and the weights are divided by their sum: a partition
        of unity, so that a render has no seam. Points in no grown cell have no owner.

        Args:
            points: [N, 3].

        Returns:
            rows int64 [K] (which point, ascending within a module), modules int64 [K] (ascending) and shares [K].
        """
        centers, halves = self.centers.to(points), self.halves.to(points)
        local = (points[None] - centers[:, None]).abs() / halves[:, None]  # [M, N, 3], 1 at the grown border
        inner = 2.0 / self.margin - 1.0  # mirror image of the grown border in the cell's border
        ramp = ((1.0 - local[..., :2]) / max(1.0 - inner, 1e-6)).clamp(0.0, 1.0).prod(-1)
        # A point on the outermost border still has an owner, also where its coordinates were rounded outwards.
        rounding = 4 * torch.finfo(local.dtype).eps * (1.0 + centers.abs() / halves)
        inside = (local <= 1.0 + rounding[:, None]).all(-1)
        weight = torch.where(inside, ramp.clamp(min=1e-6), torch.zeros_like(ramp))
        total = weight.sum(0)
        modules, rows = (weight > 0).nonzero(as_tuple=True)
        return rows, modules, weight[modules, rows] / total[rows]
