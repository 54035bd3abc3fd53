"""The learning rate of every step in closed form."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import torch
from torch import Tensor

from mclnf_fast.checks import check_number
from mclnf_fast.ops._constants import held, uploaded

Decay = Literal["constant", "hold", "exponential", "cosine"]
DECAYS: tuple[Decay, ...] = ("constant", "hold", "exponential", "cosine")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Rates of the steps 0, 1, ... of a task: first SGD, then the optimizer's own rate, which rises and falls.

        step k < sgd_steps:   plain SGD with sgd_lr, the first steps from a meta-learned initialization
        j = k - sgd_steps:    lr * min(1, (j + 1) / ramp) * fall(j)
        constant:             fall = 1
        hold:                 fall = (hold / max(hold, j + 1))^power, which depends on no last step
        exponential:          fall = (lr_end / lr)^(share),            share = min(1, j / (last step's j))
        cosine:               fall = e + (1 - e) (1 + cos(pi share)) / 2,    e = lr_end / lr

    Args:
        lr: the optimizer's rate before it falls.
        decay: "constant", "hold", "exponential" or "cosine".
        sgd_steps, sgd_lr: of the first steps; 0 steps: none.
        ramp: steps over which the rate rises; 1: none.
        hold, power: of "hold".
        lr_end, steps: rate at the last of so many steps, SGD included, of "exponential" and "cosine".

    Raises: TypeError, ValueError, naming the argument.

    >>> Schedule(0.1, "hold", hold=2, power=1.0).rates(4).tolist()
    [0.1, 0.1, 0.06666666666666667, 0.05]
    """

    lr: float = 1e-3
    decay: Decay = "constant"
    sgd_steps: int = 0
    sgd_lr: float = 3e-2
    ramp: int = 1
    hold: int = 64
    power: float = 0.5
    lr_end: float = 1e-4
    steps: int = 1024

    def __post_init__(self) -> None:
        for name, least in (("sgd_steps", 0), ("ramp", 1), ("hold", 1), ("steps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in ("lr", "sgd_lr", "lr_end", "power"):
            check_number(name, getattr(self, name), 0.0)
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(DECAYS)}, got {self.decay!r}")
        if self.decay == "exponential" and not (self.lr > 0 and self.lr_end > 0):
            raise ValueError(f"lr and lr_end must be above 0 for an exponential, got {self.lr} and {self.lr_end}")

    def rate(self, step: int) -> float:
        """Return the rate of step `step`, from 0.

        >>> Schedule(1.0, sgd_steps=1, sgd_lr=5.0).rate(0)
        5.0
        """
        if step < self.sgd_steps:
            return self.sgd_lr
        j = step - self.sgd_steps
        rise = min(1.0, (j + 1) / self.ramp)
        if self.decay == "constant":
            return rise * self.lr
        if self.decay == "hold":
            return self.lr * rise * math.pow(self.hold / max(self.hold, j + 1), self.power)
        # Less one, so that the last step has `lr_end` itself.
        share = min(1.0, j / max(1, self.steps - self.sgd_steps - 1))
        if self.decay == "exponential":
            return rise * self.lr * math.pow(self.lr_end / self.lr, share)
        return rise * (self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * share)) / 2)

    def rates(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the rates of the steps 0 ... count - 1, float64 [count]."""
        # To a power of two, so that a fit in many calls asks for few lengths.
        return held(_rates(self, 1 << max(0, count - 1).bit_length(), torch.device(device)))[:count]


# On their device, since a copy to it would wait for what runs there.
@functools.lru_cache(maxsize=32)
def _rates(schedule: Schedule, count: int, device: torch.device) -> Tensor:
    return uploaded(torch.tensor([schedule.rate(step) for step in range(count)], dtype=torch.float64), device)
