"""Assign a part of space to every module of a bank.

Each module owns a box, its *cell*. It is trained and evaluated on the cell grown by a margin about its center (1.15 as
in Mega-NeRF, arXiv 2112.10703, sec. 3.2), so that neighbors agree at their common border, and it takes coordinates
local to the grown cell, in [-1, 1]: one shared initialization needs one input range.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.errors import InputError


@dataclass(frozen=True)
class Cells:
    """M boxes, one for each module of a bank.

    Attributes:
        boxes: [M, 2, 3], low corner and high corner, in scene units.
        margin: at least 1; factor by which x and y of the grown cell exceed the box. The height is not grown: cells are
            neighbors on the ground, and a scene's range of heights already belongs to it alone.

    Raises:
        InputError: a box is empty, not finite or of a wrong shape; the margin is below 1.

    >>> cells = Cells(torch.tensor([[[0.0, 0.0, 0.0], [4.0, 4.0, 2.0]]]), margin=1.5)
    >>> cells.grown.tolist(), cells.unit
    ([[[-1.0, -1.0, 0.0], [5.0, 5.0, 2.0]]], 2.0)
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

    # Computed once: every training step takes them, and each would be a few small kernels.
    @functools.cached_property
    def centers(self) -> Tensor:
        """Centers [M, 3] of the cells, and of the grown cells."""
        return self.boxes.mean(1)

    @functools.cached_property
    def halves(self) -> Tensor:
        """Half the size of the grown cells, [M, 3]."""
        half = (self.boxes[:, 1] - self.boxes[:, 0]) / 2
        return half * half.new_tensor([self.margin, self.margin, 1.0])

    @functools.cached_property
    def grown(self) -> Tensor:
        """The grown cells, [M, 2, 3]."""
        return torch.stack((self.centers - self.halves, self.centers + self.halves), 1)

    @functools.cached_property
    def unit(self) -> float:
        """The unit of length of densities: half the longest side of the largest cell, in scene units."""
        return float((self.boxes[:, 1] - self.boxes[:, 0]).max()) / 2

    def hull(self) -> Tensor:
        """Return the smallest box that holds every grown cell, [2, 3]."""
        grown = self.grown
        return torch.stack((grown[:, 0].amin(0), grown[:, 1].amax(0)))

    def to(self, device: torch.device | str) -> Cells:
        """Return the same cells on `device`."""
        return Cells(self.boxes.to(device), self.margin)

    def append(self, box: Tensor) -> Cells:
        """Return the same cells and one more, `box` [2, 3]."""
        return Cells(torch.cat((self.boxes, box.to(self.boxes)[None])), self.margin)

    def owners(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the modules that evaluate each point, and their shares of it.

        A point in one grown cell belongs to its module alone. In the overlap of several, each has a weight that falls
        from the inside of its cell to 0 at the border of the grown cell, and the weights are divided by their sum: a
        partition of unity, so that a picture has no seam. Points in no grown cell have no owner.

        Args:
            points: [N, 3], scene units.

        Returns:
            rows int64 [K] (of `points`, ascending within a module), modules int64 [K] (ascending) and shares [K].

        >>> cells = Cells(torch.tensor([[[0.0, 0, 0], [2.0, 2, 2]], [[2.0, 0, 0], [4.0, 2, 2]]]), margin=1.5)
        >>> rows, modules, shares = cells.owners(torch.tensor([[2.0, 1.0, 1.0], [0.5, 1.0, 1.0]]))
        >>> rows.tolist(), modules.tolist(), shares.tolist()
        ([0, 1, 0], [0, 0, 1], [0.5, 1.0, 0.5])
        """
        centers, halves = self.centers.to(points), self.halves.to(points)
        local = (points[None] - centers[:, None]).abs() / halves[:, None]  # [M, N, 3], 1 at the grown border
        # The ramp begins at the mirror image of the grown border in the cell's border, so that the ramps of two equal
        # neighbors add up to 1 between the two grown borders.
        inner = 2.0 / self.margin - 1.0
        ramp = ((1.0 - local[..., :2]) / max(1.0 - inner, 1e-6)).clamp(0.0, 1.0).prod(-1)
        # A point on the outermost border has an owner even if its coordinates were rounded outwards; else such a ray
        # would lose its first or last sample.
        rounding = 4 * torch.finfo(local.dtype).eps * (1.0 + centers.abs() / halves)
        inside = (local <= 1.0 + rounding[:, None]).all(-1)
        weight = torch.where(inside, ramp.clamp(min=1e-6), torch.zeros_like(ramp))
        total = weight.sum(0)
        modules, rows = (weight > 0).nonzero(as_tuple=True)
        return rows, modules, weight[modules, rows] / total[rows]

    def strongest(self, points: Tensor) -> Tensor:
        """Return the module with the largest share of each point, int64 [N]; -1 for a point in no grown cell.

        Args:
            points: [N, 3], scene units.

        >>> cells = Cells(torch.tensor([[[0.0, 0, 0], [2.0, 2, 2]], [[2.0, 0, 0], [4.0, 2, 2]]]), margin=1.5)
        >>> cells.strongest(torch.tensor([[1.5, 1.0, 1.0], [2.5, 1.0, 1.0], [9.0, 0.0, 0.0]])).tolist()
        [0, 1, -1]
        """
        rows, modules, shares = self.owners(points)
        strongest = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
        largest = shares.new_zeros(len(points))
        for module in range(len(self)):  # rows are unique within a module, so that each may be written at once
            mine = modules == module
            stronger = shares[mine] > largest[rows[mine]]
            strongest[rows[mine][stronger]] = module
            largest[rows[mine][stronger]] = shares[mine][stronger]
        return strongest
