"""Draw from small pools by table: a few look-ups per item, where `pool` searches.

A bank of coordinate networks draws half a thousand of a few thousand items per module at every step, so that a pass
over all items at each refresh costs less than the search in every draw. Larger pools keep to `ScorePool`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.sampling.pool import UNSEEN, ScorePool, block_sums

MOST_ITEMS = 1 << 16  # of a module
MOST_STEPS = 9  # of a look-up, which takes 1 / (1 - mix) of them


def make_pool(sizes: Sequence[int], mix: float, device: torch.device) -> ScorePool:
    """Return the pool that draws fastest."""
    small = max(sizes) <= MOST_ITEMS and _steps(mix) <= MOST_STEPS
    return (TablePool if small else ScorePool)(sizes, mix, device)


class TablePool(ScorePool):
    """A `ScorePool` that keeps every item's density and running sum, and where to begin looking for a draw.

    The interval [0, 1) of a draw is cut into n equal parts, and a table has the first item of each (Chen & Asau 1974).
    No density is below 1 - mix, so that a part holds 1 / (1 - mix) items and one more at most: as many steps lead from
    its first item to any other. Needs 64 bytes an item.
    """

    def __init__(self, sizes: Sequence[int], mix: float, device: torch.device) -> None:
        super().__init__(sizes, mix, device)
        modules, blocks, block = self.q.shape
        items = blocks * block
        self._flat = self.q.view(modules, items)  # one storage
        self._last = self.n[:, None].long() - 1
        self._root = torch.zeros(modules, items, dtype=torch.float64, device=device)  # of scored items
        self._blank = (self._flat == UNSEEN).double()  # 1 where there is no score
        self._dense = torch.zeros_like(self._root)
        # A column of infinity at the end: nothing passes it.
        self._running = torch.full((modules, items + 1), math.inf, dtype=torch.float64, device=device)
        self._first = torch.zeros(modules, items + 2, dtype=torch.int64, device=device)
        # Memory for the passes of a refresh: taken anew, its pages would cost as much as they do.
        self._ones = torch.ones_like(self._flat, dtype=torch.int64)
        self._part, self._share = torch.empty_like(self._ones), torch.empty_like(self._root)

    def write(self, rows: Sequence[int], ids: Tensor, q: Tensor) -> None:
        for to, values in (
            (self._flat, q),
            (self._root, q.double().sqrt_()),
            (self._blank, torch.zeros_like(q).double()),
        ):
            if len(rows) == len(self.sizes) and list(rows) == list(range(len(rows))):
                to.scatter_(1, ids, values)
            else:
                to[torch.tensor(list(rows), device=self.device)[:, None], ids] = values
        self._stale.update(rows)

    def clear(self, rows: Sequence[int]) -> None:
        super().clear(rows)
        self._look()

    def state_dict(self) -> dict[str, Tensor]:
        # Draws by table do without these sums, so `write` leaves them alone; a `ScorePool` that takes over needs them.
        self.seen, self.unseen = block_sums(self.q)
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._look()

    def take(self, other: ScorePool) -> None:
        super().take(other)
        self._look()

    def density_of(self, rows: Sequence[int], ids: Tensor) -> Tensor:
        self._rebuild()
        return self._pick(self._dense, rows).gather(1, ids)

    def density(self) -> Tensor:
        self._rebuild()
        position = torch.arange(max(self.sizes), device=self.device)
        return torch.where(position <= self._last, self._dense[:, : max(self.sizes)], 0.0)

    def search(self, rows: Sequence[int], u: Tensor) -> Tensor:
        self._rebuild()
        running, last = self._pick(self._running, rows), self._pick(self._last, rows)
        target = u * running.gather(1, last)
        items = self._pick(self._first, rows).gather(1, (u * self._pick(self.n, rows)[:, None]).long())
        # Always the most steps that can be needed: to stop earlier, a GPU's values would have to be looked at.
        for _ in range(_steps(self.mix)):
            items += running.gather(1, items) <= target
        return torch.minimum(items, last)  # rounding can carry a target past the last item

    def _look(self) -> None:
        """Renew what is kept of every score."""
        self._root.copy_(self._flat.double().clamp_(min=0.0).sqrt_())
        self._blank.copy_(self._flat == UNSEEN)

    def _rebuild(self) -> None:
        """Renew the tables of the modules that have changed."""
        for begin, end in _runs(sorted(self._stale)):
            self._renew(slice(begin, end))
        self._stale = set()

    def _renew(self, at: slice) -> None:
        n, last, running, first = self.n[at, None], self._last[at], self._running[at, :-1], self._first[at]
        rows = range(len(self.sizes))[at]
        dense, part, share = self._dense[at], self._part[at], self._share[at]
        torch.addcmul(self._root[at], self._blank[at], self._prior_root(rows), out=dense)
        mean = dense.sum(1, keepdim=True) / n
        known = mean > 0
        # Where every root is 1 the density is exactly 1: base + (1 - base) is.
        base = torch.where(known, 1.0 - self.mix, 1.0).to(torch.float32)
        dense.mul_((1.0 - base) / torch.where(known, mean, 1.0)).add_(base)
        torch.cumsum(dense, 1, out=running)
        # An item ends in this part; from the next on it is behind.
        part.copy_(torch.mul(running, n / running.gather(1, last), out=share))
        first[:, 1:].zero_().scatter_add_(1, part, self._ones[at]).cumsum_(1)


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending rows as runs (first, one past the last): slices are written to without a copy."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs


def _steps(mix: float) -> int:
    return math.floor(1.0 / (1.0 - mix)) + 1
