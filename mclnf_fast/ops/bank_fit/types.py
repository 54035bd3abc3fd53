"""What a fit takes and returns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mclnf_fast.ops._constants import uploaded
from mclnf_fast.ops.bank_fit.guide import Guide, GuideState
from mclnf_fast.ops.bank_fit.schedule import Schedule
from mclnf_fast.ops.bank_step import StepKind, Trust
from mclnf_fast.packing import FitEnd
from mclnf_fast.shading import Shading

DrawName = Literal["uniform", "even", "whole", "given", "guided"]
PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]


class FitData(NamedTuple):
    """The samples of every module, resident for the whole fit.

    Attributes:
        x: coordinates [N, in_dim], grouped by module; without offsets [n, in_dim], the same for all modules.
        target: [N, out_dim]; without offsets [M, n, out_dim].
        offsets: int64 [M + 1], or None.
        weight: of the samples' squared errors, [N]; without offsets [M, n]; None: ones.
    """

    x: Tensor
    target: Tensor
    offsets: Tensor | None = None
    weight: Tensor | None = None

    @property
    def sizes(self) -> Tensor:
        """Number of samples of each module, int64 [M]."""
        if self.offsets is not None:
            return self.offsets.diff()
        return torch.full((len(self.target),), len(self.x), dtype=torch.int64, device=self.x.device)

    def module(self, m: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return x [n, in_dim], target [n, out_dim] and weight [n] of a module.

        >>> FitData(torch.zeros(4, 2), torch.zeros(3, 4, 1)).module(1)[1].shape
        torch.Size([4, 1])
        """
        x, target, offsets, weight = self
        if offsets is None:
            return x, target[m], None if weight is None else weight[m]
        rows = slice(int(offsets[m]), int(offsets[m + 1]))
        return x[rows], target[rows], None if weight is None else weight[rows]


class FitRays(NamedTuple):
    """Rays of every module as its samples, resident for the whole fit.

    The loss of a sample is that of `ops.bank_ray_mse`: the squared error of the pixel that the ray's points are
    composited to. In each step a ray is cut into intervals between its entry and exit of the box [-1, 1]^3, whose
    borders are jittered by the number of the step and the ray's place in the batch, with a point in the middle of each
    (`ops.march_rays`).

    Attributes:
        origins, directions: [R, 3] in the box's coordinates, grouped by module.
        colors: [R, 3] in 0 ... 1.
        offsets: int64 [M + 1]; module m has the rays offsets[m] ... offsets[m+1]-1.
        shading: the meaning of the 4 outputs, and what stands behind the points (black if a ray has none and its
            last one would).
        samples_per_ray: intervals of a ray.
        near, far: where rays begin and end, in lengths of their directions.
        jitter: whether the borders are jittered.
        view: [R, in_dim - 3], what the field takes behind a place; None if it takes places alone.
        weight: of the rays' squared errors, [R]; None: ones.
    """

    origins: Tensor
    directions: Tensor
    colors: Tensor
    offsets: Tensor
    shading: Shading
    samples_per_ray: int = 48
    near: float = 0.0
    far: float = math.inf
    jitter: bool = True
    view: Tensor | None = None
    weight: Tensor | None = None

    @property
    def x(self) -> Tensor:
        """The origins, whose dtype and device are those of a fit."""
        return self.origins

    @property
    def sizes(self) -> Tensor:
        """Number of rays of each module, int64 [M]."""
        return self.offsets.diff()

    def drawn(self, m: int, ids: Tensor | None, weights: Tensor | None) -> FitRays:
        """Return the rays `ids` of a module (None: all of them) as the rays of one module, weighted by `weights`."""
        rows = torch.arange(int(self.offsets[m]), int(self.offsets[m + 1]), device=self.origins.device)
        rows = rows if ids is None else rows[ids]
        weight = None if self.weight is None else self.weight[rows]
        if weights is not None:
            weight = weights if weight is None else weight * weights
        return self._replace(
            origins=self.origins[rows],
            directions=self.directions[rows],
            colors=self.colors[rows],
            offsets=torch.tensor([0, len(rows)], device=rows.device),
            view=None if self.view is None else self.view[rows],
            weight=weight,
        )


