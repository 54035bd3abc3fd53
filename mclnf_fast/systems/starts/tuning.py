"""Choose a rate, and a bias of the density, for each initialization by trials: equal care for all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.params import LossFn, Params, repeated
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.systems.common.checks import check_at_least, check_rates

T = TypeVar("T")
KEPT_OF = 8  # times as many tasks: of fewer, those kept back would be missing from meta-training


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Fine-tuning of T modules side by side: the loss of a step and how it is descended, as `learn.fine_tune` takes
    them."""

    loss: LossFn
    steps: int
    lr: float | Tensor
    kind: StepKind = "sgd"
    lr_end: float | Tensor | None = None


class Choice(NamedTuple):
    """A rate of the fine-tuning, and what is added to the raw density that an initialization puts out everywhere."""

    lr: float
    density_bias: float = 0.0


class Trials(NamedTuple):
    """How choices are tried.

    Attributes:
        grid: the choices, the same for every initialization; one alone needs no trial.
        tasks: K, how many tasks each is tried on, none of them tested on.
        steps: of fine-tuning in a trial.
        score: (modules [G K, ...], rates [G K]) -> PSNR of each after these steps; module g K + k: choice g, task k.
    """

    grid: tuple[Choice, ...]
    tasks: int
    steps: int
    score: Callable[[Params, Tensor], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class TuneOptions:
    """Trials in which each initialization gets the rate and the density bias that suit it, on tasks kept back."""

    rates: tuple[float, ...] = ()
    """Rates that are tried beside `adapt.lr`; none: that one is taken."""
    density_bias: tuple[float, ...] = ()
    """Biases that are tried beside 0: added to the raw density everywhere. At 0 a random initialization may become
    white all over, where its density is cut off and has no gradient."""
    steps: int = 256
    """Steps of a trial, at most those of the fine-tuning."""
    tasks: int = 2
    """Tasks that the trials are made on: kept back from meta-training if there are at least eight times as many."""

    def check(self) -> None:
        """Raise InputError if an option is out of range."""
        check_at_least(1, **{"tune.steps": self.steps, "tune.tasks": self.tasks})
        if self.rates:
            check_rates("tune.rates", self.rates)
        if len(set(self.density_bias)) < len(self.density_bias) or not all(map(math.isfinite, self.density_bias)):
            listed = ", ".join(map(str, self.density_bias))
            raise InputError(f"tune.density-bias must be different finite numbers, got {listed}")

    def grid(self, lr: float) -> tuple[Choice, ...]:
        """Return all choices, the first of them without any tuning.

        >>> TuneOptions(rates=(2.0,), density_bias=(0.1,)).grid(0.5)[1:]
        (Choice(lr=2.0, density_bias=0.0), Choice(lr=0.5, density_bias=0.1), Choice(lr=2.0, density_bias=0.1))
        """
        rates, biases = dict.fromkeys((lr, *self.rates)), dict.fromkeys((0.0, *self.density_bias))
        return tuple(Choice(rate, bias) for bias in biases for rate in rates)


def kept_back(tasks: Sequence[T], options: TuneOptions) -> tuple[Sequence[T], Sequence[T]]:
    """Return the tasks to meta-train on, and those that rates and biases are tried on: the last ones, or, of few tasks
    or with nothing to choose, the first ones that are learned from too.

    >>> kept_back(range(20), TuneOptions(rates=(2.0,), tasks=2))
    (range(0, 18), range(18, 20))
    >>> kept_back(range(6), TuneOptions(rates=(2.0,), tasks=2))
    (range(0, 6), range(0, 2))
    """
    count = options.tasks
    if len(options.grid(0.0)) == 1 or len(tasks) < KEPT_OF * count:
        return tasks, tasks[:count]
    return tasks[:-count], tasks[-count:]


def best_choice(initialization: Params, trials: Trials, biased: Callable[[Params, float], Params]) -> Choice:
    """Return the choice with which an initialization [1, ...] comes furthest, all side by side as modules of one bank.

    biased: (initialization, density bias) -> the initialization with it.

    >>> two = Trials((Choice(1.0), Choice(2.0)), 1, 8, lambda params, rates: rates.tolist())
    >>> best_choice((torch.zeros(1, 3),), two, lambda params, bias: params)
    Choice(lr=2.0, density_bias=0.0)
    """
    starts = [repeated(biased(initialization, choice.density_bias), trials.tasks) for choice in trials.grid]
    modules = tuple(torch.cat(tensors) for tensors in zip(*starts))
    rates = (
        torch.tensor([choice.lr for choice in trials.grid], dtype=torch.float32)
        .repeat_interleave(trials.tasks)
        .to(modules[0].device)
    )
    scores = torch.tensor(list(trials.score(modules, rates)), dtype=torch.float64).reshape(len(trials.grid), -1)
    # A rate that diverged gives NaN: it must lose, and not win every comparison.
    return trials.grid[int(scores.nan_to_num(-torch.inf).mean(1).argmax())]
