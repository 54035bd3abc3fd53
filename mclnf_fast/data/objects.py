"""Objects seen from all sides: views with alpha, and their cameras."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


@dataclass(frozen=True)
class ObjectViews:
    """One object: `images` uint8 [V, H, W, 4], sRGB with straight alpha, and V `cameras` of H x W."""

    name: str
    images: Tensor
    cameras: Cameras


@dataclass(frozen=True)
class ObjectSets:
    """Objects of one category to learn from and to test on; `near` and `far` hold all of them, along unit rays."""

    title: str
    train: tuple[ObjectViews, ...]
    test: tuple[ObjectViews, ...]
    near: float
    far: float
    notes: tuple[str, ...] = ()


def procedural_cars(count: int, test: int, *, views: int = 25, size: int = 128, seed: int = 0) -> ObjectSets:
    """Made cars."""
    raise InputError("data: procedural cars are not there yet")


def load_objects(
    folder: pathlib.Path,
    *,
    size: int | None = None,
    test: float = 0.25,
    limit: int | None = None,
    views: int | None = None,
    seed: int = 0,
    strict: bool = False,
) -> ObjectSets:
    """Objects in a folder."""
    raise InputError(f"data: {folder} cannot be read yet")
