"""Reads MatrixCity's two pose dialects as lists of frames per block.

*Split*: `pose/<block>/transforms_{train,test}.json`, positions in units of 100 m. *Raw*:
`{train,test}/<block>/transforms.json` with `rot_mat` (meters, its 3x3 part scaled by 0.01) and `frame_index`. Both
become units of 100 m.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from mclnf_fast.data.readers.files import (
    frame_list,
    read_box,
    read_file_name,
    read_json,
    read_matrix,
    read_number,
    read_pose,
    relative_name,
    safe_path,
)
from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.lenses import read_intrinsics, read_lens
from mclnf_fast.data.readers.posed import masks
from mclnf_fast.errors import InputError

RAW_SCALE = 100.0  # the raw 3x3 part is 0.01 R, and raw meters are 0.01 units
UNIT = "100 m"
WHOLE = "block_all"  # the union of the others: no block of its own when they are there
# Aerial before street and the small city before the big one: the first that is there.
CITY_FOLDERS = (
    "",
    "aerial",
    "street",
    "small_city/aerial",
    "small_city/street",
    "big_city/aerial",
    "big_city/street",
)


@dataclass
class FrameGroup:
    """The frames of one block (or of a whole scene) before its pictures are read.

    Attributes:
        name: name of the block.
        train, test: frames; either may be empty.
        aabb: [2, 3], the file's own box, float64 as read; None: it has none.
        held_out: the test frames are each so many-th of all, chosen by the reader; 0: the split is the data's.

    >>> len(FrameGroup("block_1").train)
    0
    """

    name: str
    train: list[PosedFrame] = field(default_factory=list)
    test: list[PosedFrame] = field(default_factory=list)
    aabb: Tensor | None = None
    held_out: int = 0


def find_city(path: Path) -> tuple[Path, str] | None:
    """Return the folder that holds `pose` (or `train`), and the dialect, "split" or "raw"; None if there is none.

    `path` may be that folder, its `pose`, the city's folder above `aerial` or `street`, or the folder above that.

    >>> find_city(Path("no such folder")) is None
    True
    """
    if path.name == "pose" and any(path.glob("*/transforms_*.json")):
        path = path.parent
    for name in CITY_FOLDERS:
        if any((path / name / "pose").glob("*/transforms_*.json")):
            return path / name, "split"
    # After all of the above: an archive of both dialects has the same pictures, and the split poses name test views.
    for name in CITY_FOLDERS:
        if any((path / name / "train").glob("*/transforms.json")):
            return path / name, "raw"
    return None


def read_blocks(root: Path, dialect: str, names: list[str] | None) -> list[FrameGroup]:
    """Return the blocks under `root`, in natural order.

    Args:
        root, dialect: see `find_city`.
        names: blocks to read; None: all that have training views (without `block_all`).

    Raises:
        InputError: a name that is not there, no block, or any fault of a file (it is named).

    >>> from mclnf_fast.data import write_city
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = write_city(f"{folder}/city", quick=True, blocks=(1, 1), train=1, test=1, meta_districts=0, city=0)
    ...     print([group.name for group in read_blocks(paths.target, "split", None)])
    ['block_1']
    """
    folder = root / ("pose" if dialect == "split" else "train")
    pattern = "transforms_*.json" if dialect == "split" else "transforms.json"
    known = sorted((p.name for p in folder.iterdir() if p.is_dir() and any(p.glob(pattern))), key=_natural)
    for path in folder.iterdir():
        if path.is_dir() and path.name not in known and any(path.glob(f"*/{pattern}")):
            raise InputError(
                f"{path}: must be a block with {pattern} as its neighbors are, holds blocks one folder deeper"
            )
    for name in names or ():
        if name not in known:
            raise InputError(f"blocks: must be among {known} ({folder}), was {name!r}")
    read = _read_split if dialect == "split" else _read_raw
    if names is not None:
        return [read(root, name) for name in names]
    if dialect == "split":
        known = [name for name in known if (folder / name / "transforms_train.json").exists()]
    # Read as well, every view would be there twice, once in a block of the size of the city.
    if len(known) > 1 and WHOLE in known:
        known.remove(WHOLE)
    groups = [read(root, name) for name in known]
    if not groups:
        raise InputError(f"{folder}: must hold a block with training views, has none")
    return groups


def _natural(name: str) -> tuple[object, ...]:
    """Return a key that sorts block_2 before block_10."""
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return ("".join(c for c in name if not c.isdigit()), *(int(d) for d in digits), name)


def _read_split(root: Path, name: str) -> FrameGroup:
    group = FrameGroup(name)
    for split, frames in (("train", group.train), ("test", group.test)):
        path = root / "pose" / name / f"transforms_{split}.json"
        if not path.exists():
            continue
        content = read_json(path)
        listed = frame_list(content, path)
        for k, frame in enumerate(listed):
            image = safe_path(root, path.parent, read_file_name(frame, "file_path", path), path)
            c2w = read_pose(frame.get("transform_matrix"), f"{path}: frames[{k}] transform_matrix")
            intrinsics = read_intrinsics([content, frame], path)
            mask = masks.read_mask_path(root, path.parent, (content, frame), path)
            lens = read_lens([content, frame], path)
            frames.append(PosedFrame(image, relative_name(root, image), c2w, intrinsics, path, mask, lens))
        if group.aabb is None and content.get("aabb") is not None:
            group.aabb = read_box(content["aabb"], f"{path}: key 'aabb'")
    return group


def _read_raw(root: Path, name: str) -> FrameGroup:
    group = FrameGroup(name)
    group.train = read_raw_folder(root, root / "train" / name)
    for test in (name, f"{name}_test"):
        if (root / "test" / test / "transforms.json").exists():
            group.test = read_raw_folder(root, root / "test" / test)
            break
    path = root / "train" / name / "transforms.json"
    content = read_json(path)
    if content.get("aabb") is not None:
        group.aabb = read_box(content["aabb"], f"{path}: key 'aabb'")
    return group


def read_raw_folder(root: Path, folder: Path) -> list[PosedFrame]:
    """Return the frames of one raw `transforms.json`, poses in units of 100 m; pictures lie inside `root`.

    Raises:
        InputError: a fault of the file.

    >>> import json, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame = {"frame_index": 3, "rot_mat": np.diag([0.01, 0.01, 0.01, 1.0]).tolist()}
    ...     _ = Path(folder, "transforms.json").write_text(json.dumps({"frames": [frame]}))
    ...     print(read_raw_folder(Path(folder), Path(folder))[0].name)
    0003.png
    """
    path = folder / "transforms.json"
    content = read_json(path)
    frames = []
    listed = frame_list(content, path)
    for k, frame in enumerate(listed):
        index = read_number(frame, "frame_index", path)
        if index is None or index != int(index) or index < 0:
            raise InputError(
                f"{path}: frames[{k}] frame_index must be a whole number >= 0, was {frame.get('frame_index')!r}"
            )
        name = f"{path}: frames[{k}] rot_mat"
        c2w = read_matrix(frame.get("rot_mat"), name)
        # Scaled before it is checked: only a rotation passes.
        c2w[:3, :3] *= RAW_SCALE
        c2w[:3, 3] /= RAW_SCALE
        c2w = read_pose(np.ascontiguousarray(c2w), name)
        image = safe_path(root, folder, f"{int(index):04d}.png", path)
        intrinsics = read_intrinsics([content, frame], path)
        mask = masks.read_mask_path(root, folder, (content, frame), path)
        lens = read_lens([content, frame], path)
        frames.append(PosedFrame(image, relative_name(root, image), c2w, intrinsics, path, mask, lens))
    return frames
