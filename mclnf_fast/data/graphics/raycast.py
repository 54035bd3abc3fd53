"""Casts rays exactly at boxes, ellipsoids and the ground plane z = 0, with sun shadows.

Nothing is a mesh: each hit is the closed-form crossing of a ray and a solid. It is fast because few pairs are tested: a
primary ray is tested against the solids whose projected bounds hold its pixel, and a shadow ray (all are parallel to
the sun) against those whose shadow touches the point's cell of a grid on the ground. Lengths are meters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.lenses.views import check_pinhole

GROUND, SKY = -1, -2
NEAR = 0.05  # meters; nothing is seen closer than this
SHADOW_BIAS = 0.02  # meters along the normal, so that a face does not shade itself
_BITS = 0xFFFFFFFF


def box_entry(low: list[Tensor], high: list[Tensor], inverse: list[Tensor]) -> Tensor:
    """Return the distance at which rays enter axis-aligned boxes.

    It is infinity for a miss, for a box behind, and for an origin inside.

    Args:
        low, high: three tensors each, the box's corners minus the ray's origin, meters.
        inverse: three tensors, 1 / direction. All broadcast together.

    >>> def axes(x, y, z):
    ...     return [torch.tensor([value]) for value in (x, y, z)]
    >>> box_entry(axes(1.0, -1.0, -1.0), axes(2.0, 1.0, 1.0), axes(1.0, torch.inf, torch.inf)).tolist()
    [1.0]
    """
    near = far = None
    for axis in range(3):
        lower, upper = low[axis] * inverse[axis], high[axis] * inverse[axis]
        entry, leave = torch.minimum(lower, upper), torch.maximum(lower, upper)
        near = entry if near is None else torch.maximum(near, entry)
        far = leave if far is None else torch.minimum(far, leave)
    assert near is not None
    assert far is not None
    return torch.where((near <= far) & (near > 0), near, torch.inf)


def ellipsoid_entry(center: list[Tensor], radius: list[Tensor], direction: list[Tensor]) -> Tensor:
    """Return the distance at which rays enter ellipsoids.

    It is infinity for a miss, for one behind, and for an origin inside.

    Args:
        center: three tensors, the center minus the ray's origin, meters.
        radius: three tensors, the half axes (along x, y, z), meters.
        direction: three tensors. All broadcast together.

    >>> def axes(x, y, z):
    ...     return [torch.tensor([value]) for value in (x, y, z)]
    >>> ellipsoid_entry(axes(3.0, 0.0, 0.0), axes(1.0, 1.0, 1.0), axes(1.0, 0.0, 0.0)).tolist()
    [2.0]
    """
    c = [center[axis] / radius[axis] for axis in range(3)]
    d = [direction[axis] / radius[axis] for axis in range(3)]
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    middle = (c[0] * d[0] + c[1] * d[1] + c[2] * d[2]) / a
    # The distance of the line from the center is formed before it is squared: b^2 - 4ac would cancel in float32.
    offset = [c[axis] - middle * d[axis] for axis in range(3)]
    inside = 1.0 - (offset[0] * offset[0] + offset[1] * offset[1] + offset[2] * offset[2])
    entry = middle - (inside.clamp_min(0.0) / a).sqrt()
    return torch.where((inside > 0) & (entry > 0), entry, torch.inf)


def rectangle_pairs(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return every (item, cell) pair of P half-open integer rectangles on a grid of `width` columns; int64 [N] each.

    Args:
        x0, y0, x1, y1: int64 [P], first column and row, and the ones behind the last.
        width: columns of the grid.

    >>> corners = [torch.tensor([value]) for value in (0, 0, 2, 1)]
    >>> [pairs.tolist() for pairs in rectangle_pairs(*corners, width=4)]
    [[0, 0], [0, 1]]
    """
    columns = (x1 - x0).clamp_min(0)
    counts = columns * (y1 - y0).clamp_min(0)
    item = torch.repeat_interleave(counts)
    local = torch.arange(len(item)) - (counts.cumsum(0) - counts)[item]
    row = torch.div(local, columns[item], rounding_mode="floor")
    return item, (y0[item] + row) * width + x0[item] + local - row * columns[item]


