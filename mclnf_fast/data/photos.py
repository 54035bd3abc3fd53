"""Record of photos of one place, each taken under its own light: `PhotoSets`. A photo is an object of one view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.record_checks import check_near_far, check_unique_names
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

TEST, VALIDATION = 20, 5  # photos of the paper's sets: the first ones to test on, the next to validate on
TEST_SHARE, VALIDATION_SHARE = 10, 20  # of a set too small for that: at most every tenth, every twentieth
PhotoTruth = Callable[[int, int, float, Cameras], Tensor]


@dataclass(frozen=True)
class PhotoSets:
    """Photos of one size.

    Attributes:
        title: name of the data in reports.
        train, validation, test: photos, each an object of one view; `validation` may be empty.
        near, far: the section of a ray that shows the place, in the data's unit of length from the camera.
        notes: one line for each thing that was cropped or generated.
        truth: function (test photo i, test photo j, weight, V cameras) -> uint8 [V, H, W, 3], sRGB: the place in the
            light at `weight` of the way from photo i's to photo j's; None when the place is not known.

    Raises:
        InputError: no photo to learn from or to test on, photos of several sizes or views, a repeated name, not
            0 <= near < far, photos less than 2 pixels wide.

    >>> from mclnf_fast.data import turntable
    >>> photos = [photo_of(name, torch.zeros(8, 8, 3, dtype=torch.uint8), turntable(1, 8)) for name in "ab"]
    >>> PhotoSets("square", (photos[0],), (), (photos[1],), 1.0, 9.0).size
    (8, 8)
    """

    title: str
    train: tuple[ObjectViews, ...]
    validation: tuple[ObjectViews, ...]
    test: tuple[ObjectViews, ...]
    near: float
    far: float
    notes: tuple[str, ...] = ()
    truth: PhotoTruth | None = None

    def __post_init__(self) -> None:
        if not self.train or not self.test:
            raise InputError(
                f"{self.title}: must have photos to learn from and others to test on, has {len(self.train)} and "
                f"{len(self.test)}"
            )
        check_near_far(self.near, self.far)
        photos = (*self.train, *self.validation, *self.test)
        size = self.size
        for photo in photos:
            if tuple(photo.images.shape[:3]) != (1, *size):
                raise InputError(
                    f"{self.title}: every photo must be one view of {size[1]}x{size[0]}, {photo.name!r} is "
                    f"{list(photo.images.shape)}"
                )
        check_unique_names(self.title, (photo.name for photo in photos))
        # A photo is learned from its left half and judged on its right one.
        if size[1] < 2:
            raise InputError(f"{self.title}: photos must be at least 2 pixels wide, for two halves, are {size[1]}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.test[0].cameras.height, self.test[0].cameras.width


def photo_of(name: str, image: Tensor, camera: Cameras) -> ObjectViews:
    """Return a photo, uint8 [H, W, 3] with its one camera, as an opaque object of one view.

    >>> from mclnf_fast.data import turntable
    >>> photo_of("a", torch.zeros(8, 8, 3, dtype=torch.uint8), turntable(1, 8)).images.shape
    torch.Size([1, 8, 8, 4])
    """
    # Photos have no alpha, but the field of an object expects one: it is 1 everywhere, the sky included.
    opaque = torch.full_like(image[..., :1], 255)
    return ObjectViews(name, torch.cat((image, opaque), -1)[None], camera)


def split_counts(count: int, test: int | None = None, validation: int | None = None) -> tuple[int, int]:
    """Return how many of `count` photos, the first ones, to test on, and how many, the next, to validate on.

    None stands for 20 and 5, as in the paper, but for at most every tenth and every twentieth of a small set: 20 of 40
    photos would leave half of them to learn from.

    Raises:
        InputError: nothing would be left to learn from, or nothing to test on.

    >>> split_counts(100)
    (10, 5)
    """
    tests = min(TEST, max(1, count // TEST_SHARE)) if test is None else test
    validations = min(VALIDATION, count // VALIDATION_SHARE) if validation is None else validation
    if tests < 1 or validations < 0 or tests + validations >= count:
        raise InputError(
            f"test, validation: must leave a photo to learn from of {count}, with at least 1 to test on, were {tests} "
            f"and {validations}"
        )
    return tests, validations
