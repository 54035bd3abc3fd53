"""Finds objects stored as `transforms*.json` with pictures: one folder each and a `*_splits.json`, or scenes of
NeRF-synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mclnf_fast.data.objects import FAR, NEAR
from mclnf_fast.data.readers.files import read_json, read_number, safe_path
from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.layouts import SPLITS, DataFile, Layout, folders_in
from mclnf_fast.data.readers.nerf_json import named_frames
from mclnf_fast.data.readers.posed.masks import refuse_masks
from mclnf_fast.data.record_checks import first_repeated
from mclnf_fast.errors import InputError

WHOLE, TRAIN = "transforms.json", "transforms_train.json"
TEST_FILES = ("transforms_test.json", "transforms_val.json")


def json_reason(root: Path) -> str | None:
    """Return the reason why `root` holds objects as JSON: a `*_splits.json`, or objects as `json_objects` lists them.

    A folder that has `transforms_train.json` itself is a scene of NeRF-synthetic, whatever lies beside it.

    >>> json_reason(Path("no such folder")) is None
    True
    """
    if (root / TRAIN).exists():
        return None
    if _split_files(root):
        return f"{_split_files(root)[0].name} in {root}"
    inside = folders_in(root)
    for name in (WHOLE, TRAIN):
        if any((path / name).exists() for path in inside):
            return f"<object>/{name} in {root}"
        if name == WHOLE and (root / WHOLE).exists():
            return f"{WHOLE} in {root}"
    return None


def json_objects(root: Path) -> tuple[Layout, float, float]:
    """Return the objects in `root`, near and far.

    These are `<object>/transforms.json` with or without `*_splits.json`, one such object, or NeRF-synthetic scenes.

    Raises:
        InputError: several `*_splits.json`, or one that names no object, names one twice, or is no JSON; objects one
            folder deeper beside others.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=8), f"{folder}/cars")
    ...     layout, near, far = json_objects(tree)
    >>> layout.pools["test"][0].name, near, far
    ('car_000', 2.0, 6.0)
    """
    title = root.resolve().name
    splits = _split_files(root)
    if splits:
        return _split_objects(root, splits, title)
    inside = folders_in(root)
    items = [DataFile(path, path.name) for path in inside if (path / WHOLE).exists()]
    if not items and (root / WHOLE).exists():
        items = [DataFile(root, title)]
    if items:
        _refuse_deeper(inside, WHOLE)
        return Layout(title, {"all": items}), NEAR, FAR
    items = [DataFile(path, path.name) for path in inside if (path / TRAIN).exists()]
    _refuse_deeper(inside, TRAIN)
    notes = ["scenes are learned from by their training views; of those to test on the test views are kept apart"]
    return Layout(f"{title} (NeRF-synthetic)", {"all": items}, notes), NEAR, FAR


def _refuse_deeper(folders: list[Path], name: str) -> None:
    """Raise `InputError` if objects, known by their file `name`, lie in a folder in one of `folders`.

    They would be left out without a word beside those that are found.
    """
    for folder in folders:
        deeper = [] if (folder / name).exists() else [path for path in folders_in(folder) if (path / name).exists()]
        if deeper:
            raise InputError(
                f"{folder}: must be an object with {name} as its neighbors are, holds objects one folder deeper "
                f"({deeper[0].name}): move them up, or read that folder alone"
            )


def _split_files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*_splits.json") if not path.name.startswith("."))


def _split_objects(root: Path, splits: list[Path], title: str) -> tuple[Layout, float, float]:
    """Return the objects that a `*_splits.json` names: folders beside it or in one folder there."""
    # Each may name other objects to test on; a choice would decide the figures silently.
    if len(splits) > 1:
        raise InputError(f"{root}: must hold one *_splits.json, holds {', '.join(path.name for path in splits)}")
    path = splits[0]
    content = read_json(path)
    sets: dict[str, list[str]] = {}
    for key, value in content.items():
        if key not in SPLITS:
            continue
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise InputError(f"{path}: key {key!r} must be a list of folder names, was {type(value).__name__}")
        sets.setdefault(SPLITS[key], []).extend(value)
    named = [name for names in sets.values() for name in names]
    if not named:
        raise InputError(f"{path}: must name objects under 'train' and 'test' (or 'val'), names none")
    repeated = first_repeated(named)
    if repeated is not None:
        raise InputError(f"{path}: must name each object once, {repeated!r} stands twice")
    # Names may be of folders beside the file, or in a folder of the category (cars/ beside car_splits.json).
    places = [root, *folders_in(root)]
    base = next((b for b in places if any((b / name / WHOLE).exists() for name in named if _is_below(name))), root)
    pools = {
        split: [DataFile(safe_path(root, base, name, path), name) for name in names] for split, names in sets.items()
    }
    others = [p.name for p in folders_in(base) if (p / WHOLE).exists() and p.name not in set(named)]
    notes = [f"{len(others)} objects that {path.name} does not name are left out"] if others else []
    near, far = read_number(content, "near", path), read_number(content, "far", path)
    return Layout(title, pools, notes), NEAR if near is None else near, FAR if far is None else far


def _is_below(name: str) -> bool:
    """Return whether a name is a path below its folder, so that looking there is harmless."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name


def json_frames(root: Path, folder: Path) -> tuple[list[PosedFrame], list[PosedFrame]]:
    """Return the views of one object to learn from, and those that its data keeps to test on; pictures lie in `root`.

    `transforms.json` keeps none; `transforms_train.json` those of `transforms_test.json`, or else of
    `transforms_val.json`.

    Raises:
        InputError: a fault of a file.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=8), f"{folder}/cars")
    ...     frames, test_frames = json_frames(tree, tree / "car_000")
    >>> len(frames), len(test_frames)
    (2, 0)
    """
    if (folder / WHOLE).exists() or not (folder / TRAIN).exists():
        return _frames(root, folder / WHOLE), []
    test_file = next((path for path in (folder / name for name in TEST_FILES) if path.exists()), None)
    return _frames(root, folder / TRAIN), [] if test_file is None else _frames(root, test_file)


def _frames(root: Path, path: Path) -> list[PosedFrame]:
    """Return the frames of one JSON file, in its order; it and its pictures lie inside `root`."""
    # The file itself may be a link to somewhere else.
    safe_path(root, path.parent, path.name, path)
    content: dict[str, Any] = read_json(path)
    frames = [frame for _, frame in named_frames(root, path, content)]
    # Of objects too a mask may hide what occludes them: taken for transparency, it would be learned as white.
    refuse_masks(frames, "objects")
    return frames
