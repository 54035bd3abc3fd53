"""Starts of one network for all blocks: MAML over whole districts, and OML through the sequence of their blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mclnf_fast.data import Block
from mclnf_fast.errors import InputError
from mclnf_fast.learn import MAML
from mclnf_fast.learn.meta.oml import fast_mask
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import mse_to_psnr
from mclnf_fast.render import Cells, RayBatch, RayPool, RenderSettings
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city.start import SAVE_EVERY, draw_from_each, random_start
from mclnf_fast.systems.common.folder import RunFolder
from mclnf_fast.tasks.rays import posed_losses

Kind = Literal["joint", "oml"]


@dataclass(frozen=True)
class WideConfig:
    """How the starts of one network for all blocks are meta-learned (MAML)."""

    steps: int = 150
    """Outer steps."""
    inner_steps: int = 4
    """Inner SGD steps (a block, in OML)."""
    inner_lr: float = 0.3
    """Inner SGD's rate."""
    outer_lr: float = 3e-3
    """Outer Adam's rate; it falls to 0 along a cosine."""
    rays: int = 256
    """Rays a district and inner step; the outer loss takes as many again."""
    first_order: Literal["none", "oml", "all"] = "oml"
    """Which starts are learned without second derivatives: OML's loop is four times as long."""
    grad_clip: float = 1.0
    """Largest norm of the outer gradient."""

    def check(self) -> None:
        """Raises InputError where a number is out of range."""
        for name, least in (("steps", 0), ("inner_steps", 1), ("rays", 1)):
            if getattr(self, name) < least:
                raise InputError(f"wide.{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("inner_lr", "outer_lr", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"wide.{name} must be above 0 and finite, got {getattr(self, name)}")


def hull_cell(cells: Cells) -> Cells:
    """One cell that grows to the hull of all grown cells."""
    grown = cells.hull()
    middle, half = grown.mean(0), (grown[1] - grown[0]) / 2
    half = half / half.new_tensor([cells.margin, cells.margin, 1.0])
    return Cells(torch.stack((middle - half, middle + half))[None], cells.margin)


class WideStart:
    """MAML (arXiv 1703.03400) over districts side by side as one bank: a district is a signal, its blocks are tasks.

    `joint`: the inner loop meets rays of all blocks. `oml`: it runs through the blocks in their order, on the fast
    layers alone, with gradients clamped to [-10, 10] (Javed & White, arXiv 1905.12588). The outer loss is over rays of
    all blocks either way. Outer step i depends on the seed and i alone.

    Args:
        kind: as above.
        districts: blocks of each district, as many in each.
        spec, settings: of the network and its rendering.
        config: see `WideConfig`.
        seed: of the first parameters and of the rays.
        fast_layers: of OML.
        device: where to learn.
    """

    def __init__(
        self,
        kind: Kind,
        districts: Sequence[Sequence[Block]],
        spec: FieldSpec,
        settings: RenderSettings,
        config: WideConfig,
        seed: int,
        fast_layers: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.kind, self.spec, self.settings, self.config, self.seed = kind, spec, settings, config, seed
        self.pools = [[RayPool(b.train.images.to(device), b.train.cameras.to(device)) for b in d] for d in districts]
        hulls = [hull_cell(Cells(torch.stack([b.aabb for b in d]))) for d in districts]
        self.cells = Cells(torch.cat([hull.boxes for hull in hulls]).to(device), hulls[0].margin)
        self.blocks = min(len(d) for d in districts)
        oml = kind == "oml"
        init = random_start(spec, seed, device)
        self.learner = MAML(
            init,
            config.inner_lr,
            config.inner_steps * (self.blocks if oml else 1),
            first_order=config.first_order == "all" or config.first_order == kind,
            outer_lr=config.outer_lr,
            anneal_steps=max(1, config.steps),
            grad_clip=config.grad_clip,
            update=fast_mask(init, fast_layers) if oml else None,
            clip_value=10.0 if oml else None,
        )

    def step(self) -> float:
        """One outer step; the mean PSNR in dB of the adapted networks."""
        outer = self.learner.outer_steps
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + outer)
        jitter = outer * (self.learner.inner_steps + 1)

        def support(params: Params, step: int) -> torch.Tensor:
            only = step // self.config.inner_steps if self.kind == "oml" else None
            return self._losses(params, self.draw(generator, only), jitter + step)

        def query(params: Params, step: int) -> torch.Tensor:
            return self._losses(params, self.draw(generator, None), jitter + step)

        result = self.learner.step(support, query, len(self.pools))
        return float(mse_to_psnr(result["query_loss"]).mean())

    def draw(self, generator: torch.Generator, block: int | None) -> RayBatch:
        """Rays of every district, [districts * rays]: of one block, or evenly of all."""
        rays = self.config.rays
        if block is not None:
            return draw_from_each([pools[block] for pools in self.pools], None, rays, generator)
        shares = [rays * (b + 1) // self.blocks - rays * b // self.blocks for b in range(self.blocks)]
        parts = [
            pools[b].batch(pools[b].uniform(count, generator))
            for pools in self.pools
            for b, count in enumerate(shares)
            if count
        ]
        return RayBatch(*(torch.cat(tensors) for tensors in zip(*parts)))

    def _losses(self, params: Params, batch: RayBatch, seed: int) -> torch.Tensor:
        districts = len(self.pools)
        offsets = torch.arange(districts + 1, device=batch.origins.device) * self.config.rays
        losses = posed_losses(params, self.spec, batch, offsets, self.cells, self.settings, seed)
        return losses.reshape(districts, -1).mean(1)


def learn_wide_start(
    start: WideStart, folder: RunFolder, advance: Callable[[int], object]
) -> tuple[Params, dict[str, Any]]:
    """Learns a start, or goes on from the folder's state. Returns the parameters [1, ...] and what to report: seconds,
    steps, and the PSNR of the adapted networks by step."""
    name, learner, steps = f"start_{start.kind}", start.learner, start.config.steps
    seconds, curve = 0.0, []
    state = folder.load_state(name)
    if state is not None:
        with folder.must_fit(name):
            learner.load_state_dict(state[0])
            seconds, curve = state[1]["seconds"], state[1]["curve"]
    advance(learner.outer_steps)
    saved = time.monotonic()
    while learner.outer_steps < steps:
        began = time.perf_counter()
        found = start.step()
        seconds += time.perf_counter() - began
        curve.append([learner.outer_steps, found])
        advance(1)
        if time.monotonic() - saved > SAVE_EVERY or learner.outer_steps == steps:
            about = {"seconds": seconds, "steps": learner.outer_steps, "curve": curve}
            folder.save_state(name, learner.state_dict(), about)
            saved = time.monotonic()
    params = tuple(p.detach().clone() for p in learner.init)
    return params, {"seconds": seconds, "steps": learner.outer_steps, "curve": curve}
