"""Objects as `transforms*.json` with pictures: a folder each and a `*_splits.json`, or scenes of NeRF-synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mclnf_fast.data.objects import FAR, NEAR
from mclnf_fast.data.readers.files import Frame, number, read_json, safe_path
from mclnf_fast.data.readers.layouts import SPLITS, Found, Item, folders_in
from mclnf_fast.data.readers.nerf_json import named_frames
from mclnf_fast.errors import InputError

WHOLE, TRAIN = "transforms.json", "transforms_train.json"
HELD = ("transforms_test.json", "transforms_val.json")


def find_objects(root: Path) -> tuple[Found, tuple[float, float]] | None:
    """`<object>/transforms.json` with or without `*_splits.json`, one such object, or a folder of NeRF-synthetic
    scenes; and near and far."""
    title = root.resolve().name
    splits = sorted(path for path in root.glob("*_splits.json") if not path.name.startswith("."))
    if splits:
        return _split(root, splits, title)
    inside = folders_in(root)
    items = [Item(path, path.name) for path in inside if (path / WHOLE).exists()]
    if not items and (root / WHOLE).exists():
        items = [Item(root, title)]
    if items:
        return Found(title, {"all": items}), (NEAR, FAR)
    items = [Item(path, path.name) for path in inside if (path / TRAIN).exists()]
    if not items:
        return None
    notes = ["scenes are learned from by their training views; of those to test on the test views are kept apart"]
    return Found(f"{title} (NeRF-synthetic)", {"all": items}, notes), (NEAR, FAR)


def _split(root: Path, splits: list[Path], title: str) -> tuple[Found, tuple[float, float]]:
    """The objects that a `*_splits.json` names: folders beside it or in one folder there."""
    if len(splits) > 1:
        raise InputError(f"{root}: must hold one *_splits.json, holds {', '.join(path.name for path in splits)}")
    path = splits[0]
    content = read_json(path)
    named: dict[str, list[str]] = {}
    for key, value in content.items():
        if key not in SPLITS:
            continue
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise InputError(f"{path}: key {key!r} must be a list of folder names, was {type(value).__name__}")
        named.setdefault(SPLITS[key], []).extend(value)
    listed = [name for names in named.values() for name in names]
    if not listed:
        raise InputError(f"{path}: must name objects under 'train' and 'test' (or 'val'), names none")
    if len(set(listed)) != len(listed):
        twice = next(name for k, name in enumerate(listed) if name in listed[:k])
        raise InputError(f"{path}: must name each object once, {twice!r} stands twice")
    # Names may be of folders beside the file, or in a folder of the category (cars/ beside car_splits.json).
    bases = [root, *folders_in(root)]
    base = next((b for b in bases if any((b / name / WHOLE).exists() for name in listed if _plain(name))), root)
    pools = {split: [Item(safe_path(root, base, name, path), name) for name in names] for split, names in named.items()}
    others = [p.name for p in folders_in(base) if (p / WHOLE).exists() and p.name not in set(listed)]
    notes = [f"{len(others)} objects that {path.name} does not name are left out"] if others else []
    near, far = number(content, "near", path), number(content, "far", path)
    return Found(title, pools, notes), (NEAR if near is None else near, FAR if far is None else far)


def _plain(name: str) -> bool:
    """Whether a name is a path below its folder, so that looking there is harmless."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name


def json_frames(root: Path, folder: Path) -> tuple[list[Frame], list[Frame]]:
    """The views of one object to learn from and those that its data keeps to test on: `transforms.json` keeps none;
    `transforms_train.json` those of `transforms_test.json`, or else of `transforms_val.json`."""
    if (folder / WHOLE).exists() or not (folder / TRAIN).exists():
        return _frames(root, folder / WHOLE), []
    held = next((path for path in (folder / name for name in HELD) if path.exists()), None)
    return _frames(root, folder / TRAIN), [] if held is None else _frames(root, held)


def _frames(root: Path, path: Path) -> list[Frame]:
    """The frames of one json, as it lists them; its pictures lie inside `root`."""
    safe_path(root, path.parent, path.name, path)
    content: dict[str, Any] = read_json(path)
    return [frame for _, frame in named_frames(root, path, content)]
