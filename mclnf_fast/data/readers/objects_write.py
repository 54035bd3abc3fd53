"""Writes objects as `<object>/transforms.json` with PNGs and `car_splits.json`, whole or not at all."""

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

SPLITS_FILE = "car_splits.json"


def write_objects(sets: ObjectSets, folder: str | Path) -> Path:
    """Write objects as a tree that `load_objects` reads back to the bit: a folder each, named as the object, with
    `transforms.json` (Blender's: `camera_angle_x`, `frames` with `file_path` and a camera-to-world `transform_matrix`;
    `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h` beside) and a PNG a view; on top `car_splits.json` with the names under `train`
    and `test`, and near and far.

    The tree is made beside `folder` and put there when it is whole.

    Args:
        sets: what to write.
        folder: must not exist yet, or be empty.

    Returns:
        The folder.

    Raises:
        InputError: `folder` holds something or cannot be written, two names make one folder, or an object has
            `train_views`, for which the layout has no place.
    """
    place = Path(folder)
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise InputError(f"{place}: must be a folder or not exist yet, was something else")
    if place.is_dir() and any(place.iterdir()):
        raise InputError(
            f"{place}: must not exist yet or be empty, holds {sorted(p.name for p in place.iterdir())[0]!r}"
        )
    for item in (*sets.train, *sets.test):
        if item.train_views is not None:
            raise InputError(f"{item.name}: must have no views kept to test on, the layout can't name them; has some")
    names = {item.name: _folder_name(item.name) for item in (*sets.train, *sets.test)}
    if len({name.lower() for name in names.values()}) != len(names):
        raise InputError(f"{sets.title}: names must make different folders, were {sorted(names)}")
    build = place.parent / f".{place.name}.{uuid.uuid4().hex}.tmp"
    try:
        build.mkdir(parents=True)
        for item in (*sets.train, *sets.test):
            _write_object(item, build / names[item.name])
        content = {
            "train": [names[item.name] for item in sets.train],
            "test": [names[item.name] for item in sets.test],
            "near": sets.near,
            "far": sets.far,
        }
        (build / SPLITS_FILE).write_text(json.dumps(content, indent=1))
        os.rename(build, place)
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return place


def _folder_name(name: str) -> str:
    """`name` as the name of a folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")
    if not plain:
        raise InputError(f"name: must have a letter or a digit to name a folder, was {name!r}")
    return plain


def _write_object(item: ObjectViews, folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    cameras = item.cameras
    frames = []
    for k in range(len(cameras)):
        Image.fromarray(item.images[k].numpy()).save(folder / f"r_{k:03d}.png")
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = cameras.c2w[k]
        frames.append(
            {
                "file_path": f"./r_{k:03d}", "fl_x": float(cameras.fx[k]), "fl_y": float(cameras.fy[k]),
                "cx": float(cameras.cx[k]), "cy": float(cameras.cy[k]), "transform_matrix": pose.tolist(),
            }
        )  # fmt: skip
    header = {
        "camera_angle_x": 2 * math.atan(0.5 * cameras.width / float(cameras.fx[0])),
        "w": cameras.width,
        "h": cameras.height,
    }
    (folder / "transforms.json").write_text(json.dumps({**header, "frames": frames}, indent=1))
