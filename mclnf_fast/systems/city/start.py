"""The shared initialisation of posed-image modules: Reptile over many blocks side by side, as one bank."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mclnf_fast.data import Block
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn import Reptile
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import mse_to_psnr
from mclnf_fast.render import Cells, RayBatch, RayPool, RenderSettings
from mclnf_fast.render.cameras import cat_cameras
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.folder import RunFolder
from mclnf_fast.tasks.rays import posed_loss

SAVE_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class StartConfig:
    """How the shared start is meta-learned (Reptile)."""

    steps: int = 200
    """Outer steps."""
    inner_steps: int = 16
    """Inner Adam steps a block."""
    inner_lr: float = 5e-3
    """Inner Adam's rate."""
    outer_lr: float = 1e-2
    """Outer Adam's rate; it falls to 0 along a cosine."""
    rays: int = 128
    """Rays a block and inner step."""

    def check(self) -> None:
        """Raises InputError where a number is out of range."""
        for name, least in (("steps", 0), ("inner_steps", 1), ("rays", 1)):
            if getattr(self, name) < least:
                raise InputError(f"meta.{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("inner_lr", "outer_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"meta.{name} must be above 0 and finite, got {getattr(self, name)}")


def random_start(spec: FieldSpec, seed: int, device: torch.device | str = "cpu") -> Params:
    """Random parameters [1, ...] on `device`, the same for the same seed."""
    return initial_parameters(spec, 1, device=device, generator=torch.Generator().manual_seed(seed))


def joined(pools: Sequence[RayPool]) -> RayPool | None:
    """All pools as one, whose rays can be asked for at once; None where their images differ in size."""
    if len({(pool.width, pool.height) for pool in pools}) != 1:
        return None
    return RayPool(torch.cat([pool.images for pool in pools]), cat_cameras([pool.cameras for pool in pools]))


def draw_from_each(pools: Sequence[RayPool], whole: RayPool | None, rays: int, generator: torch.Generator) -> RayBatch:
    """`rays` uniform rays of every pool, in order: the same with `joined(pools)` or None for `whole`."""
    ids = [pool.uniform(rays, generator) for pool in pools]
    if whole is None:
        return RayBatch(*(torch.cat(parts) for parts in zip(*(pool.batch(i) for pool, i in zip(pools, ids)))))
    begins = itertools.accumulate((len(pool) for pool in pools[:-1]), initial=0)
    return whole.batch(torch.cat([i + begin for i, begin in zip(ids, begins)]))


def learn_start(
    blocks: Sequence[Block],
    spec: FieldSpec,
    settings: RenderSettings,
    config: StartConfig,
    folder: RunFolder,
    seed: int,
    advance: Callable[[int], object],
    device: torch.device | str = "cpu",
) -> tuple[Params, dict[str, Any]]:
    """Meta-learns the shared initialisation on `blocks`, on `device`; continues from the folder's state where there is
    one.

    Returns the parameters [1, ...] and what to report: seconds, steps, and the PSNR of the adapted modules by step.
    """
    cells = Cells(torch.stack([block.aabb for block in blocks]).to(device))
    pools = [RayPool(block.train.images.to(device), block.train.cameras.to(device)) for block in blocks]
    whole = joined(pools)
    offsets = torch.arange(len(blocks) + 1, device=device) * config.rays
    learner = Reptile(
        random_start(spec, seed, device),
        inner_lr=config.inner_lr,
        inner_steps=config.inner_steps,
        outer_lr=config.outer_lr,
        inner="adam",
        anneal_steps=config.steps,
    )
    seconds, curve = 0.0, []
    state = folder.load_state("start")
    if state is not None:
        with folder.must_fit("start"):
            learner.load_state_dict(state[0])
            seconds, curve = state[1]["seconds"], state[1]["curve"]
    advance(learner.outer_steps)

    def report() -> dict[str, Any]:
        return {"seconds": seconds, "steps": learner.outer_steps, "curve": curve}

    saved = time.monotonic()
    while learner.outer_steps < config.steps:
        began = time.perf_counter()
        outer = learner.outer_steps
        generator = torch.Generator().manual_seed(seed * 1_000_003 + outer)

        def loss(
            params: Params, inner: int, outer: int = outer, generator: torch.Generator = generator
        ) -> torch.Tensor:
            batch = draw_from_each(pools, whole, config.rays, generator)
            jitter = outer * config.inner_steps + inner
            return posed_loss(params, spec, batch, offsets, cells, settings, jitter)

        result = learner.step(loss, len(blocks))
        seconds += time.perf_counter() - began
        curve.append([learner.outer_steps, float(mse_to_psnr(result["loss"]))])
        advance(1)
        if time.monotonic() - saved > SAVE_EVERY or learner.outer_steps == config.steps:
            folder.save_state("start", learner.state_dict(), report())
            saved = time.monotonic()
    return tuple(p.detach().clone() for p in learner.init), report()
