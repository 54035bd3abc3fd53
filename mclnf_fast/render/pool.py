"""The training rays of a task: posed images as a pool to draw from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


class RayBatch(NamedTuple):
    """origins, directions [R, 3]; colors [R, 3] in 0 ... 1."""

    origins: Tensor
    directions: Tensor
    colors: Tensor


class RayPool:
    """All pixels of V posed images, addressed by one flat id, and the same pixels in square tiles.

    Tiles are what Fisher information is remembered for (`learn.FisherSampler`): a single pixel is drawn a few times in
    a whole run, its neighbourhood often.

    Args:
        images: uint8 [V, H, W, 3], on any device. Ids are drawn on the CPU, so that a seed means the same on each.
        cameras: V cameras of the same size, on the images' device.
        tile: side of a tile in pixels; tiles at the right and lower border may be smaller.
    """

    def __init__(self, images: Tensor, cameras: Cameras, tile: int = 8) -> None:
        if images.dim() != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8:
            raise InputError(f"images must be uint8 [V, H, W, 3], got {images.dtype} {list(images.shape)}")
        views, height, width = images.shape[:3]
        if (views, height, width) != (len(cameras), cameras.height, cameras.width) or views == 0:
            raise InputError(
                f"cameras must fit images [{views}, {height}, {width}], got {len(cameras)} of "
                f"{cameras.height} x {cameras.width}"
            )
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
            raise InputError(f"tile must be an int of at least 1, got {tile!r}")
        self.images, self.cameras, self.tile = images, cameras, tile
        self._colors = images.reshape(-1, 3)
        self.width, self.height = width, height
        self.columns, self.rows = -(-width // tile), -(-height // tile)

    def __len__(self) -> int:
        return self._colors.shape[0]

    @property
    def tiles(self) -> int:
        """Number of tiles over all views."""
        return len(self.cameras) * self.rows * self.columns

    def batch(self, ids: Tensor) -> RayBatch:
        """The rays of flat pixel ids int64 [R] (view, row, column; row-major), where the images are."""
        ids = ids.to(self._colors.device)
        pixels = self.width * self.height
        origins, directions = self.cameras.rays(ids // pixels, ids % pixels)
        return RayBatch(origins, directions, self._colors.index_select(0, ids).to(torch.float32) / 255.0)

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` pixel ids, uniform with replacement."""
        return torch.randint(len(self), (count,), generator=generator)

    def tile_sizes(self) -> Tensor:
        """Pixels of every tile, int64 [tiles]."""
        heights = torch.full((self.rows,), self.tile)
        heights[-1] = self.height - self.tile * (self.rows - 1)
        widths = torch.full((self.columns,), self.tile)
        widths[-1] = self.width - self.tile * (self.columns - 1)
        return (heights[:, None] * widths).flatten().repeat(len(self.cameras))

    def in_tiles(self, tiles: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One uniform pixel of each tile int64 [R]: pixel ids [R], and n_tiles / n_pixels times the tile's pixels [R].

        The second factor makes an estimate that is unbiased over tiles unbiased over pixels; it is 1 where all tiles
        are of one size.
        """
        per_view = self.rows * self.columns
        view, rest = tiles // per_view, tiles % per_view
        row, column = rest // self.columns, rest % self.columns
        high = (self.height - row * self.tile).clamp(max=self.tile)
        wide = (self.width - column * self.tile).clamp(max=self.tile)
        u = torch.rand(2, tiles.numel(), generator=generator)
        y = row * self.tile + torch.minimum((u[0] * high).long(), high - 1)
        x = column * self.tile + torch.minimum((u[1] * wide).long(), wide - 1)
        ids = (view * self.height + y) * self.width + x
        return ids, (high * wide).to(torch.float32) * (self.tiles / len(self))
