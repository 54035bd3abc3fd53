"""Compositing at its limits: intervals of length 0, endless densities, and densities that overflow on their way."""

from __future__ import annotations

import math
from collections.abc import Callable

import places
import pytest
import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops import composite

backends = places.backends("composite")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def derivatives(case: tuple[Tensor, ...], background: Tensor, layout: str, backend: str) -> list[Tensor]:
    """Values, and first and second derivatives in everything, of one ray."""
    leaves = [t.clone().requires_grad_() for t in (*case, background)]
    given = leaves[:4] if layout == "packed" else [t[None] for t in leaves[:4]]
    packed_info = torch.tensor([[0, len(case[0])]]) if layout == "packed" else None
    result = composite(*given, packed_info, leaves[4], backend=backend)
    loss = sum((i + 1) * t.square().sum() for i, t in enumerate(result))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    # With a part that is linear, which sees derivatives that are mixed with a first one of 0.
    along = sum((g.square() + 0.1 * (k + 1) * g).sum() for k, g in enumerate(first))
    second = torch.autograd.grad(along, leaves)
    return [t.detach() for t in (*result, *first, *second)]


@backends
@dtypes
@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("place", [0, 4, 11])
def test_an_interval_of_length_zero_has_no_weight_whatever_its_density(
    need: Callable[..., str], backend: str, dtype: torch.dtype, layout: str, place: int
) -> None:
    """Values and derivatives are those of the ray without the sample, whose own derivatives are 0."""
    need("composite", backend, dtype)
    edges = torch.rand(12, dtype=dtype).cumsum(0)
    edges = torch.cat((edges[: place + 1], edges[place:]))  # the sample `place` begins and ends there
    density, color = torch.rand(12, dtype=dtype) + 0.1, torch.rand(12, 3, dtype=dtype)
    density[place] = math.inf
    case, background = (density, color, edges[:-1], edges[1:]), torch.rand(3, dtype=dtype)
    keep = torch.arange(12) != place
    results = derivatives(case, background, layout, backend)
    wanted = derivatives(tuple(t[keep] for t in case), background, layout, "reference")
    for k, (value, want) in enumerate(zip(results, wanted)):
        assert bool(value.isfinite().all()), k
        flat = value.squeeze(0) if value.dim() and value.shape[0] == 1 else value
        want = want.squeeze(0) if want.dim() and want.shape[0] == 1 else want
        if flat.shape[:1] == (12,):
            assert float(flat[place].abs().max()) == 0, k
            flat = flat[keep]
        torch.testing.assert_close(flat, want, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-5)


@backends
@dtypes
def test_behind_an_endless_density_nothing_is_seen_and_every_derivative_is_finite(
    need: Callable[..., str], backend: str, dtype: torch.dtype
) -> None:
    need("composite", backend, dtype)
    starts = torch.arange(4, dtype=dtype)
    case = (
        torch.tensor([0.5, math.inf, math.inf, 1.0], dtype=dtype),
        torch.rand(4, 3, dtype=dtype),
        starts,
        starts + 1,
    )
    for layout in ("packed", "dense"):
        results = derivatives(case, torch.rand(3, dtype=dtype), layout, backend)
        assert all(bool(t.isfinite().all()) for t in results)
        weights = results[3].flatten().tolist()
        assert weights == pytest.approx([1 - math.exp(-0.5), math.exp(-0.5), 0.0, 0.0])


@backends
def test_a_density_that_is_no_number_stays_none(need: Callable[..., str], backend: str) -> None:
    """A fault must not hide behind an interval without a length."""
    need("composite", backend)
    t = torch.tensor([[0.0, 1.0]])
    out = composite(
        torch.tensor([[1.0, math.nan]]), torch.rand(1, 2, 3), t, torch.tensor([[1.0, 1.0]]), backend=backend
    )
    assert out.opacity.isnan().all()


@backends
@dtypes
@pytest.mark.parametrize("optical", [0.3, 12.0, 20.0, 60.0])
def test_the_derivative_of_a_dense_sample_is_what_light_is_left(
    need: Callable[..., str], backend: str, dtype: torch.dtype, optical: float
) -> None:
    # Two samples of length 1 over a background b: dC/ds_0 = exp(-s_0) (c_0 - b - w (c_1 - b)), w = 1 - exp(-s_1).
    need("composite", backend, dtype)
    density = torch.tensor([optical, 0.5], dtype=dtype, requires_grad=True)
    color, background = torch.tensor([[1.0], [2.0]], dtype=dtype), torch.tensor([0.25], dtype=dtype)
    start = torch.tensor([0.0, 1.0], dtype=dtype)
    result = composite(density, color, start, start + 1, torch.tensor([[0, 2]]), background, backend=backend)
    (gradient,) = torch.autograd.grad(result.color.sum(), density)
    weight = 1 - math.exp(-0.5)
    truth = math.exp(-optical) * (0.75 - weight * 1.75)
    assert abs(float(gradient[0]) / truth - 1) < (1e-12 if dtype == torch.float64 else 1e-4)


@places.backends("bank_ray_mse")
@dtypes
@pytest.mark.parametrize("activation", ["relu", "exp"])
def test_rays_of_a_field_whose_density_overflows(
    need: Callable[..., str], backend: str, dtype: torch.dtype, activation: str
) -> None:
    """Over an interval without length it changes nothing, first and second derivative."""
    need("bank_ray_mse", backend, dtype)
    spec = mf.FieldSpec(3, 4, hidden_layers=0)
    weights = [torch.randn(1, 3, 4, dtype=dtype).requires_grad_()]
    biases = [torch.zeros(1, 4, dtype=dtype).requires_grad_()]
    shading = mf.Shading(activation, density_first=False)
    x, deltas, target = torch.rand(6, 3, dtype=dtype), torch.rand(6, dtype=dtype), torch.rand(2, 3, dtype=dtype)
    with torch.no_grad():
        huge = (torch.finfo(dtype).max if activation == "relu" else 1e4) * weights[0][0, :, 3].sign()
        weights[0][0, :, 3] *= 0.1
    deltas[2] = 0

    def gradients(first_ray: int, points: Tensor) -> list[Tensor]:
        rays = torch.tensor([0, first_ray, first_ray + 3])
        loss = mf.ops.bank_ray_mse(
            points, rays, torch.tensor([0, 2]), weights, biases, deltas[keep], target, spec, shading, backend=backend
        )
        first = torch.autograd.grad(loss.sum(), (*weights, *biases), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (*weights, *biases))
        plain = torch.autograd.grad(
            mf.ops.bank_ray_mse(
                points,
                rays,
                torch.tensor([0, 2]),
                weights,
                biases,
                deltas[keep],
                target,
                spec,
                shading,
                backend=backend,
            ).sum(),
            (*weights, *biases),
        )
        return [t.detach() for t in (loss, *first, *second, *plain)]

    keep = torch.arange(6) >= 0
    extreme = x.clone()
    extreme[2] = huge * (1 if activation == "exp" else 0.1)
    results = gradients(3, extreme)
    keep = torch.arange(6) != 2
    wanted = gradients(2, x[keep])
    for result, want in zip(results, wanted):
        torch.testing.assert_close(result, want, rtol=1e-4, atol=1e-6)
