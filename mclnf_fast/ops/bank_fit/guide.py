"""What the draw rule "guided" takes: its options, and the state that its next draws depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mclnf_fast.checks import check_number, check_positive_int, check_tensor, check_tensors, values_can_be_read

if TYPE_CHECKING:
    from mclnf_fast.ops.bank_fit.types import FitData


@dataclasses.dataclass(frozen=True)
class Guide:
    """Options of Fisher-guided draws: even draws along a curve through the samples, more of them where scores are high.

        p_i = mix sqrt(q_i) / sum_j sqrt(q_j) + (1 - mix) / n
        draw j of a step is the sample at which the running sum of p along the curve passes (j + r) / batch

    r lies in [0, 1) and is, within a window of 16 steps, once in each sixteenth of it (see `ops.draw_ids`). The loss of
    a sample counts 1 / (n p), so that a step's gradient is unbiased whatever q. A window's draws follow the scores as
    they are at its first step, 0, 16, ... of a task.

    Every `refresh` steps (0, refresh, ... of a task) a step also scores its own samples, q_s = sum g_s^2 / (F + eps)
    over the parameters of the layers that are trained (MCL-NF, arXiv 2504.05806): g_s is the gradient of the sample's
    own loss, F the running mean of the batches' diagonal Fisher before this step, eps relative to the mean of F. A
    module's first batch begins F and is not scored.

    Args:
        curve: the samples of each module in an order in which neighbors are alike, int64 [N] (without offsets [n], the
            same for all modules); None: their own order.
        mix: share of the Fisher-guided part, in [0, 1); 0: even draws, without scores.
        smooth: weight of a new score in a block's running mean, in (0, 1].
        block: neighbors on the curve that share a score.
        refresh: steps from one scoring to the next.
        decay: of the running Fisher, in [0, 1).
        damping: relative to its mean, above 0.

    >>> Guide(mix=0.5).refresh
    16
    """

    curve: Tensor | None = None
    mix: float = 0.8
    smooth: float = 0.1
    block: int = 16
    refresh: int = 16
    decay: float = 0.9
    damping: float = 1e-3

    @property
    def follows_scores(self) -> bool:
        """Whether scores decide the draws."""
        return self.mix > 0

    def to(self, device: torch.device | str) -> Guide:
        """Return the same options with the curve on a device.

        >>> Guide(torch.arange(3)).to("cpu").curve.tolist()
        [0, 1, 2]
        """
        return self if self.curve is None else dataclasses.replace(self, curve=self.curve.to(device))


@dataclasses.dataclass
class GuideState:
    """What the next draws and scores depend on; changed in place.

    Attributes:
        scores: float64 [M, blocks], of the blocks; below 0: none yet, and behind a module's last block.
        window: float64 [M, blocks], the scores that the draws of the current window of 16 steps follow.
        fisher: the running Fisher, like the parameters.
        batches: int64 [M], how many batches have been taken into it.
    """

    scores: Tensor
    window: Tensor
    fisher: tuple[Tensor, ...]
    batches: Tensor

    @classmethod
    def begin(cls, params: Sequence[Tensor], data: FitData, guide: Guide) -> GuideState:
        """Return the state of modules that have scored nothing.

        >>> from mclnf_fast.ops.bank_fit import FitData
        >>> data = FitData(torch.rand(40, 1), torch.rand(3, 40, 1))
        >>> GuideState.begin([torch.zeros(3, 1, 1), torch.zeros(3, 1)], data, Guide()).scores.shape
        torch.Size([3, 3])
        """
        modules, device = len(params[0]), params[0].device
        # On CUDA, sizes are read from the device only if modules have samples of their own.
        sizes = torch.tensor([len(data.x)]) if data.offsets is None else data.sizes
        scores = torch.full((modules, blocks_of(sizes, guide.block)), -1.0, dtype=torch.float64, device=device)
        fisher = tuple(torch.zeros_like(p, memory_format=torch.contiguous_format) for p in params)
        return cls(scores, scores.clone(), fisher, torch.zeros(modules, dtype=torch.int64, device=device))

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors, to be saved.

        >>> empty = torch.zeros(0, 0)
        >>> list(GuideState(empty, empty, (empty,), empty).tensors())
        ['scores', 'window', 'batches', 'fisher.0']
        """
        named = {"scores": self.scores, "window": self.window, "batches": self.batches}
        return named | {f"fisher.{i}": t for i, t in enumerate(self.fisher)}


