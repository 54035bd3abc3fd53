"""Meta-training of a shared initialisation over many signals at once: a meta-batch is one bank."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.scores import FimConfig, FisherScorer
from mclnf_fast.learn.meta.gradncp import GradNCP, PrunedContext
from mclnf_fast.learn.meta.meta import MAML
from mclnf_fast.learn.meta.oml import fast_mask
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.informed import informed_batch
from mclnf_fast.learn.task import Batch, ScoredTask
from mclnf_fast.metrics import mse_to_psnr

Kind = Literal["modules", "joint", "oml"]
Use = Literal["none", "sample", "weight", "both"]
Context = Literal["batch", "gradncp"]
Losses = Callable[[Params, int], Tensor]


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """Meta-training of the shared starts (MAML)."""

    steps: int = 400
    """Outer steps."""
    signals: int = 8
    """Signals of a meta-batch; with T tasks, a bank of as many times T modules."""
    batch: int = 256
    """Samples a task, signal and inner step; the outer loss takes as many again."""
    inner_steps: int = 4
    """Inner SGD steps (a task, in OML)."""
    inner_lr: float = 3e-2
    """Rate of the inner SGD."""
    outer_lr: float = 2e-3
    """Rate of the outer Adam; it falls to 0 along a cosine."""
    first_order: bool = False
    """Leave the second derivatives out."""
    grad_clip: float = 1.0
    """Largest norm of the outer gradient."""
    center: bool = False
    """Begin where a network puts out the training signals' mean, and not a random start's: what a plain SIREN would
    need hundreds of outer steps to come to, where the outer rate must be low."""
    validate_every: int = 50
    """Outer steps between two points of the validation curve; 0: none."""
    context: Context = "batch"
    """What an inner step learns from: batch, fresh uniform samples; gradncp, those samples of one larger context, the
    same in all inner steps, whose gradient in the last layer is longest (Tack et al., arXiv 2302.00617). The outer loss
    is then over the whole context, and validation adapts on it with gradients rescaled to the pruned ones' length."""
    keep: float = 0.25
    """Share of the context that gradncp keeps; as many as a batch, so that the context is a batch over this."""
    bootstrap: float = 0.0
    """Weight of gradncp's bootstrapped target, 5 further steps on the whole context; the authors take 100 for images
    (at an outer rate of 1e-5), 0: none."""

    def check(self) -> None:
        """Raises InputError where a number is out of range."""
        for name, least in (("steps", 0), ("signals", 1), ("batch", 1), ("inner_steps", 1), ("validate_every", 0)):
            if getattr(self, name) < least:
                raise InputError(f"meta.{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("inner_lr", "outer_lr", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"meta.{name} must be above 0 and finite, got {getattr(self, name)}")
        if self.context not in get_args(Context):
            raise InputError(f"meta.context must be one of {', '.join(get_args(Context))}, got {self.context!r}")
        if not 0 < self.keep <= 1:
            raise InputError(f"meta.keep must be above 0 and at most 1, got {self.keep}")
        if not 0 <= self.bootstrap < math.inf:
            raise InputError(f"meta.bootstrap must be at least 0 and finite, got {self.bootstrap}")


class StartLearner:
    """Learns one shared initialisation by MAML, exact or of first order.

    `modules`: every task of every signal is a module of its own; `joint`: a signal with all its tasks is one;
    `oml`: a signal is one, its inner loop runs through the tasks in their order on the fast layers alone, with
    gradients clamped to [-10, 10], and the outer loss is over all tasks (Javed & White, arXiv 1905.12588).

    Args:
        kind: as above.
        init: to start from, tensors [1, ...].
        tasks: T tasks of all training signals (for `modules` in local, else in global coordinates).
        validation: the same of the validation signals, or None.
        config: see `MetaConfig`.
        seed: of the meta-batches; outer step i depends on the seed and i alone.
        fast_layers: of OML.
        fim: how Fisher scores are formed. fim_inner, fim_outer: whether the inner loop, and the outer loss, use them:
            `weight` on the loss, `sample` to draw each batch out of four times as many candidates, or `both`. Weights
            and draws are not differentiated.
    """

    def __init__(
        self,
        kind: Kind,
        init: Params,
        tasks: Sequence[ScoredTask],
        validation: Sequence[ScoredTask] | None,
        config: MetaConfig,
        seed: int,
        fast_layers: int = 2,
        fim: FimConfig | None = None,
        fim_inner: Use = "none",
        fim_outer: Use = "none",
    ) -> None:
        self.kind, self.tasks, self.validation, self.config, self.seed = kind, tasks, validation, config, seed
        oml = kind == "oml"
        if config.context == "gradncp" and (fim_inner, fim_outer) != ("none", "none"):
            raise InputError("meta.context gradncp chooses its samples itself: fim_inner and fim_outer must be none")
        self.learner = MAML(
            init,
            config.inner_lr,
            config.inner_steps * (len(tasks) if oml else 1),
            first_order=config.first_order,
            outer_lr=config.outer_lr,
            anneal_steps=max(1, config.steps),
            grad_clip=config.grad_clip,
            update=fast_mask(init, fast_layers) if oml else None,
            clip_value=10.0 if oml else None,
        )
        self.gradncp = GradNCP(self.learner, bootstrap_lr=config.inner_lr, bootstrap_weight=config.bootstrap)
        self.fim, self.fim_inner, self.fim_outer = fim or FimConfig(), fim_inner, fim_outer
        self.curve: list[list[float | None]] = []
        self.seconds = 0.0

    @property
    def done(self) -> bool:
        """Whether all outer steps have been made."""
        return self.outer_steps >= self.config.steps

    @property
    def outer_steps(self) -> int:
        """Outer steps done."""
        return self.learner.outer_steps

    @property
    def params(self) -> Params:
        """The initialisation [1, ...]."""
        return tuple(p.detach().clone() for p in self.learner.init)

    def step(self) -> None:
        """One outer step."""
        began = time.perf_counter()
        config, outer = self.config, self.outer_steps
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + outer) % (1 << 63))
        total = self.tasks[0].modules
        chosen = torch.randperm(total, generator=generator)[: min(total, config.signals)]
        support, query, modules = self._losses(self.tasks, chosen, generator)
        result = self.learner.step(support, query, modules)
        self.seconds += time.perf_counter() - began
        every = config.validate_every
        last = self.outer_steps == config.steps
        validated = self.validate() if every and (self.outer_steps % every == 0 or last) else None
        trained = float(mse_to_psnr(result["query_loss"]).mean())
        self.curve.append([self.outer_steps, trained, validated])

    def validate(self) -> float | None:
        """Mean PSNR in dB of adapted modules on validation signals, on samples of the same draw every time; whatever
        the outer loss weights."""
        if self.validation is None:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.arange(self.validation[0].modules)
        support, query, modules = self._losses(self.validation, chosen, generator, testing=True)
        adapted = self.learner.adapt(self.learner.clone(modules), support, create_graph=False)
        with torch.no_grad():
            return float(mse_to_psnr(query(adapted, 0)).mean())

    def _losses(
        self, tasks: Sequence[ScoredTask], chosen: Tensor, generator: torch.Generator, testing: bool = False
    ) -> tuple[Losses, Losses, int]:
        """Support and query loss on the chosen signals, and the number of modules."""
        if self.config.context == "gradncp":
            return self._pruned(tasks, chosen, generator, testing)
        spec, backend = tasks[0].spec, tasks[0].backend
        modules = len(chosen) * (len(tasks) if self.kind == "modules" else 1)
        each = tasks if self.kind == "oml" else None

        def draw(count: int, step: int | None) -> Batch:
            if each is not None and step is not None:
                return each[step // self.config.inner_steps].draw(count, generator, chosen)
            parts = [task.draw(count, generator, chosen) for task in tasks]
            axis = 0 if self.kind == "modules" else 1
            return tuple(torch.cat(tensors, axis) for tensors in zip(*parts))

        def loss(params: Params, step: int | None, use: Use, scorer: FisherScorer) -> Tensor:
            batch, weights = informed_batch(
                lambda count: draw(count, step), self.config.batch, params, tasks[0], use, scorer, generator
            )
            return tasks[0].loss(params, batch, weights)

        outer_use = "none" if testing else self.fim_outer
        inner, outer = (FisherScorer(spec, modules, self.fim, backend) for _ in range(2))
        return (
            lambda params, step: loss(params, step, self.fim_inner, inner),
            lambda params, step: loss(params, None, outer_use, outer),
            modules,
        )

    def _pruned(
        self, tasks: Sequence[ScoredTask], chosen: Tensor, generator: torch.Generator, testing: bool
    ) -> tuple[Losses, Losses, int]:
        """As `_losses`, on a context that is pruned at every inner step, or whole and rescaled when testing."""
        count = math.ceil(self.config.batch / self.config.keep)
        parts = [task.draw(count, generator, chosen) for task in tasks]
        axis = 0 if self.kind == "modules" else 1
        joint = self._context(tasks[0], tuple(torch.cat(tensors, axis) for tensors in zip(*parts)))
        each = [self._context(tasks[0], part) for part in parts] if self.kind == "oml" else None

        def support(params: Params, step: int) -> Tensor:
            context = joint if each is None else each[step // self.config.inner_steps]
            return context.rescaled(params) if testing else context.pruned(params)

        return support, joint.whole if testing else self.gradncp.query_loss(joint), joint.modules

    def _context(self, task: ScoredTask, batch: Batch) -> PrunedContext:
        x, y = batch
        offsets = torch.arange(len(x) + 1, device=x.device) * x.shape[1]
        return PrunedContext(x.flatten(0, 1), offsets, y.flatten(0, 1), task.spec, self.config.keep, task.backend)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain data: enough for an exact resume."""
        return self.learner.state_dict(), {"curve": self.curve, "seconds": self.seconds}

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned. Raises KeyError, ValueError where it does not fit."""
        self.learner.load_state_dict(tensors)
        self.curve, self.seconds = list(meta["curve"]), float(meta["seconds"])
