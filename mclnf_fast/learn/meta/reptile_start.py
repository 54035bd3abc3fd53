"""A shared start learned over many tasks, several of them side by side as one bank: Reptile, or MAML."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.meta import MAML, Reptile
from mclnf_fast.learn.params import LossFn, Params

Algorithm = Literal["reptile", "maml"]
DrawLoss = Callable[[Tensor, torch.Generator], LossFn]
"""(tasks int64 [T], generator of their samples) -> the loss of T modules, module m on tasks[m]."""


@dataclasses.dataclass(frozen=True)
class ReptileConfig:
    """Meta-training of a shared start."""

    steps: int = 100_000
    """Outer steps."""
    objects: int = 1
    """Objects of an outer step, side by side as one bank; the outer gradient is the mean over them."""
    inner_steps: int = 32
    """Inner SGD steps."""
    inner_lr: float = 0.5
    """Rate of the inner SGD."""
    outer_lr: float = 5e-5
    """Rate of the outer Adam; it falls to 0 along a cosine."""
    algorithm: Algorithm = "reptile"
    """Outer gradient: reptile, start minus adapted; maml, the loss's at the adapted."""
    first_order: bool = True
    """Of maml: leave the derivative of the inner steps out."""

    def check(self) -> None:
        """Raises InputError where a number is out of range."""
        for name, least in (("steps", 1), ("objects", 1), ("inner_steps", 1)):
            if getattr(self, name) < least:
                raise InputError(f"meta.{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("inner_lr", "outer_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"meta.{name} must be above 0 and finite, got {getattr(self, name)}")
        if self.algorithm not in get_args(Algorithm):
            raise InputError(f"meta.algorithm must be one of {', '.join(get_args(Algorithm))}, got {self.algorithm!r}")


class ReptileStart:
    """Learns one shared start over `tasks` tasks (arXiv 2012.02189, sec. 3; Reptile: arXiv 1803.02999).

    Outer step i depends on the seed and i alone: it draws its T tasks without replacement (with, where there are fewer
    than T), and their samples, from a generator of its own.

    Args:
        init: to start from, tensors [1, ...].
        tasks: how many there are.
        draw_loss: see `DrawLoss`.
        config: see `ReptileConfig`.
        seed: of the meta-batches.
    """

    def __init__(self, init: Params, tasks: int, draw_loss: DrawLoss, config: ReptileConfig, seed: int) -> None:
        if tasks < 1:
            raise InputError(f"tasks must be at least 1, got {tasks}")
        self.tasks, self.draw_loss, self.config, self.seed = tasks, draw_loss, config, seed
        kind = Reptile if config.algorithm == "reptile" else functools.partial(MAML, first_order=config.first_order)
        self.learner: Reptile | MAML = kind(
            init, config.inner_lr, config.inner_steps, outer_lr=config.outer_lr, anneal_steps=config.steps
        )
        self.curve: list[list[float]] = []  # outer step, mean loss of its objects at the last inner step
        self.seconds = 0.0

    @property
    def done(self) -> bool:
        """Whether all outer steps are made."""
        return self.outer_steps >= self.config.steps

    @property
    def outer_steps(self) -> int:
        """Outer steps done."""
        return self.learner.outer_steps

    @property
    def params(self) -> Params:
        """The start as it is now, [1, ...], detached."""
        return tuple(p.detach().clone() for p in self.learner.init)

    def step(self) -> None:
        """One outer step; its loss joins the curve about 200 times in all."""
        began = time.perf_counter()
        index, count = self.outer_steps, self.config.objects
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + index) % (1 << 63))
        if count <= self.tasks:
            chosen = torch.randperm(self.tasks, generator=generator)[:count]
        else:
            chosen = torch.randint(self.tasks, (count,), generator=generator)
        found = self.learner.step(self.draw_loss(chosen, generator), modules=count)
        if index % max(1, self.config.steps // 200) == 0 or self.done:
            self.curve.append([index + 1, float(found["loss"])])
        self.seconds += time.perf_counter() - began

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed run needs to come to the same bits, as tensors and plain data."""
        return self.learner.state_dict(), {"curve": [list(p) for p in self.curve], "seconds": self.seconds}

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned. Raises KeyError, ValueError where it does not fit."""
        self.learner.load_state_dict(tensors)
        self.curve, self.seconds = [list(p) for p in meta["curve"]], float(meta["seconds"])
