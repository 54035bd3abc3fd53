"""Our own ops, one by one: what fusing them is worth."""

from __future__ import annotations

from benchmarks.contender import Contender
from benchmarks.work.fused import Fused


def missing() -> str | None:
    """It is part of the package."""
    return None


def render_rays(work: Fused) -> Contender:
    """March, bank, composite, each on its fastest backend."""
    return work.own("ops")


OPS = {"render_rays": render_rays}
