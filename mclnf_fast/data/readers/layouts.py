"""Which files a folder holds and how it splits them: the public layouts, `train/` and `test/`, or any tree.

Recognised: CelebA, FFHQ, ImageNette, VoxCeleb2 and LibriSpeech by the shape of their folders, also one level down;
then folders with splits as subfolders; else every file below.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mclnf_fast.data.readers.celeba import PARTITION, image_folder, read_partition
from mclnf_fast.data.signals import Kind
from mclnf_fast.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".gif", ".m4v")
SOUNDS = (".flac", ".wav", ".ogg", ".mp3", ".m4a", ".aac", ".opus", ".aiff")
ENDINGS: dict[Kind, tuple[str, ...]] = {"image": IMAGES, "video": VIDEOS, "audio": SOUNDS}
PLURAL: dict[Kind, str] = {"image": "images", "video": "videos", "audio": "sound files"}
SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
FFHQ_TRAIN = 60000  # its authors train on the first so many and validate on the rest
UTTERANCE = re.compile(r"(\d+)-\d+-\d+")  # LibriSpeech: speaker, chapter, number
SPEAKER = re.compile(r"id\d{5}")  # VoxCeleb


@dataclass(frozen=True)
class Item:
    """One file: where it is, its name in reports, and what it must not be parted from (a speaker)."""

    path: Path
    name: str
    group: str = ""


@dataclass
class Found:
    """The files of a folder.

    Attributes:
        title: for the report.
        pools: by "train", "validation" and "test" as the data split them, or all under "all".
        notes: what the reader should know about the choice.
        resize: whether pictures of this layout are scaled to the crop rather than cut at their own size.
    """

    title: str
    pools: dict[str, list[Item]]
    notes: list[str] = field(default_factory=list)
    resize: bool = False


def find(folder: str | Path, kind: Kind) -> Found:
    """The files of one kind below `folder`, or the one file that it is.

    Symbolic links are followed, each folder once. Names that begin with a dot are passed over.

    Raises:
        InputError: not there, unreadable, no file of that kind, or a damaged list of splits.
    """
    root = Path(folder)
    try:
        is_file, is_folder = root.is_file(), root.is_dir()
    except OSError as error:
        raise InputError(f"{root}: cannot be opened: {error.strerror or error}") from None
    if is_file:
        if root.suffix.lower() not in ENDINGS[kind]:
            raise InputError(f"{root}: must be a folder or one of {' '.join(ENDINGS[kind])}, was {root.suffix!r}")
        return Found(root.name, {"all": [Item(root, root.name)]})
    if not is_folder:
        raise InputError(f"{root}: must be a folder of {PLURAL[kind]}, was not there")
    name = root.resolve().name
    for base in _bases(root):
        for look in (_celeba, _ffhq, _voxceleb, _librispeech):
            found = look(base, kind)
            if found is not None:
                found.title = f"{found.title} ({name})"
                return found
    for base in _bases(root):
        found = _split_folders(base, kind)
        if found is not None:
            found.title = f"{name} ({found.title})" if found.title else name
            return found
    items = [Item(path, path.relative_to(root).as_posix()) for path in walk(root, ENDINGS[kind])]
    if not items:
        raise InputError(f"{root}: must hold {PLURAL[kind]} ({' '.join(ENDINGS[kind])}), has none")
    return Found(name, {"all": grouped(items) if kind == "audio" else items})


def walk(root: Path, endings: Sequence[str]) -> list[Path]:
    """The files below `root` with one of these endings (any case), by name."""
    out: list[Path] = []
    seen: set[tuple[int, int]] = set()
    refused: list[OSError] = []
    for at, folders, files in os.walk(root, followlinks=True, onerror=refused.append):
        try:
            status = os.stat(at)
        except OSError as error:
            refused.append(error)
            continue
        if (status.st_dev, status.st_ino) in seen:  # a link back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        out += [Path(at, f) for f in files if f.lower().endswith(tuple(endings)) and not f.startswith(".")]
    if refused:
        raise InputError(f"{refused[0].filename}: cannot be listed: {refused[0].strerror}")
    return sorted(out, key=lambda path: path.relative_to(root).parts)


def grouped(items: list[Item]) -> list[Item]:
    """`items` with the group of each: LibriSpeech's speaker in the file's name, else the first folder in which the
    paths differ; a file that stands outside of those folders is a group of its own."""
    folders = [item.path.parts[:-1] for item in items]
    shared = 0
    while len({parts[shared : shared + 1] for parts in folders}) == 1 and all(len(parts) > shared for parts in folders):
        shared += 1
    out = []
    for item, parts in zip(items, folders, strict=True):
        spoken = UTTERANCE.fullmatch(item.path.stem)
        group = spoken[1] if spoken else parts[shared] if len(parts) > shared else item.name
        out.append(Item(item.path, item.name, group))
    return out


def folders_in(root: Path) -> list[Path]:
    """The folders in `root`, by name; none where it cannot be listed."""
    try:
        return sorted(
            path for path in root.iterdir() if os.path.isdir(path) and not path.name.startswith((".", "__MACOSX"))
        )
    except OSError:
        return []


def _bases(root: Path) -> list[Path]:
    """`root`, and the only folder in it where there is one."""
    inside = folders_in(root)
    return [root, inside[0]] if len(inside) == 1 else [root]


def _items(root: Path, folder: Path, kind: Kind) -> list[Item]:
    return [Item(path, path.relative_to(root).as_posix()) for path in walk(folder, ENDINGS[kind])]


def _celeba(root: Path, kind: Kind) -> Found | None:
    """`img_align_celeba/*.jpg` and `list_eval_partition.txt` or `.csv` (0 train, 1 validation, 2 test)."""
    images = image_folder(root) if kind == "image" else None
    if images is None:
        return None
    items = _items(images, images, kind)
    if not items:
        return None
    path, partition = read_partition(images)
    if path is None:
        return Found("CelebA", {"all": items}, [f"{images.name}: no {PARTITION}.txt or .csv beside it; split by seed"])
    pools: dict[str, list[Item]] = {"train": [], "validation": [], "test": []}
    missing = [item.name for item in items if item.path.name not in partition]
    for item in items:
        if item.path.name in partition:
            pools[partition[item.path.name]].append(item)
    notes = [f"{len(missing)} images are not in {path.name} and are left out"] if missing else []
    return Found("CelebA", pools, notes)


def _ffhq(root: Path, kind: Kind) -> Found | None:
    """`00000/00000.png`, `images1024x1024/...` or `thumbnails128x128/...`, in folders of a thousand or flat."""
    if kind != "image":
        return None
    for name in ("images1024x1024", "thumbnails128x128", ""):
        folder = root / name
        if not os.path.isdir(folder):
            continue
        if not name and not any(re.fullmatch(r"\d{5}", inner.name) for inner in folders_in(folder)):
            continue
        items = [item for item in _items(root, folder, kind) if re.fullmatch(r"\d{5}", item.path.stem)]
        if not items:
            continue
        late = [int(item.path.stem) >= FFHQ_TRAIN for item in items]
        if any(late) and not all(late):
            pools = {
                "train": [item for item, after in zip(items, late, strict=True) if not after],
                "test": [item for item, after in zip(items, late, strict=True) if after],
            }
        else:
            pools = {"all": items}
        return Found("FFHQ", pools, [], resize=True)
    return None


def _voxceleb(root: Path, kind: Kind) -> Found | None:
    """`{dev,test}/{mp4,aac}/idXXXXX/<video>/NNNNN.{mp4,m4a}`, or one of those folders."""
    if kind == "image":
        return None
    inner, ending = ("mp4", ".mp4") if kind == "video" else ("aac", ".m4a")
    places = {"train": root / "dev", "test": root / "test", "all": root}
    pools: dict[str, list[Item]] = {}
    for split, place in places.items():
        if split == "all" and pools:
            break
        for folder in (place / inner, place):
            if any(SPEAKER.fullmatch(path.name) for path in folders_in(folder)):
                items = [
                    Item(path, path.relative_to(root).as_posix(), path.relative_to(folder).parts[0])
                    for path in walk(folder, (ending,))
                ]
                items = [item for item in items if SPEAKER.fullmatch(item.group)]
                if items:
                    pools[split] = items
                break
    return Found("VoxCeleb2", pools) if pools else None


def _librispeech(root: Path, kind: Kind) -> Found | None:
    """`{train,dev,test}-*/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac`."""
    if kind != "audio":
        return None
    pools: dict[str, list[Item]] = {}
    for folder in folders_in(root):
        match = re.fullmatch(r"(train|dev|test)-(clean|other)(-\d+)?", folder.name)
        if match:
            items = grouped(_items(root, folder, kind))
            pools.setdefault(SPLITS[match[1]], []).extend(items)
    pools = {split: items for split, items in pools.items() if items}
    return Found("LibriSpeech", pools) if pools else None


def _split_folders(root: Path, kind: Kind) -> Found | None:
    """Subfolders named train, val (valid, validation, dev) and test; at least two of them with files."""
    pools: dict[str, list[Item]] = {}
    others = []
    for folder in folders_in(root):
        split = SPLITS.get(folder.name.lower())
        items = _items(root, folder, kind)
        if split is None:
            others += items
        elif items:
            pools.setdefault(split, []).extend(items)
    if len(pools) < 2:
        return None
    others += [Item(path, path.name) for path in root.iterdir() if path.suffix.lower() in ENDINGS[kind]]
    notes = [f"{len(others)} {PLURAL[kind]} outside of the split folders are left out"] if others else []
    classes = {folder.name for split in folders_in(root) for folder in folders_in(split)}
    imagenette = bool(classes) and all(re.fullmatch(r"n\d{8}", name) for name in classes) and kind == "image"
    return Found("ImageNette" if imagenette else "", pools, notes)
