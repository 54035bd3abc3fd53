"""Readers of images, videos and sound by the layout of their folder: a named data set, split folders, or any tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mclnf_fast.data.readers.dataset_layouts import DATASETS
from mclnf_fast.data.readers.layouts import (
    ENDINGS,
    PLURAL,
    SPLITS,
    DataFile,
    Layout,
    SignalLayout,
    any_file,
    data_files,
    folders_in,
    grouped,
)
from mclnf_fast.data.readers.registry import Reader, choose, unknown_layout
from mclnf_fast.data.signals import SignalKind, SignalSets
from mclnf_fast.errors import InputError


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
        # Files beside the split folders belong to no set; to guess one could leak test files into training.
        if split is None:
            others += files
        elif files:
            pools.setdefault(split, []).extend(files)
    others += [DataFile(path, path.name) for path in root.iterdir() if path.suffix.lower() in ENDINGS[kind]]
    notes = [f"{len(others)} {PLURAL[kind]} outside of the split folders are left out"] if others else []
    return Layout("", pools, notes)


def _imagenette_reason(root: Path, kind: SignalKind) -> str | None:
    # Known by the names of its classes (WordNet ids); the folders alone are those of any data set with splits.
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
    *DATASETS,
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
