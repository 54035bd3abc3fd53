"""Our own reference in plain PyTorch: for the ops that no other package has, and for the suite `auto`, which asks where
it would be the faster backend."""

from __future__ import annotations

from typing import Any

from benchmarks.contender import Contender


def missing() -> str | None:
    """It needs torch alone."""
    return None


def _reference(work: Any) -> Contender:
    found: Contender = work.own("reference", "reference")
    return found


def _fisher(work: Any) -> Contender:
    found: Contender = work.own_fisher("reference", "reference")
    return found


OPS = dict.fromkeys(
    (
        "forward",
        "forward_backward",
        "march",
        "composite",
        "composite_backward",
        "grid",
        "grid_backward",
        "render_rays",
    ),
    _reference,
)
OPS |= dict.fromkeys(("fisher_scores", "fisher_all", "fisher_rays"), _fisher)
