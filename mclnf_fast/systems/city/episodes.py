"""Episodes to meta-learn the city's initializations: rays of many procedural blocks, side by side as one bank."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.data import Block
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import Episode, Kind
from mclnf_fast.learn.params import Params
from mclnf_fast.render import Cells, RayBatch, RayPool, RenderSettings
from mclnf_fast.render.cameras import cat_cameras
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.rays import posed_loss, posed_losses


def hull_cell(cells: Cells) -> Cells:
    """Return one cell that grows to the hull of all grown cells.

    >>> cells = Cells(torch.tensor([[[-2.0, -1, 0], [0, 1, 1]], [[0.0, -1, 0], [2, 1, 1]]]))
    >>> torch.allclose(hull_cell(cells).grown[0], cells.hull())
    True
    """
    grown = cells.hull()
    middle, half = grown.mean(0), (grown[1] - grown[0]) / 2
    half = half / half.new_tensor([cells.margin, cells.margin, 1.0])
    return Cells(torch.stack((middle - half, middle + half))[None], cells.margin)


def one_pool(pools: Sequence[RayPool]) -> RayPool | None:
    """Return all pools as one, whose rays can be asked for at once; None if their images differ in size."""
    if len({(pool.width, pool.height) for pool in pools}) != 1:
        return None
    # Only asked for rays by their ids: what may be drawn, its parts know.
    return RayPool(torch.cat([pool.images for pool in pools]), cat_cameras([pool.cameras for pool in pools]))


class BlockEpisodes:
    """Blocks of procedural districts as tasks of meta-training: a source of episodes for `MetaTrainer`.

    `modules`: a block is a task with a module of its own. `joint`, `oml`: a district is one, with one network for all
    its blocks; the inner loop meets rays of all blocks, or in OML (Javed & White, arXiv 1905.12588) runs through the
    blocks in their order. The outer loss is over rays of all blocks either way.

    Args:
        kind: as above.
        districts: blocks of each district.
        spec, settings: of the network and its rendering.
        config: its `tasks`, `batch` (rays per task and inner step), `inner_steps` and `algorithm`.
        device: where to learn.
    """

    def __init__(
        self,
        kind: Kind,
        districts: Sequence[Sequence[Block]],
        spec: FieldSpec,
        settings: RenderSettings,
        config: MetaConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.kind, self.spec, self.settings, self.config = kind, spec, settings, config
        groups = [[block] for blocks in districts for block in blocks] if kind == "modules" else list(districts)
        self.pools = [
            [RayPool(b.train.images.to(device), b.train.cameras.to(device), unmasked=b.train.unmasked) for b in blocks]
            for blocks in groups
        ]
        self.blocks = min(len(blocks) for blocks in groups)
        boxes = [Cells(torch.stack([block.aabb for block in blocks])) for blocks in groups]
        hulls = boxes if kind == "modules" else [hull_cell(cells) for cells in boxes]
        self.cells = Cells(torch.cat([hull.boxes for hull in hulls]).to(device), hulls[0].margin)
        flat = [pool for pools in self.pools for pool in pools]
        # One gather over all pools instead of one per block: on a GPU each costs a launch.
        self._whole = one_pool(flat)
        self._begin = list(itertools.accumulate((pool.pixels for pool in flat), initial=0))  # of each in `_whole`
        self._row = list(itertools.accumulate((len(pools) for pools in self.pools), initial=0))

    @property
    def sequence(self) -> int:
        """Blocks that OML's inner loop passes through; 1 for the others."""
        return self.blocks if self.kind == "oml" else 1

    def __call__(self, outer: int, generator: torch.Generator) -> Episode:
        config, total = self.config, len(self.pools)
        ids = torch.arange(total)
        if config.tasks is not None:
            ids = torch.randperm(total, generator=generator)[: config.tasks]
        chosen = ids.tolist()
        # The chosen tasks are modules 0 ... T - 1 of the bank, and so are their cells.
        cells = Cells(self.cells.boxes[ids.to(self.cells.boxes.device)], self.cells.margin)
        # Each step of each episode has a jitter of its own; MAML's outer loss is one more.
        jitter = outer * (config.inner_steps * self.sequence + (config.algorithm == "maml"))

        def support(params: Params, step: int) -> Tensor:
            block = step // config.inner_steps if self.kind == "oml" else None
            return self._losses(params, self.draw(chosen, block, generator), cells, jitter + step)

        def query(params: Params, step: int) -> Tensor:
            return self._losses(params, self.draw(chosen, None, generator), cells, jitter + step)

        return Episode(support, query, len(chosen))

    def draw(self, tasks: Sequence[int], block: int | None, generator: torch.Generator) -> RayBatch:
        """Return `config.batch` uniform rays of each task, [T * batch]: of one block, or evenly of all."""
        rays, owners, ids = self.config.batch, [], []
        for task in tasks:
            for b, pool in enumerate(self.pools[task]):
                # Shares differ by one ray at most and add up to the batch, whatever the number of blocks.
                even = rays * (b + 1) // self.blocks - rays * b // self.blocks if b < self.blocks else 0
                count = even if block is None else rays * (b == block)
                if count:
                    owners.append((task, b))
                    ids.append(pool.uniform(count, generator))
        if self._whole is not None:
            begins = [self._begin[self._row[task] + b] for task, b in owners]
            return self._whole.batch(torch.cat([i + begin for i, begin in zip(ids, begins)]))
        batches = [self.pools[task][b].batch(i) for (task, b), i in zip(owners, ids)]
        return RayBatch(*(torch.cat(tensors) for tensors in zip(*batches)))

    def _losses(self, params: Params, batch: RayBatch, cells: Cells, seed: int) -> Tensor:
        offsets = ops.offsets_of_equal_shares(len(cells), self.config.batch, batch.origins.device)
        if self.kind == "modules":
            return posed_loss(params, self.spec, batch, offsets, cells, self.settings, seed)
        # Second derivatives through `posed_loss` would take longer.
        losses = posed_losses(params, self.spec, batch, offsets, cells, self.settings, seed)
        return losses.reshape(len(cells), -1).mean(1)
