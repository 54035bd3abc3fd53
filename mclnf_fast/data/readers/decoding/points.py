"""Reads the sparse points beside posed pictures: npz, ply, or the points3D of COLMAP."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.readers.files import safe_path
from mclnf_fast.errors import InputError

MOST_POINTS = 200_000  # torch.quantile takes 16 million values at most, and percentiles need far fewer
FEWEST_POINTS = 50
FARTHEST = 1e15  # scene units; points beyond count as infinite, since squares of their distances are in float32
COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0", "sparse", "colmap")


class Points(NamedTuple):
    """Sparse points.

    Attributes:
        xyz: float64 [P, 3], as in the file; of COLMAP in the frame of the poses.
        file: the file that they are from, relative to the data's folder.
    """

    xyz: Tensor
    file: str


def read_points(root: Path, named: str | None = None, colmap: np.ndarray | None = None) -> Points | None:
    """Return the sparse points beside a scene; None when there are none.

    The file is the one that `transforms.json` names, else `sparse_points.npz`, else `sparse_pc.ply`, else, if `colmap`
    is given, the `points3D.bin` or `points3D.txt` in a folder as COLMAP and nerfstudio write them.

    Args:
        root: the data's folder.
        named: the file that `transforms.json` names.
        colmap: [3, 4], what brings COLMAP's points into the scene's frame (nerfstudio's `applied_transform`); None: it
            is not known, and they are no points of this scene.

    Raises:
        InputError: the file cannot be read or holds fewer than 50 finite points, or the named one is not there.

    >>> read_points(Path("no such folder")) is None
    True
    """
    for name in ([named] if named else []) + ["sparse_points.npz", "sparse_pc.ply"]:
        path = safe_path(root, root, name, root / "transforms.json")
        if path.is_file():
            return _points(root, path, _npz_points(path) if path.suffix == ".npz" else _ply_points(path))
        if name == named:
            raise InputError(f"{path}: must be a file of points (named in transforms.json), was not there")
    file = colmap_file(root)
    if file is None or colmap is None:
        return None
    return _points(root, file, _colmap_xyz(file) @ colmap[:3, :3].T + colmap[:3, 3])


def colmap_file(root: Path, folders: Sequence[str] = COLMAP_FOLDERS) -> Path | None:
    """Return COLMAP's file of points in a folder of data, None when there is none.

    >>> colmap_file(Path("no such folder")) is None
    True
    """
    files = (root / folder / f"points3D.{ending}" for folder in folders for ending in ("bin", "txt"))
    return next((path for path in files if path.is_file()), None)


def colmap_points(root: Path, folder: str) -> Points | None:
    """Return the points of a COLMAP model in `root / folder`, as they are; None when it has none, or no file of them.

    Raises:
        InputError: as `read_points` does.

    >>> colmap_points(Path("no such folder"), "sparse/0") is None
    True
    """
    file = colmap_file(root, (folder,))
    xyz = np.empty((0, 3)) if file is None else _colmap_xyz(file)
    # Poses that were known before, and not reconstructed, come with an empty file.
    return None if file is None or not len(xyz) else _points(root, file, xyz)


def _colmap_xyz(path: Path) -> np.ndarray:
    return _colmap_binary(path) if path.suffix == ".bin" else _colmap_text(path)


def _points(root: Path, path: Path, xyz: np.ndarray) -> Points:
    xyz = xyz[(np.abs(xyz) < FARTHEST).all(1)]  # false for NaN, too
    if len(xyz) < FEWEST_POINTS:
        raise InputError(f"{path}: must hold at least {FEWEST_POINTS} finite points, has {len(xyz)}")
    thinned = xyz[:: len(xyz) // MOST_POINTS + 1]
    return Points(torch.from_numpy(thinned.copy()), path.relative_to(root).as_posix())


def _npz_points(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            xyz = np.asarray(content["xyz"], np.float64)
    except Exception as error:  # a corrupt archive fails in many ways
        raise InputError(f"{path}: must be an npz file with 'xyz': {error!r}") from None
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise InputError(f"{path}: 'xyz' must be [P, 3], was {xyz.shape}")
    return xyz


def _colmap_binary(path: Path) -> np.ndarray:
    """Return x, y, z [P, 3] of a `points3D.bin`: a count, then per point its id, x, y, z, color, error and track."""
    data = path.read_bytes()
    try:
        (count,) = struct.unpack_from("<Q", data)
        xyz, begin = np.empty((min(count, len(data) // 43), 3)), 8
        for k in range(count):
            _, *xyz[k], _, _, _, _, track = struct.unpack_from("<QdddBBBdQ", data, begin)
            begin += 51 + 8 * track
        if begin > len(data):
            raise ValueError("the last track is cut off")
    except (struct.error, ValueError, IndexError) as error:
        raise InputError(f"{path}: must be a points3D.bin of COLMAP: {error}") from None
    return xyz


def _colmap_text(path: Path) -> np.ndarray:
    """Return x, y, z [P, 3] of a `points3D.txt`: a line per point, its id first, then x, y, z."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = "\n".join(" ".join(line.split()[:4]) for line in lines if line.strip() and not line.startswith("#"))
        return np.loadtxt(io.StringIO(rows), ndmin=2).reshape(-1, 4)[:, 1:]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: must be a points3D.txt of COLMAP: {error}") from None


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
