"""A procedural city district as plain data: the solids, their colors, and the streets between them.

The plan is that of a planned city, block after block alike in outline and different in everything else: square cells of
`CELL` meters, a main street along each cell border, two narrower streets through each cell that cut it into four lots,
one of them a park, the others parcels whose kind and height of building follow from their position. Facades, roofs,
exact heights, trees and cars differ. So districts share a structure that a shared initialization can learn.
Cells continue one ring beyond the district, so that no view ends in a void. Lengths are meters, z is up, the ground is
z = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.graphics.raycast import Solids
from mclnf_fast.data.procedural.city.parts import Kit, Rect
from mclnf_fast.data.procedural.city.style import Style
from mclnf_fast.errors import InputError

CELL = 200.0
RING = 1  # cells built around the district
TOP = 45.0  # no solid reaches higher
HEIGHTS = (-1.0, 46.0)  # the z range of a block's box: ground and rooftops with a margin
MAIN_ROAD, MAIN_WALK = 8.0, 13.0  # half widths of a main street: carriageway, with pavements
SIDE_ROAD, SIDE_WALK = 4.5, 7.5  # the same for the streets inside a cell
BUILT, PARK, PLAZA = 0, 1, 2
PARK_LOT, PLAZA_LOT = 3, 0  # lot = (x beyond the street) + 2 * (y beyond the street)
# Kind and relative height of the buildings on a lot's parcels, in the order in which the lot is cut. Fixed, not random:
# heights drawn for each parcel would leave nothing to an initialization that is learned on other districts.
ZONES = (("court", 0.4), ("podium", 0.75), ("slab", 0.5), ("stepped", 0.3), ("slab", 0.85), ("podium", 0.35))


@dataclass(frozen=True)
class District:
    """Everything that the renderer needs.

    Attributes:
        solids: boxes [B, 6] and ellipsoids [E, 6], meters.
        materials: float32 [B + E, MATERIAL_COLUMNS], see `parts`.
        side_streets: float32 [nx + 2, ny + 2, 2], positions (0 ... CELL) in a cell of its own streets, meters.
        lots: int64 [nx + 2, ny + 2, 4], BUILT, PARK or PLAZA; lot = (x beyond the street) + 2 * (y beyond the street).
        origin: float32 [2], the lower corner of cell (0, 0) of these tables (the ring's corner).
        blocks: (nx, ny), the district proper.
        sun: float32 [3], unit direction towards the sun.
        style: how it was built.

    >>> make_district(seed=0, blocks=(2, 1)).blocks
    (2, 1)
    """

    solids: Solids
    materials: Tensor
    side_streets: Tensor
    lots: Tensor
    origin: Tensor
    blocks: tuple[int, int]
    sun: Tensor
    style: Style = field(default_factory=Style)

    def block_boxes(self) -> Tensor:
        """Return the blocks' boxes, float32 [nx * ny, 2, 3], x fastest: cells in x and y, `HEIGHTS` in z, each times
        what the style says."""
        (nx, ny), side, style = self.blocks, CELL * self.style.span, self.style
        boxes = torch.empty(nx * ny, 2, 3, dtype=torch.float32)
        ring = self.origin + RING * CELL
        for k in range(nx * ny):
            low = ring + side * torch.tensor([k % nx, k // nx], dtype=torch.float32)
            boxes[k, 0, :2], boxes[k, 1, :2] = low, low + side
            boxes[k, 0, 2], boxes[k, 1, 2] = HEIGHTS[0], HEIGHTS[1] * style.heights * style.room
        return boxes


def make_district(seed: int, blocks: tuple[int, int] = (2, 2), style: Style | None = None) -> District:
    """Lay out a district of `blocks` centered on the origin; the same seed and style give the same district.

    `style`: see `Style`; None: the default one, whose blocks are the cells of the plan.

    Raises:
        InputError: fewer than one or more than 16 blocks along an axis.

    >>> make_district(seed=0, blocks=(1, 1)).block_boxes().shape
    torch.Size([1, 2, 3])
    """
    nx, ny = blocks
    if not (1 <= nx <= 16 and 1 <= ny <= 16):
        raise InputError(f"blocks: must be two counts from 1 to 16, was {blocks}")
    style = Style() if style is None else style
    origin = np.array([-(nx / 2 * style.span + RING) * CELL, -(ny / 2 * style.span + RING) * CELL])
    shape = (math.ceil(nx * style.span) + 2 * RING, math.ceil(ny * style.span) + 2 * RING)
    side = np.zeros((*shape, 2), np.float32)
    lots = np.zeros((*shape, 4), np.int64)
    kit = Kit()
    for i in range(shape[0]):
        for j in range(shape[1]):
            # A generator per cell: a cell is the same whatever stands beside it.
            rng = np.random.default_rng([seed, i, j])
            side[i, j] = CELL / 2 + rng.uniform(-2.0, 2.0, 2)
            lots[i, j, PARK_LOT] = PARK
            if rng.random() < 0.3:
                lots[i, j, PLAZA_LOT] = PLAZA
            if style.lots is not None:
                lots[i, j] = rng.choice((BUILT, PARK, PLAZA), 4, p=style.lots)
            _fill_cell(kit, rng, origin + CELL * np.array([i, j]), side[i, j], lots[i, j], style.mixed)
    boxes, ellipsoids, materials = kit.arrays()
    for solids in (boxes, ellipsoids):
        solids[:, [2, 5]] *= style.heights
    sun = torch.tensor(style.sun, dtype=torch.float32)
    return District(
        solids=Solids(boxes, ellipsoids),
        materials=materials,
        side_streets=torch.from_numpy(side),
        lots=torch.from_numpy(lots),
        origin=torch.from_numpy(origin.astype(np.float32)),
        blocks=(nx, ny),
        sun=sun / sun.norm(),
        style=style,
    )


def lot_rectangle(side: np.ndarray, lot: int) -> Rect:
    """Return the building land of lot 0 ... 3 in its cell, inside the pavements: x0, y0, x1, y1, meters.

    >>> lot_rectangle(np.array([100.0, 100.0]), 0)
    (13.0, 13.0, 92.5, 92.5)
    """
    before = [(MAIN_WALK, float(s) - SIDE_WALK) for s in side]
    beyond = [(float(s) + SIDE_WALK, CELL - MAIN_WALK) for s in side]
    (x0, x1), (y0, y1) = (beyond if lot & 1 else before)[0], (beyond if lot & 2 else before)[1]
    return x0, y0, x1, y1


def _fill_cell(
    kit: Kit, rng: np.random.Generator, corner: np.ndarray, side: np.ndarray, lots: np.ndarray, mixed: bool
) -> None:
    """Build on the four lots of a cell, and line its streets."""
    kit.move_to(float(corner[0]), float(corner[1]))
    for lot in range(4):
        rect = lot_rectangle(side, lot)
        if lots[lot] == PARK:
            _fill_park(kit, rng, rect)
        elif lots[lot] == PLAZA:
            _fill_plaza(kit, rng, rect)
        else:
            _fill_built(kit, rng, rect, mixed)
    _line_streets(kit, rng, side)


def _fill_built(kit: Kit, rng: np.random.Generator, rect: Rect, mixed: bool) -> None:
    """Halve the lot into parcels of at most 42 m and put a building on each, by its zone or, if `mixed`, any."""
    uncut, parcel = [rect], 0
    while uncut:
        x0, y0, x1, y1 = uncut.pop()
        w, h = x1 - x0, y1 - y0
        if max(w, h) > 42.0:
            if w >= h:
                uncut += [(x0, y0, x0 + w / 2, y1), (x0 + w / 2, y0, x1, y1)]
            else:
                uncut += [(x0, y0, x1, y0 + h / 2), (x0, y0 + h / 2, x1, y1)]
            continue
        inset = rng.uniform(1.5, 2.5, 4)
        kind, level = ZONES[parcel % len(ZONES)]
        if mixed:
            kind, level = ZONES[int(rng.integers(len(ZONES)))][0], float(rng.random())
        land = (x0 + inset[0], y0 + inset[1], x1 - inset[2], y1 - inset[3])
        kit.building(rng, land, TOP - 4.0, kind, level)
        parcel += 1


def _fill_park(kit: Kit, rng: np.random.Generator, rect: Rect) -> None:
    """Scatter trees over a park, off its paths and its pond (`ground.py` paints those)."""
    x0, y0, x1, y1 = rect
    for _ in range(int(rng.integers(30, 42))):
        a, b = rng.uniform(-0.93, 0.93, 2)
        hx, hy = (x1 - x0) / 2, (y1 - y0) / 2
        on_path = abs(abs(a) - abs(b)) * min(hx, hy) < 3.2
        if on_path or a * a + b * b < 0.30:
            continue
        kit.tree(rng, (x0 + x1) / 2 + a * hx, (y0 + y1) / 2 + b * hy, rng.uniform(2.6, 4.6))


def _fill_plaza(kit: Kit, rng: np.random.Generator, rect: Rect) -> None:
    """Put a tower on one side of a paved square, trees in rows and a low pavilion on the other."""
    x0, y0, x1, y1 = rect
    w, h = x1 - x0, y1 - y0
    corner = int(rng.integers(4))
    bx, by = (
        (x0 + 4.0 if corner & 1 else x1 - 4.0 - 0.42 * w),
        (y0 + 4.0 if corner & 2 else y1 - 4.0 - 0.42 * h),
    )
    kit.building(rng, (bx, by, bx + 0.42 * w, by + 0.42 * h), TOP - 4.0, kind="tower")
    px, py = (x1 - 0.36 * w if corner & 1 else x0 + 6.0), (y1 - 0.30 * h if corner & 2 else y0 + 6.0)
    kit.building(rng, (px, py, px + 0.28 * w, py + 0.22 * h), 9.0, kind="pavilion")
    cx, cy = (x1 - 8.0 if corner & 1 else x0 + 8.0), (y0 + 8.0 if corner & 2 else y1 - 8.0)
    for k in range(5):
        kit.tree(
            rng,
            cx + (-9.0 if corner & 1 else 9.0) * 0.5 * (k % 2),
            cy + (8.0 if corner & 2 else -8.0) * k * 0.6,
            2.4,
        )


def _line_streets(kit: Kit, rng: np.random.Generator, side: np.ndarray) -> None:
    """Put trees along the main pavements, and cars in the lanes and at the curbs of the cell's half of the streets."""
    sx, sy = float(side[0]), float(side[1])
    for along, crossing in ((0, sx), (1, sy)):
        for edge in (MAIN_ROAD + 2.2, CELL - MAIN_ROAD - 2.2):
            for k in np.arange(24.0, CELL - 20.0, 13.0):
                position = float(k) + rng.uniform(-1.0, 1.0)
                if abs(position - crossing) < SIDE_WALK + 5.0 or rng.random() < 0.15:
                    continue
                x, y = (position, edge) if along == 0 else (edge, position)
                kit.tree(rng, x, y, rng.uniform(1.9, 2.7))
        for lane in (1.9, 5.9, CELL - 1.9, CELL - 5.9):
            for k in np.arange(20.0, CELL - 22.0, 12.0):
                position = float(k) + rng.uniform(0.0, 5.0)
                if abs(position - crossing) > SIDE_WALK + 4.0 and rng.random() < 0.30:
                    kit.car(rng, along, position, lane)
    for along, street, crossing in ((0, sy, sx), (1, sx, sy)):
        for lane in (street - 3.3, street + 3.3):
            for k in np.arange(18.0, CELL - 22.0, 6.5):
                position = float(k) + rng.uniform(0.0, 1.0)
                if abs(position - crossing) > SIDE_WALK + 5.0 and rng.random() < 0.45:
                    kit.car(rng, along, position, lane)