def blocks_of(sizes: Tensor, block: int) -> int:
    """Return how many blocks the module with the most samples has.

    >>> blocks_of(torch.tensor([16, 17]), 16)
    2
    """
    return -(-int(sizes.max()) // block) if len(sizes) else 0


def check_guide(guide: Guide, data: FitData, sizes: Tensor) -> None:
    """Check the options. Raises TypeError, ValueError, naming the argument; sizes: of the modules, int64 [M]."""
    if not isinstance(guide, Guide):
        raise TypeError(f"draws.guide must be a Guide or None, got {type(guide).__name__}")
    for name in ("mix", "decay"):
        if not check_number(f"draws.guide.{name}", getattr(guide, name), 0.0) < 1:
            raise ValueError(f"draws.guide.{name} must be at least 0 and below 1, got {getattr(guide, name)}")
    if not 0 < check_number("draws.guide.smooth", guide.smooth, 0.0) <= 1:
        raise ValueError(f"draws.guide.smooth must be above 0 and at most 1, got {guide.smooth}")
    if not check_number("draws.guide.damping", guide.damping, 0.0) > 0:
        raise ValueError(f"draws.guide.damping must be above 0, got {guide.damping}")
    for name in ("block", "refresh"):
        check_positive_int(getattr(guide, name), f"draws.guide.{name}")
    if guide.curve is None:
        return
    count, device = data.x.shape[0], data.x.device
    check_tensor("draws.guide.curve", guide.curve, (count,), torch.int64, device, "a place per sample")
    if not values_can_be_read(guide.curve, sizes) or not count:
        return
    begins, most = torch.zeros_like(guide.curve), torch.full_like(guide.curve, count)
    if data.offsets is not None:
        begins, most = (t.repeat_interleave(sizes) for t in (data.offsets[:-1], sizes))
    inside = bool(((guide.curve >= 0) & (guide.curve < most)).all())
    if not inside or not bool((torch.bincount(guide.curve + begins, minlength=count) == 1).all()):
        raise ValueError("draws.guide.curve must hold every sample of a module once, got one that does not")


def check_guide_state(state: GuideState | None, guide: Guide | None, params: Sequence[Tensor], sizes: Tensor) -> None:
    """Check the state of the rule; guide: None for another rule. Raises TypeError, ValueError, naming the argument."""
    if guide is None or not guide.follows_scores:
        if state is not None:
            raise ValueError("state.guide must be None unless draws.rule is 'guided' with draws.guide.mix above 0")
        return
    if not isinstance(state, GuideState):
        raise TypeError(f"state.guide must be a GuideState for the rule 'guided', got {type(state).__name__}")
    modules, device = len(params[0]), params[0].device
    fisher = check_tensors("state.guide.fisher", state.fisher)
    if len(fisher) != len(params):
        raise ValueError(f"state.guide.fisher must hold {len(params)} tensors like state.params, got {len(fisher)}")
    for i, (f, p) in enumerate(zip(fisher, params)):
        name = f"state.guide.fisher[{i}]"
        check_tensor(name, f, tuple(p.shape), p.dtype, device, f"like state.params[{i}]")
    readable = values_can_be_read(sizes)
    blocks = blocks_of(sizes, guide.block) if readable else None
    for name in ("scores", "window"):
        check_tensor(
            f"state.guide.{name}", getattr(state, name), (modules, blocks), torch.float64, device, "[M, blocks]"
        )
    check_tensor("state.guide.batches", state.batches, (modules,), torch.int64, device, "[M]")
    changed = {"scores": [state.scores], "window": [state.window], "batches": [state.batches], "fisher": fisher}
    for name, tensors in changed.items():
        if any(size > 1 and stride == 0 for t in tensors for size, stride in zip(t.shape, t.stride())):
            raise ValueError(f"state.guide.{name} must not be expanded: it is changed in place")
        for t in tensors if readable else ():
            if t.numel() and not bool(torch.isfinite(t).all()):
                raise ValueError(f"state.guide.{name} must be finite, got a number that is not")
            if name in ("batches", "fisher") and t.numel() and bool((t < 0).any()):
                raise ValueError(f"state.guide.{name} must not be negative, got {t.min().item()}")
