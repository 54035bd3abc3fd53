"""Layouts of the data sets CelebA, FFHQ, VoxCeleb2 and LibriSpeech.

Each is a pair of functions of a folder and a kind of signal: `_NAME_reason` returns the reason why the folder has the
layout, or None, and looks at names only; `_NAME` lists the files of a folder that has it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mclnf_fast.data.readers.layouts import (
    ENDINGS,
    SPLITS,
    DataFile,
    Layout,
    SignalLayout,
    any_file,
    data_files,
    folders_in,
    grouped,
    walk,
)
from mclnf_fast.data.signals import SignalKind
from mclnf_fast.errors import InputError

CELEBA_FOLDER, CELEBA_PARTITION = "img_align_celeba", "list_eval_partition"
CELEBA_SETS = {"0": "train", "1": "validation", "2": "test"}
FFHQ_TRAIN = 60000  # its authors train on the first so many and validate on the rest
NUMBER = r"\d{5}"  # an FFHQ picture, or its folder of a thousand
SPEAKER = re.compile(r"id\d{5}")  # VoxCeleb
LIBRISPEECH = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")


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
    # The official list and not our own split: figures for CelebA are compared on its test set.
    path, partition = _celeba_partition(folder)
    if path is None:
        note = f"{folder.name}: no {CELEBA_PARTITION}.txt or .csv beside it; split by seed"
        return Layout("CelebA", {"all": files}, [note])
    pools: dict[str, list[DataFile]] = {"train": [], "validation": [], "test": []}
    # Left out and not trained on: an image outside of the list may be one of the test set under another name.
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
        # With a byte order mark or without: copies of the list that went through Windows have one.
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
    # Other pictures may lie beside the data, such as a teaser; they have no number.
    files = [file for file in data_files(root, folder, kind) if re.fullmatch(NUMBER, file.path.stem)]
    train = [file for file in files if int(file.path.stem) < FFHQ_TRAIN]
    test = [file for file in files if int(file.path.stem) >= FFHQ_TRAIN]
    # A part of it that lies on one side of the border has no split of its own.
    return Layout("FFHQ", {"train": train, "test": test} if train and test else {"all": files}, [], resize=True)


def _voxceleb_folders(root: Path, kind: SignalKind) -> dict[str, Path]:
    """Return the folders of speakers by set; "all" is `root` itself, when it has neither `dev` nor `test`."""
    inner = "mp4" if kind == "video" else "aac"
    sets: dict[str, Path] = {}
    lost: list[Path] = []
    for split, place in {"train": root / "dev", "test": root / "test", "all": root}.items():
        if split == "all" and sets:
            break
        for folder in (place / inner, place):
            speakers = [path for path in folders_in(folder) if SPEAKER.fullmatch(path.name)]
            if speakers:
                if any(any_file(path, (_voxceleb_ending(kind),)) for path in speakers):
                    sets[split] = folder
                break
        else:
            if split != "all" and os.path.isdir(place) and any_file(place, (_voxceleb_ending(kind),)):
                lost.append(place)
    if sets and lost:
        # Left out, the other set would be split by seed, and be tested on in its place.
        raise InputError(f"{lost[0]}: must hold folders idXXXXX, or {inner} with them, holds its files elsewhere")
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
            # The speaker is the group: the same voice in train and test would make the test an easier one.
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
    others = [f.name for f in folders_in(root) if not LIBRISPEECH.fullmatch(f.name) and any_file(f, ENDINGS[kind])]
    notes = [f"sound in other folders is left out: {', '.join(others)}"] if others else []
    return Layout("LibriSpeech", pools, notes)


DATASETS = (
    SignalLayout("celeba", ("image",), f"{CELEBA_FOLDER}/ (CelebA)", _celeba_reason, _celeba),
    SignalLayout("ffhq", ("image",), "images1024x1024/, thumbnails128x128/ or 00000/ (FFHQ)", _ffhq_reason, _ffhq),
    SignalLayout(
        "voxceleb2", ("video", "audio"), "dev/, test/ with folders idXXXXX (VoxCeleb2)", _voxceleb_reason, _voxceleb
    ),
    SignalLayout("librispeech", ("audio",), "train-clean-100/, ... (LibriSpeech)", _librispeech_reason, _librispeech),
)
