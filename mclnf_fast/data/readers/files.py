"""Reads values of JSON files and paths that stay inside the data, checked; every fault names its file."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.scene import check_aabb
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import check_poses


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises:
        InputError: the file is missing, is no Unicode or no JSON, or holds something other than an object.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.json")
    ...     _ = path.write_text('{"w": 8}')
    ...     print(read_json(path))
    {'w': 8}
    """
    try:
        content = json.loads(path.read_bytes())  # which finds out whether it is UTF-8, 16 or 32, with a mark or without
    except FileNotFoundError:
        raise InputError(f"{path}: must be a JSON file, was not there") from None
    # RecursionError: a file of 100,000 opening brackets must be an error of the file and not of the program.
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: must be readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object, was {type(content).__name__}")
    return content


def frame_list(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return the `frames` of a transforms file.

    Raises:
        InputError: it is no list of objects.

    >>> frame_list({"frames": [{"file_path": "a.png"}]}, Path("transforms.json"))
    [{'file_path': 'a.png'}]
    """
    frames = content.get("frames")
    if not isinstance(frames, list):
        raise InputError(f"{path}: key 'frames' must be a list, was {_type_name(frames)}")
    for k, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise InputError(f"{path}: frames[{k}] must be an object, was {_type_name(frame)}")
    return frames


def _type_name(value: object) -> str:
    return "missing" if value is None else type(value).__name__


def read_number(content: dict[str, Any], key: str, path: Path) -> float | None:
    """Return the number under `key`, None when there is none.

    Raises:
        InputError: it is no finite number (True and False are none).

    >>> read_number({"w": 8}, "w", Path("transforms.json"))
    8.0
    """
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: key {key!r} must be a finite number, was {value!r}")
    return float(value)


def read_file_name(content: dict[str, Any], key: str, path: Path) -> str:
    """Return the file name under `key`.

    Raises:
        InputError: it is missing, empty or no string.

    >>> read_file_name({"file_path": "a.png"}, "file_path", Path("transforms.json"))
    'a.png'
    """
    value = content.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        was = repr(value) if value == "" else _type_name(value)
        raise InputError(f"{path}: key {key!r} must be a file name, was {was}")
    return value


def read_matrix(value: object, name: str, shapes: tuple[tuple[int, int], ...] = ((4, 4),)) -> np.ndarray:
    """Return `value` as a float64 matrix of one of `shapes`; `name` begins an error.

    Raises:
        InputError: it has another shape, or is not made of finite numbers.

    >>> read_matrix([[1, 2, 3], [4, 5, 6]], "box", ((2, 3),)).shape
    (2, 3)
    """
    wanted = " or ".join(f"{rows}x{columns}" for rows, columns in shapes)
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: must be a {wanted} matrix of numbers, was {_type_name(value)}") from None
    if array.shape not in shapes:
        raise InputError(f"{name}: must be a {wanted} matrix, was {_type_name(value)} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: must be finite, holds NaN or infinity")
    return array


def read_pose(value: object, name: str) -> np.ndarray:
    """Return `value` as a camera-to-world matrix, float64 [4, 4]; `name` begins an error.

    Raises:
        InputError: it is none, see `render.cameras.check_poses`.

    >>> read_pose(np.eye(4).tolist(), "transform_matrix").shape
    (4, 4)
    """
    array = read_matrix(value, name)
    check_poses(torch.from_numpy(array)[None], name)
    return array


def read_box(value: object, name: str) -> Tensor:
    """Return `value` as a box, float64 [2, 3]; `name` begins an error.

    Raises:
        InputError: it is no finite box of positive extent.

    >>> read_box([[0, 0, 0], [1, 1, 1]], "aabb").tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    box = torch.from_numpy(read_matrix(value, name, ((2, 3),)))
    check_aabb(box, name)
    return box


def safe_path(root: Path, folder: Path, name: str, source: Path) -> Path:
    """Return `folder / name`.

    Data from elsewhere names its own files, so each path must lie inside `root` even after symbolic links are followed:
    without that, a scene could show any file of the machine.

    Args:
        root: the data's folder.
        folder: the folder that `name` is relative to.
        name: path as the file has it; backslashes are taken as slashes.
        source: the file that names it, for messages.

    Raises:
        InputError: the path is absolute, leaves `root`, or cannot be resolved.

    >>> safe_path(Path("data"), Path("data"), "images\\\\a.png", Path("transforms.json")).as_posix()
    'data/images/a.png'
    """
    # Refused before it is joined: `folder / "/etc/x"` is "/etc/x". Drive letters and shares are for Windows; behind
    # more than one character a colon is a part of the name, as in "12:30:00.png".
    if Path(name).is_absolute() or name.startswith(("\\", "/")) or re.match("[A-Za-z]:", name):
        raise InputError(f"{source}: file_path must be relative, was {name!r}")
    path = folder / name.replace("\\", "/")
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that holds NUL
        raise InputError(f"{source}: file_path {name!r} cannot be resolved: {error}") from None
    if not inside:
        raise InputError(f"{source}: file_path must stay inside the data folder {root}, was {name!r}")
    return path


def relative_name(root: Path, path: Path) -> str:
    """Return `path` as seen from `root`, links followed, for people.

    >>> relative_name(Path("data"), Path("data/images/a.png"))
    'images/a.png'
    """
    return path.resolve().relative_to(root.resolve()).as_posix()
