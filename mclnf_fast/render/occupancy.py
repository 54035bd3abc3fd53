"""Skip empty space: a grid of densities over a box that follows a field while it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mclnf_fast.errors import InputError

STRATA = 2  # jittered samples along each axis of a cell: one in each of its octants
CHUNK = 1 << 18  # points evaluated at a time


class OccupancyGrid:
    """Cells of a box that are not empty, as `ops.march_rays` and `sample_in_cells(occupancy=...)` take them.

    Every cell remembers the largest density that was sampled in it, and forgets it slowly (Instant NGP, arXiv
    2201.05989, appendix C; nerfacc's `OccGridEstimator` does the same):

        density <- max(decay * density, largest of the field's densities at jittered points of the cell)

    A cell is occupied if that is above `threshold`, or if that of a neighbor within `grow` cells is. Each octant of a
    cell is sampled once per update, so with `grow` of at least 1 nothing box-shaped that is denser than the threshold
    and at least two cells long on each axis is ever missed, wherever it lies in a level. Before the first update
    everything is occupied.

    Args:
        resolution: cells along x, y and z (or one number for all three), each at least 1.
        levels: L nested grids, 1 to 32; level k spans the box scaled by 2^k about its center.
        threshold: density (in the units of the field) up to which a cell counts as empty, at least 0.
        decay: factor of the old density in an update, above 0 and at most 1.
        aabb: [2, 3], the box; None: [-1, 1]^3, which is every module's own cell (see `sample_in_cells`).
        grow: cells by which occupied space is grown, at least 0.
        device: of the grid.

    Raises:
        InputError: an argument is out of range; the message names it.

    >>> grid = OccupancyGrid(8, threshold=0.5)
    >>> grid.update(lambda x: (x.norm(dim=1) < 0.3).float(), torch.Generator().manual_seed(0))
    >>> 0 < grid.fraction < 0.5
    True
    """

    def __init__(
        self,
        resolution: int | tuple[int, int, int],
        levels: int = 1,
        threshold: float = 0.01,
        decay: float = 0.95,
        aabb: Tensor | None = None,
        grow: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        size = (resolution,) * 3 if isinstance(resolution, int) else tuple(resolution)
        if len(size) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
            raise InputError(f"resolution must be an int or three ints of at least 1, got {resolution!r}")
        if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= 32:
            raise InputError(f"levels must be an int of 1 ... 32, got {levels!r}")
        if not (threshold >= 0 and math.isfinite(threshold)):
            raise InputError(f"threshold must be finite and at least 0, got {threshold!r}")
        if not 0 < decay <= 1:
            raise InputError(f"decay must be above 0 and at most 1, got {decay!r}")
        if isinstance(grow, bool) or not isinstance(grow, int) or grow < 0:
            raise InputError(f"grow must be an int of at least 0, got {grow!r}")
        box = torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float32) if aabb is None else aabb
        if not isinstance(box, Tensor) or box.shape != (2, 3):
            raise InputError(f"aabb must be [2, 3], got {getattr(box, 'shape', type(box).__name__)}")
        if not bool(torch.isfinite(box).all()) or not bool((box[0] < box[1]).all()):
            raise InputError(f"aabb must be finite with aabb[0] < aabb[1] on every axis, got {box.tolist()}")
        self.threshold, self.decay, self.grow = float(threshold), float(decay), grow
        self.aabb = box.detach().to(device=device, dtype=torch.float32)
        self.updates = 0
        self._density = torch.zeros((levels, *size), dtype=torch.float32, device=device)
        self._grid = torch.ones_like(self._density, dtype=torch.bool)

    @property
    def grid(self) -> Tensor:
        """Whether each cell is occupied, bool [L, X, Y, Z]."""
        return self._grid

    @property
    def density(self) -> Tensor:
        """The remembered densities, float32 [L, X, Y, Z]; 0 before the first update."""
        return self._density

    @property
    def fraction(self) -> float:
        """Share of occupied cells over all levels, 0 ... 1."""
        return float(self._grid.to(torch.float32).mean())

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], generator: torch.Generator | None = None) -> None:
        """Sample the field once in each octant of every cell, and take over its densities.

        Args:
            density: a function of points [N, 3] in the coordinates of the box; it returns densities [N], finite.
            generator: of the jitter, on the grid's device; None: torch's default.

        Raises:
            TypeError, ValueError: `density` returns something else; the grid is then left unchanged.
        """
        sampled = torch.stack([self._largest(density, level, generator) for level in range(self._density.shape[0])])
        self._density = torch.maximum(self._density * self.decay, sampled)
        self.updates += 1
        self._threshold()

    def _largest(self, density: Callable[[Tensor], Tensor], level: int, generator: torch.Generator | None) -> Tensor:
        """Return the largest density at a jittered point of each octant of every cell, [X, Y, Z]."""
        size = torch.tensor(self._density.shape[1:], device=self.aabb.device) * STRATA
        axes = [torch.arange(int(n), device=self.aabb.device) for n in size]
        corners = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        jitter = torch.rand(corners.shape, dtype=torch.float32, generator=generator, device=self.aabb.device)
        middle, half = self.aabb.mean(0), (self.aabb[1] - self.aabb[0]) / 2
        points = middle + half * 2.0**level * ((corners + jitter) / size * 2 - 1)
        values = torch.cat([_checked(density(part), part) for part in points.split(CHUNK)])
        fine = values.to(torch.float32).reshape(1, 1, *size.tolist())
        return torch.nn.functional.max_pool3d(fine, STRATA)[0, 0]

    def _threshold(self) -> None:
        occupied = self._density > self.threshold
        if self.grow:
            as_float = occupied.to(torch.float32)[:, None]
            occupied = torch.nn.functional.max_pool3d(as_float, 2 * self.grow + 1, 1, self.grow)[:, 0] > 0
        self._grid = occupied

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the densities and of the number of updates; the arguments are the caller's to keep."""
        return {"density": self._density.clone(), "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a `state_dict`. Raises InputError if an entry is missing or does not fit."""
        for name in ("density", "updates"):
            if name not in state:
                raise InputError(f"state must hold {name!r}, got {sorted(state)}")
        if state["density"].shape != self._density.shape:
            raise InputError(
                f"state['density'] must be {list(self._density.shape)}, got {list(state['density'].shape)}"
            )
        self._density = state["density"].to(self._density, copy=True)
        self.updates = int(state["updates"])
        if self.updates:
            self._threshold()
        else:
            self._grid = torch.ones_like(self._grid)


def _checked(values: Tensor, points: Tensor) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"density must return a tensor [N], got {type(values).__name__}")
    if values.shape != points.shape[:1]:
        raise ValueError(f"density must return [N] = [{points.shape[0]}], got {list(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("density must return finite densities, got NaN or infinity")
    return values
