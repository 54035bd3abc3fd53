"""Choose samples by Fisher information: importance sampling with `p ~ sqrt(q)`, unbiased by construction.

`sqrt(q) = sqrt(g^T F^-1 g)` is the length of a sample's gradient in the Fisher metric, so drawing in
proportion to it gives the preconditioned mini-batch gradient the lowest variance (Zhao & Zhang, ICML 2015,
with Adam's metric in place of the Euclidean one). The same scores that MCL-NF puts on the loss as a weight
are used here to sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int, check_unit_interval
from mclnf_fast.learn.params import check_modules
from mclnf_fast.learn.sampling.pool import UNSEEN
from mclnf_fast.learn.sampling.pool_table import make_pool

PRIOR_DECAY = 0.9


class FisherSampler:
    """Draws the mini-batches of a bank: every module from its own pool, each item by its gradient's worth.

        p_i = mix * sqrt(q_i) / sum_j sqrt(q_j) + (1 - mix) / n
        weight_i = 1 / (n p_i) <= 1 / (1 - mix)

    so that mean_k weight_k * loss_k is an unbiased estimate of the pool's mean loss, whatever the q. Items
    that were never scored count as the running mean of q (for an unknown q the best p is proportional to
    sqrt(E[q])); before the first update of a module the draw is uniform and every weight is exactly 1.

    To pay in wall-clock, score few and seldom:

        if sampler.due:                                        # at the first draw, then every `refresh` draws
            ids = sampler.candidates(k, generator)             # uniform
            sampler.update(ids, scores_of(ids))
        ids, weights = sampler.draw(batch, generator)

    Pools of up to 65536 items per module are drawn from by table, which an update renews (see `pool_table`); larger
    ones by binary search, where an update costs what it touches (see `pool`). Drawing for several steps at once,
    `draw(8 * k)` cut into 8 afterwards with `refresh=1`, saves what calls cost. Deterministic given the generator.

    Args:
        sizes: n of each module, [M] (or one int, for one module), each at least 1.
        mix: share of the Fisher-guided part, in [0, 1); 0 is uniform sampling.
        refresh: draws between two refreshes, for `due`.
        device: where ids and weights shall be.
        dtype: of the weights.

    Raises: TypeError, ValueError, naming the argument.
    """

    def __init__(
        self,
        sizes: int | Sequence[int] | Tensor,
        *,
        mix: float = 0.5,
        refresh: int = 8,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.refresh = check_positive_int(refresh, "refresh")
        self.device, self.dtype = torch.device(device), dtype
        self._draws = 0
        self._pool = make_pool(_check_sizes(sizes), check_unit_interval(mix, "mix"), self.device)

    @property
    def modules(self) -> int:
        """M."""
        return len(self._pool.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """n of every module."""
        return self._pool.sizes

    @property
    def mix(self) -> float:
        """Share of the Fisher-guided part."""
        return self._pool.mix

    @property
    def due(self) -> bool:
        """Whether it is time to rescore: before the first draw, and then before every `refresh`-th."""
        return self._draws % self.refresh == 0

    def probabilities(self) -> Tensor:
        """Return p, fp64 [M, n_max]; each row sums to 1, and padding beyond a module's own n is 0."""
        return self._pool.density() / self._pool.n[:, None]

    def draw(
        self,
        k: int,
        generator: torch.Generator | None = None,
        *,
        modules: Iterable[int] | Tensor | None = None,
        stratified: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Draw k items per module, with replacement.

        Args:
            k: items per module.
            generator: on the sampler's device; None takes torch's default.
            modules: ids of the m modules to draw for, None: all M.
            stratified: one item from each of k equally likely slices: also unbiased, less variance, ids
                ascending.

        Returns: ids int64 [m, k], local to each module's pool, and weights [m, k] = 1 / (n p).
        Raises: TypeError, ValueError; IndexError for a module out of range.
        """
        check_positive_int(k, "k")
        rows = self._rows(modules)
        # fp64: in fp32 u takes 2^24 values, too coarse for pools of millions of items.
        u = torch.rand(len(rows), k, generator=generator, device=self.device, dtype=torch.float64)
        if stratified:
            u = (torch.arange(k, device=self.device, dtype=torch.float64) + u) / k
        ids = self._pool.search(rows, u)
        self._draws += 1
        return ids, (1.0 / self._pool.density_of(rows, ids)).to(self.dtype)

    def candidates(
        self,
        k: int,
        generator: torch.Generator | None = None,
        *,
        modules: Iterable[int] | Tensor | None = None,
    ) -> Tensor:
        """Return k uniformly drawn items per module, to be rescored: int64 [m, k]. Raises: like `draw`."""
        check_positive_int(k, "k")
        rows = self._rows(modules)
        u = torch.rand(len(rows), k, generator=generator, device=self.device, dtype=torch.float64)
        n = self._pool.n[rows][:, None]
        # The product can round up to n, which is no item.
        return torch.minimum((u * n).long(), n.long() - 1)

    @torch.no_grad()
    def update(
        self,
        ids: Tensor,
        q: Tensor,
        *,
        weights: Tensor | None = None,
        modules: Iterable[int] | Tensor | None = None,
    ) -> None:
        """Store the scores of some items. The next draw uses them.

        Args:
            ids: int64 [m, c], local to each module's pool; an item named twice must carry one score.
            q: [m, c], finite and not negative.
            weights: [m, c], as `draw` gave them, if the ids come from `draw`: without them the running mean
                of q, which stands for the unscored items, would be too large. None for uniform candidates.
            modules: ids of the m modules, None: all M.

        Raises: TypeError, ValueError; IndexError for an id or a module out of range.
        """
        rows = self._rows(modules)
        if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
            raise TypeError(f"ids must be an int64 tensor [{len(rows)}, c], got {getattr(ids, 'dtype', type(ids))}")
        if ids.dim() != 2 or ids.shape[0] != len(rows):
            raise ValueError(f"ids must be [{len(rows)}, c], got {tuple(ids.shape)}")
        for name, t in (("q", q), ("weights", weights)):
            if t is not None and (not isinstance(t, Tensor) or t.shape != ids.shape):
                raise ValueError(f"{name} must be {tuple(ids.shape)} like ids, got {getattr(t, 'shape', type(t))}")
        if ids.shape[1] == 0:
            return
        ids = ids.to(self.device)
        q = q.detach().to(self.device, torch.float32)
        if bool((ids < 0).any()) or bool((ids >= self._pool.n[rows][:, None]).any()):
            raise IndexError(f"ids must be in [0, n) of their module, got {int(ids.min())} to {int(ids.max())}")
        if not bool((torch.isfinite(q) & (q >= 0)).all()):
            raise ValueError("q must be finite and not negative, got a score that is not")
        self._pool.write(rows, ids, q)
        mean = (q.double() if weights is None else q.double() * weights.to(self.device).double()).mean(1)
        old = self._pool.prior[rows]
        mean = torch.where(old == UNSEEN, mean, PRIOR_DECAY * old + (1 - PRIOR_DECAY) * mean)
        self._pool.write_prior(rows, mean)

    def scores(self, ids: Tensor, *, modules: Iterable[int] | Tensor | None = None) -> Tensor:
        """Return the stored scores of items ids int64 [m, c] of the modules (None: all M): [m, c], -1 where none is
        known. Raises: IndexError for a module out of range."""
        return self._pool.read(self._rows(modules), ids.to(self.device))

    def reset(self, modules: Iterable[int] | Tensor | None = None) -> None:
        """Forget the scores of the given modules (all, if None): their draw is uniform again."""
        self._pool.clear(self._rows(modules))

    def append(self, size: int) -> None:
        """Add a module with a pool of `size` items; the others keep their scores.

        Raises: TypeError, ValueError.
        """
        check_positive_int(size, "size")
        # Chosen again: the longer pool may be too large for a table.
        grown = make_pool((*self.sizes, size), self.mix, self.device)
        grown.take(self._pool)
        self._pool = grown

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that decides the next draw, except for the generator, as tensors (copies)."""
        return {
            "sizes": torch.tensor(self.sizes),
            "mix": torch.tensor(self.mix, dtype=torch.float64),
            "refresh": torch.tensor(self.refresh),
            "draws": torch.tensor(self._draws),
            **self._pool.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned; device and dtype stay.

        Raises: ValueError, if an entry is missing.
        """
        missing = set(self.state_dict()) - set(state)
        if missing:
            raise ValueError(f"state must hold {sorted(missing)}, got {sorted(state)}")
        self.refresh, self._draws = int(state["refresh"]), int(state["draws"])
        self._pool = make_pool(_check_sizes(state["sizes"]), float(state["mix"]), self.device)
        self._pool.load_state_dict(state)

    def _rows(self, modules: Iterable[int] | Tensor | None) -> list[int]:
        if modules is None:
            return list(range(self.modules))
        return check_modules(modules, self.modules)


def _check_sizes(sizes: int | Sequence[int] | Tensor) -> tuple[int, ...]:
    if isinstance(sizes, Tensor):
        if sizes.is_floating_point() or sizes.dim() != 1:
            raise TypeError(f"sizes must be an int or integers [M], got {sizes.dtype} {tuple(sizes.shape)}")
        sizes = sizes.tolist()
    listed = [sizes] if isinstance(sizes, int) else list(sizes)
    if not listed:
        raise ValueError("sizes must name at least one module's pool, got none")
    return tuple(check_positive_int(n, "sizes") for n in listed)
