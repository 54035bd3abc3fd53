"""compat.nerfacc on a GPU: what it returns there is what it returns on the CPU."""

from __future__ import annotations

import places
import pytest
import torch
from torch import Tensor

from mclnf_fast.compat import nerfacc
from mclnf_fast.compat.nerfacc import OccGridEstimator, PropNetEstimator, RayIntervals


def everything(device: str) -> dict[str, Tensor]:
    """The results of every name, from the same values on each device."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator).to(device)

    origins = uniform(40, 3) * 4 - 2
    directions = torch.nn.functional.normalize(uniform(40, 3) - 0.5 - origins, dim=1)
    estimator = OccGridEstimator([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], 8, 2).to(device)
    estimator.binaries = uniform(2, 8, 8, 8) < 0.5
    found: dict[str, Tensor] = {}

    def keep(name: str, *tensors: Tensor | None) -> None:
        found.update({f"{name} {k}": t for k, t in enumerate(tensors) if t is not None})

    rays, starts, ends = estimator.sampling(
        origins, directions, render_step_size=0.1, t_min=uniform(40), cone_angle=0.01
    )
    keep("sampling", rays, starts, ends)
    options = {"step_size": 0.1, "traverse_steps_limit": 9, "over_allocate": True}
    boxes = (estimator.binaries, estimator.aabbs)
    intervals, samples, stops = nerfacc.traverse_grids(origins, directions, *boxes, **options)
    keep("traversal", *vars(intervals).values(), *vars(samples).values(), stops)
    keep("boxes", *nerfacc.ray_aabb_intersect(origins, directions, estimator.aabbs))
    # As many values as any run has: the samples of the CPU.
    sigmas, rgbs = uniform(len(rays)).requires_grad_(), uniform(len(rays), 3).requires_grad_()
    for layout in ({"ray_indices": rays}, {"packed_info": nerfacc.pack_info(rays, 40)}):
        keep(f"weights by {list(layout)}", *nerfacc.render_weight_from_density(starts, ends, sigmas, **layout))
        keep(f"alphas by {list(layout)}", *nerfacc.render_weight_from_alpha(sigmas, **layout))
        keep(f"visible by {list(layout)}", nerfacc.render_visibility_from_alpha(sigmas, **layout))
    for kind in ("rgb_sigma_fn", "rgb_alpha_fn"):
        field = {kind: lambda *_: (rgbs, sigmas)}
        *pixels, extras = nerfacc.rendering(starts, ends, rays, 40, **field, render_bkgd=torch.ones(3, device=device))
        keep(kind, *pixels, *extras.values())
        keep(f"gradients of {kind}", *torch.autograd.grad(sum(p.square().sum() for p in pixels), (sigmas, rgbs)))
    keep("distortion", nerfacc.distortion(sigmas, starts, ends, rays, 40))
    outputs = torch.ones(40, 3, device=device)
    nerfacc.accumulate_along_rays_(sigmas.detach(), rgbs.detach(), rays, outputs)
    keep("accumulation", outputs)
    edges, cdfs, info = uniform(12).sort()[0], uniform(12).sort()[0], torch.tensor([[0, 5], [5, 7]], device=device)
    for kind, n in (("dense", 4), ("packed", torch.tensor([3, 5], device=device))):
        for segments, values in ((RayIntervals(edges, info), cdfs), (RayIntervals(edges.view(2, 6)), cdfs.view(2, 6))):
            resampled = nerfacc.importance_sampling(segments, values, n)
            keep(f"resampling {kind} {values.dim()}", *(v for part in resampled for v in vars(part).values()))
            keep(f"search {kind} {values.dim()}", *nerfacc.searchsorted(segments, resampled[1]))
    proposal = PropNetEstimator().to(device)
    keep("proposal", *proposal.sampling([lambda s, e: s + e], [8], 4, 5, 1.0, 2.0, requires_grad=True))
    keep("proposal loss", proposal.compute_loss(torch.linspace(1, 0, 20, device=device).view(5, 4)))
    K = torch.tensor([[[8.0, 0.0, 4.0], [0.0, 8.0, 4.0], [0.0, 0.0, 1.0]]], device=device)
    estimator.mark_invisible_cells(K, torch.eye(4, device=device)[None], 8, 8)
    estimator.update_every_n_steps(0, lambda x: torch.ones_like(x[:, :1]))
    estimator.update_every_n_steps(512, lambda x: torch.ones_like(x[:, :1]))
    keep("grid", estimator.occs, estimator.binaries)
    return {name: t.detach().cpu() for name, t in found.items()}


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=places.gpu)])
def test_a_gpu_returns_what_the_cpu_does(device: str) -> None:
    there, here = everything(device), everything("cpu")
    assert there.keys() == here.keys()
    for name, value in there.items():
        torch.testing.assert_close(value, here[name], msg=lambda text, name=name: f"{name}: {text}")


def test_the_same_call_gives_the_same_bits() -> None:
    first, second = everything("cpu"), everything("cpu")
    assert len(first) > 80
    assert all(torch.equal(value, second[name]) for name, value in first.items())
