"""Starts of one network: which rays the loops meet, what OML leaves alone, and a stop anywhere."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
import torch
from test_start import pool

from mclnf_fast.data import Block, ImageSet
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city import wide_start as module
from mclnf_fast.systems.city.start import random_start
from mclnf_fast.systems.city.wide_start import Kind, WideConfig, WideStart, hull_cell, learn_wide_start
from mclnf_fast.systems.common.folder import RunFolder

SPEC = FieldSpec(3, 4, 8, 2)
CONFIG = WideConfig(steps=4, inner_steps=2, inner_lr=0.1, rays=9)


def district(seed: int) -> list[Block]:
    blocks = []
    for b in range(2):
        rays = pool(2, 5, 6, seed * 10 + b)
        images = ImageSet(torch.full_like(rays.images, 30 + 90 * b + 40 * seed), rays.cameras, ("a", "b"))
        box = torch.tensor([[2.0 * b - 2, -1, -3], [2.0 * b, 1, 1]])
        blocks.append(Block(f"{seed} {b}", images, images, box))
    return blocks


def start(kind: Kind = "joint", **changes: object) -> WideStart:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return WideStart(
        kind, [district(0), district(1)], SPEC, RenderSettings(samples_per_ray=3), config, 0, fast_layers=1
    )


def test_the_hull_is_the_grown_cell() -> None:
    cells = Cells(torch.tensor([[[-2.0, -1, -3], [0, 1, 1]], [[0.0, -1, -3], [2, 1, 1]]]))
    one = hull_cell(cells)
    assert len(one) == 1
    torch.testing.assert_close(one.grown[0], cells.hull())


@pytest.mark.parametrize("kind", ["joint", "oml"])
@pytest.mark.parametrize("first_order", ["none", "oml", "all"])
def test_it_learns_to_adapt(kind: Kind, first_order: str) -> None:
    given = start(kind, steps=60, rays=40, outer_lr=1e-2, first_order=first_order)
    assert given.learner.first_order == (first_order == "all" or (first_order, kind) == ("oml", "oml"))
    found = [given.step() for _ in range(60)]
    assert sum(found[-5:]) > sum(found[:5]) + 5  # a dB each


def test_rays_are_evenly_of_all_blocks_or_of_one() -> None:
    given = start()
    generator = torch.Generator().manual_seed(0)
    origins = [[p.cameras.c2w[:, :, 3] for p in pools] for pools in given.pools]

    def owners(rays: torch.Tensor) -> list[int]:
        """Of each ray the block whose cameras it comes from, counted through all districts."""
        flat = [c for pools in origins for c in pools]
        distance = torch.stack([torch.cdist(rays, c).amin(1) for c in flat])
        return distance.argmin(0).tolist()

    assert owners(given.draw(generator, None).origins) == [0] * 4 + [1] * 5 + [2] * 4 + [3] * 5
    assert owners(given.draw(generator, 1).origins) == [1] * 9 + [3] * 9


def test_oml_adapts_the_last_layers_alone_block_after_block(monkeypatch: pytest.MonkeyPatch) -> None:
    given = start("oml")
    met: list[int | None] = []
    draw = given.draw
    monkeypatch.setattr(given, "draw", lambda generator, block: met.append(block) or draw(generator, block))
    given.step()
    assert met == [0, 0, 1, 1, None]
    assert given.learner.update == (False, False, True, False, False, True)
    assert given.learner.clip_value == 10.0
    joint = start("joint")
    draw = joint.draw
    met.clear()
    monkeypatch.setattr(joint, "draw", lambda generator, block: met.append(block) or draw(generator, block))
    joint.step()
    assert met == [None] * 3
    assert joint.learner.update is None


@pytest.mark.parametrize("kind", ["joint", "oml"])
def test_stopped_after_any_step_it_goes_on_to_the_same_bits(
    kind: Kind, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    whole, about = learn_wide_start(start(kind), RunFolder(tmp_path / "whole"), lambda _: None)
    assert (about["steps"], len(about["curve"])) == (4, 4)
    assert any(not torch.equal(a, b) for a, b in zip(whole, random_start(SPEC, 0)))

    class StoppedError(Exception):
        pass

    found = None
    for _ in range(5):  # the step in which it is stopped has not been saved
        made: list[int] = []

        def stop(steps: int, made: list[int] = made) -> None:
            made.append(steps)
            if len(made) == 3:  # after what had been made, and one step more
                raise StoppedError

        try:
            found, again = learn_wide_start(start(kind), RunFolder(tmp_path / "stopped"), stop)
        except StoppedError:
            continue
    assert found is not None
    assert made == [4]  # all had been made before
    assert [c[1] for c in again["curve"]] == [c[1] for c in about["curve"]]
    assert all(torch.equal(a, b) for a, b in zip(found, whole))
