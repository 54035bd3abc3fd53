"""Records of posed images: `ImageSet`, images with their cameras, and `Scene`, such sets cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


def check_aabb(aabb: Tensor, name: str = "aabb") -> None:
    """Raise `InputError` unless `aabb` is a finite box [2, 3] (lower corner, upper corner) of positive extent.

    >>> check_aabb(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    """
    if not isinstance(aabb, Tensor) or tuple(aabb.shape) != (2, 3):
        shape = tuple(aabb.shape) if isinstance(aabb, Tensor) else type(aabb).__name__
        raise InputError(f"{name}: must be [2, 3] (lower corner, upper corner), was {shape}")
    if not bool(torch.isfinite(aabb).all()) or not bool((aabb[1] > aabb[0]).all()):
        raise InputError(f"{name}: the upper corner must be above the lower one on each axis, was {aabb.tolist()}")


@dataclass(frozen=True)
class ImageSet:
    """V images of one size, each with its camera.

    Attributes:
        images: uint8 [V, H, W, 3], sRGB.
        cameras: V cameras of H x W pixels, positions in scene units.
        names: V names (paths of the files inside their data folder).
        unmasked: bool [V, H, W], the pixels that are not masked; the others carry no loss and are not scored. None:
            all.

    Raises:
        InputError: images or masks of another shape or dtype, another number of names.

    >>> from mclnf_fast.data import turntable
    >>> views = ImageSet(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), turntable(2, 8), ("a", "b"))
    >>> views.pick(torch.tensor([1])).names
    ('b',)
    """

    images: Tensor
    cameras: Cameras
    names: tuple[str, ...]
    unmasked: Tensor | None = None

    def __post_init__(self) -> None:
        # uint8 and not float: a quarter of the memory, and cities have thousands of pictures.
        shape = (len(self.cameras), self.cameras.height, self.cameras.width, 3)
        if tuple(self.images.shape) != shape or self.images.dtype != torch.uint8:
            raise InputError(f"images: must be uint8 {shape}, was {self.images.dtype} {tuple(self.images.shape)}")
        if len(self.names) != len(self.cameras):
            raise InputError(f"names: must be {len(self.cameras)}, one per view, were {len(self.names)}")

        mask = self.unmasked
        if mask is not None and (tuple(mask.shape) != shape[:3] or mask.dtype != torch.bool):
            raise InputError(f"unmasked: must be bool {shape[:3]}, was {mask.dtype} {tuple(mask.shape)}")

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, index: Tensor) -> ImageSet:
        """Return the views `index` (int64 [K]), in its order."""
        unmasked = None if self.unmasked is None else self.unmasked[index]
        return ImageSet(self.images[index], self.cameras[index], tuple(self.names[int(i)] for i in index), unmasked)


@dataclass(frozen=True)
class Block:
    """One region of a scene with the views that train it and test it.

    Attributes:
        name: unique in its scene.
        train, test: views, either of them may be empty.
        aabb: float32 [2, 3], scene units: the block's own cell in x and y (not expanded), the scene's heights in z.

    Raises:
        InputError: `aabb` is no box.

    >>> from mclnf_fast.data import turntable
    >>> views = ImageSet(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), turntable(1, 8), ("a",))
    >>> Block("block_1", views, views, torch.tensor([[-1.0, -1.0, 0.0], [1.0, 1.0, 1.0]])).name
    'block_1'
    """

    name: str
    train: ImageSet
    test: ImageSet
    aabb: Tensor

    def __post_init__(self) -> None:
        check_aabb(self.aabb, f"aabb of block {self.name!r}")


@dataclass(frozen=True)
class Scene:
    """Blocks that share one world frame.

    Attributes:
        name: name of the data in reports.
        blocks: at least one.
        aabb: [2, 3], scene units, a box about all blocks.
        unit: the length that 1.0 stands for, such as "100 m"; "scene" if the data do not say.
        origin: what was taken off the files' coordinates, scene units: a point p of the scene is p + origin there. It
            is 0 but for data so far from their origin that float32 could not hold them.
        notes: how its box and its blocks came about, and what was changed, in sentences.

    Raises:
        InputError: no block, or `aabb` is no box.

    >>> from mclnf_fast.data import turntable
    >>> views = ImageSet(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), turntable(1, 8), ("a",))
    >>> box = torch.tensor([[-1.0, -1.0, 0.0], [1.0, 1.0, 1.0]])
    >>> Scene("square", (Block("block_1", views, views, box),), box, "m").block("block_1").train.names
    ('a',)
    """

    name: str
    blocks: tuple[Block, ...]
    aabb: Tensor
    unit: str
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_aabb(self.aabb, f"aabb of scene {self.name!r}")
        if not self.blocks:
            raise InputError(f"scene {self.name!r}: must have at least one block, had none")

    def block(self, name: str) -> Block:
        """Return the block with that name.

        Raises:
            InputError: there is none.
        """
        for block in self.blocks:
            if block.name == name:
                return block
        raise InputError(f"block: must be one of {[block.name for block in self.blocks]}, was {name!r}")
