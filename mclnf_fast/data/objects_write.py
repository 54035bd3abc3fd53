"""Writes objects as `<object>/transforms.json` with PNGs and `car_splits.json`, completely or not at all."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import uuid
from pathlib import Path

import torch

from mclnf_fast.data.objects import ObjectSets, ObjectViews
from mclnf_fast.errors import InputError
from mclnf_fast.render.lenses.views import check_pinhole

SPLITS_FILE = "car_splits.json"


def write_objects(sets: ObjectSets, folder: str | Path) -> Path:
    """Write objects as a tree that `load_objects` reads back bit for bit.

    It has one folder per object, named as the object, with a PNG per view and `transforms.json` (Blender's:
    `camera_angle_x`, `frames` with `file_path` and a camera-to-world `transform_matrix`; `fl_x`, `fl_y`, `cx`, `cy`,
    `w`, `h` beside); on top `car_splits.json` with the names under `train` and `test`, and near and far.

    The tree is written beside `folder` and renamed when it is complete: a crash leaves no half of it there.

    Args:
        sets: the objects.
        folder: must not exist yet, or be empty.

    Returns:
        The folder.

    Raises:
        InputError: `folder` holds something or cannot be written, two names give one folder, or an object has
            `train_views`, for which the layout has no target.

    >>> from mclnf_fast.data import procedural_cars
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=16), f"{folder}/cars")
    ...     print(sorted(path.name for path in tree.rglob("*")))
    ['car_000', 'car_splits.json', 'r_000.png', 'r_001.png', 'transforms.json']
    """
    target = Path(folder)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: must be a folder or not exist yet, was something else")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(
            f"{target}: must not exist yet or be empty, holds {sorted(p.name for p in target.iterdir())[0]!r}"
        )
    objects = (*sets.train, *sets.test)
    for item in objects:
        if item.train_views is not None:
            raise InputError(f"{item.name}: must have no views kept to test on, the layout can't name them; has some")
    names = {item.name: _folder_name(item.name) for item in objects}
    # Some file systems make no difference between upper and lower case, and the second object would replace the first.
    if len({name.lower() for name in names.values()}) != len(names):
        raise InputError(f"{sets.title}: names must make different folders, were {sorted(names)}")
    # Beside the target, and so on the same file system: only there is a rename atomic.
    build = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        build.mkdir(parents=True)
        for item in objects:
            _write_object(item, build / names[item.name])
        content = {
            "train": [names[item.name] for item in sets.train],
            "test": [names[item.name] for item in sets.test],
            "near": sets.near,
            "far": sets.far,
        }
        (build / SPLITS_FILE).write_text(json.dumps(content, indent=1))
        os.rename(build, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return target


def _folder_name(name: str) -> str:
    """Return `name` as the name of a folder; InputError when nothing of it is left."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")
    if not plain:
        raise InputError(f"name: must have a letter or a digit to name a folder, was {name!r}")
    return plain


def _write_object(item: ObjectViews, folder: Path) -> None:
    """Write the pictures of one object and its `transforms.json` into a new folder."""
    from PIL import Image

    folder.mkdir()
    cameras = item.cameras
    check_pinhole(cameras, "write_objects")
    frames = []
    for k in range(len(cameras)):
        Image.fromarray(item.images[k].numpy()).save(folder / f"r_{k:03d}.png")
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = cameras.c2w[k]
        intrinsics = {
            "fl_x": float(cameras.fx[k]),
            "fl_y": float(cameras.fy[k]),
            "cx": float(cameras.cx[k]),
            "cy": float(cameras.cy[k]),
        }
        frames.append({"file_path": f"./r_{k:03d}", **intrinsics, "transform_matrix": pose.tolist()})
    header = {
        "camera_angle_x": 2 * math.atan(0.5 * cameras.width / float(cameras.fx[0])),
        "w": cameras.width,
        "h": cameras.height,
    }
    (folder / "transforms.json").write_text(json.dumps({**header, "frames": frames}, indent=1))
