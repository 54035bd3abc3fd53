"""`load_images`: a folder of pictures as `SignalSets`."""

from __future__ import annotations

from pathlib import Path

import torch

from mclnf_fast.data.readers.gather import Read, gather
from mclnf_fast.data.readers.layouts import Item, find
from mclnf_fast.data.readers.pictures import decode_picture
from mclnf_fast.data.readers.split import plan
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError


def load_images(
    folder: str | Path,
    *,
    size: int | tuple[int, int] = 178,
    resize: bool | None = None,
    channels: int = 3,
    test: float | int = 0.25,
    validation: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    strict: bool = False,
) -> SignalSets:
    """Read pictures, each cut to one size about its middle.

    CelebA (`img_align_celeba/` with `list_eval_partition.txt` or `.csv`), FFHQ, ImageNette (`train/<wnid>/`,
    `val/<wnid>/`) and folders with `train/`, `val/`, `test/` keep their own split; any other tree is split by seed.

    Args:
        folder: a folder, read with all below it, or one picture.
        size: side of the crop in pixels, or (height, width).
        resize: True: first scale each picture, its shape kept, to just cover the crop; False: cut at its own scale;
            None: as False, but FFHQ is scaled. Pictures smaller than the crop are scaled up in any case, and noted.
        channels: 3 (grey is repeated) or 1 (colour to its luma).
        test: share, or count, to test on; see `split.plan`.
        validation: how many of those to train on are held back for the validation curve; None: 4, or fewer of few.
        limit: at most so many files in all, chosen by seed.
        seed: of the split and of the choice.
        strict: refuse an unusable file instead of skipping it with a warning.

    Returns:
        Sets of images [S, height, width, channels] named by their paths below the folder.

    Raises:
        InputError: an option out of range, nothing usable there, or with `strict` an unusable file.
    """
    high, wide = size_of(size)
    if channels not in (1, 3):
        raise InputError(f"channels: must be 1 or 3, was {channels}")
    found = find(folder, "image")
    split = plan(found, test, validation, limit, seed)
    scaled = found.resize if resize is None else resize
    if scaled and resize is None:
        found.notes.append(f"scaled to cover {wide}x{high}, as is usual with {found.title}")

    def read(item: Item) -> Read:
        values, done = decode_picture(item.path, (high, wide), channels, scaled)
        return Read([torch.from_numpy(values.copy())], [""], done)

    return gather("image", found, split, read, (high, wide, channels), 1, strict)


def size_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one side or both."""
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or not all(isinstance(side, int) and 1 <= side <= 8192 for side in both):
        raise InputError(f"size: must be one or two sides from 1 to 8192 pixels, was {size!r}")
    return both[0], both[1]
