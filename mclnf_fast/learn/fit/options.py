"""How a fit learns, and where it is kept."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, Literal

from mclnf_fast.checks import check_bool, check_number, check_positive_int
from mclnf_fast.ops.bank_fit import FitRule, Schedule
from mclnf_fast.spec import FieldSpec

RATE = 2e-3
LOWEST_SHARE = 0.01  # of the rate that is left at the last step


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Options of `mclnf_fast.fit` beside the number of steps.

    Args:
        draws: which samples a step takes: "even" along a space-filling curve through the coordinates, "uniform" (see
            `ops.draw_ids`), or "whole": all of them.
        batch: samples per module and step; a module that has no more takes all of them in every step.
        lr: rate of Adam at the first step, from which it falls along a cosine to a hundredth; None: 2e-3, and less for
            a wide, deep or fast SIREN.
        rule: in place of that; without a trust region.
        peak: of the signals, for the PSNR: 1 if they lie in 0 ... 1.
        check_every: steps between two looks at the PSNR of a module that stops at a target.
        seed: of the random initialization and of the draws.
        chunk: modules that are fitted side by side; None: 64 per thread, fewer if their samples take more than 256 MiB.
            It changes no bit of the result.
        backend: of `ops.bank_fit`.
        file: where the bank is written; None: it is returned only. With a file, chunks are written as they are
            finished, into the folder FILE.parts, and joined at the end.
        resume: continue the fit that was stopped while it wrote `file`, to the same bits.
        save_every: seconds between two saves of the chunk at work; only with a file.

    Raises: TypeError, ValueError, naming the option.

    >>> FitOptions(batch=128).draws
    'even'
    """

    draws: Literal["even", "uniform", "whole"] = "even"
    batch: int = 256
    lr: float | None = None
    rule: FitRule | None = None
    peak: float = 1.0
    check_every: int = 100
    seed: int = 0
    chunk: int | None = None
    backend: str = "auto"
    file: str | os.PathLike[str] | None = None
    resume: bool = False
    save_every: float = 30.0

    def __post_init__(self) -> None:
        if self.draws not in ("even", "uniform", "whole"):
            raise ValueError(f"draws must be even, uniform or whole, got {self.draws!r}")
        for name in ("batch", "check_every"):
            check_positive_int(getattr(self, name), name)
        if self.chunk is not None:
            check_positive_int(self.chunk, "chunk")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, got {type(self.seed).__name__}")
        check_number("save_every", self.save_every, 0.0)
        for name in ("lr", "peak"):
            if getattr(self, name) is not None and check_number(name, getattr(self, name), 0.0) == 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.rule is not None and not isinstance(self.rule, FitRule):
            raise TypeError(f"rule must be a FitRule, got {type(self.rule).__name__}")
        if self.rule is not None and self.rule.trust is not None:
            raise ValueError("rule must be without a trust region, which belongs to a bank: use ops.bank_fit")
        if self.file is not None and not isinstance(self.file, str | os.PathLike):
            raise TypeError(f"file must be a path, got {type(self.file).__name__}")
        if check_bool("resume", self.resume) and self.file is None:
            raise ValueError("resume must stand beside file, the bank that is continued, got file=None")

    def rule_for(self, spec: FieldSpec, steps: int) -> FitRule:
        """Return the rule of a fit of so many steps.

        >>> FitOptions(lr=1e-3).rule_for(FieldSpec(2, 3), 100).schedule.lr
        0.001
        """
        lr = usual_rate(spec) if self.lr is None else self.lr
        return self.rule or FitRule(Schedule(lr, "cosine", lr_end=LOWEST_SHARE * lr, steps=steps))

    def stop_loss(self, target_psnr: float | None) -> float | None:
        """Return the mean squared error of a PSNR.

        >>> FitOptions().stop_loss(20.0)
        0.01
        """
        return None if target_psnr is None else self.peak**2 * math.pow(10, -target_psnr / 10)

    def described(self, spec: FieldSpec, steps: int, target_psnr: float | None) -> dict[str, Any]:
        """Return what the bits of a fit depend on beside its samples, its architecture and its start, as plain data."""
        rule = self.rule_for(spec, steps)
        plain = {"kind": rule.kind, "betas": list(rule.betas), "eps": rule.eps}
        rounded = {} if rule.precision == "fp32" else {"precision": rule.precision}
        about = {name: getattr(self, name) for name in ("draws", "batch", "peak", "check_every", "seed")}
        return {
            "steps": steps,
            "target_psnr": target_psnr,
            **about,
            "rule": {**plain, "schedule": dataclasses.asdict(rule.schedule), **rounded},
        }


def usual_rate(spec: FieldSpec) -> float:
    """Return the rate of Adam that serves an architecture: 2e-3, and less for a wide, deep or fast SIREN.

    Twice the best rate can end at 15 dB in place of 37, half of it costs 1 to 3 dB. On 4 portraits of 64 x 64 in 400
    steps the best of 2.5e-4, 5e-4, ... 4e-3 was, at 3 hidden layers and w0 30, 2e-3 at width 64, 1e-3 at 128, 5e-4 at
    256; at width 64, 5e-4 to 1e-3 with w0 60, and 1e-3 with 5 layers; with relu 2e-3 and more.

    >>> usual_rate(FieldSpec(2, 3, 64, 3, activation="sine")), usual_rate(FieldSpec(2, 3, 256, 3, activation="sine"))
    (0.002, 0.0005)
    """
    if spec.activation != "sine":
        return RATE
    layers = max(1, spec.hidden_layers)
    return RATE * min(1, 64 / spec.width) * min(1, 30 / spec.w0) ** 2 * min(1, 3 / layers) ** 2


def options_from(options: FitOptions | None, changes: Mapping[str, Any]) -> FitOptions:
    """Return options with changes to single fields. Raises TypeError for a name that is none.

    >>> options_from(None, {"batch": 64}).batch
    64
    """
    names = [field.name for field in dataclasses.fields(FitOptions)]
    for name in changes:
        if name not in names:
            raise TypeError(f"{name} must be one of {', '.join(sorted(names))}")
    if options is not None and not isinstance(options, FitOptions):
        raise TypeError(f"options must be FitOptions, got {type(options).__name__}")
    return dataclasses.replace(options or FitOptions(), **changes)
