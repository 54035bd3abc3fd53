"""Estimate Fisher matrices: a running diagonal for training, and full, diagonal and rank-1 scores as oracles for small
networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int, check_unit_interval
from mclnf_fast.learn.params import ParamPair, Params, check_like, check_modules, check_params, flatten_pair, per_module
from mclnf_fast.ops.fisher.running import mean_damping, running_mean


class RunningFisher:
    """Exponential moving average of a bank's diagonal Fisher information, one clock per module.

        F <- decay F + (1 - decay) F_batch          a module's first update sets F = F_batch

    A running F remembers what the batch alone cannot: against the batch's own diagonal the mean score is
    always about the number of parameters. Reset a module when its task changes.

    Args:
        decay: in [0, 1).
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = check_unit_interval(decay, "decay")
        self._state: Params | None = None
        self._num_weights = 0
        self._count: Tensor | None = None

    @property
    def fisher(self) -> tuple[Params, Params] | None:
        """(weights, biases) shaped like the parameters, or None before the first update."""
        if self._state is None:
            return None
        return self._state[: self._num_weights], self._state[self._num_weights :]

    @property
    def count(self) -> Tensor | None:
        """int64 [M]: updates that each module has seen since its reset."""
        return self._count

    def begin(self, params: ParamPair) -> tuple[Params, Tensor]:
        """Return the state, like (weights, biases), and the clocks, which `ops.bank_fit` changes in place; zeros if
        there are none yet."""
        if self._state is None or self._count is None:
            like = flatten_pair(params)
            self._state = tuple(torch.zeros_like(p, requires_grad=False) for p in like)
            self._num_weights = len(params[0])
            self._count = torch.zeros(len(like[0]), dtype=torch.int64, device=like[0].device)
        return self._state, self._count

    @torch.no_grad()
    def update(self, fisher: ParamPair, active: Tensor | None = None) -> None:
        """Take in a batch's diagonal Fisher.

        Args:
            fisher: (weights, biases), tensors [M, ...]: mean over a module's samples of g^2.
            active: bool [M]; a module with False is left bit for bit as it is. None: all.

        Raises: TypeError, ValueError, if a shape does not fit or differs from the earlier updates.
        """
        if not isinstance(fisher, tuple | list) or len(fisher) != 2:
            raise TypeError(f"fisher must be a pair (weights, biases), got {type(fisher).__name__}")
        batch = check_params(flatten_pair((fisher[0], fisher[1])), "fisher")
        modules = batch[0].shape[0]
        if self._state is None or self._count is None:
            self._state = tuple(torch.zeros_like(f) for f in batch)
            self._num_weights = len(fisher[0])
            self._count = torch.zeros(modules, dtype=torch.int64, device=batch[0].device)
        check_like(batch, self._state, "fisher")
        # A first batch counts whole: mixed into zeros at a decay of 0.9, F would be a tenth of what it should be.
        # In float64, the largest dtype of a bank: torch.where of two numbers gives the default dtype.
        rate = torch.full((modules,), 1.0 - self.decay, dtype=torch.float64, device=self._count.device)
        rate = torch.where(self._count == 0, 1.0, rate)
        if active is not None:
            if not isinstance(active, Tensor) or active.dtype != torch.bool or active.shape != (modules,):
                raise ValueError(f"active must be a bool tensor [{modules}] or None, got {active!r}")
            rate = torch.where(active, rate, 0.0)
        # All tensors side by side: one after the other is ten launches on a GPU for each.
        like = self._state[0]
        state, new = (torch.cat([t.detach().flatten(1).to(like.dtype) for t in ts], 1) for ts in (self._state, batch))
        # where: an inactive module must survive a NaN in the batch.
        mean = torch.where(rate[:, None] > 0, running_mean(state, new, rate), state)
        parts = mean.split([t[0].numel() for t in self._state], 1)
        torch._foreach_copy_(self._state, [part.view_as(t) for part, t in zip(parts, self._state, strict=True)])
        self._count += 1 if active is None else active.to(torch.int64)

    def damping(self, relative: float = 1e-3) -> Tensor:
        """Return eps = relative * mean(F) of each module -> [M]. Raises: ValueError before the first update."""
        return relative_damping(self._known(), relative)

    def damped(self, relative: float = 1e-3) -> tuple[Params, Params]:
        """Return (weights, biases) of F + relative * mean(F), to score against with `damping=0`.

        Raises: ValueError before the first update.
        """
        state = self._known()
        eps = relative_damping(state, relative)
        flat = tuple(f + per_module(eps, f) for f in state)
        return flat[: self._num_weights], flat[self._num_weights :]

    def reset(self, modules: int | Iterable[int] | Tensor | None = None) -> None:
        """Forget the given modules' Fisher (all, if None). Raises: IndexError for an id out of range."""
        if self._state is None or self._count is None:
            return
        ids = range(len(self._count)) if modules is None else check_modules(modules, len(self._count))
        for m in ids:
            self._count[m] = 0
            for state in self._state:
                state[m].zero_()

    def append(self, count: int = 1) -> None:
        """Make room for `count` new modules, which start from nothing."""
        check_positive_int(count, "count")
        if self._state is None or self._count is None:
            return
        self._state = tuple(torch.cat([f, f.new_zeros(count, *f.shape[1:])]) for f in self._state)
        self._count = torch.cat([self._count, self._count.new_zeros(count)])

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything as tensors (copies)."""
        state = {
            "decay": torch.tensor(self.decay, dtype=torch.float64),
            "num_weights": torch.tensor(self._num_weights),
        }
        if self._state is not None and self._count is not None:
            state["count"] = self._count.clone()
            state.update({f"fisher.{i}": f.clone() for i, f in enumerate(self._state)})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises: ValueError, if an entry is missing."""
        for key in ("decay", "num_weights"):
            if key not in state:
                raise ValueError(f"state must hold {key!r}, got {sorted(state)}")
        self.decay = float(state["decay"])
        self._num_weights = int(state["num_weights"])
        flat = [state[f"fisher.{i}"].clone() for i in range(sum(k.startswith("fisher.") for k in state))]
        self._state = tuple(flat) if flat else None
        self._count = state["count"].clone() if flat else None

    def _known(self) -> Params:
        if self._state is None:
            raise ValueError("the running Fisher must have been updated at least once, got none yet")
        return self._state


