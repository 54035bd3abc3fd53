"""nerfacc: compositing of packed samples, by its scan and its sums along rays.

Its marching is no peer of ours: it cuts rays at fixed steps from where they meet the box, we into equal bins, so the
two do not answer the same question.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.contender import Contender
from benchmarks.peers import importable
from benchmarks.work.render import Composite


def missing() -> str | None:
    """Return whether it imports, and its compiled part can be had."""
    if (reason := importable("nerfacc")) is not None:
        return reason
    return None if torch.cuda.is_available() else "nerfacc computes on CUDA devices only"


def _composited(work: Composite, density: Tensor, color: Tensor) -> dict[str, Tensor]:
    """Weights, then three sums along each ray; depth is not divided by the opacity, as ours is not."""
    from nerfacc import accumulate_along_rays, render_weight_from_density

    rays = {"ray_indices": work.ray_ids, "n_rays": work.rays}
    weights, _, _ = render_weight_from_density(work.t_starts, work.t_ends, density, **rays)
    seen = accumulate_along_rays(weights, values=color, **rays)
    opacity = accumulate_along_rays(weights, values=None, **rays)
    middle = ((work.t_starts + work.t_ends) * 0.5)[:, None]
    depth = accumulate_along_rays(weights, values=middle, **rays)
    return {
        "color": seen + (1 - opacity) * work.background,
        "opacity": opacity[:, 0],
        "depth": depth[:, 0],
        "weights": weights,
    }


def composite(work: Composite) -> Contender:
    """Forward."""

    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            return _composited(work, work.density, work.color)

    return Contender("nerfacc", run)


def composite_backward(work: Composite) -> Contender:
    """Forward and backward in density and color."""
    leaves = work.density.clone().requires_grad_(), work.color.clone().requires_grad_()

    def run() -> dict[str, Tensor]:
        out = _composited(work, *leaves)
        found = torch.autograd.grad((out["color"], out["depth"]), leaves, (work.grad_color, work.grad_depth))
        return {"density": found[0], "color": found[1]}

    return Contender("nerfacc", run)


OPS = {"composite": composite, "composite_backward": composite_backward}
