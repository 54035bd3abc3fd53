"""Layouts of images, videos and sound: CelebA, FFHQ, VoxCeleb2, LibriSpeech, ImageNette, split folders, any tree."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mclnf_fast.data.readers.layouts import (
    ENDINGS,
    PLURAL,
    SPLITS,
    DataFile,
    Layout,
    any_file,
    bases,
    data_files,
    folders_in,
    grouped,
    walk,
)
from mclnf_fast.data.readers.registry import Reader, choose, unknown_layout
from mclnf_fast.data.signals import SignalKind, SignalSets
from mclnf_fast.errors import InputError

CELEBA_FOLDER, CELEBA_PARTITION = "img_align_celeba", "list_eval_partition"
CELEBA_SETS = {"0": "train", "1": "validation", "2": "test"}
FFHQ_TRAIN = 60000  # its authors train on the first so many and validate on the rest
NUMBER = r"\d{5}"  # an FFHQ picture, or its folder of a thousand
SPEAKER = re.compile(r"id\d{5}")  # VoxCeleb
LIBRISPEECH = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")


@dataclass(frozen=True)
class SignalLayout:
    """One layout of images, videos or sound: which kinds it holds, how it is detected and which files it has.

    `reason` takes a folder and the kind and returns the reason for the detection or None; `files` lists the files of a
    folder that was detected. `rank` and `looks_inside` are those of `Reader`.

    >>> [layout.name for layout in LAYOUTS if "audio" in layout.kinds]
    ['file', 'voxceleb2', 'librispeech', 'splits', 'tree']
    """

    name: str
    kinds: tuple[SignalKind, ...]
    looks_for: str
    reason: Callable[[Path, SignalKind], str | None]
    files: Callable[[Path, SignalKind], Layout]
    rank: int = 0
    looks_inside: bool = True

    def locate(self, path: Path, kind: SignalKind) -> Layout:
        """Return the files of `path`, or of the only folder in it, titled by the layout and the name of `path`."""
        places = bases(path) if self.looks_inside else [path]
        base = next((place for place in places if self.reason(place, kind) is not None), path)
        layout = self.files(base, kind)
        name = path.name if path.is_file() else path.resolve().name
        if self.rank == 0 and layout.title:
            layout.title = f"{layout.title} ({name})"
        else:
            layout.title = f"{name} ({layout.title})" if layout.title else name
        return layout


def signal_readers(kind: SignalKind, read: Callable[[Layout, Any], SignalSets]) -> list[Reader]:
    """Return one reader per layout that can hold `kind`; `read` takes the files of a folder and the options.

    >>> [reader.name for reader in signal_readers("video", lambda layout, options: None)]
    ['file', 'voxceleb2', 'splits', 'tree']
    """

    def reader(layout: SignalLayout) -> Reader:
        return Reader(
            name=layout.name,
            kind=kind,
            looks_for=layout.looks_for.format(kind=PLURAL[kind], endings=" ".join(ENDINGS[kind])),
            detects=lambda path: layout.reason(path, kind),
            read=lambda path, options: read(layout.locate(path, kind), options),
            rank=layout.rank,
            looks_inside=layout.looks_inside,
        )

    return [reader(layout) for layout in LAYOUTS if kind in layout.kinds]


def choose_signals(kind: SignalKind, path: Path, name: str | None) -> Reader:
    """Return the reader for the images, videos or sound at `path`.

    Raises:
        InputError: not there, unreadable, a file of another kind, or no file of that kind below it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "a.png").touch()
    ...     print(choose_signals("image", Path(folder), None).name)
    tree
    """
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror or error}") from None
    if not is_file and not is_folder:
        raise InputError(f"{path}: must be a folder of {PLURAL[kind]}, was not there")
    reader = choose(kind, path, name)
    if reader is not None:
        return reader
    if is_file:
        raise InputError(f"{path}: must be a folder or one of {' '.join(ENDINGS[kind])}, was {path.suffix!r}")
    raise unknown_layout(kind, path, f"{PLURAL[kind]} ({' '.join(ENDINGS[kind])})")


def _celeba_folder(root: Path) -> Path | None:
    """Return `img_align_celeba`: `root` itself, in it, or in `Img` (the archive's own tree); some copies nest it."""
    for folder in (root, *(root / inner / CELEBA_FOLDER for inner in ("", "Img", "celeba"))):
        if folder.name == CELEBA_FOLDER and os.path.isdir(folder):
            return folder / CELEBA_FOLDER if os.path.isdir(folder / CELEBA_FOLDER) else folder
    return None


def _celeba_reason(root: Path, kind: SignalKind) -> str | None:
    folder = _celeba_folder(root)
    return f"pictures in {folder}" if folder is not None and any_file(folder, ENDINGS[kind]) else None


def _celeba(root: Path, kind: SignalKind) -> Layout:
    folder = _celeba_folder(root) or root
    files = data_files(folder, folder, kind)
    path, partition = _celeba_partition(folder)
    if path is None:
        note = f"{folder.name}: no {CELEBA_PARTITION}.txt or .csv beside it; split by seed"
        return Layout("CelebA", {"all": files}, [note])
    pools: dict[str, list[DataFile]] = {"train": [], "validation": [], "test": []}
    missing = [file.name for file in files if file.path.name not in partition]
    for file in files:
        if file.path.name in partition:
            pools[partition[file.path.name]].append(file)
    notes = [f"{len(missing)} images are not in {path.name} and are left out"] if missing else []
    return Layout("CelebA", pools, notes)


def _celeba_partition(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """Return the list of sets beside the images, or above, or in `Eval`, and the set of each file name in it."""
    for parent in (folder, folder.parent, folder.parent.parent):
        for inner in (parent, parent / "Eval"):
            for ending in (".txt", ".csv"):
                path = inner / (CELEBA_PARTITION + ending)
                if os.path.isfile(path):
                    return path, _partition_lines(path)
    return None, {}


def _partition_lines(path: Path) -> dict[str, str]:
    """Return the set of each file name; InputError when a line is not `name 0|1|2` (or `name,0|1|2` in the csv)."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: must be readable text: {error}") from None
    sets = {}
    for k, line in enumerate(lines):
        words = line.replace(",", " ").split()
        if not words or (k == 0 and words == ["image_id", "partition"]):
            continue
        if len(words) != 2 or words[1] not in CELEBA_SETS:
            raise InputError(f"{path}: line {k + 1} must be a file's name and 0, 1 or 2, was {line[:60]!r}")
        sets[words[0]] = CELEBA_SETS[words[1]]
    return sets


def _ffhq_folder(root: Path) -> Path | None:
    """Return the folder with the pictures: one of FFHQ's names, or `root` when it has folders of a thousand."""
    for name in ("images1024x1024", "thumbnails128x128", ""):
        folder = root / name
        if not os.path.isdir(folder):
            continue
        # A flat folder of numbers alone may be anything; the folders of a thousand are FFHQ's own.
        if not name and not any(re.fullmatch(NUMBER, inner.name) for inner in folders_in(folder)):
            continue
        if any_file(folder, ENDINGS["image"], NUMBER):
            return folder
    return None


def _ffhq_reason(root: Path, kind: SignalKind) -> str | None:
    folder = _ffhq_folder(root)
    return f"pictures of five digits in {folder}" if folder is not None else None


def _ffhq(root: Path, kind: SignalKind) -> Layout:
    folder = _ffhq_folder(root) or root
    files = [file for file in data_files(root, folder, kind) if re.fullmatch(NUMBER, file.path.stem)]
    train = [file for file in files if int(file.path.stem) < FFHQ_TRAIN]
    test = [file for file in files if int(file.path.stem) >= FFHQ_TRAIN]
    # A part of it that lies on one side of the border has no split of its own.
    return Layout("FFHQ", {"train": train, "test": test} if train and test else {"all": files}, [], resize=True)


def _voxceleb_folders(root: Path, kind: SignalKind) -> dict[str, Path]:
    """Return the folders of speakers by set; "all" is `root` itself, when it has neither `dev` nor `test`."""
    inner = "mp4" if kind == "video" else "aac"
    sets: dict[str, Path] = {}
    for split, place in {"train": root / "dev", "test": root / "test", "all": root}.items():
        if split == "all" and sets:
            break
        for folder in (place / inner, place):
            speakers = [path for path in folders_in(folder) if SPEAKER.fullmatch(path.name)]
            if speakers:
                if any(any_file(path, (_voxceleb_ending(kind),)) for path in speakers):
                    sets[split] = folder
                break
    return sets


def _voxceleb_ending(kind: SignalKind) -> str:
    return ".mp4" if kind == "video" else ".m4a"


def _voxceleb_reason(root: Path, kind: SignalKind) -> str | None:
    folders = _voxceleb_folders(root, kind)
    return f"folders idXXXXX in {', '.join(map(str, folders.values()))}" if folders else None


def _voxceleb(root: Path, kind: SignalKind) -> Layout:
    pools = {}
    for split, folder in _voxceleb_folders(root, kind).items():
        files = [
            DataFile(path, path.relative_to(root).as_posix(), path.relative_to(folder).parts[0])
            for path in walk(folder, (_voxceleb_ending(kind),))
        ]
        pools[split] = [file for file in files if SPEAKER.fullmatch(file.group)]
    return Layout("VoxCeleb2", pools)


def _librispeech_folders(root: Path, kind: SignalKind) -> list[Path]:
    """Return the folders of LibriSpeech's sets that hold sound."""
    folders = [folder for folder in folders_in(root) if LIBRISPEECH.fullmatch(folder.name)]
    return [folder for folder in folders if any_file(folder, ENDINGS[kind])]


def _librispeech_reason(root: Path, kind: SignalKind) -> str | None:
    folders = _librispeech_folders(root, kind)
    return f"folders {', '.join(folder.name for folder in folders)}" if folders else None


def _librispeech(root: Path, kind: SignalKind) -> Layout:
    pools: dict[str, list[DataFile]] = {}
    for folder in _librispeech_folders(root, kind):
        name = SPLITS[folder.name.split("-")[0]]
        pools.setdefault(name, []).extend(grouped(data_files(root, folder, kind)))
    return Layout("LibriSpeech", pools)


def _split_names(root: Path, kind: SignalKind) -> set[str]:
    """Return which of "train", "validation" and "test" have a folder in `root` with files of the kind."""
    named = [(SPLITS.get(folder.name.lower()), folder) for folder in folders_in(root)]
    return {split for split, folder in named if split is not None and any_file(folder, ENDINGS[kind])}


def _split_reason(root: Path, kind: SignalKind) -> str | None:
    # One alone may be the only part of the data that was downloaded: it is then a tree like any other.
    names = _split_names(root, kind)
    return f"split folders of {', '.join(sorted(names))}" if len(names) >= 2 else None


def _split_folders(root: Path, kind: SignalKind) -> Layout:
    pools: dict[str, list[DataFile]] = {}
    others = []
    for folder in folders_in(root):
        split = SPLITS.get(folder.name.lower())
        files = data_files(root, folder, kind)
        if split is None:
            others += files
        elif files:
            pools.setdefault(split, []).extend(files)
    others += [DataFile(path, path.name) for path in root.iterdir() if path.suffix.lower() in ENDINGS[kind]]
    notes = [f"{len(others)} {PLURAL[kind]} outside of the split folders are left out"] if others else []
    return Layout("", pools, notes)


def _imagenette_reason(root: Path, kind: SignalKind) -> str | None:
    classes = {folder.name for split in folders_in(root) for folder in folders_in(split)}
    if not classes or not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return None
    return _split_reason(root, kind)


def _imagenette(root: Path, kind: SignalKind) -> Layout:
    layout = _split_folders(root, kind)
    layout.title = "ImageNette"
    return layout


def _file_reason(path: Path, kind: SignalKind) -> str | None:
    return f"one file {path.suffix}" if path.is_file() and path.suffix.lower() in ENDINGS[kind] else None


def _one_file(path: Path, kind: SignalKind) -> Layout:
    return Layout("", {"all": [DataFile(path, path.name)]})


def _tree_reason(root: Path, kind: SignalKind) -> str | None:
    return f"{PLURAL[kind]} below it" if root.is_dir() and any_file(root, ENDINGS[kind]) else None


def _tree(root: Path, kind: SignalKind) -> Layout:
    files = data_files(root, root, kind)
    return Layout("", {"all": grouped(files) if kind == "audio" else files})


LAYOUTS = (
    SignalLayout("file", ("image", "video", "audio"), "one file", _file_reason, _one_file, looks_inside=False),
    SignalLayout("celeba", ("image",), f"{CELEBA_FOLDER}/ (CelebA)", _celeba_reason, _celeba),
    SignalLayout("ffhq", ("image",), "images1024x1024/, thumbnails128x128/ or 00000/ (FFHQ)", _ffhq_reason, _ffhq),
    SignalLayout(
        "voxceleb2", ("video", "audio"), "dev/, test/ with folders idXXXXX (VoxCeleb2)", _voxceleb_reason, _voxceleb
    ),
    SignalLayout("librispeech", ("audio",), "train-clean-100/, ... (LibriSpeech)", _librispeech_reason, _librispeech),
    SignalLayout(
        "imagenette", ("image",), "train/nXXXXXXXX/, val/nXXXXXXXX/ (ImageNette)", _imagenette_reason, _imagenette, 1
    ),
    SignalLayout("splits", ("image", "video", "audio"), "train/, val/, test/", _split_reason, _split_folders, 1),
    SignalLayout(
        "tree",
        ("image", "video", "audio"),
        "any tree of {kind} ({endings})",
        _tree_reason,
        _tree,
        2,
        looks_inside=False,
    ),
)
