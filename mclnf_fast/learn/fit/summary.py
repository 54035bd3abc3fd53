"""What a fit reports: how far it is, and what came of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mclnf_fast.learn.fit.source import Skipped
from mclnf_fast.metrics import MOST_PSNR
from mclnf_fast.ops.bank_fit import FitEnd


class FitProgress(NamedTuple):
    """How far a fit is.

    Attributes:
        done: fields, with the share of those at work that is done.
        total: signals in all, unreadable ones included; None: unknown.
        skipped: signals that could not be read.
        psnr: mean of the finished fields in dB; NaN: none is finished.
        seconds: since the fit began, those of former processes included.
    """

    done: float
    total: int | None
    skipped: int
    psnr: float
    seconds: float


@dataclasses.dataclass
class FitSummary:
    """What came of a fit, module by module.

    Attributes:
        names: of the signals.
        about: plain data of each signal, as its source gave it.
        psnr: float64 [M], in dB over all samples of a module; NaN if they are not finite.
        steps: int64 [M], that each module has made.
        ends: int64 [M], a `FitEnd` each.
        losses_at: numbers of steps.
        losses: [losses_at, M], mini-batch losses of the steps that complete them; NaN where a module made fewer.
        faults: why a module learned nothing or diverged, by its number.
        skipped: signals that could not be read, which have no module.
        notes: one line for each thing that was done otherwise than asked.
        seconds: of fitting; 0 if a finished file was read.
    """

    names: list[str]
    about: list[Mapping[str, object]]
    psnr: Tensor
    steps: Tensor
    ends: Tensor
    losses_at: tuple[int, ...]
    losses: Tensor
    faults: dict[int, str] = dataclasses.field(default_factory=dict)
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.psnr)

    @property
    def fields_per_second(self) -> float:
        """Fields per second of fitting."""
        return len(self) / self.seconds if self.seconds > 0 else math.nan

    def modules(self, end: FitEnd) -> list[int]:
        """Return the modules with this end, such as those that diverged."""
        return [m for m, value in enumerate(self.ends.tolist()) if value == end]

    def __str__(self) -> str:
        known = self.psnr[self.psnr.isfinite()]
        dB = f"{known.mean():.2f} dB (worst {known.min():.2f})" if len(known) else "no PSNR"
        faults = f", {len(self.faults)} faulty" if self.faults else ""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        rate = f"; {self.seconds:.1f} s, {self.fields_per_second:.3g} fields/s" if self.seconds else ""
        return f"{len(self)} fields: {dB}{faults}{skipped}{rate}"

    def to_plain(self) -> dict[str, Any]:
        """Return the summary without the curves of losses, as data that JSON can hold.

        >>> FitSummary.joined([]).to_plain()["psnr"]
        []
        """
        return {
            "names": self.names,
            "about": [dict(about) for about in self.about],
            # NaN and infinity are no JSON.
            "psnr": [min(value, MOST_PSNR) if value == value else None for value in self.psnr.tolist()],
            "steps": self.steps.tolist(),
            "ends": [FitEnd(end).name.lower() for end in self.ends.tolist()],
            "faults": {str(m): reason for m, reason in self.faults.items()},
            "skipped": [list(skipped) for skipped in self.skipped],
            "notes": self.notes,
            "seconds": self.seconds,
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> FitSummary:
        """Return the summary that `to_plain` made into plain data. Raises KeyError, TypeError, ValueError.

        >>> len(FitSummary.from_plain(FitSummary.joined([]).to_plain()))
        0
        """
        psnr = [math.nan if value is None else float(value) for value in data["psnr"]]
        return cls(
            [str(name) for name in data["names"]],
            [dict(about) for about in data["about"]],
            torch.tensor(psnr, dtype=torch.float64),
            torch.tensor(data["steps"], dtype=torch.int64),
            torch.tensor([int(FitEnd[end.upper()]) for end in data["ends"]], dtype=torch.int64),
            (),
            torch.zeros(0, len(psnr), dtype=torch.float32),
            {int(m): str(reason) for m, reason in data["faults"].items()},
            [Skipped(*skipped) for skipped in data["skipped"]],
            [str(note) for note in data["notes"]],
            float(data["seconds"]),
        )

    @classmethod
    def joined(cls, parts: Sequence[FitSummary]) -> FitSummary:
        """Return the summaries of successive modules as one.

        >>> len(FitSummary.joined([]))
        0
        """
        none = torch.zeros(0)
        # Parts that a former process has written are without curves: then the whole is.
        curves = len({part.losses_at for part in parts}) == 1
        faults: dict[int, str] = {}
        first = 0
        for part in parts:
            faults |= {first + m: reason for m, reason in part.faults.items()}
            first += len(part)
        return cls(
            [name for part in parts for name in part.names],
            [about for part in parts for about in part.about],
            torch.cat([none.double(), *(part.psnr for part in parts)]),
            torch.cat([none.long(), *(part.steps for part in parts)]),
            torch.cat([none.long(), *(part.ends for part in parts)]),
            parts[0].losses_at if curves else (),
            torch.cat([part.losses for part in parts], 1) if curves else torch.zeros(0, first),
            faults,
            [skipped for part in parts for skipped in part.skipped],
            list(dict.fromkeys(note for part in parts for note in part.notes)),
            sum(part.seconds for part in parts),
        )