def relative_damping(fisher: Sequence[Tensor], relative: float = 1e-3) -> Tensor:
    """Return eps_m = relative * mean over a module's parameters of F, never 0.

    A damping tied to F keeps scores free of the units of the loss: scaling every gradient by c leaves them
    as they are.

    Args:
        fisher: flat tuple of tensors [M, ...].
        relative: above 0.

    Returns: [M]. Raises: TypeError, ValueError.

    >>> relative_damping((torch.tensor([[1.0, 3.0], [0.0, 0.0]]),), 0.5)[0].item()
    1.0
    """
    flat = check_params(fisher, "fisher")
    if not float(relative) > 0:
        raise ValueError(f"relative must be above 0, got {relative}")
    return mean_damping(flat, float(relative))


def diagonal_fisher_scores(per_sample_grads: Tensor, damping: float = 0.0, fisher: Tensor | None = None) -> Tensor:
    """Return q_s = sum_p g_sp^2 / (F_p + damping), with F_p = mean_s g_sp^2 unless given. The oracle of
    `ops.fisher_scores`.

    Args:
        per_sample_grads: [S, P].
        damping: at least 0; with 0 a parameter whose F is 0 counts nothing.
        fisher: [P] or None.

    Returns: [S]. Against the batch's own F, mean(q) = sum_p F_p / (F_p + damping). Raises: TypeError,
    ValueError.

    >>> diagonal_fisher_scores(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    tensor([2., 2.])
    """
    g = _check_grads(per_sample_grads, damping)
    if fisher is not None and fisher.shape != g.shape[1:]:
        raise ValueError(f"fisher must be {tuple(g.shape[1:])}, got {tuple(fisher.shape)}")
    squares = g * g
    denominator = (squares.mean(0) if fisher is None else fisher) + damping
    return torch.where(denominator > 0, squares / torch.where(denominator > 0, denominator, 1.0), 0.0).sum(1)


def full_fisher_scores(per_sample_grads: Tensor, damping: float = 0.0) -> Tensor:
    """Return q_s = g_s^T (F + damping I)^-1 g_s with the full empirical F = (1/S) sum_s g_s g_s^T; a test oracle.

    Through the singular values of G [S, P], so that no P x P matrix is formed or inverted; with damping 0 it
    is the pseudo-inverse. Then mean(q) = rank(F) <= min(S, P) and 0 <= q <= S.

    Args:
        per_sample_grads: [S, P].
        damping: at least 0.

    Returns: [S]. Raises: TypeError, ValueError.

    >>> full_fisher_scores(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).round(decimals=3)
    tensor([2., 2.])
    """
    g = _check_grads(per_sample_grads, damping)
    u, s, _ = torch.linalg.svd(g, full_matrices=False)
    # Rounding leaves tiny singular values: with damping 0 each of them would count as one more rank.
    tolerance = s.amax() * max(g.shape) * torch.finfo(g.dtype).eps
    power = torch.where(s > tolerance, s * s, 0.0)
    denominator = power + g.shape[0] * damping
    gain = torch.where(denominator > 0, power / torch.where(denominator > 0, denominator, 1.0), 0.0)
    return g.shape[0] * (u * u) @ gain


def rank1_fisher_scores(per_sample_grads: Tensor, damping: float) -> Tensor:
    """Return q_s = g_s^T (rho u u^T + damping I)^-1 g_s with u = mean g / |mean g| and rho = mean_s (u^T g_s)^2.

    The rank-1 Fisher of "Avoid Catastrophic Forgetting with Rank-1 Fisher from Diffusion Models" (arXiv
    2509.23593) in the form that stays stable when the mean gradient is small. Only the part of g along u
    meets rho; what is across meets the damping alone, which therefore must be above 0.

    Args:
        per_sample_grads: [S, P].
        damping: above 0.

    Returns: [S]. Raises: TypeError, ValueError.

    >>> rank1_fisher_scores(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), damping=1.0)
    tensor([0.1667, 1.5000])
    """
    g = _check_grads(per_sample_grads, damping)
    if not damping > 0:
        raise ValueError(f"damping must be above 0 for a rank-1 Fisher, got {damping}")
    mean = g.mean(0)
    u = mean / mean.norm().clamp(min=torch.finfo(g.dtype).tiny)
    along = (g @ u) ** 2
    # Rounding can carry the rest of a gradient that lies along u below 0, and its score with it.
    across = ((g * g).sum(1) - along).clamp(min=0.0)
    return along / (along.mean() + damping) + across / damping


def _check_grads(grads: Tensor, damping: float) -> Tensor:
    if not isinstance(grads, Tensor) or not grads.is_floating_point():
        raise TypeError(f"per_sample_grads must be a floating-point tensor [S, P], got {type(grads).__name__}")
    if grads.dim() != 2 or grads.numel() == 0:
        raise ValueError(f"per_sample_grads must be [S, P] and not empty, got {tuple(grads.shape)}")
    if not float(damping) >= 0:
        raise ValueError(f"damping must be at least 0, got {damping}")
    return grads.detach()
