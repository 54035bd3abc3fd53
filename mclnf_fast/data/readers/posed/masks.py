"""Masks of posed pictures: which of their pixels are learned from and scored (nerfstudio's `mask_path`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mclnf_fast.data.readers.decoding.pictures import common_mode, eight_bits, open_picture
from mclnf_fast.data.readers.files import read_file_name, safe_path
from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.lenses import MASK
from mclnf_fast.errors import InputError

KEY = "mask_path"


def read_mask_path(root: Path, folder: Path, contents: Iterable[dict[str, Any]], path: Path) -> Path | None:
    """Return the file of a frame's mask; None without one.

    Args:
        root: the mask lies inside it.
        folder: the mask's path is relative to it.
        contents: the JSON objects that may name it: the file, then its frame, which stands above.
        path: the file, for messages.

    Raises:
        InputError: a mask by another key, whose meaning is not known, or a file that is not there.

    >>> read_mask_path(Path(), Path(), [{"file_path": "a.png"}], Path("transforms.json")) is None
    True
    """
    mask = None
    for content in contents:
        for key, value in content.items():
            if key != KEY and MASK.fullmatch(key) and value:
                # What it masks, and which of its values do, differs from tool to tool: a guess may learn the mask.
                raise InputError(
                    f"{path}: key {key!r} is not read: name masks as {KEY!r} (pictures whose 0 is masked), or leave "
                    "it out"
                )
        if content.get(KEY):
            mask = safe_path(root, folder, read_file_name(content, KEY, path), path)
    if mask is not None and not mask.is_file():
        raise InputError(f"{mask}: must be a mask, was not there (named in {path})")
    return mask


def read_unmasked(mask: Path, size: tuple[int, int], reduced: tuple[int, int]) -> np.ndarray:
    """Return which pixels of a picture are not masked, bool [h, w] at its reduced size: those of which no part is.

    Args:
        mask: a picture whose 0 is masked.
        size: (width, height) of the picture in its file, which the mask must have too.
        reduced: (width, height) that it is reduced to.

    Raises:
        InputError: no picture, of another size, or it leaves no pixel.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "mask.png")
    ...     Image.fromarray(np.array([[0, 255, 255, 255]], np.uint8)).save(file)
    ...     print(read_unmasked(file, (4, 1), (2, 1)))
    [[False  True]]
    """
    from PIL import Image

    with open_picture(mask) as (opened, mask_size):
        if mask_size != size:
            raise InputError(
                f"{mask}: must have the size of its picture, {size[0]}x{size[1]}, was {mask_size[0]}x{mask_size[1]}"
            )
        unmasked: np.ndarray = (np.asarray(eight_bits(common_mode(opened, mask)).convert("RGB")) > 0).max(-1)
    if reduced != size:
        share = Image.fromarray(unmasked.astype(np.float32)).resize(reduced, Image.Resampling.BOX)
        unmasked = np.asarray(share) > 1 - 1e-4
    if not unmasked.any():
        raise InputError(f"{mask}: must leave a pixel to learn from, leaves none")
    return unmasked


def refuse_masks(frames: Iterable[PosedFrame], kind: str) -> None:
    """Raise `InputError` if a frame has a mask, where masks are not read.

    >>> refuse_masks([], "objects")
    """
    for frame in frames:
        if frame.mask is not None:
            raise InputError(
                f"{frame.source}: masks are not read of {kind}, {frame.name} has one: leave {KEY!r} out, and frames "
                "that need theirs"
            )
