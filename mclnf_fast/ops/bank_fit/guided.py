"""The definition of Fisher-guided draws: even draws along a curve through the samples, more of them where scores are
high. Neighbors on the curve make blocks that share a score.

All in float64 and with sums in one order, so that a score means the same ids on every device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.checks import values_can_be_read
from mclnf_fast.ops.draw_ids.reference import WINDOW, samples_per_part


class Blocks(NamedTuple):
    """The blocks of M modules: block * b ... is the b-th one of each.

    Attributes:
        samples: int64 [M], of each module.
        block: samples of a block, but for a module's last one.
        most: blocks of the module that has most of them.
    """

    samples: Tensor
    block: int
    most: int

    @property
    def last(self) -> Tensor:
        """The number of each module's last block, int64 [M]."""
        return (self.samples - 1) // self.block

    @property
    def sizes(self) -> Tensor:
        """Samples of every block, float64 [M, most]; 0 behind a module's last one."""
        before = torch.arange(self.most, device=self.samples.device) * self.block
        return (self.samples[:, None] - before).clamp(0, self.block).double()


class Density(NamedTuple):
    """The probability of every block and its running sum, float64 [M, blocks]; known, bool [M]: whether a module has a
    score; the others are drawn from evenly."""

    mass: Tensor
    running: Tensor
    known: Tensor


def density(scores: Tensor, blocks: Blocks, mix: float) -> Density:
    """Return p = mix sqrt(q) / sum sqrt(q) + (1 - mix) / n, summed over blocks, of their scores q [M, blocks]; below 0
    they are unknown, and count as the mean of the module's others.

    >>> density(torch.tensor([[4.0, 0.0]]).double(), Blocks(torch.tensor([4]), 2, 2), 0.5).mass.tolist()
    [[0.75, 0.25]]
    """
    size, seen = blocks.sizes, scores >= 0
    samples = blocks.samples.double()[:, None]
    root = torch.where(seen, scores, 0.0).sqrt() * size
    known = torch.where(seen, size, 0.0).cumsum(1)[:, -1:]
    mean = root.cumsum(1)[:, -1:] / known.clamp(min=1.0)
    root = torch.where(seen, root, mean * size)
    total = root.cumsum(1)[:, -1:]
    even = size / samples
    share = torch.where(total > 0, root / torch.where(total > 0, total, 1.0), even)
    # The even share bounds every weight by 1 / (1 - mix), however small the score of a block.
    mass = even + mix * (share - even)
    running = mass.cumsum(1)
    # Divided by the sum as it was rounded: the last running sum is then exactly 1, with no draw behind it.
    return Density(mass / running[:, -1:], running / running[:, -1:], known[:, 0] > 0)


def places(parts: Tensor, batch: int, blocks: Blocks, found: Density | None) -> tuple[Tensor, Tensor | None]:
    """Return the places on the curve of even draws, and their weights 1 / (n p).

    Args:
        parts: `draw_ids.reference.even_parts`, of one step or of several: [M, k].
        batch: of a step.
        found: None: no module has a score.

    Returns: int64 [M, k]; float64 [M, k] or None without a density, or a score where that can be seen without a wait.
    """
    even = torch.minimum((parts * samples_per_part(blocks.samples, batch)).long(), blocks.samples[:, None] - 1)
    if found is None or (values_can_be_read(found.known) and not bool(found.known.any())):
        return even, None
    u = parts / (float(WINDOW) * batch)
    block = torch.minimum(torch.searchsorted(found.running, u, right=True), blocks.last[:, None])
    mass, size = found.mass.gather(1, block), blocks.sizes.gather(1, block)
    inside = ((u - (found.running.gather(1, block) - mass)) / mass).clamp(0.0, 1.0) * size
    place = block * blocks.block + torch.minimum(inside.long(), size.long() - 1)
    weights = size / (blocks.samples.double()[:, None] * mass)
    known = found.known[:, None]
    return torch.where(known, place, even), torch.where(known, weights, 1.0)


def mixed_scores(scores: Tensor, block: Tensor, q: Tensor, smooth: float) -> Tensor:
    """Return the scores [M, blocks] after new ones q [M, k] of samples in blocks int64 [M, k]: running means, to which
    each new one counts `smooth`, and the first of a block whole.

    >>> mixed_scores(torch.tensor([[4.0, -1.0]]), torch.tensor([[0, 1]]), torch.tensor([[8.0, 3.0]]), 0.25).tolist()
    [[5.0, 3.0]]
    """
    q = q.to(scores)
    count = torch.zeros_like(scores).scatter_add_(1, block, torch.ones_like(q))
    mean = torch.zeros_like(scores).scatter_add_(1, block, q) / count.clamp(min=1)
    # (1 - smooth)^count as products, whose bits no library decides.
    left = scores.new_full((q.shape[1] + 1,), 1 - smooth)
    left[0] = 1.0
    share = 1 - left.cumprod(0)[count.long()]  # as if they had come one by one
    # A first score counts whole: it would be mixed with the -1 that stands for none.
    known = torch.where(scores < 0, mean, scores + share * (mean - scores))
    return torch.where(count > 0, known, scores)
