"""What a reader hands over: images with their cameras, cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


def check_aabb(aabb: Tensor, what: str = "aabb") -> None:
    """Raise `InputError` where `aabb` is no finite [2, 3] box of a positive extent."""
    if not isinstance(aabb, Tensor) or tuple(aabb.shape) != (2, 3):
        shape = tuple(aabb.shape) if isinstance(aabb, Tensor) else type(aabb).__name__
        raise InputError(f"{what}: must be [2, 3] (lower corner, upper corner), was {shape}")
    if not bool(torch.isfinite(aabb).all()) or not bool((aabb[1] > aabb[0]).all()):
        raise InputError(f"{what}: the upper corner must be above the lower one on each axis, was {aabb.tolist()}")


@dataclass(frozen=True)
class ImageSet:
    """V images of one size, each with its camera.

    Attributes:
        images: uint8 [V, H, W, 3], sRGB.
        cameras: V cameras of H x W pixels, positions in scene units.
        names: V names (the file's path inside its data folder).
    """

    images: Tensor
    cameras: Cameras
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        want = (len(self.cameras), self.cameras.height, self.cameras.width, 3)
        if tuple(self.images.shape) != want or self.images.dtype != torch.uint8:
            raise InputError(f"images: must be uint8 {want}, was {self.images.dtype} {tuple(self.images.shape)}")
        if len(self.names) != len(self.cameras):
            raise InputError(f"names: must be {len(self.cameras)}, one a view, were {len(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, index: Tensor) -> ImageSet:
        """The views that `index` (int64 [K]) names, in its order."""
        return ImageSet(self.images[index], self.cameras[index], tuple(self.names[int(i)] for i in index))


@dataclass(frozen=True)
class Block:
    """One region of a scene with the views that train and test it.

    `aabb` float32 [2, 3] is the block's box in scene units: its cell in x and y (not expanded), the
    scene's heights in z. `train` or `test` may hold no view.
    """

    name: str
    train: ImageSet
    test: ImageSet
    aabb: Tensor

    def __post_init__(self) -> None:
        check_aabb(self.aabb, f"aabb of block {self.name!r}")


@dataclass(frozen=True)
class Scene:
    """Blocks that share one world frame; `aabb` [2, 3] holds them all; `unit` says what length 1.0 is."""

    name: str
    blocks: tuple[Block, ...]
    aabb: Tensor
    unit: str

    def __post_init__(self) -> None:
        check_aabb(self.aabb, f"aabb of scene {self.name!r}")
        if not self.blocks:
            raise InputError(f"scene {self.name!r}: must have at least one block, had none")

    def block(self, name: str) -> Block:
        """The block of that name.

        Raises:
            InputError: no block is named so.
        """
        for block in self.blocks:
            if block.name == name:
                return block
        raise InputError(f"block: must be one of {[block.name for block in self.blocks]}, was {name!r}")
