"""MatrixCity's two pose dialects, as lists of frames per block.

*Split*: `pose/<block>/transforms_{train,test}.json`, positions in units of 100 m. *Raw*:
`{train,test}/<block>/transforms.json` with `rot_mat` (metres, its 3x3 part scaled by 0.01) and
`frame_index`. Both come out in units of 100 m.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from mclnf_fast.data.readers.files import (
    Frame,
    box_of,
    frame_list,
    intrinsics_of,
    number,
    pose,
    read_json,
    safe_path,
    shown_name,
    text,
)
from mclnf_fast.data.readers.files import matrix as read_matrix
from mclnf_fast.errors import InputError

RAW_SCALE = 100.0  # the raw 3x3 part is 0.01 R, and raw metres are 0.01 units
UNIT = "100 m"
WHOLE = "block_all"  # the union of the others: no block of its own where they are there


@dataclass
class Group:
    """The frames of one block before its pictures are read; `aabb` is the file's own box where it has one."""

    name: str
    train: list[Frame] = field(default_factory=list)
    test: list[Frame] = field(default_factory=list)
    aabb: Tensor | None = None


def find_root(path: Path) -> tuple[Path, str] | None:
    """The folder that holds `pose` (or `train`) for `path`, and the dialect, "split" or "raw"; None if it
    is neither.

    `path` may be that folder, its `pose`, the city's folder above `aerial` or `street`, or the folder
    above that.
    """
    if path.name == "pose" and any(path.glob("*/transforms_*.json")):
        path = path.parent
    # Aerial before street and the small city before the big one: the first that is there.
    below = (
        "",
        "aerial",
        "street",
        "small_city/aerial",
        "small_city/street",
        "big_city/aerial",
        "big_city/street",
    )
    for name in below:
        if any((path / name / "pose").glob("*/transforms_*.json")):
            return path / name, "split"
    for name in below:
        if any((path / name / "train").glob("*/transforms.json")):
            return path / name, "raw"
    return None


def read_groups(root: Path, dialect: str, names: list[str] | None) -> list[Group]:
    """The blocks under `root`, in natural order.

    Args:
        names: which blocks; None: all that have training views (without `block_all`).

    Raises:
        InputError: a name that is not there, or any fault of a file (it is named).
    """
    folder = root / ("pose" if dialect == "split" else "train")
    pattern = "transforms_*.json" if dialect == "split" else "transforms.json"
    found = sorted((p.name for p in folder.iterdir() if p.is_dir() and any(p.glob(pattern))), key=_natural)
    for name in names or ():
        if name not in found:
            raise InputError(f"blocks: must be among {found} ({folder}), was {name!r}")
    read = _read_split if dialect == "split" else _read_raw
    if names is not None:
        return [read(root, name) for name in names]
    if dialect == "split":
        found = [name for name in found if (folder / name / "transforms_train.json").exists()]
    if len(found) > 1 and WHOLE in found:
        found.remove(WHOLE)
    groups = [read(root, name) for name in found]
    if not groups:
        raise InputError(f"{folder}: must hold a block with training views, has none")
    return groups


def _natural(name: str) -> tuple[object, ...]:
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return ("".join(c for c in name if not c.isdigit()), *(int(d) for d in digits), name)


def _read_split(root: Path, name: str) -> Group:
    group = Group(name)
    for split, into in (("train", group.train), ("test", group.test)):
        path = root / "pose" / name / f"transforms_{split}.json"
        if not path.exists():
            continue
        content = read_json(path)
        for k, frame in enumerate(frame_list(content, path)):
            image = safe_path(root, path.parent, text(frame, "file_path", path), path)
            c2w = pose(frame.get("transform_matrix"), f"{path}: frames[{k}] transform_matrix")
            into.append(Frame(image, shown_name(root, image), c2w, intrinsics_of([content, frame], path), path))
        if group.aabb is None and content.get("aabb") is not None:
            group.aabb = box_of(content["aabb"], f"{path}: key 'aabb'")
    return group


def _read_raw(root: Path, name: str) -> Group:
    group = Group(name)
    group.train = read_raw_folder(root, root / "train" / name)
    for test in (name, f"{name}_test"):
        if (root / "test" / test / "transforms.json").exists():
            group.test = read_raw_folder(root, root / "test" / test)
            break
    path = root / "train" / name / "transforms.json"
    content = read_json(path)
    if content.get("aabb") is not None:
        group.aabb = box_of(content["aabb"], f"{path}: key 'aabb'")
    return group


def read_raw_folder(root: Path, folder: Path) -> list[Frame]:
    """The frames of one raw `transforms.json`; poses in units of 100 m."""
    path = folder / "transforms.json"
    content = read_json(path)
    frames = []
    for k, frame in enumerate(frame_list(content, path)):
        index = number(frame, "frame_index", path)
        if index is None or index != int(index) or index < 0:
            raise InputError(
                f"{path}: frames[{k}] frame_index must be a whole number >= 0, was {frame.get('frame_index')!r}"
            )
        what = f"{path}: frames[{k}] rot_mat"
        c2w = read_matrix(frame.get("rot_mat"), what)
        c2w[:3, :3] *= RAW_SCALE
        c2w[:3, 3] /= RAW_SCALE
        c2w = pose(np.ascontiguousarray(c2w), what)
        image = safe_path(root, folder, f"{int(index):04d}.png", path)
        frames.append(Frame(image, shown_name(root, image), c2w, intrinsics_of([content, frame], path), path))
    return frames
