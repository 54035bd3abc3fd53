"""The training rays of a task: posed images as a pool to draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


class RayBatch(NamedTuple):
    """origins, directions [R, 3]; colors [R, 3] in 0 ... 1."""

    origins: Tensor
    directions: Tensor
    colors: Tensor


class Pool(Protocol):
    """Rays to draw from: those of one set of images (`RayPool`), or of several (`RayPools`)."""

    def __len__(self) -> int:
        """Number of rays."""

    @property
    def tiles(self) -> int:
        """Number of tiles."""

    def batch(self, ids: Tensor) -> RayBatch:
        """The rays of ids int64 [R]."""

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` ids, uniform with replacement."""

    def in_tiles(self, tiles: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One uniform ray of each tile int64 [R], and factors [R]."""


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


class RayPools:
    """Several pools as one, also of images of several sizes: the ids, and the tiles, of each follow those of the one
    before."""

    def __init__(self, pools: Sequence[RayPool]) -> None:
        if not pools:
            raise InputError("pools must hold at least one pool, got none")
        self.pools = tuple(pools)
        self._ids = torch.tensor([0, *(len(p) for p in pools)]).cumsum(0)
        self._tiles = torch.tensor([0, *(p.tiles for p in pools)]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ids[-1])

    @property
    def tiles(self) -> int:
        """Number of tiles over all pools."""
        return int(self._tiles[-1])

    def batch(self, ids: Tensor) -> RayBatch:
        """The rays of ids int64 [R], in their order."""
        ids = ids.cpu()
        owner = torch.bucketize(ids, self._ids[1:], right=True)
        order = owner.argsort(stable=True)
        parts = [p.batch(ids[owner == k] - self._ids[k]) for k, p in enumerate(self.pools)]
        back = order.argsort().to(parts[0].colors.device)
        return RayBatch(*(torch.cat(tensors)[back] for tensors in zip(*parts)))

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` ids, uniform with replacement."""
        return torch.randint(len(self), (count,), generator=generator)

    def in_tiles(self, tiles: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One uniform pixel of each tile int64 [R], and the factors [R] of `RayPool.in_tiles` over all pools."""
        owner = torch.bucketize(tiles, self._tiles[1:], right=True)
        ids, factors = torch.empty_like(tiles), torch.empty(len(tiles))
        for k, pool in enumerate(self.pools):
            mine = owner == k
            found, factor = pool.in_tiles(tiles[mine] - self._tiles[k], generator)
            ids[mine] = found + self._ids[k]
            factors[mine] = factor * (len(pool) / pool.tiles * self.tiles / len(self))
        return ids, factors
