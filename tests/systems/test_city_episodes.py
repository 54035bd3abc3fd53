"""Episodes of rays of blocks: which rays the loops meet, what OML leaves alone, and a stop anywhere."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
import torch
from torch import Tensor

from mclnf_fast.data import Block, ImageSet
from mclnf_fast.learn.meta.episodes import Kind
from mclnf_fast.learn.meta.meta import MAML
from mclnf_fast.learn.meta.trainer import MetaTrainer, mean_psnr
from mclnf_fast.learn.params import Params
from mclnf_fast.render import Cameras, Cells, RayPool, RenderSettings
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city.data import random_initialization
from mclnf_fast.systems.city.episodes import BlockEpisodes, hull_cell, one_pool
from mclnf_fast.systems.city.options import JOINT, MODULES
from mclnf_fast.systems.common import run as module
from mclnf_fast.systems.common.folder import Phases, RunFolder
from mclnf_fast.systems.common.run import Run, Stretch

SPEC = FieldSpec(3, 4, 8, 2)
CONFIG = dataclasses.replace(JOINT, steps=4, inner_steps=2, inner_lr=0.1, batch=9, oml_first_order=False)


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


def district(seed: int, height: int = 5) -> list[Block]:
    blocks = []
    for b in range(2):
        rays = pool(2, height, 6, seed * 10 + b)
        images = ImageSet(torch.full_like(rays.images, 30 + 90 * b + 40 * seed), rays.cameras, ("a", "b"))
        box = torch.tensor([[2.0 * b - 2, -1, -3], [2.0 * b, 1, 1]])
        blocks.append(Block(f"{seed} {b}", images, images, box))
    return blocks


def some_episodes(kind: Kind = "joint", heights: tuple[int, int] = (5, 5), **changes: object) -> BlockEpisodes:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return BlockEpisodes(
        kind, [district(0, heights[0]), district(1, heights[1])], SPEC, RenderSettings(samples_per_ray=3), config
    )


def learner(episodes: BlockEpisodes) -> MetaTrainer:
    fast = 1 if episodes.kind == "oml" else None
    return MetaTrainer(random_initialization(SPEC, 0), episodes, episodes.config, 0, fast, score=mean_psnr)


def test_the_hull_is_what_the_cell_grows_to() -> None:
    cells = Cells(torch.tensor([[[-2.0, -1, -3], [0, 1, 1]], [[0.0, -1, -3], [2, 1, 1]]]))
    one = hull_cell(cells)
    assert len(one) == 1
    torch.testing.assert_close(one.grown[0], cells.hull())


@pytest.mark.parametrize("kind", ["joint", "oml"])
@pytest.mark.parametrize("first_order", ["none", "oml", "all"])
def test_it_learns_to_adapt(kind: Kind, first_order: str) -> None:
    orders = {"first_order": first_order == "all", "oml_first_order": first_order == "oml"}
    given = learner(some_episodes(kind, steps=60, batch=40, outer_lr=1e-2, **orders))
    assert isinstance(given.learner, MAML)
    assert given.learner.first_order == (first_order == "all" or (first_order, kind) == ("oml", "oml"))
    while not given.done:
        given.step()
    found = [point[1] for point in given.curve]
    assert sum(found[-5:]) > sum(found[:5]) + 5  # type: ignore[arg-type]  # a dB each


def test_rays_are_evenly_of_all_blocks_or_of_one() -> None:
    given = some_episodes()
    generator = torch.Generator().manual_seed(0)
    origins = [[p.cameras.c2w[:, :, 3] for p in pools] for pools in given.pools]

    def owners(rays: Tensor) -> list[int]:
        """Of each ray the block whose cameras it comes from, counted through all districts."""
        flat = [c for pools in origins for c in pools]
        distance = torch.stack([torch.cdist(rays, c).amin(1) for c in flat])
        return distance.argmin(0).tolist()

    assert owners(given.draw([0, 1], None, generator).origins) == [0] * 4 + [1] * 5 + [2] * 4 + [3] * 5
    assert owners(given.draw([0, 1], 1, generator).origins) == [1] * 9 + [3] * 9
    modules = some_episodes("modules")
    assert owners(modules.draw([0, 1, 2, 3], None, generator).origins) == [b for b in range(4) for _ in range(9)]
    assert owners(modules.draw([2, 1], None, generator).origins) == [2] * 9 + [1] * 9


def test_some_of_the_blocks_are_drawn_for_each_step() -> None:
    given = some_episodes("modules", tasks=2)
    seen = [tuple(given(0, torch.Generator().manual_seed(seed)).modules for seed in range(3))]
    assert seen == [(2, 2, 2)]
    trainer = learner(given)
    trainer.step()
    assert all(bool(p.isfinite().all()) for p in trainer.params)


def test_the_rays_are_those_of_each_pool_in_turn() -> None:
    given = some_episodes("modules")
    assert given._whole is not None
    assert len(given._whole) == sum(len(p) for pools in given.pools for p in pools)
    one = given.draw([0, 1, 2, 3], None, torch.Generator().manual_seed(5))
    given._whole = None
    other = given.draw([0, 1, 2, 3], None, torch.Generator().manual_seed(5))
    for a, b in zip(one, other, strict=True):
        assert a.shape[0] == 36
        assert torch.equal(a, b)


def test_images_of_several_sizes_are_not_joined() -> None:
    assert one_pool([pool(2, 6, 9, 0), pool(2, 5, 9, 1)]) is None
    batch = some_episodes("modules", (6, 5), batch=4).draw([0, 1, 2, 3], None, torch.Generator().manual_seed(0))
    assert batch.colors.shape == (16, 3)


def test_oml_adapts_the_last_layers_alone_block_after_block(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, expected in (("oml", [0, 0, 1, 1, None]), ("joint", [None] * 3)):
        episodes = some_episodes(kind)  # type: ignore[arg-type]
        given, met, draw = learner(episodes), [], episodes.draw
        monkeypatch.setattr(
            episodes, "draw", lambda t, block, g, met=met, draw=draw: met.append(block) or draw(t, block, g)
        )
        given.step()
        assert met == expected
        assert isinstance(given.learner, MAML)
        assert given.learner.update == ((False, False, True, False, False, True) if kind == "oml" else None)
        assert given.learner.clip_value == (10.0 if kind == "oml" else None)


def learned(episodes: BlockEpisodes, folder: pathlib.Path, stop_after: int | None = None) -> tuple[MetaTrainer, int]:
    """The trainer after as many steps of this process, or at its end; and how many this process has made."""
    given = learner(episodes)
    run, made = Run(None, RunFolder(folder), Phases({}), (), True), 0  # type: ignore[type-var]
    run.restore(given, "start")
    for _ in run.advance(given, "start", Stretch("start", "learning", 0, given.total)):
        made += 1
        if made == stop_after:
            break
    return given, made


def kind_config(kind: Kind) -> dict[str, object]:
    return {} if kind != "modules" else {**dataclasses.asdict(MODULES), "steps": 4, "inner_steps": 2, "batch": 9}


@pytest.mark.parametrize("kind", ["modules", "joint", "oml"])
def test_stopped_after_any_step_it_goes_on_to_the_same_bits(
    kind: Kind, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    whole, _ = learned(some_episodes(kind, **kind_config(kind)), tmp_path / "whole")
    assert (whole.made, len(whole.curve)) == (4, 4)
    random: Params = random_initialization(SPEC, 0)
    assert any(not torch.equal(a, b) for a, b in zip(whole.params, random))
    for _ in range(3):  # the step in which it is stopped has not been saved
        found, made = learned(some_episodes(kind, **kind_config(kind)), tmp_path / "stopped", stop_after=2)
        assert made == 2
    found, made = learned(some_episodes(kind, **kind_config(kind)), tmp_path / "stopped")
    assert made == 1
    assert learned(some_episodes(kind, **kind_config(kind)), tmp_path / "stopped")[1] == 0  # all had been made before
    assert [c[1] for c in found.curve] == [c[1] for c in whole.curve]
    assert all(torch.equal(a, b) for a, b in zip(found.params, whole.params))
