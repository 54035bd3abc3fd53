"""A tiny system: fit a network to a straight line, and leave a run folder with its bank."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import torch
from tyro.conf import OmitArgPrefixes

from mclnf_fast import FieldBank, FieldSpec, optim
from mclnf_fast.systems import System
from mclnf_fast.systems.common.options import FieldOptions, SystemConfig
from mclnf_fast.systems.common.result import Frame, Result
from mclnf_fast.systems.common.run import begin


@dataclasses.dataclass(frozen=True)
class LineConfig(SystemConfig):
    """Fits a straight line."""

    kind: ClassVar[str] = "line"

    field: OmitArgPrefixes[FieldOptions] = dataclasses.field(default_factory=lambda: FieldOptions(8, 1))
    """The network."""
    steps: int = 50
    """Steps of Adam."""
    slope: float = 0.5
    """Of the line."""


def run_line(config: LineConfig, command: str) -> pathlib.Path:
    """Fit the line and return the run folder."""
    run = begin(config, ("bank_mlp",), command)
    field = run.config.field
    bank = FieldBank(FieldSpec(1, 1, field.width, field.hidden_layers), generator=torch.Generator().manual_seed(0))
    optimizer = optim.Adam(bank, lr=1e-2)
    x = torch.linspace(-1, 1, 32)[None, :, None]
    for _ in range(run.config.steps):
        loss = (bank(x) - run.config.slope * x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    Result("line", bank, ["line"], Frame(("x",), (-1.0,), (1.0,))).write(run.folder.path)
    run.folder.write_json("metrics.json", {**run.facts(), "loss": loss.item()})
    return run.folder.path


def defaults_of(name: str, words: Sequence[str]) -> LineConfig:
    """Return the defaults from which a command line is read."""
    return LineConfig(steps=5) if "--quick" in words else LineConfig()


SYSTEM = System("fit a straight line", run_line, defaults_of)
