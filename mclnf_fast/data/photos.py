"""`PhotoSets`: photos of one place, each taken under an appearance of its own; a photo is an object of one view."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

TEST, VALIDATION = 20, 5  # photos of the paper's sets: the first ones to test on, the next to validate on
TEST_SHARE, VALIDATION_SHARE = 10, 20  # of a set too small for that: at most every tenth, every twentieth
Truth = Callable[[int, int, float, Cameras], Tensor]


@dataclass(frozen=True)
class PhotoSets:
    """Photos of one size.

    Attributes:
        title: for reports.
        train, validation, test: of one view each; `validation` may be empty.
        near, far: what part of a ray shows the place, lengths of the data from the camera.
        notes: what was cut or made, a line each.
        truth: where the place is known, (test photo i, test photo j, weight, V cameras) -> uint8 [V, H, W, 3], sRGB:
            the place under the appearance at `weight` of the way from photo i's to photo j's.

    Raises:
        InputError: nothing to learn from or to test on, photos of several sizes or views, a name twice, not
            0 <= near < far.
    """

    title: str
    train: tuple[ObjectViews, ...]
    validation: tuple[ObjectViews, ...]
    test: tuple[ObjectViews, ...]
    near: float
    far: float
    notes: tuple[str, ...] = ()
    truth: Truth | None = None

    def __post_init__(self) -> None:
        if not self.train or not self.test:
            raise InputError(
                f"{self.title}: must have photos to learn from and others to test on, has {len(self.train)} and "
                f"{len(self.test)}"
            )
        if not (math.isfinite(self.near) and math.isfinite(self.far) and 0 <= self.near < self.far):
            raise InputError(f"near, far: must be finite and 0 <= near < far, were {self.near!r} and {self.far!r}")
        every = (*self.train, *self.validation, *self.test)
        size = self.size
        for photo in every:
            if tuple(photo.images.shape[:3]) != (1, *size):
                raise InputError(
                    f"{self.title}: every photo must be one view of {size[1]}x{size[0]}, {photo.name!r} is "
                    f"{list(photo.images.shape)}"
                )
        names = [photo.name for photo in every]
        if len(set(names)) != len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise InputError(f"{self.title}: names must be unique, {twice!r} stands twice")
        if size[1] < 2:
            raise InputError(f"{self.title}: photos must be at least 2 pixels wide, for two halves, are {size[1]}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.test[0].cameras.height, self.test[0].cameras.width


def photo_of(name: str, image: Tensor, camera: Cameras) -> ObjectViews:
    """uint8 [H, W, 3] with its one camera as a task."""
    opaque = torch.full_like(image[..., :1], 255)
    return ObjectViews(name, torch.cat((image, opaque), -1)[None], camera)


def split_counts(count: int, test: int | None = None, validation: int | None = None) -> tuple[int, int]:
    """How many of `count` photos, the first ones, to test on, and how many, the next, to validate on.

    None: 20 and 5, as in the paper, but of few photos at most every tenth and every twentieth.

    Raises:
        InputError: nothing would be left to learn from, or nothing to test on.
    """
    tests = min(TEST, max(1, count // TEST_SHARE)) if test is None else test
    checks = min(VALIDATION, count // VALIDATION_SHARE) if validation is None else validation
    if tests < 1 or checks < 0 or tests + checks >= count:
        raise InputError(
            f"test, validation: must leave a photo to learn from of {count}, with at least 1 to test on, were {tests} "
            f"and {checks}"
        )
    return tests, checks
