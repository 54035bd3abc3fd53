"""torch.optim.Adam(foreach=True) over the bank's stacked tensors: one step counter for all modules."""

from __future__ import annotations

import torch

from benchmarks.contender import Contender
from benchmarks.work.optimizer import LR, Optimizer


def missing() -> str | None:
    """It needs torch alone."""
    return None


def step(work: Optimizer) -> Contender:
    """Return one step."""
    return work.contender("adam foreach", lambda leaves: torch.optim.Adam(leaves, lr=LR, foreach=True))


OPS = {"bank_step": step}
