"""Cuts posed frames into blocks by camera position, so that every block has views to train and to test on."""

from __future__ import annotations

import numpy as np

from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.matrixcity import FrameGroup
from mclnf_fast.errors import InputError


def hold_out(frames: list[PosedFrame], every: int) -> tuple[list[PosedFrame], list[PosedFrame]]:
    """Return frames as those to train and those to test on: each `every`-th, the first included (0: none).

    A single frame is never tested on, since it has to be trained on.

    >>> from pathlib import Path
    >>> poses = [PosedFrame(Path("a.png"), f"{k}", np.eye(4), {}, Path("a.json")) for k in range(3)]
    >>> [[frame.name for frame in part] for part in hold_out(poses, 2)]
    [['1'], ['0', '2']]
    """
    if every == 0 or len(frames) < 2:
        return list(frames), []
    return [frame for k, frame in enumerate(frames) if k % every], frames[::every]


def cut_by_position(group: FrameGroup, nx: int, ny: int) -> list[FrameGroup]:
    """Cut a group into nx * ny cells by camera position, x fastest.

    The x cuts are quantiles of the training cameras, and so are the y cuts within each column, so every cell has an
    equal share of them on any flight path; equal areas would leave cells without a view. Test views belong to the cell
    that they stand in.

    Raises:
        InputError: fewer training views than cells, or a cell that stays empty (cameras at one place).

    >>> from pathlib import Path
    >>> poses = [np.eye(4) + np.array([[0, 0, 0, x], *[[0] * 4] * 3]) for x in range(4)]
    >>> frames = [PosedFrame(Path("a.png"), f"{k}", pose, {}, Path("a.json")) for k, pose in enumerate(poses)]
    >>> [[frame.name for frame in cell.train] for cell in cut_by_position(FrameGroup("all", frames), 2, 1)]
    [['0', '1'], ['2', '3']]
    """
    if nx < 1 or ny < 1:
        raise InputError(f"blocks: must be two counts >= 1, was ({nx}, {ny})")
    if len(group.train) < nx * ny:
        raise InputError(f"blocks: ({nx}, {ny}) need {nx * ny} training views at least, there are {len(group.train)}")

    def cells(values: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        return np.searchsorted(cuts, values, side="right")

    x, y = _positions(group.train, 0), _positions(group.train, 1)
    cuts_x = np.quantile(x, np.arange(1, nx) / nx)
    columns, test_columns = cells(x, cuts_x), cells(_positions(group.test, 0), cuts_x)
    grid: dict[tuple[int, int], FrameGroup] = {}
    for i in range(nx):
        inside = columns == i
        cuts_y = np.quantile(y[inside], np.arange(1, ny) / ny) if inside.any() else np.zeros(ny - 1)
        rows, test_rows = cells(y, cuts_y), cells(_positions(group.test, 1), cuts_y)
        for j in range(ny):
            cell = FrameGroup(f"block_{j * nx + i + 1}")
            cell.train = [group.train[k] for k in np.flatnonzero(inside & (rows == j))]
            cell.test = [group.test[k] for k in np.flatnonzero((test_columns == i) & (test_rows == j))]
            if not cell.train:
                raise InputError(f"blocks: cell ({i}, {j}) of ({nx}, {ny}) has no training view: cut less finely")
            grid[i, j] = cell
    return [grid[i, j] for j in range(ny) for i in range(nx)]


def with_test_views(cells: list[FrameGroup], held_out: int) -> tuple[list[FrameGroup], list[str]]:
    """Return cells of which each has a view to test on, and a sentence for each cell that had none.

    If the reader held out each `held_out`-th frame of the whole scene, such a cell holds out each `held_out`-th of its
    own, the first included. If the split is the data's (`held_out` is 0), or the cell has a single view, it is merged
    with the cell whose training cameras are nearest: moving a view of the data's training set to its test set would
    make figures that compare with no other. Cells without any test view among them are returned as they are.

    >>> from pathlib import Path
    >>> frames = [PosedFrame(Path("a.png"), f"{k}", np.eye(4), {}, Path("a.json")) for k in range(4)]
    >>> cells = [FrameGroup("block_1", frames[:2], frames[2:3]), FrameGroup("block_2", frames[3:])]
    >>> merged, notes = with_test_views(cells, held_out=8)
    >>> [cell.name for cell in merged], [len(cell.train) for cell in merged]
    (['block_1'], [3])
    >>> notes
    ['block_2 has 1 view, none to test on: merged with block_1']
    """
    notes: list[str] = []
    if not any(cell.test for cell in cells):
        return cells, notes
    for cell in cells:
        if not cell.test and held_out and len(cell.train) > 1:
            cell.train, cell.test = hold_out(cell.train, held_out)
            notes.append(
                f"{cell.name} has none of the views that were held out of the whole scene: each {held_out}th of its "
                f"own is ({len(cell.test)} of {len(cell.train) + len(cell.test)})"
            )
    cells = list(cells)
    while missing := [cell for cell in cells if not cell.test]:
        cell, others = missing[0], [other for other in cells if other is not missing[0]]
        target = min(others, key=lambda other: _distance(cell, other))
        views = f"{len(cell.train)} view{'s' if len(cell.train) > 1 else ''}"
        notes.append(f"{cell.name} has {views}, none to test on: merged with {target.name}")
        target.train += cell.train
        cells = others
    return cells, notes


def _distance(a: FrameGroup, b: FrameGroup) -> float:
    """Return the distance in x and y of the mean positions of the training cameras."""
    means = [[_positions(group.train, axis).mean() for axis in (0, 1)] for group in (a, b)]
    return float(np.hypot(means[0][0] - means[1][0], means[0][1] - means[1][1]))


def _positions(frames: list[PosedFrame], axis: int) -> np.ndarray:
    return np.array([frame.c2w[axis, 3] for frame in frames])
