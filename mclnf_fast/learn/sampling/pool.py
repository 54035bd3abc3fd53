"""Store the scores of a bank's sample pools so that updates and draws cost far less than the pool is long.

Items lie in blocks. An update sums the blocks it touches afresh; a draw is a binary search over blocks and a
look at the items of one. The density is affine in two sums (of the scored roots, and of the number of
unscored items), so a new prior or a new mean costs one pass over blocks, not over items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# Below 0: 0 is a score, that of a sample without a gradient.
UNSEEN = -1.0
PADDING = -2.0
BLOCK = 16  # items: one cache line of fp32


class ScorePool:
    """Scores q of M pools, and the density `n p = 1 + mix (r - 1)`, `r = sqrt(q) / mean sqrt(q)`, over them.

    An item without a score counts as its module's `prior`. Needs 6 bytes an item. No checks:
    `FisherSampler` does them.

    Args:
        sizes: n of each module, M of them.
        mix: in [0, 1).
        device: of all tensors.
    """

    def __init__(self, sizes: Sequence[int], mix: float, device: torch.device) -> None:
        self.sizes, self.mix, self.device = tuple(sizes), mix, device
        blocks = -(-max(sizes) // BLOCK)
        # fp64: in fp32 a running sum over 300k items loses the small ones.
        self.n = torch.tensor(self.sizes, device=device, dtype=torch.float64)
        position = torch.arange(blocks * BLOCK, device=device).reshape(blocks, BLOCK)
        inside = position < self.n[:, None, None]
        self.q = torch.where(inside, UNSEEN, PADDING).to(torch.float32)  # [M, blocks, BLOCK]
        self.seen, self.unseen = block_sums(self.q)
        self.prior = torch.full_like(self.n, UNSEEN)
        self._count = inside.sum(2).double()  # [M, blocks]
        self._root_mean = torch.ones_like(self.n)
        self._cumulative = torch.zeros_like(self._count)
        self._stale = set(range(len(sizes)))

    def write(self, rows: Sequence[int], ids: Tensor, q: Tensor) -> None:
        """Store scores q [m, k] of the items ids [m, k] of the modules `rows`."""
        row = torch.tensor(list(rows), device=self.device)[:, None]
        block = ids // BLOCK
        self.q[row, block, ids % BLOCK] = q
        self.seen[row, block], self.unseen[row, block] = block_sums(self.q[row, block])
        self._stale.update(rows)

    def read(self, rows: Sequence[int], ids: Tensor) -> Tensor:
        """Return the scores [m, k] of the items ids [m, k] of the modules `rows`, UNSEEN where there is none."""
        return self._pick(self.q, rows).flatten(1).gather(1, ids)

    def write_prior(self, rows: Sequence[int], prior: Tensor) -> None:
        """Store the prior score of unscored items, fp64 [m]."""
        self.prior[list(rows)] = prior
        self._stale.update(rows)

    def clear(self, rows: Sequence[int]) -> None:
        """Forget the scores and the prior of these modules."""
        rows = list(rows)
        q = self.q[rows]
        self.q[rows] = torch.where(q == PADDING, q, UNSEEN)
        self.seen[rows], self.unseen[rows] = block_sums(self.q[rows])
        self.prior[rows] = UNSEEN
        self._stale.update(rows)

    def take(self, other: ScorePool) -> None:
        """Take over the scores of a pool of fewer modules: they are the first."""
        state, (modules, blocks, _) = other.state_dict(), other.q.shape
        for name in ("q", "seen", "unseen"):
            getattr(self, name)[:modules, :blocks] = state[name]
        self.prior[:modules] = other.prior

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies; of the sums too, since summed afresh they could differ in the last bit."""
        return {name: getattr(self, name).clone() for name in ("q", "seen", "unseen", "prior")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        for name in ("q", "seen", "unseen", "prior"):
            getattr(self, name).copy_(state[name])
        self._stale = set(range(len(self.sizes)))

    def density_of(self, rows: Sequence[int], ids: Tensor) -> Tensor:
        """Return n p of items ids [m, k] -> fp64 [m, k]."""
        self._rebuild()
        return self._density(rows, self._pick(self.q, rows).flatten(1).gather(1, ids))

    def density(self) -> Tensor:
        """Return n p of all items, fp64 [M, n_max]; 0 beyond a module's own n."""
        self._rebuild()
        return self._density(range(len(self.sizes)), self.q.flatten(1))[:, : max(self.sizes)]

    def search(self, rows: Sequence[int], u: Tensor) -> Tensor:
        """Return the item at which the running sum of p passes u: fp64 [m, k] in [0, 1) -> ids int64 [m, k]."""
        self._rebuild()
        cumulative = self._pick(self._cumulative, rows)
        last = self._pick(self.n, rows)[:, None].long() - 1
        # Past a module's last block the sum is flat, so its last column is its total.
        target = u * cumulative[:, -1:]
        block = torch.minimum(torch.searchsorted(cumulative, target, right=True), last // BLOCK)
        target -= torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
        row = torch.tensor(list(rows), device=self.device)[:, None]
        q = self.q[row, block]  # [m, k, BLOCK]
        unscored = q == UNSEEN
        base, slope, prior = (c.float()[:, :, None] for c in self._coefficients(rows))
        # fp32 is enough among the items of one block; the padding adds `base`, behind all that can be chosen.
        mass = q.clamp_(min=0.0).sqrt_().mul_(slope)
        mass = torch.where(unscored, prior, mass).add_(base).cumsum_(-1)
        place = torch.searchsorted(mass, target.float()[:, :, None], right=True)[:, :, 0]
        # Rounding can carry a target past the last item.
        return torch.minimum(block * BLOCK + place.clamp(max=BLOCK - 1), last)

    def _rebuild(self) -> None:
        """Renew the running sum over blocks of the modules that have changed."""
        if not self._stale:
            return
        rows = sorted(self._stale)
        seen, unseen = self._pick(self.seen, rows), self._pick(self.unseen, rows)
        total = (seen + self._prior_root(rows) * unseen).sum(1)
        self._root_mean[rows] = total / self._pick(self.n, rows)
        base, by_seen, by_unseen = self._coefficients(rows)
        mass = by_seen * seen + by_unseen * unseen + base * self._pick(self._count, rows)
        self._cumulative[rows] = mass.cumsum(1)
        self._stale = set()

    def _coefficients(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the coefficients of the density summed over items: per item, per sum of scored roots, per unscored
        item; each [m, 1].

        Where every root is 0 the density is 1 throughout.
        """
        mean = self._pick(self._root_mean, rows)[:, None]
        known = mean > 0
        slope = torch.where(known, self.mix / torch.where(known, mean, 1.0), 0.0)
        base = torch.where(known, 1.0 - self.mix, 1.0).to(torch.float32)
        return base, slope, slope * self._prior_root(rows)

    def _density(self, rows: Sequence[int], q: Tensor) -> Tensor:
        mean = self._pick(self._root_mean, rows)[:, None]
        roots = torch.where(q == UNSEEN, self._prior_root(rows), q.double().clamp(min=0.0).sqrt())
        r = torch.where(mean > 0, roots / torch.where(mean > 0, mean, 1.0), 1.0)
        # In this form r = 1 gives exactly 1, so that an unscored pool has weights of exactly 1.
        return torch.where(q == PADDING, 0.0, 1.0 + self.mix * (r - 1.0))

    def _prior_root(self, rows: Sequence[int]) -> Tensor:
        """Return sqrt(prior) [m, 1]; 1 if nothing was scored."""
        prior = self._pick(self.prior, rows)[:, None]
        return torch.where(prior == UNSEEN, 1.0, prior).sqrt()

    def _pick(self, tensor: Tensor, rows: Sequence[int]) -> Tensor:
        """Return tensor[rows], without a copy if that is all of it or one module."""
        if len(rows) == 1:
            return tensor[rows[0] : rows[0] + 1]
        return tensor if list(rows) == list(range(len(self.sizes))) else tensor[list(rows)]


def block_sums(q: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each block [..., BLOCK] the sum of sqrt(q) over scored items, and the number of others; fp64."""
    return q.clamp(min=0.0).sqrt_().sum(-1, dtype=torch.float64), (q == UNSEEN).sum(-1, dtype=torch.float64)
