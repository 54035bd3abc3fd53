"""Score samples by Fisher information, with every switch of how it is measured and used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int
from mclnf_fast.errors import InputError
from mclnf_fast.fields.functional import encode_grids, evaluate_params, split_params
from mclnf_fast.learn.fisher.fim import fim_weights
from mclnf_fast.learn.fisher.fisher import RunningFisher
from mclnf_fast.learn.fisher.kfac import kfac
from mclnf_fast.learn.fisher.score_batch import Batch, Measured, State
from mclnf_fast.learn.fisher.score_kinds import Kind, diagonal, full, rank1
from mclnf_fast.learn.params import Params, per_module
from mclnf_fast.spec import FieldSpec

FULL_LIMIT = 2000  # parameters of a module, whose matrix is then 16 MB
KINDS: dict[str, Kind] = {"diag": diagonal, "kfac": kfac, "rank1": rank1, "full": full}


@dataclass(frozen=True)
class FimConfig:
    """Every switch of the use of Fisher information (MCL-NF, arXiv 2504.05806; defaults are ours).

    Nothing is checked before `check` is called.
    """

    use: Literal["none", "sample", "weight", "both"] = "none"
    """To choose the samples (importance sampling, unbiased), to weight their loss (the paper's form), or both."""
    kind: Literal["diag", "kfac", "rank1", "full"] = "diag"
    """Form of the Fisher matrix; `full` for networks of at most 2,000 parameters."""
    source: Literal["batch", "ema"] = "ema"
    """Which Fisher matrix a batch is scored against: its own, or a running mean."""
    decay: float = 0.9
    """Decay of the running mean."""
    damping: float = 1e-3
    """What is added to the matrix, relative to the mean of its diagonal."""
    residual: Literal["empirical", "gauss_newton"] = "empirical"
    """Whether a sample's own loss is scored, or its outputs (no residual inside)."""
    form: Literal["one_plus", "pure"] = "one_plus"
    """Loss weights 1 + lam q, or q alone."""
    lam: float = 1.0
    """Strength of the loss weights; 0: the plain squared error."""
    norm: Literal["batch_mean", "params", "none"] = "batch_mean"
    """What scores are divided by before they become loss weights."""
    clip: float | None = 10.0
    """Largest loss weight, before they are brought to mean 1."""
    draws: Literal["even", "independent"] = "even"
    """How samples are drawn: evenly along a curve through them (`EvenSampler`), or each by itself (`FisherSampler`)."""
    mix: float = 0.8
    """Share of the Fisher-guided part of the draws; 0: without scores."""
    smooth: float = 0.1
    """Weight of a new score in the running mean of a block of neighbors (`even`), or of an item with several samples
    (`independent`)."""
    refresh: int = 16
    """Steps between two scorings."""

    def check(self) -> None:
        """Raise InputError that names the field, what it must be and what it was."""
        for name, hint in get_type_hints(FimConfig).items():
            choices, value = get_args(hint), getattr(self, name)
            if all(isinstance(c, str) for c in choices) and choices and value not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name in ("decay", "mix"):
            if not (_is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                raise InputError(f"{name} must be at least 0 and below 1, got {getattr(self, name)!r}")
        if not (_is_number(self.damping) and self.damping > 0):
            raise InputError(f"damping must be a finite number above 0, got {self.damping!r}")
        if not (_is_number(self.lam) and self.lam >= 0):
            raise InputError(f"lam must be a finite number of at least 0, got {self.lam!r}")
        if self.clip is not None and not (_is_number(self.clip) and self.clip >= 1):
            raise InputError(f"clip must be a finite number of at least 1, or None, got {self.clip!r}")
        if not (_is_number(self.smooth) and 0 < self.smooth <= 1):
            raise InputError(f"smooth must be above 0 and at most 1, got {self.smooth!r}")
        if not isinstance(self.refresh, int) or isinstance(self.refresh, bool) or self.refresh < 1:
            raise InputError(f"refresh must be an int of at least 1, got {self.refresh!r}")


class Scored(NamedTuple):
    """scores [N], or [S] of samples; grads: the gradient of the sum of the (weighted) losses, like the parameters, or
    None where it was not asked for."""

    scores: Tensor
    grads: Params | None


class FisherScorer:
    """Scores q = g^T F^-1 g of the points of a bank, each module against its own Fisher matrix.

    With the source `ema` a batch is scored against what was known before it came, and then taken into the running
    mean; a module's first batch (after a `reset` as well) is scored against itself. Of a spec with grids the network
    behind them is scored, as `ops.fisher_scores` does.

    Args:
        spec: the architecture.
        modules: M.
        config: see `FimConfig`; its `use`, `form`, `lam`, `norm`, `clip`, `mix` and `refresh` are for others.
        backend: of the ops.

    Raises: InputError for a bad `config`, or a net too large for the full matrix; TypeError, ValueError.
    """

    def __init__(self, spec: FieldSpec, modules: int, config: FimConfig, backend: str | None = "auto") -> None:
        config.check()
        size = sum((rows + 1) * columns for rows, columns in spec.layer_shapes)
        if config.kind == "full" and size > FULL_LIMIT:
            raise InputError(f"kind 'full' must have at most {FULL_LIMIT} parameters per module, got {size}")
        self.spec, self.config, self.backend = spec, config, backend
        self.modules = check_positive_int(modules, "modules")
        self.running = RunningFisher(config.decay)
        self._all_known = False

    @torch.no_grad()
    def __call__(
        self,
        params: Params,
        x: Tensor,
        offsets: Tensor,
        grad_y: Tensor,
        *,
        grads: bool = False,
        weights: Tensor | None = None,
        sample_ids: Tensor | int | None = None,
        num_samples: int | None = None,
    ) -> Scored:
        """Score a batch, and take its Fisher in.

        Args:
            params: weights, then biases (then the tables of grids), tensors [M, ...].
            x: [N, in], grouped by module.
            offsets: int64 [M + 1].
            grad_y: [N, out], the gradient of the point's own loss (its sample's, not a mean) in the outputs. With
                Gauss-Newton only `grads` depends on it.
            grads: whether the gradient is wanted; with `diag` and `rank1`, empirical, it costs nothing more.
            weights: [N] (or [S]), above 0: of each sample's loss, for drawn samples 1 / (n p). The scores are those of
                the losses without them, the gradient and the Fisher those of the losses with them.
            sample_ids: int64 [N], the sample (ray) of each point; a number: as many points in succession are one; None:
                each point is one. Cross terms are included. Not with `kfac`.
            num_samples: S; None: the largest id + 1.

        Returns: see `Scored`; detached. Raises: as `ops.fisher_scores`; InputError.
        """
        if sample_ids is not None and self.config.kind == "kfac":
            raise InputError("sample_ids must be None with kind 'kfac' (its factors are those of points), got a tensor")
        held = split_params(params, self.spec)
        if len(offsets) != self.modules + 1:
            raise ValueError(f"offsets must be [M + 1] = [{self.modules + 1}], got {tuple(offsets.shape)}")
        if isinstance(sample_ids, Tensor):
            samples = num_samples
            if samples is None:
                samples = int(sample_ids.max()) + 1 if len(sample_ids) else 0
        else:
            samples = len(x) // (sample_ids or 1)
        _check_weights(weights, samples, x)
        by_point = weights
        if weights is not None and isinstance(sample_ids, int):
            by_point = weights.repeat_interleave(sample_ids)
        elif weights is not None and sample_ids is not None:
            by_point = weights[sample_ids]
        # Half floats serve the engine's own op alone: matrices and their inverses are of wider ones.
        wide = torch.float32 if x.element_size() < 4 and self.config.kind != "diag" else x.dtype
        empirical = self.config.residual == "empirical"
        loss = grad_y if by_point is None else grad_y * by_point[:, None]
        # The gradient of w l is w g, which its Fisher sees; where no gradient comes along, the root does, and a drawn
        # batch's Fisher is unbiased.
        factor = weights if weights is None or empirical else weights.sqrt()
        batch = Batch(
            self.spec.mlp,
            tuple(t.detach().to(wide) for t in held[0]),
            tuple(t.detach().to(wide) for t in held[1]),
            encode_grids(x, offsets, held[2], self.spec, self.backend).detach().to(wide),
            offsets,
            (loss.detach().to(wide),) if empirical else _channels(x.to(wide), self.spec.out_dim, by_point),
            sample_ids,
            samples,
            self.backend,
            self.config.source == "ema",
        )
        measured = self._measure(batch)
        scores = measured.scores.to(x.dtype)
        scores = scores if factor is None else scores / factor.square()
        if not grads:
            return Scored(scores, None)
        # The sweep sees the network behind the grids alone: the tables need a backward.
        if empirical and measured.grads is not None and not self.spec.grids:
            return Scored(scores, tuple(g.to(x.dtype) for g in measured.grads))
        return Scored(scores, self._gradient(params, x, offsets, loss))

    def _measure(self, batch: Batch) -> Measured:
        """Return the scores against what is known; then the batch's Fisher becomes known."""
        kind, damping = KINDS[self.config.kind], self.config.damping
        if not batch.remember:
            return kind(batch, None, damping)
        present = batch.offsets.diff() > 0
        known, count = self.running.fisher, self.running.count
        if known is None or count is None:
            measured = kind(batch, None, damping)
        elif self._all_known or not bool(((count == 0) & present).any()):
            measured = kind(batch, known, damping)
        else:
            # Modules without a past would be scored against zeros: they take the batch's own.
            own = kind(batch, None, damping)
            assert own.state is not None
            measured = kind(batch, _chosen(count == 0, own.state, known), damping)
        assert measured.state is not None
        # Half floats would stop moving at a decay of 0.9.
        state = [tuple(t.float() if t.element_size() < 4 else t for t in part) for part in measured.state]
        self.running.update((state[0], state[1]), active=present)
        if not self._all_known and self.running.count is not None:
            self._all_known = bool((self.running.count > 0).all())  # once: a GPU waits for it
        return measured

    def _gradient(self, params: Params, x: Tensor, offsets: Tensor, grad_y: Tensor) -> Params:
        with torch.enable_grad():
            leaves = tuple(p.detach().requires_grad_() for p in params)
            y = evaluate_params(leaves, self.spec, x, offsets, self.backend)
            return torch.autograd.grad(y, leaves, grad_y.detach())

    def reset(self, modules: int | Iterable[int] | Tensor | None = None) -> None:
        """Forget the given modules' Fisher (all, if None). Raises: IndexError for an id out of range."""
        self.running.reset(modules)
        self._all_known = False

    def append(self, count: int = 1) -> None:
        """Make room for `count` new modules, which know nothing."""
        self.running.append(count)
        self.modules += count
        self._all_known = False

    def state_dict(self) -> dict[str, Tensor]:
        """Return the running matrices and their clocks as tensors (copies)."""
        return self.running.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises: ValueError, if an entry is missing or of another bank."""
        # Loaded beside the one in use: a state of another bank leaves it as it was.
        running = RunningFisher(self.config.decay)
        running.load_state_dict(state)
        if running.count is not None and len(running.count) != self.modules:
            raise ValueError(f"state['count'] must be [{self.modules}], got {tuple(running.count.shape)}")
        self.running = running
        self._all_known = False


def fim_loss_weights(
    scored: Scored | Tensor,
    offsets: Tensor,
    config: FimConfig,
    *,
    groups: Tensor | None = None,
    num_params: int | None = None,
) -> Tensor:
    """Return loss weights of mean 1 over every module, from scores (see `fim_weights`).

    With `lam = 0` they are exact ones, and a loss weighted by them has the bits of the plain one.

    Args:
        scored: what a `FisherScorer` gave, or scores [N].
        offsets: int64 [M + 1], of the points.
        config: its `lam`, `form`, `norm` and `clip` count.
        groups: int64 [S], the module of each sample, where samples are not points.
        num_params: P of a module, needed with `norm="params"`.

    Returns: [N] (or [S]), detached. Raises: TypeError, ValueError, IndexError.

    >>> fim_loss_weights(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 2, 3]), FimConfig())
    tensor([0.7500, 1.2500, 1.0000])
    """
    scores = scored.scores if isinstance(scored, Scored) else scored
    modules = len(offsets) - 1
    if groups is None:
        ids = torch.arange(modules, device=offsets.device)
        groups = torch.repeat_interleave(ids, offsets.diff(), output_size=len(scores))
    return fim_weights(
        scores,
        lam=config.lam,
        form=config.form,
        norm=config.norm,
        clip=config.clip,
        groups=groups,
        num_groups=modules,
        num_params=num_params,
    )


def _channels(x: Tensor, out_dim: int, weights: Tensor | None) -> tuple[Tensor, ...]:
    """Return one direction an output channel: its unit vector at every point, times the root of the point's weight."""
    size = x.new_ones(len(x)) if weights is None else weights.sqrt()
    directions = []
    for c in range(out_dim):
        direction = x.new_zeros(len(x), out_dim)
        direction[:, c] = size
        directions.append(direction)
    return tuple(directions)


def _chosen(fresh: Tensor, own: State, known: State) -> State:
    """Return the batch's own Fisher for fresh modules, what is known for the others."""
    pairs = [zip(a, b, strict=True) for a, b in zip(own, known, strict=True)]
    first, second = (tuple(torch.where(per_module(fresh, a), a.to(b.dtype), b) for a, b in pair) for pair in pairs)
    return first, second


def _check_weights(weights: Tensor | None, samples: int, x: Tensor) -> None:
    if weights is None:
        return
    if not isinstance(weights, Tensor) or weights.shape != (samples,) or weights.dtype != x.dtype:
        got = f"{weights.dtype} {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"weights must be {x.dtype} [{samples}], one per sample, got {got}")
    # On the CPU alone: a look at the values waits for a GPU.
    if weights.device.type == "cpu" and samples and not bool((weights > 0).all()):
        raise ValueError(f"weights must be above 0, got {float(weights.min())}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
