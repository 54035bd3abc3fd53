"""Records of objects seen from all around: `ObjectViews` of one object, `ObjectSets` to train and to test on, and
cameras that stand around an object."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.record_checks import check_near_far, check_unique_names
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

RADIUS = 4.0  # of the sphere that cameras stand on; objects lie in the unit ball
NEAR, FAR = 2.0, 6.0
# Tangent of half the field of view. The unit ball spans asin(1/4) from radius 4, tangent 0.258: the rest is margin.
HALF_VIEW = 0.275
# Sine of the elevation of random cameras: exactly 0 would look along the ground, and at 1 "up" is undefined.
LOWEST, HIGHEST = 0.08, 0.95


@dataclass(frozen=True)
class ObjectViews:
    """One object seen by V cameras.

    Attributes:
        name: name in reports, unique among the objects.
        images: uint8 [V, H, W, 4], sRGB color and alpha, straight (not premultiplied).
        cameras: V cameras of H x W pixels, positions in scene units.
        train_views: the first so many views are to learn from, the others to test on; None: the data has no such
            split.
        render: function that renders the ground truth for any cameras, uint8 [V, H, W, 4]; None when there are only
            pictures.

    Raises:
        InputError: images of another shape or dtype, no view, `train_views` not from 1 to V.

    >>> car = ObjectViews("car", torch.zeros(3, 8, 8, 4, dtype=torch.uint8), turntable(3, 8))
    >>> len(car)
    3
    """

    name: str
    images: Tensor
    cameras: Cameras
    train_views: int | None = None
    render: Callable[[Cameras], Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Straight alpha, as PNGs store it: premultiplied colors of thin edges would lose their bits.
        shape = (len(self.cameras), self.cameras.height, self.cameras.width, 4)
        if tuple(self.images.shape) != shape or self.images.dtype != torch.uint8:
            raise InputError(
                f"images of {self.name!r}: must be uint8 {list(shape)}, was {self.images.dtype} "
                f"{list(self.images.shape)}"
            )
        if not len(self.cameras):
            raise InputError(f"images of {self.name!r}: must be at least one view, was none")
        if self.train_views is not None and not 1 <= self.train_views <= len(self.cameras):
            raise InputError(
                f"train_views of {self.name!r}: must be from 1 to its {len(self.cameras)} views, was {self.train_views}"
            )

    def __len__(self) -> int:
        return len(self.cameras)


@dataclass(frozen=True)
class ObjectSets:
    """Objects of one category, all pictures of one size.

    Attributes:
        title: name of the data in reports.
        train: objects to meta-train on; may be empty when nothing is meta-trained.
        test: objects unseen in training, at least one.
        near, far: the section of a ray that holds the object, scene units from the camera.
        notes: one line for each thing that was skipped, resized or generated.

    Raises:
        InputError: no object to test on, pictures of several sizes, a repeated name, not 0 <= near < far.

    >>> car = ObjectViews("car", torch.zeros(1, 8, 8, 4, dtype=torch.uint8), turntable(1, 8))
    >>> ObjectSets("one car", (), (car,), NEAR, FAR).test[0].name
    'car'
    """

    title: str
    train: tuple[ObjectViews, ...]
    test: tuple[ObjectViews, ...]
    near: float
    far: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.test:
            raise InputError(f"{self.title}: must have at least one object to test on, has none")
        check_near_far(self.near, self.far)
        objects = (*self.train, *self.test)
        # One size for all, since a batch of rays is drawn from several objects at once.
        reference = objects[0]
        for views in objects[1:]:
            if views.images.shape[1:3] != reference.images.shape[1:3]:
                raise InputError(
                    f"{self.title}: all images must have one size, {reference.name!r} has "
                    f"{reference.cameras.width}x{reference.cameras.height} and {views.name!r} "
                    f"{views.cameras.width}x{views.cameras.height}"
                )
        check_unique_names(self.title, (views.name for views in objects))


def turntable(frames: int, size: int, elevation: float = math.radians(25.0), radius: float = RADIUS) -> Cameras:
    """Return cameras on a full circle around the origin, counter-clockwise from +x, without a repeated last one.

    Args:
        frames: number of cameras, at least 1.
        size: pixels per side.
        elevation: angle above the horizon, radians, within a right angle.
        radius: distance from the origin, scene units, above 1; the field of view does not change with it.

    Raises:
        InputError: an argument is out of range.

    >>> turntable(4, 16).c2w.shape
    torch.Size([4, 3, 4])
    """
    if frames < 1:
        raise InputError(f"frames: must be >= 1, was {frames}")
    if not abs(elevation) < math.pi / 2:
        raise InputError(f"elevation: must be within a right angle (radians), was {elevation!r}")
    azimuth = np.arange(frames) * (2 * math.pi / frames)
    return _cameras_around(azimuth, np.full(frames, math.sin(elevation)), size, radius)


def sphere_cameras(views: int, size: int, seed: int, index: int = 0) -> Cameras:
    """Return random cameras on the upper part of a sphere of radius 4 around the origin, uniform by area.

    Args:
        views: number of cameras, at least 1.
        size: pixels per side.
        seed, index: seed of the family and number of the object in it, each at least 0.

    Raises:
        InputError: an argument is out of range.

    >>> len(sphere_cameras(5, 16, seed=0))
    5
    """
    if views < 1:
        raise InputError(f"views: must be >= 1, was {views}")
    if seed < 0 or index < 0:
        raise InputError(f"seed, index: must be >= 0, were {seed} and {index}")
    rng = np.random.default_rng([seed, index, 1])
    uniform = rng.random((views, 2))
    # Area on a sphere is uniform in the sine of the elevation; uniform angles would crowd the pole.
    return _cameras_around(uniform[:, 0] * 2 * math.pi, LOWEST + (HIGHEST - LOWEST) * uniform[:, 1], size, RADIUS)


def _cameras_around(azimuth: np.ndarray, height: np.ndarray, size: int, radius: float) -> Cameras:
    """Return cameras that look at the origin from `azimuth` [V] (radians from +x) and the sine of elevation `height`
    [V]."""
    if size < 1:
        raise InputError(f"size: must be >= 1 pixel, was {size}")
    if not (math.isfinite(radius) and radius > 1):
        raise InputError(f"radius: must be > 1, outside the unit ball, was {radius!r}")
    horizontal = np.sqrt(1.0 - height**2)
    position = radius * torch.from_numpy(
        np.stack([horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), height], 1)
    )
    poses = look_at(position, torch.zeros_like(position)).to(torch.float32)
    focal = torch.tensor(0.5 * size / HALF_VIEW, dtype=torch.float32)
    middle = torch.tensor(0.5 * size, dtype=torch.float32)
    return Cameras(poses, focal, focal, middle, middle, size, size)
