"""Objects in the layout of scene representation networks (Sitzmann et al. 2019).

`<id>/{rgb,pose}` and `<id>/intrinsics.txt`; poses are camera-to-world with OpenCV's axes (y down,
looking along +z); the background is white.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mclnf_fast.data.readers.files import Frame, decoded, pose
from mclnf_fast.data.readers.layouts import IMAGES, SPLITS, Found, Item, folders_in
from mclnf_fast.errors import InputError

RANGE = {"cars": (0.8, 1.8), "chairs": (1.25, 2.75)}  # near and far, as its readers take them
FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def is_object(folder: Path) -> bool:
    """Whether `folder` looks like one object; that one of its two folders is missing is an error of its own."""
    return (folder / "rgb").is_dir() or ((folder / "pose").is_dir() and (folder / "intrinsics.txt").exists())


def find_srn(root: Path) -> tuple[Found, tuple[float, float]] | None:
    """`<category>_{train,val,test}/<id>`, the ids of one of those folders, or one object; and near and far."""
    pools: dict[str, list[Item]] = {}
    category = root.resolve().name
    for folder in folders_in(root):
        match = re.fullmatch(r"(.+)_(train|val|test)", folder.name)
        items = [Item(p, p.relative_to(root).as_posix()) for p in folders_in(folder) if match and is_object(p)]
        if match and items:
            category = match[1]
            pools.setdefault(SPLITS[match[2]], []).extend(items)
    if not pools:
        items = [Item(path, path.name) for path in folders_in(root) if is_object(path)]
        if not items and is_object(root):
            items = [Item(root, category)]
        if not items:
            return None
        pools = {"all": items}
    near, far = next((value for key, value in RANGE.items() if key in category.lower()), RANGE["cars"])
    return Found(f"{root.resolve().name} (SRN)", pools), (near, far)


def srn_frames(folder: Path) -> list[Frame]:
    """The views of one object, by name, poses in OpenGL's axes.

    Raises:
        InputError: no pictures, no pose for one of them, a pose or `intrinsics.txt` that is none.
    """
    place = folder / "intrinsics.txt"
    lines = [line.split() for line in _text(place).splitlines() if line.strip()]
    first = _numbers(lines[0] if lines else [], place, "first line", "f cx cy 0", (3, 4))
    last = _numbers(lines[-1] if lines else [], place, "last line", "H W", (2,))
    if min(first[0], *last) <= 0:
        raise InputError(f"{place}: focal length, height and width must be positive, were {[first[0], *last]}")
    pictures = folder / "rgb"
    if not pictures.is_dir():
        raise InputError(f"{pictures}: must be a folder of pictures, was not there")
    names = sorted(p.name for p in pictures.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
    if not names:
        raise InputError(f"{pictures}: must hold pictures, has none")
    # Scaled to the pictures, all of one size: that in the file need not be theirs.
    wide, high = decoded(pictures / names[0]).size
    x, y = wide / last[1], high / last[0]
    given = {"fl_x": first[0] * x, "fl_y": first[0] * y, "cx": first[1] * x, "cy": first[2] * y}
    frames = []
    for name in names:
        path = folder / "pose" / f"{Path(name).stem}.txt"
        values = _numbers(_text(path).split(), path, "text", "4x4 numbers", (16,))
        c2w = pose(np.array(values).reshape(4, 4), str(path)) @ FROM_OPENCV
        frames.append(Frame(pictures / name, f"{folder.name}/rgb/{name}", c2w, given, place))
    return frames


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: must be a text file, was not there") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: must be readable text: {error}") from None


def _numbers(words: list[str], path: Path, what: str, form: str, counts: tuple[int, ...]) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) not in counts or not np.isfinite(values).all():
        raise InputError(f"{path}: {what} must be {form}, was {' '.join(words)[:80]!r}")
    return values
