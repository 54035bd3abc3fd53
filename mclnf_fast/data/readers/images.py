"""Reads a folder of pictures as `SignalSets`: `load_images`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mclnf_fast.data.readers.decoding.pictures import decode_picture
from mclnf_fast.data.readers.gather import FileSignals, gather
from mclnf_fast.data.readers.layouts import DataFile, Layout
from mclnf_fast.data.readers.options import ImageReadOptions, options_of
from mclnf_fast.data.readers.registry import add_built_in, read_with
from mclnf_fast.data.readers.signal_readers import choose_signals, signal_readers
from mclnf_fast.data.readers.split import split_files
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError


def load_images(folder: str | Path, options: ImageReadOptions | None = None, **changes: Any) -> SignalSets:
    """Read pictures, each cut to one size around its middle.

    CelebA (`img_align_celeba/` with `list_eval_partition.txt` or `.csv`), FFHQ, ImageNette (`train/<wnid>/`,
    `val/<wnid>/`) and folders with `train/`, `val/`, `test/` keep their own split; any other tree is split by seed.

    Args:
        folder: a folder, read with everything below it, or one picture.
        options: see `ImageReadOptions`; None: its defaults.
        changes: single fields of `options`, such as `size=64`.

    Returns:
        Sets of images [S, height, width, channels] named by their paths below the folder.

    Raises:
        InputError: an option out of range, nothing usable there, or with `strict` an unusable file.
        TypeError: an unknown option.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for k in range(3):
    ...         Image.new("RGB", (20, 20), (k, k, k)).save(f"{folder}/{k}.png")
    ...     sets = load_images(folder, size=16, test=1)
    >>> sets.train.values.shape
    torch.Size([2, 16, 16, 3])
    """
    settings = options_of(ImageReadOptions, options, changes)
    check_frame_options(settings.size, settings.channels)
    path = Path(folder)
    return read_with(choose_signals("image", path, settings.reader), path, settings)


def _read_images(layout: Layout, options: ImageReadOptions) -> SignalSets:
    high, wide = check_frame_options(options.size, options.channels)
    split = split_files(layout, options, options.validation)
    # FFHQ is 1024 pixels wide: a crop of 178 at its own scale would show a nose and no face.
    resize = layout.resize if options.resize is None else options.resize
    if resize and options.resize is None:
        layout.notes.append(f"scaled to cover {wide}x{high}, as is usual with {layout.title}")

    def read(file: DataFile) -> FileSignals:
        values, changes = decode_picture(file.path, (high, wide), options.channels, resize)
        return FileSignals([torch.from_numpy(values.copy())], [""], changes)

    return gather("image", layout, split, read, (high, wide, options.channels), 1, options.strict)


def check_frame_options(size: int | tuple[int, int], channels: int) -> tuple[int, int]:
    """Return (height, width) of a size that is one side or both.

    Raises:
        InputError: a side is not from 1 to 8192 pixels, or the number of channels is not 1 or 3.

    >>> check_frame_options(64, 3)
    (64, 64)
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= 8192 for side in sides):
        raise InputError(f"size: must be one or two sides from 1 to 8192 pixels, was {size!r}")
    if channels not in (1, 3):
        raise InputError(f"channels: must be 1 or 3, was {channels}")
    return sides[0], sides[1]


add_built_in(signal_readers("image", _read_images))
