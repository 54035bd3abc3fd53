"""Rays for the shared start: drawn from every block, gathered at once where images have one size."""

from __future__ import annotations

import torch

from mclnf_fast.render import Cameras, RayPool
from mclnf_fast.systems.city.start import draw_from_each, joined


def pool(views: int, height: int, width: int, seed: int) -> RayPool:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (views, height, width, 3), generator=generator, dtype=torch.uint8)
    c2w = torch.eye(4)[:3].repeat(views, 1, 1)
    c2w[:, :, 3] = torch.rand(views, 3, generator=generator)
    focal = 10.0 + torch.rand(views, generator=generator)
    return RayPool(
        images,
        Cameras(
            c2w, focal, focal + 1, torch.full((views,), width / 2), torch.full((views,), height / 2), width, height
        ),
    )


def test_the_rays_are_those_of_each_pool_in_turn() -> None:
    pools = [pool(views, 6, 9, seed) for seed, views in enumerate((3, 1, 4))]
    whole = joined(pools)
    assert whole is not None
    assert len(whole) == sum(len(p) for p in pools)
    one = draw_from_each(pools, whole, 50, torch.Generator().manual_seed(5))
    other = draw_from_each(pools, None, 50, torch.Generator().manual_seed(5))
    for a, b in zip(one, other, strict=True):
        assert a.shape[0] == 150
        assert torch.equal(a, b)


def test_images_of_several_sizes_are_not_joined() -> None:
    pools = [pool(2, 6, 9, 0), pool(2, 5, 9, 1)]
    assert joined(pools) is None
    batch = draw_from_each(pools, None, 4, torch.Generator().manual_seed(0))
    assert batch.colors.shape == (8, 3)
