"""Finds the box of a scene, from sparse points or the ground that its cameras see, and cuts it by camera position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.readers.files import safe_path
from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.matrixcity import FrameGroup
from mclnf_fast.data.scene import ImageSet
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

PERCENTILES = (0.02, 0.98)  # sparse points have outliers far away, and a box about all of them is mostly empty
MARGIN = 0.05  # of a footprint's side, on each side
FAR = 8.0  # a ray counts as far as this many camera heights; shallower ones would reach for the horizon
MOST_POINTS = 200_000  # torch.quantile takes 16 million values at most, and percentiles need far fewer
FEWEST_POINTS = 50
FARTHEST = 1e15  # scene units; points beyond count as infinite, since squares of their distances are in float32


def cut_by_position(group: FrameGroup, nx: int, ny: int) -> list[FrameGroup]:
    """Cut a group into nx * ny cells by camera position, x fastest.

    The x cuts are quantiles of the training cameras, and so are the y cuts within each column, so every cell has an
    equal share of them on any flight path; equal areas would leave cells without a view. Test views belong to the cell
    that they stand in.

    Raises:
        InputError: fewer training views than cells, or a cell that stays empty (cameras at one place).

    >>> poses = [np.eye(4) + np.array([[0, 0, 0, x], *[[0] * 4] * 3]) for x in range(4)]
    >>> frames = [PosedFrame(Path("a.png"), f"{k}", pose, {}, Path("a.json")) for k, pose in enumerate(poses)]
    >>> [[frame.name for frame in cell.train] for cell in cut_by_position(FrameGroup("all", frames), 2, 1)]
    [['0', '1'], ['2', '3']]
    """
    if nx < 1 or ny < 1:
        raise InputError(f"blocks: must be two counts >= 1, was ({nx}, {ny})")
    if len(group.train) < nx * ny:
        raise InputError(f"blocks: ({nx}, {ny}) need {nx * ny} training views at least, there are {len(group.train)}")

    def positions(frames: list[PosedFrame], axis: int) -> np.ndarray:
        return np.array([frame.c2w[axis, 3] for frame in frames])

    def cells(values: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        return np.searchsorted(cuts, values, side="right")

    x, y = positions(group.train, 0), positions(group.train, 1)
    cuts_x = np.quantile(x, np.arange(1, nx) / nx)
    columns, test_columns = cells(x, cuts_x), cells(positions(group.test, 0), cuts_x)
    grid: dict[tuple[int, int], FrameGroup] = {}
    for i in range(nx):
        inside = columns == i
        cuts_y = np.quantile(y[inside], np.arange(1, ny) / ny) if inside.any() else np.zeros(ny - 1)
        rows, test_rows = cells(y, cuts_y), cells(positions(group.test, 1), cuts_y)
        for j in range(ny):
            cell = FrameGroup(f"block_{j * nx + i + 1}")
            cell.train = [group.train[k] for k in np.flatnonzero(inside & (rows == j))]
            cell.test = [group.test[k] for k in np.flatnonzero((test_columns == i) & (test_rows == j))]
            if not cell.train:
                raise InputError(f"blocks: cell ({i}, {j}) of ({nx}, {ny}) has no training view: cut less finely")
            grid[i, j] = cell
    return [grid[i, j] for j in range(ny) for i in range(nx)]


def meeting_point(cameras: Cameras) -> Tensor:
    """Return the point [3] nearest to all optical axes (least squares), scene units.

    >>> from mclnf_fast.data import turntable
    >>> bool(meeting_point(turntable(8, 16)).norm() < 1e-3)
    True
    """
    # In double precision: nearly parallel axes make the system close to singular.
    axis = -cameras.c2w[:, :, 2].to(torch.float64)
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None, :]
    # The small pull to the cameras' mean keeps parallel axes from having no answer.
    pull = 1e-4 * len(cameras)
    centers = cameras.centers.to(torch.float64)
    right = (across @ centers[:, :, None]).sum(0)[:, 0] + pull * centers.mean(0)
    return torch.linalg.solve(across.sum(0) + pull * torch.eye(3, dtype=torch.float64), right).to(torch.float32)


def object_box(cameras: Cameras) -> Tensor:
    """Return the cube [2, 3] about the point that all cameras look at, as large as the pictures' field of view there.

    >>> from mclnf_fast.data import turntable
    >>> object_box(turntable(8, 16)).shape
    torch.Size([2, 3])
    """
    center = meeting_point(cameras)
    distance = (cameras.centers - center).norm(dim=1)
    tangent = torch.minimum(0.5 * cameras.width / cameras.fx, 0.5 * cameras.height / cameras.fy)
    # The median, so that one camera far away does not blow up the cube.
    half = float((distance * tangent).median().clamp_min(1e-6))
    return torch.stack([center - half, center + half])


def ground_height(cameras: Cameras) -> float:
    """Return the ground's height when no points show it: 0 if all cameras are above that, else the meeting point's.

    >>> from mclnf_fast.data import turntable
    >>> ground_height(turntable(8, 16))
    0.0
    """
    return 0.0 if float(cameras.centers[:, 2].min()) > 0 else float(meeting_point(cameras)[2])


def footprint(cameras: Cameras, ground: float) -> Tensor | None:
    """Return the box in x and y [2, 2] of the part of the plane z = `ground` that cameras see; None if they hardly do.

    It reaches from the 2nd to the 98th percentile of the corner rays' hits, with a margin of 5 % on each side.

    >>> from mclnf_fast.data import turntable
    >>> footprint(turntable(8, 16), ground=0.0).shape
    torch.Size([2, 2])
    """
    origins, directions = cameras.corner_rays()
    height = origins[..., 2] - ground
    down = (directions[..., 2] < -1e-3) & (height > 0)
    length = torch.minimum(height / (-directions[..., 2]).clamp_min(1e-3), FAR * height)
    hits = (origins + length[..., None] * directions)[..., :2][down]
    # With fewer rays on the ground the cameras stand around something, and its box has to come from their axes.
    if float(down.to(torch.float32).mean()) < 0.75:
        return None
    low, high = (torch.quantile(hits, q, dim=0) for q in PERCENTILES)
    margin = MARGIN * (high - low)
    box = torch.stack([low - margin, high + margin])
    # All hits on one line have no extent: that is no ground to be learned.
    return box if bool((box[1] > box[0]).all()) else None


def scene_box(train: ImageSet, points: Tensor | None, given_box: Tensor | None) -> Tensor:
    """Return the scene's box [2, 3], scene units.

    It is `given_box`, else the points' 2-98 % box, else the footprint on the ground, else a cube. If there are points
    [P, 3], heights follow their 0.5-99.5 % range with a tenth on each side. A footprint reaches from just below the
    ground to the lowest camera.

    >>> from mclnf_fast.data import turntable
    >>> views = ImageSet(torch.zeros(8, 16, 16, 3, dtype=torch.uint8), turntable(8, 16), tuple("abcdefgh"))
    >>> scene_box(views, None, torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))[:, 0].tolist()
    [0.0, 1.0]
    """
    cameras = train.cameras
    if given_box is not None or points is not None:
        if given_box is not None:
            box = given_box.clone()
        else:
            assert points is not None
            box = torch.stack([torch.quantile(points, q, dim=0) for q in PERCENTILES])
        if points is not None:
            # Roofs and trees are few points: the wider range keeps them, which in x and y would keep outliers.
            low, high = torch.quantile(points[:, 2], torch.tensor([0.005, 0.995], dtype=torch.float32))
            box[0, 2], box[1, 2] = torch.minimum(low, box[0, 2]), torch.maximum(high, box[1, 2])
        # A flat scene must keep a thickness that a sampler can march through.
        rise = torch.maximum(0.1 * (box[1, 2] - box[0, 2]), 0.002 * (box[1] - box[0])[:2].max())
        box[0, 2] -= rise
        box[1, 2] += rise
        return box
    ground = ground_height(cameras)
    area = footprint(cameras, ground)
    if area is None:
        return object_box(cameras)
    height = float(cameras.centers[:, 2].min()) - ground
    return torch.cat([area, torch.tensor([[ground - 0.05 * height], [ground + height]], dtype=torch.float32)], 1)


def cell_box(views: ImageSet, scene: Tensor, ground: float) -> Tensor:
    """Return the box [2, 3] of one cell of a cut scene: its own cameras' footprint, with the heights of `scene`.

    >>> from mclnf_fast.data import turntable
    >>> views = ImageSet(torch.zeros(8, 16, 16, 3, dtype=torch.uint8), turntable(8, 16), tuple("abcdefgh"))
    >>> cell_box(views, torch.tensor([[0.0, 0.0, -1.0], [1.0, 1.0, 2.0]]), ground=0.0)[:, 2].tolist()
    [-1.0, 2.0]
    """
    area = footprint(views.cameras, ground)
    if area is None:
        return scene.clone()
    return torch.cat([area, scene[:, 2:]], 1)


def read_points(root: Path, named: str | None) -> Tensor | None:
    """Return the sparse points float64 [P, 3] beside a scene, as in the file; None when there are none.

    The file is the one that `transforms.json` names, else `sparse_points.npz`, else `sparse_pc.ply`.

    Raises:
        InputError: the file cannot be read or holds fewer than 50 finite points, or the named one is not there.

    >>> read_points(Path("no such folder"), None) is None
    True
    """
    for name in ([named] if named else []) + ["sparse_points.npz", "sparse_pc.ply"]:
        path = safe_path(root, root, name, root / "transforms.json")
        if path.is_file():
            xyz = _npz_points(path) if path.suffix == ".npz" else _ply_points(path)
            xyz = xyz[(np.abs(xyz) < FARTHEST).all(1)]  # false for NaN, too
            if len(xyz) < FEWEST_POINTS:
                raise InputError(f"{path}: must hold at least {FEWEST_POINTS} finite points, has {len(xyz)}")
            return torch.from_numpy(xyz[:: len(xyz) // MOST_POINTS + 1].copy())
        if name == named:
            raise InputError(f"{path}: must be a file of points (named in transforms.json), was not there")
    return None


def _npz_points(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            xyz = np.asarray(content["xyz"], np.float64)
    except Exception as error:  # a corrupt archive fails in many ways
        raise InputError(f"{path}: must be an npz file with 'xyz': {error!r}") from None
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise InputError(f"{path}: 'xyz' must be [P, 3], was {xyz.shape}")
    return xyz


_PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float": "f4", "double": "f8", "float32": "f4",
    "float64": "f8",
}  # fmt: skip


def _ply_points(path: Path) -> np.ndarray:
    """Return x, y, z [P, 3] of the vertices of a ply file (ascii or binary) whose first element they are."""
    data = path.read_bytes()
    end = data.find(b"end_header")
    lines = [line.split() for line in data[: max(end, 0)].decode("ascii", "replace").splitlines()]
    try:
        form = next(line[1] for line in lines if line[:1] == ["format"])
        elements = [k for k, line in enumerate(lines) if line[:1] == ["element"]]
        begin, end_line = elements[0], (elements[1] if len(elements) > 1 else len(lines))
        if lines[begin][1] != "vertex" or not data.startswith(b"ply"):
            raise ValueError("the first element must be 'vertex'")
        count = int(lines[begin][2])
        properties = [line for line in lines[begin + 1 : end_line] if line[:1] == ["property"]]
        columns = [(line[2], _PLY_TYPES[line[1]]) for line in properties]
        body = data[data.index(b"\n", end) + 1 :]
        if form == "ascii":
            table = np.array(body.split()[: count * len(columns)], np.float64).reshape(count, len(columns))
            order = [name for name, _ in columns]
            return table[:, [order.index(axis) for axis in "xyz"]]
        byte_order = "<" if form == "binary_little_endian" else ">"
        records = np.frombuffer(body, np.dtype([(name, byte_order + kind) for name, kind in columns]), count)
        return np.stack([records[axis].astype(np.float64) for axis in "xyz"], 1)
    except (StopIteration, IndexError, KeyError, ValueError) as error:
        raise InputError(f"{path}: must be a ply file with vertices x, y, z: {error!r}") from None
