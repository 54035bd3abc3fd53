"""The pool of training rays: colors, tiles that cover every pixel once, and draws that favour none."""

import pytest
import torch
from fields import generator, some_images

from mclnf_fast.errors import InputError
from mclnf_fast.render import Cameras, RayPool, look_at
from mclnf_fast.render.pool import RayPools

SIZES = [(2, 8, 8, 4), (2, 10, 7, 4), (1, 5, 3, 8), (3, 9, 9, 1), (1, 1, 13, 4)]  # views, width, height, tile


def pool_of(views: int, width: int, height: int, tile: int) -> RayPool:
    images, cameras = some_images(views, width, height)
    return RayPool(images, cameras, tile)


def tile_of(pool: RayPool, ids: torch.Tensor) -> torch.Tensor:
    """The tile of each pixel, from its definition."""
    view, rest = ids // (pool.width * pool.height), ids % (pool.width * pool.height)
    row, column = rest // pool.width, rest % pool.width
    return (view * pool.rows + row // pool.tile) * pool.columns + column // pool.tile


def test_colors_and_rays_are_those_of_the_pixel():
    images, cameras = some_images(3, 6, 5)
    pool = RayPool(images, cameras, 4)
    assert len(pool) == 3 * 6 * 5
    ids = torch.tensor([0, 5, 29, 30, 89, 47])
    batch = pool.batch(ids)
    for k, i in enumerate(ids.tolist()):
        view, row, column = i // 30, i % 30 // 6, i % 6
        assert torch.equal(batch.colors[k], images[view, row, column].float() / 255)
        origins, directions = cameras.view_rays(view)
        assert torch.equal(batch.origins[k], origins[row * 6 + column])
        assert torch.equal(batch.directions[k], directions[row * 6 + column])
    torch.testing.assert_close(batch.directions.norm(dim=-1), torch.ones(6))


@pytest.mark.parametrize("sizes", SIZES)
def test_tiles_cover_every_pixel_once(sizes):
    pool = pool_of(*sizes)
    found = tile_of(pool, torch.arange(len(pool)))
    assert torch.equal(found.bincount(minlength=pool.tiles), pool.tile_sizes())
    assert int(pool.tile_sizes().sum()) == len(pool)
    assert int(pool.tile_sizes().min()) >= 1


@pytest.mark.parametrize("sizes", SIZES)
def test_the_pixel_that_is_drawn_lies_in_its_tile_and_the_factor_is_the_tiles_share(sizes):
    pool = pool_of(*sizes)
    tiles = torch.arange(pool.tiles).repeat(20)
    ids, factor = pool.in_tiles(tiles, generator())
    assert torch.equal(tile_of(pool, ids), tiles)
    torch.testing.assert_close(factor, pool.tile_sizes()[tiles] * (pool.tiles / len(pool)))


@pytest.mark.parametrize("sizes", SIZES)
def test_in_tiles_is_unbiased_over_pixels(sizes, monkeypatch):
    """Enumerated: uniform tiles, each of a tile's pixels once, times the factors: every pixel has the same mass."""
    pool = pool_of(*sizes)
    mass = torch.zeros(len(pool), dtype=torch.float64)
    for tile in range(pool.tiles):
        row, column = tile % (pool.rows * pool.columns) // pool.columns, tile % pool.columns
        high = min(pool.tile, pool.height - row * pool.tile)
        wide = min(pool.tile, pool.width - column * pool.tile)
        # The middles of the high x wide equal parts of the unit square, each of which stands for its part.
        places = torch.cartesian_prod((torch.arange(high) + 0.5) / high, (torch.arange(wide) + 0.5) / wide).T
        monkeypatch.setattr(torch, "rand", lambda *a, places=places, **k: places)
        ids, factor = pool.in_tiles(torch.full((high * wide,), tile), generator())
        mass.index_add_(0, ids, factor.double() / (pool.tiles * high * wide))
    torch.testing.assert_close(mass, torch.full_like(mass, 1 / len(pool)), rtol=1e-5, atol=0)


def test_draws_hit_all_pixels_of_a_ragged_tile_alike():
    pool = pool_of(1, 10, 7, 4)
    tile = pool.tiles - 1  # 2 x 3 pixels
    ids, _ = pool.in_tiles(torch.full((6000,), tile), generator())
    counts = ids.unique(return_counts=True)[1]
    assert counts.numel() == 6
    # chi-square with 5 degrees of freedom: above 30 once in a hundred thousand
    assert float(((counts - 1000.0) ** 2 / 1000).sum()) < 30


def test_uniform_draws_stay_inside_and_follow_the_generator():
    pool = pool_of(2, 6, 5, 4)
    ids = pool.uniform(5000, generator(1))
    assert int(ids.min()) == 0
    assert int(ids.max()) == 59
    assert torch.equal(ids, pool.uniform(5000, generator(1)))
    assert not torch.equal(ids, pool.uniform(5000, generator(2)))


def test_an_empty_draw():
    pool = pool_of(1, 6, 5, 4)
    ids, factor = pool.in_tiles(torch.zeros(0, dtype=torch.int64), generator())
    assert ids.shape == factor.shape == (0,)
    assert pool.batch(ids).colors.shape == (0, 3)


def test_refused_arguments():
    images, cameras = some_images(2, 6, 5)
    with pytest.raises(InputError, match=r"images must be uint8 \[V, H, W, 3\], got torch.float32"):
        RayPool(images.float(), cameras)
    with pytest.raises(InputError, match=r"images must be uint8 \[V, H, W, 3\].*\[2, 5, 6\]"):
        RayPool(images[..., 0], cameras)
    with pytest.raises(InputError, match=r"cameras must fit images \[1, 5, 6\], got 2 of 5 x 6"):
        RayPool(images[:1], cameras)
    with pytest.raises(InputError, match=r"cameras must fit images \[2, 5, 5\]"):
        RayPool(images[:, :, :5], cameras)
    with pytest.raises(InputError, match=r"cameras must fit images \[0, 5, 6\]"):
        RayPool(images[:0], cameras[:0])
    for tile in (0, -1, 2.0, True):
        with pytest.raises(InputError, match="tile must be an int of at least 1"):
            RayPool(images, cameras, tile)


def test_several_pools_are_one():
    pools = [pool_of(2, 10, 7, 4), pool_of(1, 5, 3, 2), pool_of(1, 8, 8, 4)]
    whole = RayPools(pools)
    assert (len(whole), whole.tiles) == (140 + 15 + 64, 12 + 6 + 4)
    ids = torch.randperm(len(whole), generator=generator(3))
    begins = [0, 140, 155]
    for k, found in enumerate(whole.batch(ids)):
        for pool, begin in zip(pools, begins):
            mine = (ids >= begin) & (ids < begin + len(pool))
            assert torch.equal(found[mine], pool.batch(ids[mine] - begin)[k])
    assert int(whole.uniform(4000, generator()).max()) > 200


def test_draws_in_tiles_of_several_pools_are_unbiased_over_pixels():
    """Every pixel's share of the draws times its factor is that of a uniform draw over all pixels."""
    pools = [pool_of(1, 10, 7, 4), pool_of(1, 5, 3, 2)]
    whole = RayPools(pools)
    tiles = torch.arange(whole.tiles).repeat(20_000)
    ids, factors = whole.in_tiles(tiles, generator(1))
    share = torch.zeros(len(whole)).index_add_(0, ids, factors) / len(ids)
    assert float((share * len(whole) - 1).abs().max()) < 0.08
    one, expected = pools[1].in_tiles(torch.arange(6), generator(2))
    again, factor = RayPools(pools[1:]).in_tiles(torch.arange(6), generator(2))
    assert torch.equal(one, again)
    torch.testing.assert_close(factor, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_several_generators_draw_from_as_many_tiles_each(masked):
    def pool() -> RayPool:
        cameras = Cameras(look_at(4 * torch.eye(3)[:2], torch.zeros(2, 3)), 8.0, 8.0, 4.0, 4.0, 9, 7)
        unmasked = torch.rand(2, 7, 9, generator=generator(3)) < 0.8 if masked else None
        return RayPool(torch.zeros(2, 7, 9, 3, dtype=torch.uint8), cameras, tile=4, unmasked=unmasked)

    for drawn in (pool(), RayPools([pool(), pool()])):
        tiles = torch.arange(6)
        parts = [drawn.in_tiles(tiles[:3], generator(1)), drawn.in_tiles(tiles[3:], generator(2))]
        whole = drawn.in_tiles(tiles, [generator(1), generator(2)])
        assert all(torch.equal(torch.cat(part), both) for part, both in zip(zip(*parts), whole))


def test_no_pools_are_refused():
    with pytest.raises(InputError, match="pools must hold at least one pool, got none"):
        RayPools([])


def test_masked_pixels_are_never_drawn() -> None:
    cameras = Cameras(look_at(4 * torch.eye(3)[:2], torch.zeros(2, 3)), 8.0, 8.0, 4.0, 4.0, 9, 7)
    images = torch.randint(256, (2, 7, 9, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    unmasked = torch.rand(2, 7, 9, generator=generator) < 0.4
    unmasked[0, :4, :4] = False  # a whole tile
    pool = RayPool(images, cameras, tile=4, unmasked=unmasked)
    assert len(pool) == int(unmasked.sum())
    assert pool.pixels == unmasked.numel()
    ids = pool.uniform(20_000, generator)
    assert bool(unmasked.flatten()[ids].all())
    assert len(ids.unique()) == len(pool)
    counts = torch.bincount(ids, minlength=pool.pixels)[unmasked.flatten()]
    assert counts.float().std() < 2 * (20_000 / len(pool)) ** 0.5  # even
    assert pool.tiles == 2 * 2 * 3 - 1
    assert int(pool.tile_sizes().sum()) == len(pool)
    tiles = torch.arange(pool.tiles).repeat_interleave(2000)
    ids, factors = pool.in_tiles(tiles, generator)
    assert bool(unmasked.flatten()[ids].all())
    assert len(ids.unique()) == len(pool)
    # Tiles are drawn evenly: with its factor each pixel counts alike.
    weights = torch.zeros(pool.pixels).index_add(0, ids, factors / len(ids))[unmasked.flatten()]
    assert weights.sum() == pytest.approx(1.0, abs=1e-4)
    assert (weights * len(pool)).tolist() == pytest.approx([1.0] * len(pool), abs=0.2)
    both = RayPools([pool, RayPool(images, cameras, tile=4)])
    assert len(both) == len(pool) + unmasked.numel()
    drawn = both.uniform(20_000, generator)
    assert bool(torch.cat([unmasked.flatten(), torch.ones(unmasked.numel(), dtype=torch.bool)])[drawn].all())
    assert len(drawn.unique()) == len(both)


def test_without_a_mask_that_masks_the_draws_are_the_same() -> None:
    cameras = Cameras(look_at(4 * torch.eye(3)[:1], torch.zeros(1, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    plain, all_seen = (RayPool(images, cameras, 4, mask) for mask in (None, torch.ones(1, 8, 8, dtype=torch.bool)))
    draws = [pool.uniform(50, torch.Generator().manual_seed(1)) for pool in (plain, all_seen)]
    assert torch.equal(*draws)
    for wrong in (torch.zeros(1, 8, 8, dtype=torch.bool), torch.ones(1, 8, 7, dtype=torch.bool), torch.ones(1, 8, 8)):
        with pytest.raises(InputError, match="unmasked must be bool"):
            RayPool(images, cameras, 4, wrong)
