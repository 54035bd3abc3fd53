"""Fields with grids within the renderer: they learn, on any backend, and Fisher information leaves tables out."""

import places
import pytest
import torch
from fields import four_cells, generator, in_cells, rays_across, some_images
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.fields import encode_grids, initial_parameters, split_params
from mclnf_fast.learn import BankOptimizer, FimConfig, FisherScorer
from mclnf_fast.learn.methods import MIM, AdaptConfig
from mclnf_fast.learn.methods.consolidate import diagonal_fisher
from mclnf_fast.learn.params import split_pair
from mclnf_fast.render import Cells, Rays, render_modules, render_scene, sample_in_cells
from mclnf_fast.render.volume import composite_samples
from mclnf_fast.tasks.rays import PosedImages

GRID = mf.HashGrid(4, 2, 10, base=4, growth=1.6)
CUBE = Cells(torch.tensor([[[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]]), 1.0)
WITH_DIRECTION = mf.FieldSpec(6, 4, 16, 1, encoding=mf.Composite(((GRID, 3), (mf.SphericalHarmonics(2), 3))))


def ball(x: Tensor) -> Tensor:
    """A soft ball with a color that varies over space: raw field values [N, 4] at x [N, 3] in [-1, 1]."""
    inside = 8 * (0.7 - x.norm(dim=1, keepdim=True))
    return torch.cat((inside.clamp(-3, 3), 2 * torch.sin(4 * x)), 1)


def learn(spec: mf.FieldSpec, backend: str, steps: int = 150) -> tuple[float, float]:
    """PSNR in dB of rays that were not trained on, at the start and at the end."""
    settings = in_cells(24, (0.0, 0.0, 0.0), spec, backend=backend)
    origins, directions = rays_across(CUBE, 1792)
    points = sample_in_cells(Rays.through_one_module(origins, directions), CUBE, settings)
    truth = composite_samples(ball(points.x[:, :3]), points, settings).color
    params = tuple(p.requires_grad_() for p in places.put(initial_parameters(spec, generator=generator(3))))
    optimizer = BankOptimizer(params, lr=2e-2)

    def psnr() -> float:
        with torch.no_grad():
            unseen = Rays.through_one_module(origins[1536:], directions[1536:])
            out = render_modules(params, spec, unseen, CUBE, settings)
        return float(-10 * (out.color - truth[1536:]).square().mean().log10())

    before, g = psnr(), generator(4)
    for step in range(steps):
        rays = torch.randint(0, 1536, (128,), generator=g)
        drawn = Rays.through_one_module(origins[rays], directions[rays])
        out = render_modules(params, spec, drawn, CUBE, settings, seed=step)
        loss = (out.color - truth[rays]).square().mean()
        optimizer.step(torch.autograd.grad(loss, params))
    return before, psnr()


@pytest.mark.parametrize(
    "spec",
    [
        mf.FieldSpec(3, 4, 16, 1, encoding=GRID),
        WITH_DIRECTION,
        mf.FieldSpec(3, 4, 16, 1, encoding=mf.TriPlane(8, 16)),
    ],
    ids=["hash_grid", "with_direction", "tri_plane"],
)
@places.devices
def test_a_radiance_field_learns_to_the_same_psnr(need, device: str, spec: mf.FieldSpec) -> None:
    fast = need("grid_encode", "cpu" if device == "cpu" else "auto")
    found = {backend: learn(spec, backend) for backend in (fast, "reference")}
    before, after = found[fast]
    assert after > max(30.0, before + 18)
    assert abs(after - found["reference"][1]) < 0.1


@places.devices
def test_a_scene_of_several_modules(need, device: str) -> None:
    fast = need("grid_encode", "cpu" if device == "cpu" else "auto")
    cells = four_cells()
    start = places.put(initial_parameters(WITH_DIRECTION, generator=generator()))
    params = tuple(p.expand(4, *p.shape[1:]) for p in start)
    origins, directions = rays_across(cells, 30)
    seen = {
        backend: render_scene(
            params, WITH_DIRECTION, origins, directions, cells, in_cells(8, None, WITH_DIRECTION, backend=backend)
        )
        for backend in (fast, "reference")
    }
    assert bool(seen[fast].color.isfinite().all())
    torch.testing.assert_close(seen[fast].color, seen["reference"].color, rtol=1e-4, atol=1e-5)


def task() -> PosedImages:
    images, cameras = some_images(3, 12, 9)
    cells = Cells(torch.tensor([[[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]]), 1.0)
    return PosedImages(
        "one",
        (images, cameras),
        (images[:1], cameras[:1]),
        cells,
        WITH_DIRECTION,
        in_cells(8, None, WITH_DIRECTION),
        tile=4,
    )


def test_fisher_is_of_the_network_alone() -> None:
    posed = task()
    params = tuple(p.requires_grad_() for p in initial_parameters(WITH_DIRECTION, generator=generator(1)))
    batch = posed.draw(20, generator(2))
    weights = torch.rand(1, 20, generator=generator(3)) + 0.5
    p = posed.points(params, batch, 5)
    scorer = FisherScorer(WITH_DIRECTION, 1, FimConfig(), posed.backend)
    found = scorer(
        params,
        p.x,
        p.offsets,
        p.grad_y,
        grads=True,
        weights=weights[0],
        sample_ids=p.sample_ids,
        num_samples=20,
    )
    layers, biases, tables = split_params(params, WITH_DIRECTION)
    # The gradient is that of all parameters, the tables too.
    expected = torch.autograd.grad(20 * posed.loss(params, batch, weights, 5).sum(), params)
    assert found.grads is not None
    for a, b in zip(found.grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    # Of each ray: the gradient of its own loss in the network's parameters, squared.
    network = (*layers, *biases)
    by_ray = [posed.loss(params, batch, weights * 20 * (torch.arange(20) == ray), 5).sum() for ray in range(20)]
    grads = [torch.autograd.grad(one, network) for one in by_ray]
    fisher = [sum(g[k].square() for g in grads) / 20 for k in range(len(network))]
    floor = 1e-3 * sum(float(f.sum()) for f in fisher) / sum(f.numel() for f in fisher)
    scores = [sum(float((g[k].square() / (fisher[k] + floor)).sum()) for k in range(len(network))) for g in grads]
    # The scores are those of the losses without their weights.
    torch.testing.assert_close(found.scores, torch.tensor(scores) / weights[0].square(), rtol=2e-3, atol=1e-4)
    assert encode_grids(torch.zeros(2, 6), torch.tensor([0, 2]), tables, WITH_DIRECTION).shape == (2, 11)
    held = diagonal_fisher(posed, params, 0, 20)
    assert [f.shape for f in held] == [p.shape for p in params]
    assert [bool(f.any()) for f in held[-len(tables) :]] == [False] * len(tables)
    assert all(bool(f.any()) for f in held[: -len(tables)])


@pytest.mark.parametrize("fim", ["none", "sample", "weight", "both"])
def test_a_method_moves_the_tables_too(fim: str) -> None:
    start = initial_parameters(WITH_DIRECTION, generator=generator(1))
    config = AdaptConfig(batch=16, warm_steps=0, fim=FimConfig(use=fim, refresh=1))  # type: ignore[arg-type]
    method = MIM([task()], start, config, seed=0)
    method.begin(0)
    for step in range(3):
        method.step(0, step)
    assert all(bool((p != s).any()) for p, s in zip(method.params, start, strict=True))
    assert all(bool(p.isfinite().all()) for p in method.params)


def test_a_flat_tuple_with_tables_is_no_pair() -> None:
    two = mf.FieldSpec(6, 1, 8, 1, encoding=mf.Composite(((GRID, 3), (GRID, 3))))
    params = initial_parameters(two)
    with pytest.raises(ValueError, match=r"params\[3\] must be the bias \(1, 8\) of params\[0\]"):
        split_pair(params)
    weights, biases = split_pair(params[:4])
    assert len(weights) == len(biases) == 2