@dataclass(frozen=True)
class Solids:
    """Boxes [B, 6] (lower corner, upper corner) and ellipsoids [E, 6] (center, half axes), float32, meters.

    Raises:
        InputError: another shape or dtype, values that are not finite, an extent that is not positive.

    >>> len(Solids(torch.tensor([[0.0, 0, 0, 1, 1, 1]]), torch.zeros(0, 6)).boxes)
    1
    """

    boxes: Tensor
    ellipsoids: Tensor

    def __post_init__(self) -> None:
        for name in ("boxes", "ellipsoids"):
            value = getattr(self, name)
            if value.ndim != 2 or value.shape[1] != 6 or value.dtype != torch.float32:
                raise InputError(f"{name}: must be float32 [N, 6], was {value.dtype} {tuple(value.shape)}")
            size = value[:, 3:] - value[:, :3] if name == "boxes" else value[:, 3:]
            if not bool(torch.isfinite(value).all()) or not bool((size > 0).all()):
                raise InputError(f"{name}: must be finite with a positive extent on each axis")

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the lower and upper corners [B + E, 3] of each solid's own box; boxes come first."""
        center, radius = self.ellipsoids[:, :3], self.ellipsoids[:, 3:]
        low = torch.cat([self.boxes[:, :3], center - radius])
        return low, torch.cat([self.boxes[:, 3:], center + radius])


@dataclass(frozen=True)
class Hits:
    """The first hits of S rays through each of K pixels.

    Attributes:
        distance: [K, S], meters; infinity for the sky.
        solid: int64 [K, S], index of the solid (boxes first), GROUND or SKY.
        directions: three tensors [K, S], the unit directions of the rays.

    >>> Hits(torch.full((1, 1), torch.inf), torch.full((1, 1), SKY), [torch.ones(1, 1)] * 3).solid.tolist()
    [[-2]]
    """

    distance: Tensor
    solid: Tensor
    directions: list[Tensor]


