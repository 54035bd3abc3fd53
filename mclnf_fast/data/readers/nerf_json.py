"""Reads the Blender (`transforms_{train,val,test}.json`) and nerfstudio (`transforms.json`) dialects as frames.

Poses stay in the frame that the file has them in: nerfstudio's `applied_transform` names a change that was applied to
them already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mclnf_fast.data.readers.files import (
    frame_list,
    read_box,
    read_file_name,
    read_json,
    read_matrix,
    read_pose,
    relative_name,
    safe_path,
)
from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.lenses import read_intrinsics, read_lens
from mclnf_fast.data.readers.matrixcity import FrameGroup
from mclnf_fast.data.readers.posed.cut_scene import hold_out
from mclnf_fast.data.readers.posed.masks import read_mask_path
from mclnf_fast.errors import InputError

IMAGE_ENDINGS = ("", ".png", ".jpg", ".jpeg", ".webp")  # Blender's files leave them out


def named_frames(root: Path, path: Path, content: dict[str, Any]) -> list[tuple[str, PosedFrame]]:
    """Return the frames of `content`, the JSON in `path`, each with its `file_path` as written.

    Raises:
        InputError: a frame without a picture, with one outside of `root`, or with a pose or a lens that is none.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=8), f"{folder}/cars")
    ...     path = tree / "car_000" / "transforms.json"
    ...     print([name for name, _ in named_frames(tree, path, read_json(path))])
    ['./r_000', './r_001']
    """
    frames = []
    listed = frame_list(content, path)
    for k, frame in enumerate(listed):
        written = read_file_name(frame, "file_path", path)
        image = safe_path(root, path.parent, written, path)
        for ending in IMAGE_ENDINGS:
            full = image.with_name(image.name + ending)
            if full.is_file():
                # Checked once more: the name with its ending may be another link.
                image = safe_path(root, path.parent, written + ending, path)
                break
        else:
            raise InputError(f"{image}: must be an image, was not there (named in {path})")
        c2w = read_pose(frame.get("transform_matrix"), f"{path}: frames[{k}] transform_matrix")
        for key in ("transform_matrix_start", "transform_matrix_end"):
            if frame.get(key) not in (None, frame["transform_matrix"]):
                raise InputError(f"{path}: frames[{k}] must have one pose, {key!r} was another (a moving camera)")
        intrinsics = read_intrinsics([content, frame], path)
        mask = read_mask_path(root, path.parent, (content, frame), path)
        lens = read_lens([content, frame], path)
        frames.append((written, PosedFrame(image, relative_name(root, image), c2w, intrinsics, path, mask, lens)))
    return frames


def read_blender(root: Path) -> FrameGroup:
    """Return the frames of `transforms_train.json`, and of `transforms_test.json` or else `transforms_val.json`.

    Raises:
        InputError: a fault of a file.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=8), f"{folder}/cars")
    ...     path = tree / "car_000" / "transforms.json"
    ...     _ = path.rename(path.with_name("transforms_train.json"))
    ...     group = read_blender(tree / "car_000")
    >>> len(group.train), len(group.test)
    (2, 0)
    """
    group = FrameGroup(root.name)
    path = root / "transforms_train.json"
    content = read_json(path)
    group.train = [frame for _, frame in named_frames(root, path, content)]
    if content.get("aabb") is not None:
        group.aabb = read_box(content["aabb"], f"{path}: key 'aabb'")
    for split in ("test", "val"):
        path = root / f"transforms_{split}.json"
        if path.exists():
            group.test = [frame for _, frame in named_frames(root, path, read_json(path))]
            break
    return group


def read_nerfstudio(root: Path, holdout_every: int) -> tuple[FrameGroup, dict[str, Any]]:
    """Return the frames of `transforms.json`, and its content.

    Test views are `test_filenames`, else `val_filenames`; else the frames that `train_filenames` leaves; else each
    `holdout_every`-th frame, the first included (0: none).

    Raises:
        InputError: a fault of the file, or a name in those lists that is no frame's `file_path`.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=8), f"{folder}/cars")
    ...     group, _ = read_nerfstudio(tree / "car_000", holdout_every=2)
    >>> len(group.train), len(group.test)
    (1, 1)
    """
    path = root / "transforms.json"
    content = read_json(path)
    group = FrameGroup(root.name)
    if content.get("applied_transform") is not None:
        read_matrix(content["applied_transform"], f"{path}: key 'applied_transform'", ((3, 4), (4, 4)))
    if content.get("aabb") is not None:
        group.aabb = read_box(content["aabb"], f"{path}: key 'aabb'")
    frames = named_frames(root, path, content)
    lists = {split: _file_names(content, f"{split}_filenames", path) for split in ("train", "val", "test")}
    known = {written for written, _ in frames}
    for split, names in lists.items():
        for name in names or ():
            if name not in known:
                raise InputError(f"{path}: {split}_filenames must name frames' file_path, {name!r} is none")
    # The test list is preferred, since the validation list may have been used to tune the data's own results.
    train, test = lists["train"], lists["test"] or lists["val"]
    if train is not None or test is not None:
        group.test = [f for w, f in frames if (w in test if test is not None else w not in (train or ()))]
        group.train = [f for w, f in frames if (w in train if train is not None else w not in (test or ()))]
    else:
        group.train, group.test = hold_out([frame for _, frame in frames], holdout_every)
        group.held_out = holdout_every
    return group, content


def _file_names(content: dict[str, Any], key: str, path: Path) -> set[str] | None:
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{path}: key {key!r} must be a list of file names, was {type(value).__name__}")
    return set(value)
