"""A tiny reader: pictures in one file `pixels.npy`, uint8 [S, H, W, C], the last ones to test on."""

from __future__ import annotations

import pathlib

import numpy as np
import torch

from mclnf_fast.data import ImageReadOptions, Reader, Signals, SignalSets


def detects(path: pathlib.Path) -> str | None:
    """Return the reason why `path` is this layout, or None."""
    return f"pixels.npy in {path}" if (path / "pixels.npy").exists() else None


def read(path: pathlib.Path, options: ImageReadOptions) -> SignalSets:
    """Return the pictures as sets; `test` counts those to test on."""
    values = torch.from_numpy(np.load(path / "pixels.npy")).to(torch.float32) / 255.0
    names = tuple(f"picture {k}" for k in range(len(values)))
    pictures, train = Signals("image", names, values), len(values) - int(options.test)
    return SignalSets(
        "pixels", pictures.subset(range(train)), pictures.subset([]), pictures.subset(range(train, len(values)))
    )


READER = Reader("pixels", "image", "pixels.npy", detects, read)
