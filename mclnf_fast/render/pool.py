"""The training rays of a task: posed images as a pool to draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.lenses.views import and_rays

Generators = torch.Generator | Sequence[torch.Generator]
"""One, or several of which each serves as many draws in a row."""


class RayBatch(NamedTuple):
    """Rays and their colors.

    Attributes:
        origins: [R, 3], scene units.
        directions: [R, 3], of length 1.
        colors: [R, 3] in 0 ... 1.
    """

    origins: Tensor
    directions: Tensor
    colors: Tensor


class Pool(Protocol):
    """Rays to draw from: those of one set of images (`RayPool`), or of several (`RayPools`)."""

    def __len__(self) -> int:
        """Return the number of rays that are drawn."""

    @property
    def tiles(self) -> int:
        """Number of tiles."""

    def batch(self, ids: Tensor) -> RayBatch:
        """Return the rays of ids int64 [R]."""

    def pixel_ids(self, rays: Tensor) -> Tensor:
        """Return the ids of rays that are drawn, int64 [R] from 0 to len(self) - 1."""

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` ids, uniform with replacement."""

    def in_tiles(self, tiles: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """Return one uniform ray of each tile int64 [R], and the factors [R] of `RayPool.in_tiles`."""


class _Drawn(NamedTuple):
    """The pixels that are drawn, if some are masked: their ids in order, and tile by tile, with the number of each
    tile's pixels and where they begin."""

    ids: Tensor
    by_tile: Tensor
    counts: Tensor
    begins: Tensor


class RayPool:
    """All pixels of V posed images, addressed by one flat id, and the same pixels in square tiles.

    Fisher information is remembered per tile (`learn.FisherSampler`): a single pixel is drawn a few times in a whole
    run, its neighborhood often.

    Args:
        images: uint8 [V, H, W, 3], on any device. Ids are drawn on the CPU, so that a seed means the same on each.
        cameras: V cameras of the same size, on the images' device.
        tile: side of a tile in pixels; tiles at the right and lower border may be smaller.
        unmasked: bool [V, H, W], the pixels that are drawn; None: all. A tile without any is none. Pixels at which a
            lens shows nothing are never drawn.

    Raises:
        InputError: images or `unmasked` of another shape or type, cameras that do not fit them, a tile below 1, no
            pixel to draw.

    >>> from mclnf_fast.render.cameras import look_at
    >>> cameras = Cameras(look_at(4 * torch.eye(3)[:1], torch.zeros(1, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    >>> pool = RayPool(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), cameras, tile=4)
    >>> pool.batch(pool.uniform(5, torch.Generator())).colors.shape, len(pool), pool.tiles
    (torch.Size([5, 3]), 64, 4)
    """

    def __init__(self, images: Tensor, cameras: Cameras, tile: int = 8, unmasked: Tensor | None = None) -> None:
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
        self._drawn: _Drawn | None = None
        self._moved: dict[torch.device, _Drawn] = {}
        if unmasked is not None and (
            unmasked.shape != images.shape[:3] or unmasked.dtype != torch.bool or not bool(unmasked.any())
        ):
            raise InputError(
                f"unmasked must be bool [{views}, {height}, {width}] with a pixel that is, got {unmasked.dtype} "
                f"{list(unmasked.shape)}"
            )
        self.unmasked = unmasked = and_rays(unmasked, cameras)
        # Where nothing is masked, the draws are those of a pool without masks.
        if unmasked is not None and not bool(unmasked.all()):
            if not bool(unmasked.any()):
                raise InputError("unmasked must leave a pixel at which a lens shows something, leaves none")
            self._drawn = self._only(unmasked.cpu())

    def _only(self, unmasked: Tensor) -> _Drawn:
        """Return the unmasked pixels, on the CPU as all that is drawn."""
        ids = unmasked.flatten().nonzero()[:, 0]
        view, rest = ids // (self.width * self.height), ids % (self.width * self.height)
        row, column = rest // self.width // self.tile, rest % self.width // self.tile
        tiles = (view * self.rows + row) * self.columns + column
        order = tiles.argsort(stable=True)
        counts = tiles[order].unique_consecutive(return_counts=True)[1]
        return _Drawn(ids, ids[order], counts, counts.cumsum(0) - counts)

    def _drawn_on(self, device: torch.device) -> _Drawn:
        """Return the pixels that are drawn on a device, to which they are copied once."""
        assert self._drawn is not None
        if device not in self._moved:
            self._moved[device] = _Drawn(*(ops.uploaded(t, device) for t in self._drawn))
        return self._moved[device]

    @property
    def pixels(self) -> int:
        """Number of pixels of all views, which ids count, drawn or not."""
        return self._colors.shape[0]

    def __len__(self) -> int:
        return self.pixels if self._drawn is None else len(self._drawn.ids)

    def pixel_ids(self, rays: Tensor) -> Tensor:
        """Return the pixel ids of rays, int64 [R] from 0 to len(self) - 1."""
        return rays if self._drawn is None else self._drawn.ids[rays]

    @property
    def tiles(self) -> int:
        """Number of tiles over all views."""
        return len(self.cameras) * self.rows * self.columns if self._drawn is None else len(self._drawn.counts)

    def batch(self, ids: Tensor) -> RayBatch:
        """Return the rays of flat pixel ids int64 [R] (view, row, column; row-major), on the images' device."""
        ids = ops.uploaded(ids, self._colors.device)
        pixels = self.width * self.height
        origins, directions = self.cameras.rays(ids // pixels, ids % pixels)
        return RayBatch(origins, directions, self._colors.index_select(0, ids).to(torch.float32) / 255.0)

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` pixel ids, uniform with replacement."""
        return self.pixel_ids(torch.randint(len(self), (count,), generator=generator))

    def tile_sizes(self) -> Tensor:
        """Return the number of pixels of every tile that are drawn, int64 [tiles]."""
        if self._drawn is not None:
            return self._drawn.counts.clone()
        heights = torch.full((self.rows,), self.tile)
        heights[-1] = self.height - self.tile * (self.rows - 1)
        widths = torch.full((self.columns,), self.tile)
        widths[-1] = self.width - self.tile * (self.columns - 1)
        return (heights[:, None] * widths).flatten().repeat(len(self.cameras))

    def in_tiles(self, tiles: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """Return one uniform pixel of each tile int64 [R]: its id [R], and a factor [R] for its weight. Of several
        generators each draws from as many tiles in a row.

            factor = pixels of the tile * n_tiles / n_pixels

        It makes an estimate that is unbiased over tiles unbiased over pixels, and is 1 if all tiles are of one size.
        """
        if self._drawn is not None:
            drawn = self._drawn_on(tiles.device)
            counts = drawn.counts[tiles]
            within = torch.minimum((_noise(1, tiles, generator)[0] * counts).long(), counts - 1)
            ids = drawn.by_tile[drawn.begins[tiles] + within]
            return ids, counts.to(torch.float32) * (self.tiles / len(self))
        per_view = self.rows * self.columns
        view, rest = tiles // per_view, tiles % per_view
        row, column = rest // self.columns, rest % self.columns
        high = (self.height - row * self.tile).clamp(max=self.tile)
        wide = (self.width - column * self.tile).clamp(max=self.tile)
        u = _noise(2, tiles, generator)
        y = row * self.tile + torch.minimum((u[0] * high).long(), high - 1)
        x = column * self.tile + torch.minimum((u[1] * wide).long(), wide - 1)
        ids = (view * self.height + y) * self.width + x
        return ids, (high * wide).to(torch.float32) * (self.tiles / len(self))


def _each(generator: Generators) -> Sequence[torch.Generator]:
    return [generator] if isinstance(generator, torch.Generator) else generator


def _noise(rows: int, tiles: Tensor, generator: Generators) -> Tensor:
    """Return uniform numbers [rows, R] for tiles [R], of as many in a row from each generator."""
    generators = _each(generator)
    count = tiles.numel() // len(generators)
    noise = [torch.rand(rows, count, dtype=torch.float32, generator=generator) for generator in generators]
    return ops.uploaded(torch.cat(noise, 1), tiles.device)


class RayPools:
    """Several pools as one, also of images of several sizes.

    The ids, and the tiles, of each pool follow those of the one before.

    Args:
        pools: at least one.

    Raises:
        InputError: there is no pool.

    >>> from mclnf_fast.render.cameras import look_at
    >>> cameras = Cameras(look_at(4 * torch.eye(3)[:1], torch.zeros(1, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    >>> pool = RayPool(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), cameras)
    >>> len(RayPools([pool, pool]))
    128
    """

    def __init__(self, pools: Sequence[RayPool]) -> None:
        if not pools:
            raise InputError("pools must hold at least one pool, got none")
        self.pools = tuple(pools)
        self._ids = torch.tensor([0, *(p.pixels for p in pools)]).cumsum(0)
        self._rays = torch.tensor([0, *(len(p) for p in pools)]).cumsum(0)
        self._tiles = torch.tensor([0, *(p.tiles for p in pools)]).cumsum(0)

    def __len__(self) -> int:
        return int(self._rays[-1])

    @property
    def tiles(self) -> int:
        """Number of tiles over all pools."""
        return int(self._tiles[-1])

    def batch(self, ids: Tensor) -> RayBatch:
        """Return the rays of ids int64 [R], in their order."""
        ids = ids.cpu()
        owner = torch.bucketize(ids, self._ids[1:], right=True)
        batches = [pool.batch(ids[owner == k] - self._ids[k]) for k, pool in enumerate(self.pools)]
        # The batches lie pool after pool; the inverse of that sort brings the rays back into the order of `ids`.
        back = ops.uploaded(owner.argsort(stable=True).argsort(), batches[0].colors.device)
        return RayBatch(*(torch.cat(tensors)[back] for tensors in zip(*batches)))

    def uniform(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` ids, uniform with replacement."""
        return self.pixel_ids(torch.randint(len(self), (count,), generator=generator))

    def pixel_ids(self, rays: Tensor) -> Tensor:
        """Return the ids of rays, int64 [R] from 0 to len(self) - 1."""
        owner = torch.bucketize(rays, self._rays[1:], right=True)
        ids = torch.empty_like(rays)
        for k, pool in enumerate(self.pools):
            rows = owner == k
            ids[rows] = pool.pixel_ids(rays[rows] - self._rays[k]) + self._ids[k]
        return ids

    def in_tiles(self, tiles: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """Return one uniform pixel of each tile int64 [R], and the factors [R] of `RayPool.in_tiles` over all pools."""
        generators = _each(generator)
        parts = [self._in_tiles(*part) for part in zip(tiles.cpu().chunk(len(generators)), generators, strict=True)]
        ids, factors = (torch.cat(tensors) for tensors in zip(*parts))
        return ids, factors

    def _in_tiles(self, tiles: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        owner = torch.bucketize(tiles, self._tiles[1:], right=True)
        ids, factors = torch.empty_like(tiles), torch.empty(len(tiles), dtype=torch.float32)
        for k, pool in enumerate(self.pools):
            rows = owner == k
            pool_ids, pool_factors = pool.in_tiles(tiles[rows] - self._tiles[k], generator)
            ids[rows] = pool_ids + self._ids[k]
            factors[rows] = pool_factors * (len(pool) / pool.tiles * self.tiles / len(self))
        return ids, factors
