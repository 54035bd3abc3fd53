"""`torch.set_default_dtype(torch.float64)`, as people in physics and tomography have it, changes no result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from legal_calls import CALLS, run
from places import default_dtype
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.fields import initial_parameters
from mclnf_fast.fields.fourier import gaussian_frequencies
from mclnf_fast.learn.fisher.fisher import RunningFisher
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.sampling.even import EvenSampler
from mclnf_fast.learn.sampling.sampling import FisherSampler
from mclnf_fast.render import (
    Cameras,
    Cells,
    OccupancyGrid,
    RayPool,
    Rays,
    RenderSettings,
    ray_losses,
    render_fused,
    render_modules,
    render_objects,
    render_views,
    sample_between,
    sample_in_cells,
)
from mclnf_fast.render.cameras import look_at
from mclnf_fast.render.objects import ObjectPool, ray_loss
from mclnf_fast.render.orbit import orbit
from mclnf_fast.render.parallel_beam import back_project, even_angles, project, random_angles
from mclnf_fast.render.pool import RayPools
from mclnf_fast.tasks.coords import pixel_places


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors(v)]
    if isinstance(value, (Cameras, Cells)) or type(value).__module__.startswith("mclnf_fast.render.samples"):
        return [t for name in value.__dataclass_fields__ for t in tensors(getattr(value, name))]
    return []


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


SPEC = mf.FieldSpec(3, 4, width=8, hidden_layers=1)
SETTINGS = RenderSettings.between(samples_per_ray=8)
AT = torch.tensor([[0.0, 1.0, 4.0], [3.0, 0.5, 2.0]])
CAMERAS = Cameras(look_at(AT, torch.zeros(2, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
CELLS = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
RAYS = Rays.through_one_module(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.1, 0.0, -1.0]]))
PIXELS = (torch.arange(2 * 8 * 8 * 4) % 251).reshape(2, 8, 8, 4).to(torch.uint8)
ORIGINS, TOWARDS = torch.tensor([0.0, 0.0, 4.0]).expand(2, 5, 3), torch.tensor([0.1, 0.0, -1.0]).expand(2, 5, 3)


def params(modules: int) -> tuple[Tensor, ...]:
    return initial_parameters(SPEC, modules, generator=generator())


def a_bank() -> Any:
    bank = mf.FieldBank(SPEC, 2, generator=generator())
    bank.append()
    return bank.stacked, bank(torch.rand(3, 4, 3, dtype=torch.float32, generator=generator()))


def an_occupancy() -> Any:
    grid = OccupancyGrid(4, levels=2, threshold=0.5)
    grid.update(lambda x: x.norm(dim=1) * 2, generator())
    return grid.density, grid.grid, grid.aabb


def a_pool() -> Any:
    pool = RayPool(PIXELS[..., :3].contiguous(), CAMERAS, tile=4)
    pools = RayPools([pool, pool])
    tiles = torch.arange(8)
    return pool.batch(torch.arange(9)), pool.in_tiles(tiles, generator()), pools.in_tiles(tiles, generator())


def an_object_pool() -> Any:
    pool = ObjectPool([(PIXELS, CAMERAS)], SETTINGS)
    loss = ray_loss(pool, torch.tensor([0]), SPEC, 16, generator())
    return pool.batch(pool.draw(torch.tensor([0]), 5, generator())), loss(params(1), 0)


def an_optimizer() -> Any:
    leaves = tuple(p.clone() for p in params(2))
    optimizer = BankOptimizer(leaves, lr=1e-2)
    optimizer.step([torch.ones_like(p) for p in leaves])
    optimizer.append(params(1), lr=0.1)
    optimizer.step([torch.ones_like(p) for p in optimizer.params])
    return optimizer.params, optimizer.lr, optimizer.steps


def a_running_fisher() -> Any:
    running = RunningFisher(0.9)
    halves = params(2)[:2], params(2)[2:]
    for _ in range(3):
        running.update(tuple([t.square() for t in half] for half in halves))
    return running.fisher, running.count, running.damping()


def even_draws() -> Any:
    sampler = EvenSampler(40, 2)
    first = sampler.draw(5, 0, generator())
    return first, sampler.probabilities(), sampler.scores


def importance_draws() -> Any:
    sampler = FisherSampler([40, 30])
    sampler.update(torch.arange(16).reshape(2, 8), torch.arange(16.0, dtype=torch.float32).reshape(2, 8))
    return sampler.draw(5, generator())


def ct() -> Any:
    images = (torch.arange(2 * 8 * 8) % 7).reshape(2, 8, 8).to(torch.float32)
    angles = even_angles(6)
    return angles, random_angles(2, 3, generator()), back_project(project(images, angles), angles)


WORK: dict[str, Callable[[], Any]] = {
    "fields": a_bank,
    "fourier": lambda: gaussian_frequencies(4, 2, 10.0, generator()),
    "places": lambda: pixel_places(3, 5),
    "cameras": lambda: (CAMERAS, orbit(CAMERAS, 5), CAMERAS.scaled(0.5), CAMERAS.view_rays(1), CAMERAS.corner_rays()),
    "cells": lambda: (CELLS.grown, CELLS.owners(AT), sample_in_cells(RAYS, CELLS, RenderSettings(samples_per_ray=4))),
    "between": lambda: sample_between(ORIGINS, TOWARDS, SETTINGS),
    "occupancy": an_occupancy,
    "pool": a_pool,
    "objects": an_object_pool,
    "render": lambda: (
        render_objects(params(2), SPEC, ORIGINS, TOWARDS, SETTINGS),
        render_modules(params(1), SPEC, RAYS, CELLS, RenderSettings(samples_per_ray=4)),
        render_fused(params(1), SPEC, RAYS, CELLS, RenderSettings(samples_per_ray=4)),
        render_views(mf.FieldBank(SPEC, 1, init=params(1)), CAMERAS, RenderSettings(samples_per_ray=8), CELLS),
    ),
    "losses": lambda: ray_losses(
        params(2), SPEC, sample_between(ORIGINS, TOWARDS, SETTINGS)[0], 0.5 * torch.ones_like(ORIGINS), SETTINGS
    ),
    "ct": ct,
    "optimizer": an_optimizer,
    "fisher": a_running_fisher,
    "even": even_draws,
    "importance": importance_draws,
}  # fmt: skip


def assert_same(a: Any, b: Any) -> None:
    results, wanted = tensors(a), tensors(b)
    assert len(results) == len(wanted) > 0
    for result, want in zip(results, wanted):
        assert result.dtype == want.dtype
        assert torch.equal(result, want) or torch.allclose(result, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("work", WORK)
def test_a_default_of_float64_changes_no_bit(work: str) -> None:
    with torch.no_grad():
        want = WORK[work]()
        with default_dtype(torch.float64):
            result = WORK[work]()
    assert_same(result, want)


def copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    return type(value)(copied(v) for v in value) if type(value) in (list, tuple) else value


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("op", CALLS)
def test_a_default_of_float64_changes_no_op(op: str, backend: str) -> None:
    with default_dtype(torch.float32):
        torch.manual_seed(0)
        given = CALLS[op](torch.float32)
    again = [copied(given), copied(given)]
    with torch.no_grad():
        want = run(op, {**again[0], "backend": backend})
        with default_dtype(torch.float64):
            result = run(op, {**again[1], "backend": backend})
    assert_same([again[1], result], [again[0], want])  # an op in place changes its arguments