class RayCaster:
    """Casts camera rays and sun rays at `solids` on the ground plane.

    Args:
        solids: the scene.
        sun: [3], the direction towards the sun; above the horizon.
        cell: edge of a cell of the shadow grid, meters.

    Raises:
        InputError: `sun` is no direction above the horizon.

    >>> up = torch.tensor([0.0, 0.0, 1.0])
    >>> caster = RayCaster(Solids(torch.tensor([[0.0, 0, 0, 1, 1, 1]]), torch.zeros(0, 6)), sun=up)
    >>> caster.shadowed(torch.tensor([[0.5, 0.5, 0.0], [2.0, 2.0, 0.0]]), up.expand(2, 3)).tolist()
    [True, False]
    """

    def __init__(self, solids: Solids, sun: Tensor, cell: float = 3.0) -> None:
        if tuple(sun.shape) != (3,) or float(sun[2]) <= 0.05:
            raise InputError(f"sun: must be a direction [3] above the horizon, was {sun.tolist()}")
        self.solids, self.sun, self.cell = solids, (sun / sun.norm()).to(torch.float32), cell
        self._low, self._high = solids.bounds()
        self._box_count = len(solids.boxes)
        self._build_shadow_grid()

    def cast(self, cameras: Cameras, view: int, rows: tuple[int, int], x: Tensor, y: Tensor) -> Hits:
        """Return the first hits of the rays through rows `rows[0]` (first) to `rows[1]` (one past the last) of a view.

        Args:
            cameras: positions in meters.
            view: index of the camera.
            rows: first row, and the one behind the last.
            x, y: [K, S], image positions in pixels of S samples in each of the K = (rows * width) pixels.
        """
        check_pinhole(cameras, "RayCaster.cast")
        pose, origin = cameras.c2w[view], cameras.c2w[view, :, 3]
        a, b = (x - cameras.cx[view]) / cameras.fx[view], (cameras.cy[view] - y) / cameras.fy[view]
        scale = torch.rsqrt(a * a + b * b + 1.0)
        directions = [(pose[k, 0] * a + pose[k, 1] * b - pose[k, 2]) * scale for k in range(3)]
        # One integer holds distance (its float bits sort like the float, as it is positive) and solid: a minimum over
        # it finds both at once and does not depend on the order.
        count = len(self._low)
        ground = -origin[2] / directions[2]
        ground = torch.where(ground > 0, ground, torch.inf)
        best = (ground.view(torch.int32).to(torch.int64) << 32) | count
        rectangles = self._screen_bounds(cameras, view, rows)
        for kind in (0, 1):
            span = slice(0, self._box_count) if kind == 0 else slice(self._box_count, count)
            x0, y0, x1, y1 = (edge[span] for edge in rectangles)
            item, pixel = rectangle_pairs(x0, y0, x1, y1, cameras.width)
            if not len(item):
                continue
            table = self.solids.boxes if kind == 0 else self.solids.ellipsoids
            rows6 = table.index_select(0, item)
            corner_or_center = [(rows6[:, k] - origin[k])[:, None] for k in range(3)]
            ray = [directions[k].index_select(0, pixel) for k in range(3)]
            if kind == 0:
                high = [(rows6[:, 3 + k] - origin[k])[:, None] for k in range(3)]
                distance = box_entry(corner_or_center, high, [1.0 / component for component in ray])
            else:
                radius = [rows6[:, 3 + k, None] for k in range(3)]
                distance = ellipsoid_entry(corner_or_center, radius, ray)
            key = (distance.view(torch.int32).to(torch.int64) << 32) | (item + span.start)[:, None]
            best.scatter_reduce_(0, pixel[:, None].expand_as(key), key, "amin")
        solid = best & _BITS
        distance = (best >> 32).to(torch.int32).view(torch.float32)
        solid = torch.where(solid == count, GROUND, solid)
        return Hits(distance, torch.where(torch.isinf(distance), SKY, solid), directions)

    def _screen_bounds(self, cameras: Cameras, view: int, rows: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return pixel rectangles x0, y0, x1, y1 (int64 [P], half open, y from `rows[0]`) of the solids' pictures."""
        pose = cameras.c2w[view]
        # Corners in camera axes: the sum of one choice (low or high) per world axis, so eight sums of three vectors.
        offsets = [
            [(edge[:, k] - pose[k, 3])[:, None] * pose[k, :3] for edge in (self._low, self._high)] for k in range(3)
        ]
        corners = torch.stack([offsets[0][i & 1] + offsets[1][i >> 1 & 1] + offsets[2][i >> 2] for i in range(8)], 1)
        depth = -corners[..., 2]
        safe = depth.clamp_min(NEAR)
        px = cameras.cx[view] + cameras.fx[view] * corners[..., 0] / safe
        py = cameras.cy[view] - cameras.fy[view] * corners[..., 1] / safe - rows[0]
        height, width = rows[1] - rows[0], cameras.width
        x0, x1 = px.amin(1).clamp(-1, width).floor(), px.amax(1).clamp(-1, width).floor() + 1
        y0, y1 = py.amin(1).clamp(-1, height).floor(), py.amax(1).clamp(-1, height).floor() + 1
        # A solid that straddles the camera's plane has no bounded picture: it is tested everywhere, unless it lies
        # wholly beyond one of the picture's four sides. Those planes pass through the eye, so no division is needed.
        right, up = corners[..., 0] * cameras.fx[view], corners[..., 1] * cameras.fy[view]
        left_of = (right + cameras.cx[view] * depth).amax(1) < 0
        right_of = (right - (width - cameras.cx[view]) * depth).amin(1) > 0
        above = (up - (cameras.cy[view] - rows[0]) * depth).amin(1) > 0
        below = (up + (rows[1] - cameras.cy[view]) * depth).amax(1) < 0
        straddles, unseen = depth.amin(1) < NEAR, (depth.amax(1) < NEAR) | left_of | right_of | above | below
        x0, y0 = x0.masked_fill(straddles, 0.0), y0.masked_fill(straddles, 0.0)
        x1, y1 = x1.masked_fill(straddles, width), y1.masked_fill(straddles, height)
        x1 = x1.masked_fill(unseen, -1.0)
        edges = (x0.clamp_min(0), y0.clamp_min(0), x1.clamp_max(width), y1.clamp_max(height))
        return tuple(edge.to(torch.int64) for edge in edges)

    def _to_ground(self, points: Tensor) -> Tensor:
        """Return points [N, 3] moved along the sun's rays to the ground, [N, 2]."""
        return points[:, :2] - points[:, 2:] * (self.sun[:2] / self.sun[2])

    def _build_shadow_grid(self) -> None:
        """List, for each grid cell, the solids whose shadow touches it: `_start` [cells + 1] into `_members`."""
        slant = self.sun[:2] / self.sun[2]
        shift_low, shift_high = self._low[:, 2:] * slant, self._high[:, 2:] * slant
        low = self._low[:, :2] - torch.maximum(shift_low, shift_high)
        high = self._high[:, :2] - torch.minimum(shift_low, shift_high)
        if not len(low):
            low = high = torch.zeros(1, 2, dtype=torch.float32)
        self._origin = low.amin(0) - self.cell
        shape = ((high.amax(0) - self._origin) / self.cell).floor().to(torch.int64) + 2
        self._columns, self._rows = int(shape[0]), int(shape[1])
        begin = ((low - self._origin) / self.cell - 0.01).floor().to(torch.int64)
        end = ((high - self._origin) / self.cell + 0.01).floor().to(torch.int64) + 1
        begin, end = begin[: len(self._low)], end[: len(self._low)]
        item, cell = rectangle_pairs(begin[:, 0], begin[:, 1], end[:, 0], end[:, 1], self._columns)
        if float(slant.norm()) > 1e-6:
            # A box's shadow is its footprint swept along the sun: cells beside the sweep do not meet it.
            across = torch.stack([-slant[1], slant[0]]) / slant.norm()
            half = (self._high - self._low)[:, :2] / 2
            center = (self._high + self._low)[:, :2] / 2
            position = torch.stack([cell % self._columns, torch.div(cell, self._columns, rounding_mode="floor")], 1)
            middle = self._origin + (position.to(torch.float32) + 0.5) * self.cell
            gap = ((middle - center[item]) @ across).abs()
            keep = gap <= ((half[item] + self.cell / 2 + 0.05) @ across.abs())
            item, cell = item[keep], cell[keep]
        order = torch.argsort(cell, stable=True)
        self._members = item[order]
        counts = torch.bincount(cell, minlength=self._columns * self._rows)
        self._start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def shadowed(self, points: Tensor, normals: Tensor) -> Tensor:
        """Return whether a solid stands between each point [N, 3] with unit normal [N, 3] and the sun, bool [N].

        A surface that faces away from the sun is in its own shadow.
        """
        dark = normals @ self.sun <= 1e-4
        start = points + SHADOW_BIAS * normals
        cell = ((self._to_ground(start) - self._origin) / self.cell).floor().to(torch.int64)
        inside = (cell[:, 0] >= 0) & (cell[:, 1] >= 0) & (cell[:, 0] < self._columns) & (cell[:, 1] < self._rows)
        lit = (inside & ~dark).nonzero()[:, 0]
        flat = cell[lit, 1] * self._columns + cell[lit, 0]
        begin, counts = self._start[flat], self._start[flat + 1] - self._start[flat]
        pair_point = torch.repeat_interleave(counts)
        member = self._members[torch.arange(len(pair_point)) + (begin - (counts.cumsum(0) - counts))[pair_point]]
        pair_point = lit[pair_point]
        above = self._high[member, 2] > start[pair_point, 2]
        pair_point, member = pair_point[above], member[above]
        for kind in (0, 1):
            chosen = ((member >= self._box_count) == bool(kind)).nonzero()[:, 0]
            origin, solid = start.index_select(0, pair_point[chosen]), member[chosen] - kind * self._box_count
            rows6 = (self.solids.ellipsoids if kind else self.solids.boxes).index_select(0, solid)
            if kind == 0:
                # A ray that starts inside a box (two of them overlap) is dark too, so any stretch ahead counts.
                inverse = 1.0 / self.sun
                lower, upper = (rows6[:, :3] - origin) * inverse, (rows6[:, 3:] - origin) * inverse
                blocked = torch.minimum(lower, upper).amax(1) <= torch.maximum(lower, upper).amin(1).clamp_max(1e9)
                blocked &= torch.maximum(lower, upper).amin(1) > 0
            else:
                center, sun = (rows6[:, :3] - origin) / rows6[:, 3:], self.sun / rows6[:, 3:]
                squared = (sun * sun).sum(1)
                middle = (center * sun).sum(1) / squared
                offset = center - middle[:, None] * sun
                inside_line = 1.0 - (offset * offset).sum(1)
                blocked = (inside_line > 0) & (middle + (inside_line.clamp_min(0) / squared).sqrt() > 0)
            dark[pair_point[chosen][blocked]] = True
        return dark
