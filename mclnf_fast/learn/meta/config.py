"""Hold the options of meta-training: one set for every system, each with its own defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from mclnf_fast.errors import InputError
from mclnf_fast.ops.bank_step import StepKind

Algorithm = Literal["maml", "reptile"]
Context = Literal["batch", "gradncp"]
Use = Literal["none", "sample", "weight", "both"]


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """Meta-learning of an initialization, by MAML or Reptile."""

    steps: int = 400
    """Outer steps."""
    tasks: int | None = 8
    """Training tasks (signals, objects, pictures, blocks) of an outer step, side by side as one bank; the outer
    gradient is the mean over them. None: all."""
    batch: int = 256
    """Samples (pixels, rays) per task and inner step; MAML's outer loss takes as many again."""
    inner_steps: int = 4
    """Inner steps (per task of the sequence, in OML)."""
    inner: StepKind = "sgd"
    """Inner optimizer; MAML differentiates through SGD alone."""
    inner_lr: float = 3e-2
    """Rate of the inner optimizer."""
    outer_lr: float = 2e-3
    """Rate of the outer Adam; it falls to 0 along a cosine."""
    algorithm: Algorithm = "maml"
    """Outer gradient: maml, that of the loss after the inner steps; reptile, initialization minus adapted."""
    first_order: bool = False
    """Of maml: leave the derivative of the inner steps out. Faster and smaller, and less exact."""
    oml_first_order: bool = False
    """The same for OML alone, whose inner loop is longer by the number of tasks in its sequence."""
    grad_clip: float | None = 1.0
    """Largest norm of the outer gradient; None: no limit."""
    center: bool = False
    """Begin where a network puts out the training signals' mean, and not a random initialization's: a plain SIREN would
    need hundreds of outer steps to get there, if the outer rate must be low."""
    validate_every: int = 50
    """Outer steps between two points of the validation curve; 0: none."""
    context: Context = "batch"
    """What an inner step learns from: batch, fresh uniform samples; gradncp, those samples of one larger context, the
    same in all inner steps, whose gradient in the last layer is longest (Tack et al., arXiv 2302.00617). The outer loss
    is then over the whole context, and validation adapts on it with gradients rescaled to the pruned ones' length."""
    keep: float = 0.25
    """Of gradncp: share of the context that it keeps; as many as a batch, so that the context is a batch over this."""
    bootstrap: float = 0.0
    """Of gradncp: weight of its bootstrapped target, 5 further steps on the whole context; the authors take 100 for
    images (at an outer rate of 1e-5), 0: none."""
    fim_inner: Use = "none"
    """What `mim` does with Fisher information in the inner loop of its meta-training."""
    fim_outer: Use = "none"
    """What `mim` does with Fisher information in the outer loss of its meta-training."""

    def check(self, name: str = "meta", unused: Sequence[str] = (), least_steps: int = 0) -> None:
        """Raise InputError if a number is out of range, or an option is set that would have no effect.

        Args:
            name: of these options, for the message.
            unused: options that this system does not use: they must be as `NEUTRAL` has them.
            least_steps: smallest number of outer steps.

        >>> MetaConfig(algorithm="reptile", inner="adam", grad_clip=None).check()
        """
        least = {"steps": least_steps, "batch": 1, "inner_steps": 1, "validate_every": 0}
        for option, smallest in (least if self.tasks is None else {**least, "tasks": 1}).items():
            if getattr(self, option) < smallest:
                raise InputError(f"{name}.{option} must be at least {smallest}, got {getattr(self, option)}")
        for option in ("inner_lr", "outer_lr", "grad_clip"):
            value = getattr(self, option)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}.{option} must be above 0 and finite, got {value}")
        for option, kinds in (("algorithm", Algorithm), ("context", Context), ("inner", StepKind)):
            if getattr(self, option) not in get_args(kinds):
                choices = ", ".join(get_args(kinds))
                raise InputError(f"{name}.{option} must be one of {choices}, got {getattr(self, option)!r}")
        if not 0 < self.keep <= 1:
            raise InputError(f"{name}.keep must be above 0 and at most 1, got {self.keep}")
        if not 0 <= self.bootstrap < math.inf:
            raise InputError(f"{name}.bootstrap must be at least 0 and finite, got {self.bootstrap}")
        # Refused, not passed over: a run would be reported with a number that has decided nothing.
        for option in unused:
            if getattr(self, option) != NEUTRAL[option]:
                value = getattr(self, option)
                raise InputError(f"{name}.{option} has no effect here and must be {NEUTRAL[option]}, got {value}")
        self._check_fit(name)

    def _check_fit(self, name: str) -> None:
        """Raise InputError if two options exclude each other."""
        # `adapt` differentiates through plain descent; through Adam it would have to differentiate the moments too.
        if self.algorithm == "maml" and self.inner != "sgd":
            raise InputError(f"{name}.inner must be sgd with {name}.algorithm maml, got {self.inner}")
        if self.algorithm == "reptile":
            # Reptile has no outer loss that could be taken on a context, bootstrapped or weighted.
            for option in ("context", "fim_outer", "oml_first_order"):
                if getattr(self, option) != NEUTRAL[option]:
                    value = getattr(self, option)
                    raise InputError(
                        f"{name}.{option} must be {NEUTRAL[option]} with {name}.algorithm reptile, got {value}"
                    )
        if self.context == "gradncp" and (self.fim_inner, self.fim_outer) != ("none", "none"):
            uses = f"{self.fim_inner} and {self.fim_outer}"
            # Both choose the samples of an inner step: one would undo what the other has chosen.
            raise InputError(f"{name}.fim_inner and fim_outer must be none with {name}.context gradncp, got {uses}")
        if self.context != "gradncp" and self.bootstrap:
            raise InputError(f"{name}.bootstrap must be 0 without {name}.context gradncp, got {self.bootstrap}")


NEUTRAL: dict[str, Any] = {
    "batch": 256,
    "tasks": None,
    "center": False,
    "validate_every": 0,
    "context": "batch",
    "keep": 0.25,
    "bootstrap": 0.0,
    "fim_inner": "none",
    "fim_outer": "none",
    "oml_first_order": False,
}
"""Values with which an option changes nothing."""
