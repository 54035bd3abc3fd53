"""`ObjectViews`: pictures of one object from all around, with alpha; `ObjectSets`: those to learn from and those kept
apart; and cameras that stand around an object."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

RADIUS = 4.0  # of the sphere that cameras stand on; objects lie in the unit ball
NEAR, FAR = 2.0, 6.0
HALF_VIEW = 0.275  # tangent of half the field of view: the unit ball fits, a little is left around it
LOWEST, HIGHEST = 0.08, 0.95  # sine of the elevation of random cameras


@dataclass(frozen=True)
class ObjectViews:
    """One object seen by V cameras.

    Attributes:
        name: for reports, unique among the objects.
        images: uint8 [V, H, W, 4], sRGB colour and alpha, straight (not premultiplied).
        cameras: V cameras of H x W pixels, positions in scene units.
        train_views: how many views, the first, the data gives to learn from; the others are kept to test on. None: the
            data does not say.
        render: the truth from any cameras, uint8 [V, H, W, 4]; None where there are only pictures.

    Raises:
        InputError: images of another shape or dtype, no view, `train_views` not from 1 to V.
    """

    name: str
    images: Tensor
    cameras: Cameras
    train_views: int | None = None
    render: Callable[[Cameras], Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        want = (len(self.cameras), self.cameras.height, self.cameras.width, 4)
        if tuple(self.images.shape) != want or self.images.dtype != torch.uint8:
            raise InputError(
                f"images of {self.name!r}: must be uint8 {list(want)}, was {self.images.dtype} "
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
        title: for reports.
        train: to learn a start from; may be empty where nothing is meta-trained.
        test: unseen in training; at least one.
        near, far: what part of a ray holds the object, scene units from the camera.
        notes: what was skipped, resized or made, a line each.

    Raises:
        InputError: nothing to test on, pictures of several sizes, a name twice, not 0 <= near < far.
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
        if not (math.isfinite(self.near) and math.isfinite(self.far) and 0 <= self.near < self.far):
            raise InputError(f"near, far: must be finite and 0 <= near < far, were {self.near!r} and {self.far!r}")
        both = (*self.train, *self.test)
        first = both[0]
        for other in both[1:]:
            if other.images.shape[1:3] != first.images.shape[1:3]:
                raise InputError(
                    f"{self.title}: all images must have one size, {first.name!r} has "
                    f"{first.cameras.width}x{first.cameras.height} and {other.name!r} "
                    f"{other.cameras.width}x{other.cameras.height}"
                )
        names = [item.name for item in both]
        if len(set(names)) != len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise InputError(f"{self.title}: names must be unique, {twice!r} stands twice")


def turntable(
    frames: int, size: int, elevation: float = math.radians(25.0), radius: float = RADIUS
) -> Cameras:  # fmt: skip
    """Cameras on a full circle around the origin, counter-clockwise from +x, the first not repeated.

    Args:
        frames: how many cameras, at least 1.
        size: pixels of a side.
        elevation: above the horizon, radians, within a right angle.
        radius: distance from the origin, scene units, above 1; the field of view does not change with it.

    Raises:
        InputError: an argument out of range.
    """
    if frames < 1:
        raise InputError(f"frames: must be >= 1, was {frames}")
    if not abs(elevation) < math.pi / 2:
        raise InputError(f"elevation: must be within a right angle (radians), was {elevation!r}")
    azimuth = np.arange(frames) * (2 * math.pi / frames)
    return _around(azimuth, np.full(frames, math.sin(elevation)), size, radius)


def sphere_cameras(views: int, size: int, seed: int, index: int = 0) -> Cameras:
    """Cameras at random on the upper part of a sphere of radius 4 around the origin, evenly by area.

    Args:
        views: how many, at least 1.
        size: pixels of a side.
        seed, index: of the family and of the object in it, each at least 0.

    Raises:
        InputError: an argument out of range.
    """
    if views < 1:
        raise InputError(f"views: must be >= 1, was {views}")
    if seed < 0 or index < 0:
        raise InputError(f"seed, index: must be >= 0, were {seed} and {index}")
    rng = np.random.default_rng([seed, index, 1])
    places = rng.random((views, 2))
    return _around(places[:, 0] * 2 * math.pi, LOWEST + (HIGHEST - LOWEST) * places[:, 1], size, RADIUS)


def _around(azimuth: np.ndarray, height: np.ndarray, size: int, radius: float) -> Cameras:
    """Cameras that look at the origin from `azimuth` [V] (radians from +x) and the sine of elevation `height` [V]."""
    if size < 1:
        raise InputError(f"size: must be >= 1 pixel, was {size}")
    if not (math.isfinite(radius) and radius > 1):
        raise InputError(f"radius: must be > 1, outside the unit ball, was {radius!r}")
    flat = np.sqrt(1.0 - height**2)
    position = radius * torch.from_numpy(np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), height], 1))
    poses = look_at(position, torch.zeros_like(position)).to(torch.float32)
    focal = torch.tensor(0.5 * size / HALF_VIEW)
    middle = torch.tensor(0.5 * size)
    return Cameras(poses, focal, focal, middle, middle, size, size)
