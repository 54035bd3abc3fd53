"""Finds objects in the layout of scene representation networks (Sitzmann et al. 2019).

`<id>/{rgb,pose}` and `<id>/intrinsics.txt`; poses are camera-to-world with OpenCV's axes (y down, looking along +z);
the background is white.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mclnf_fast.data.readers.decoding.pictures import decoded
from mclnf_fast.data.readers.files import read_pose
from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.layouts import IMAGES, SPLITS, DataFile, Layout, folders_in
from mclnf_fast.errors import InputError

NEAR_FAR = {"cars": (0.8, 1.8), "chairs": (1.25, 2.75)}  # as its authors' readers take them
DEPTH = 3  # of folders in a split's folder that are looked through for objects
FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def is_object(folder: Path) -> bool:
    """Return whether `folder` looks like one object.

    One of its two folders is enough: that the other is missing is an error of its own, and must not make the object
    pass for something else.

    >>> is_object(Path("no such folder"))
    False
    """
    return (folder / "rgb").is_dir() or ((folder / "pose").is_dir() and (folder / "intrinsics.txt").exists())


def srn_reason(root: Path) -> str | None:
    """Return the reason why `root` holds SRN's objects, or None.

    >>> srn_reason(Path("no such folder")) is None
    True
    """
    pools, _ = _srn_pools(root)
    example = next((items[0] for items in pools.values() if items), None)
    return None if example is None else f"rgb or pose in {example.path}"


def srn_objects(root: Path) -> tuple[Layout, float, float]:
    """Return the objects in `root`, near and far.

    These are `<category>_{train,val,test}/<id>`, the ids of one of those folders, or one object. The ids of a split may
    lie up to two folders deeper.

    Raises:
        InputError: a split's folder without an object beside one that has some.

    >>> from PIL import Image
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     car = Path(folder, "cars_test", "car")
    ...     for name in ("rgb", "pose"):
    ...         (car / name).mkdir(parents=True)
    ...     Image.new("RGB", (8, 8)).save(car / "rgb" / "0.png")
    ...     _ = (car / "intrinsics.txt").write_text("10 4 4 0\\n8 8\\n")
    ...     _ = (car / "pose" / "0.txt").write_text(" ".join(map(str, np.eye(4).ravel())))
    ...     layout, near, far = srn_objects(Path(folder))
    >>> layout.pools["test"][0].name, near, far
    ('cars_test/car', 0.8, 1.8)
    """
    pools, category = _srn_pools(root)
    near, far = next((value for key, value in NEAR_FAR.items() if key in category.lower()), NEAR_FAR["cars"])
    return Layout(f"{root.resolve().name} (SRN)", pools), near, far


def _srn_pools(root: Path) -> tuple[dict[str, list[DataFile]], str]:
    """Return the objects by set, and the category that the folders name."""
    pools: dict[str, list[DataFile]] = {}
    category = root.resolve().name
    empty = []
    for folder in folders_in(root):
        match = re.fullmatch(r"(.+)_(train|val|test)", folder.name)
        if not match:
            continue
        items = [DataFile(p, p.relative_to(root).as_posix()) for p in _objects_below(folder)]
        if not items:
            empty.append(folder)
            continue
        category = match[1]
        pools.setdefault(SPLITS[match[2]], []).extend(items)
    if pools and empty:
        # Left out, another split would stand in its place: the figures would be those of a test set that is none.
        raise InputError(f"{empty[0]}: must hold objects (<id>/rgb with <id>/pose) as its neighbors do, holds none")
    if pools:
        return pools, category
    items = [DataFile(path, path.name) for path in folders_in(root) if is_object(path)]
    if not items and is_object(root):
        items = [DataFile(root, category)]
    return ({"all": items} if items else {}), category


def _objects_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Return the folders of objects in `folder`, or one or two folders deeper, as archives often unpack."""
    found: list[Path] = []
    for path in folders_in(folder):
        if is_object(path):
            found.append(path)
        elif depth > 1:
            found += _objects_below(path, depth - 1)
    return found


def srn_frames(folder: Path) -> list[PosedFrame]:
    """Return the views of one object, by name, poses in OpenGL's axes.

    Raises:
        InputError: no pictures, no pose for one of them, a pose or `intrinsics.txt` that is none.

    >>> from PIL import Image
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     car = Path(folder, "cars_test", "car")
    ...     for name in ("rgb", "pose"):
    ...         (car / name).mkdir(parents=True)
    ...     Image.new("RGB", (8, 8)).save(car / "rgb" / "0.png")
    ...     _ = (car / "intrinsics.txt").write_text("10 4 4 0\\n8 8\\n")
    ...     _ = (car / "pose" / "0.txt").write_text(" ".join(map(str, np.eye(4).ravel())))
    ...     frames = srn_frames(car)
    >>> frames[0].intrinsics["fl_x"]
    10.0
    """
    source = folder / "intrinsics.txt"
    lines = [line.split() for line in _text(source).splitlines() if line.strip()]
    focal_line = _numbers(lines[0] if lines else [], f"{source}: first line must be f cx cy 0", (3, 4))
    size_line = _numbers(lines[-1] if lines else [], f"{source}: last line must be H W", (2,))
    if min(focal_line[0], *size_line) <= 0:
        raise InputError(
            f"{source}: focal length, height and width must be positive, were {[focal_line[0], *size_line]}"
        )
    pictures = folder / "rgb"
    if not pictures.is_dir():
        raise InputError(f"{pictures}: must be a folder of pictures, was not there")
    names = sorted(p.name for p in pictures.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
    if not names:
        raise InputError(f"{pictures}: must hold pictures, has none")
    # Scaled to the pictures, all of one size: that in the file need not be theirs.
    wide, high = decoded(pictures / names[0]).size
    x, y = wide / size_line[1], high / size_line[0]
    intrinsics = {
        "fl_x": focal_line[0] * x,
        "fl_y": focal_line[0] * y,
        "cx": focal_line[1] * x,
        "cy": focal_line[2] * y,
    }
    frames = []
    for name in names:
        path = folder / "pose" / f"{Path(name).stem}.txt"
        values = _numbers(_text(path).split(), f"{path}: text must be 4x4 numbers", (16,))
        c2w = read_pose(np.array(values).reshape(4, 4), str(path)) @ FROM_OPENCV
        frames.append(PosedFrame(pictures / name, f"{folder.name}/rgb/{name}", c2w, intrinsics, source))
    return frames


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: must be a text file, was not there") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: must be readable text: {error}") from None


def _numbers(words: list[str], rule: str, counts: tuple[int, ...]) -> list[float]:
    """Return finite numbers, as many as one of `counts`; `rule` begins the error, with the file and its form."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) not in counts or not np.isfinite(values).all():
        raise InputError(f"{rule}, was {' '.join(words)[:80]!r}")
    return values
