"""The problems. Each file has a class with the tensors, our contenders, the float64 truth and what is counted."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks import device
from benchmarks.cases import Case
from benchmarks.contender import Contender, Outputs

FILES = {
    "forward": "bank",
    "forward_backward": "bank",
    "squared_error": "bank",
    "fisher_scores": "fisher",
    "fisher_all": "fisher",
    "fisher_rays": "fisher",
    "maml": "maml",
    "meta": "meta",
    "composite": "render",
    "composite_backward": "render",
    "march": "render",
    "nerf_step": "nerf",
    "single_view_step": "bins",
    "bank_step": "optimizer",
    "train_step": "steps",
    "fit_loop": "fitting",
    "fit_guided": "fitting",
    "fit_pictures": "pictures",
    "fit_rays": "ray_fitting",
    "grid": "grid",
    "grid_backward": "grid",
    "render_rays": "fused",
}


class Work:
    """A problem of one case. Subclasses fill these in.

    flops: operations of the mathematical minimum, the same for all contenders, or None where none are counted.
    moved: bytes that must be read or written once, or None. points: of the whole problem, for times per point.
    tolerance: bound of the relative error for each output, or under "" for all. tf32: whether float32 is multiplied as
    tf32 in this problem; None: as torch is told to.
    """

    flops: float | None = None
    moved: float | None = None
    points: int = 0
    tolerance: dict[str, float]
    tf32: bool | None = None

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        raise NotImplementedError

    def ours(self) -> list[Contender]:
        """Return our contenders; the first is the one that the bars are about."""
        raise NotImplementedError

    def truth(self) -> Outputs:
        """Return the same by the reference in float64."""
        raise NotImplementedError

    def verify(self) -> dict[str, float]:
        """Return the tolerances; a problem whose tolerance is measured does so here."""
        return self.tolerance

    def prepared(self, contender: Contender) -> Contender:
        """Return the contender, under the problem's precision."""
        if self.tf32 is not None:
            contender.run = device.held(contender.run, self.tf32)
            contender.check = contender.check and device.held(contender.check, self.tf32)
        return contender


def missing(op: str) -> str | None:
    """Return why this checkout can't do a problem; None if it can."""
    from mclnf_fast import ops, render

    needs = {"grid": ((ops, "grid_encode"),), "fused": ((ops, "render_rays"), (render, "render_fused"))}
    for module, name in needs.get(FILES.get(op, ""), ()):
        if not hasattr(module, name):
            return f"{module.__name__} has no {name} yet"
    return None


def make(case: Case, **changed: Any) -> Work:
    """Return the problem of a case, some of its sizes changed. Raises ValueError for an unknown op."""
    if case.op not in FILES:
        raise ValueError(f"case {case.id!r}: op must be one of {', '.join(FILES)}, got {case.op!r}")
    found = importlib.import_module(f"benchmarks.work.{FILES[case.op]}")
    work: Work = found.WORK(case.op, {**case.shapes, **changed}, case.device)
    return work