@dataclasses.dataclass
class FitState:
    """All that a module's next step depends on beside the data: with it a fit goes on to the same bits.

    Attributes:
        params: weights of all layers [M, in, out], then biases [M, out].
        exp_avg, exp_avg_sq: Adam's moments, like params; empty for SGD.
        steps: int64 [M], the steps that each module has made of its task.
        guide: of the draw rule "guided" that follows scores; None with every other rule.
    """

    params: tuple[Tensor, ...]
    exp_avg: tuple[Tensor, ...]
    exp_avg_sq: tuple[Tensor, ...]
    steps: Tensor
    guide: GuideState | None = None
    _bound: tuple[Tensor, int, int] | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    @property
    def most_steps(self) -> int | None:
        """Return a number of steps that no module has passed, known without waiting for the device; None if it isn't.

        >>> FitState.begin([torch.zeros(3, 1)]).most_steps
        0
        """
        if self._bound is None:
            return None
        steps, version, most = self._bound
        return most if steps is self.steps and version == steps._version else None

    def know(self, most: int | None) -> None:
        """Remember a number of steps that no module has passed now, until `steps` is changed otherwise.

        >>> state = FitState.begin([torch.zeros(3, 1)])
        >>> state.know(None)
        >>> state.most_steps is None
        True
        """
        self._bound = None if most is None else (self.steps, self.steps._version, most)

    @classmethod
    def begin(cls, params: Sequence[Tensor], kind: StepKind = "adam", guide: GuideState | None = None) -> FitState:
        """Return the state of parameters that have made no step; they are changed in place.

        >>> FitState.begin([torch.zeros(3, 2, 1), torch.zeros(3, 1)]).steps
        tensor([0, 0, 0])
        """
        params = tuple(p.detach() for p in params)
        zeros = [[torch.zeros_like(p, memory_format=torch.contiguous_format) for p in params] for _ in range(2)]
        m, v = zeros if kind == "adam" else ([], [])
        steps = torch.zeros(len(params[0]), dtype=torch.int64, device=params[0].device)
        state = cls(params, tuple(m), tuple(v), steps, guide)
        state.know(0)
        return state

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors, to be saved.

        >>> list(FitState.begin([torch.zeros(3, 1)], "sgd").tensors())
        ['steps', 'params.0']
        """
        lists = {"params": self.params, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        own = {"steps": self.steps} | {f"{name}.{i}": t for name, ts in lists.items() for i, t in enumerate(ts)}
        guide = {} if self.guide is None else self.guide.tensors()
        return own | {f"guide.{name}": t for name, t in guide.items()}


@dataclasses.dataclass(frozen=True)
class Draws:
    """Which samples a step takes.

    Args:
        rule: "uniform" or "even" (see `ops.draw_ids`), "whole": every sample in every step, "given", or (of points)
            "guided": evenly along a curve, and more where scores are high (see `Guide`).
        batch: samples per module and step; not of "whole" and "given".
        seed, task: of the random numbers.
        modules: int64 [M], the numbers that the draws are keyed by; None: 0 ... M - 1.
        ids: int64 [K, M, batch] of "given": the samples of the call's steps.
        weights: [K, M, batch] of "given": what each of these draws counts, times the sample's own weight; None: ones.
        guide: of "guided"; None: its defaults.

    >>> Draws("even", batch=64).batch
    64
    """

    rule: DrawName = "uniform"
    batch: int = 256
    seed: int = 0
    task: int = 0
    modules: Tensor | None = None
    ids: Tensor | None = None
    weights: Tensor | None = None
    guide: Guide | None = None

    def to(self, device: torch.device | str) -> Draws:
        """Return the same draws with their tensors on a device.

        >>> Draws("given", ids=torch.zeros(1, 1, 1, dtype=torch.int64)).to("cpu").ids.shape
        torch.Size([1, 1, 1])
        """
        modules, ids, weights = (
            None if t is None else uploaded(t, device) for t in (self.modules, self.ids, self.weights)
        )
        guide = None if self.guide is None else self.guide.to(device)
        return dataclasses.replace(self, modules=modules, ids=ids, weights=weights, guide=guide)


@dataclasses.dataclass(frozen=True)
class FitRule:
    """How a step changes the parameters.

    Args:
        schedule: rates of the steps.
        kind: "adam" or "sgd".
        betas, eps: Adam's.
        trust: (lam, fisher, anchor) as `ops.bank_step` takes it, fisher and anchor like `FitState.params`; or None.
        frozen_layers: the first layers, so many of them, stay as they are; the last is always trained.
        precision: format to which the operands of all products but the first layer's are rounded: weights, activations
            and the gradients of pre-activations. "fp32": none. Sums, parameters, moments, losses and all that works on
            coordinates are in the dtype of the data; a gradient above 65504 times the mean's share overflows fp16.

    >>> FitRule(Schedule(1e-2)).kind
    'adam'
    """

    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    kind: StepKind = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    trust: Trust | tuple[float, Sequence[Tensor], Sequence[Tensor]] | None = None
    frozen_layers: int = 0
    precision: PrecisionName = "fp32"


@dataclasses.dataclass(frozen=True)
class Watch:
    """What is written down on the way, and when a module stops by itself.

    Args:
        losses_at: numbers of steps, ascending: the mini-batch loss of the step that completes each is returned.
        params_at: numbers of steps, ascending, after which the parameters are copied.
        stop_loss: a module stops when its loss over all its samples is at most this, one for all or float64 [M]; None:
            none stops.
        check_every: steps between two looks at that loss, counted from the task's first step.

    >>> Watch(losses_at=[1, 10]).check_every
    100
    """

    losses_at: Sequence[int] = ()
    params_at: Sequence[int] = ()
    stop_loss: float | Tensor | None = None
    check_every: int = 100


class FitLog(NamedTuple):
    """What a fit returns beside the state, which it changes.

    Attributes:
        losses: [losses_at, M], NaN where a module did not make that step in this call.
        params: a tuple of tensors like the parameters for each number of `params_at`, NaN where a module did not come
            there in this call.
        ends: int64 [M], a `FitEnd` each: STEPS (all steps made), TARGET, DIVERGED (its next step has a loss or a
            gradient that is not finite, or leaves parameters that are not; the state is the one before it), FROZEN (no
            step was asked for).
        checked: float64 [M], the loss over all samples at the last look at it; NaN without a look.
    """

    losses: Tensor
    params: list[tuple[Tensor, ...]]
    ends: Tensor
    checked: Tensor

    def modules(self, end: FitEnd) -> list[int]:
        """Return the modules with this end.

        >>> log = FitLog(torch.zeros(0, 2), [], torch.tensor([0, 2]), torch.zeros(2))
        >>> log.modules(FitEnd.DIVERGED)
        [1]
        """
        return [m for m, value in enumerate(self.ends.tolist()) if value == end]
