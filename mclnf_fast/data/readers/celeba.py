"""CelebA's folder of images and its list of which of them is to train, to validate and to test."""

from __future__ import annotations

import os
from pathlib import Path

from mclnf_fast.errors import InputError

FOLDER = "img_align_celeba"
PARTITION = "list_eval_partition"
NAMES = {"0": "train", "1": "validation", "2": "test"}


def image_folder(root: Path) -> Path | None:
    """`img_align_celeba` where it is `root`, in it, or in `Img` (the archive's own tree); some copies nest it twice."""
    for folder in (root, root / FOLDER, root / "Img" / FOLDER, root / "celeba" / FOLDER):
        if folder.name == FOLDER and os.path.isdir(folder):
            return folder / FOLDER if os.path.isdir(folder / FOLDER) else folder
    return None


def read_partition(images: Path) -> tuple[Path | None, dict[str, str]]:
    """The list beside the images, or above, or in `Eval`; and "train", "validation" or "test" by file name.

    Raises:
        InputError: a line that is no `name 0|1|2` (or `name,0|1|2` in the csv).
    """
    for folder in (images, images.parent, images.parent.parent):
        for inner in (folder, folder / "Eval"):
            for ending in (".txt", ".csv"):
                path = inner / (PARTITION + ending)
                if os.path.isfile(path):
                    return path, _lines(path)
    return None, {}


def _lines(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: must be readable text: {error}") from None
    out = {}
    for k, line in enumerate(lines):
        parts = line.replace(",", " ").split()
        if not parts or (k == 0 and parts == ["image_id", "partition"]):
            continue
        if len(parts) != 2 or parts[1] not in NAMES:
            raise InputError(f"{path}: line {k + 1} must be a file's name and 0, 1 or 2, was {line[:60]!r}")
        out[parts[0]] = NAMES[parts[1]]
    return out
