"""Compositing in groups of samples: where a ray ends within a group, nothing of its neighbors may show."""

from __future__ import annotations

import places
import pytest
import torch
from torch import Tensor

from mclnf_fast.ops.composite import composite

compiled = places.backends("composite", reference=False)


@pytest.fixture(autouse=True)
def _compiled(need, backend: str) -> None:
    torch.manual_seed(0)
    need("composite", backend)


def rays(counts: list[int], channels: int, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor]:
    """Density, color, t_starts and t_ends of packed rays, and packed_info."""
    count = torch.tensor(counts)
    n = int(count.sum())
    starts = torch.rand(n, dtype=dtype)
    tensors = [torch.rand(n, dtype=dtype), torch.rand(n, channels, dtype=dtype), starts, starts + 0.5]
    return tensors, torch.stack([count.cumsum(0) - count, count], dim=1)


def derivatives(tensors: list[Tensor], packed_info: Tensor, backend: str, eps: float) -> list[Tensor]:
    """Values, first and second derivatives by sample, and the values by ray."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    found = composite(*leaves, packed_info, early_stop_eps=eps, backend=backend)
    first = torch.autograd.grad(sum(t.square().sum() for t in found), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [t.detach() for t in (found.weights, *first, *second, found.color, found.opacity, found.depth)]


@compiled
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_every_length_of_a_ray(backend: str, channels: int, eps: float) -> None:
    tensors, packed_info = rays(list(range(36)), channels)
    found = derivatives(tensors, packed_info, backend, eps)
    wanted = derivatives([t.double() for t in tensors], packed_info, "reference", eps)
    for i, (a, b) in enumerate(zip(found, wanted)):
        assert float((a - b).abs().max()) <= 2e-5 * float(b.abs().max()), i


@compiled
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_neighbors_do_not_leak(backend: str, channels: int, value: float) -> None:
    """Every second ray is spoilt; the others must have the bits that they have alone."""
    counts = [3, 9, 1, 2, 8, 5, 7, 16, 17, 4, 0, 6, 23, 1, 2]
    tensors, packed_info = rays(counts, channels)
    for first, count in packed_info[1::2].tolist():
        for t in tensors:
            t[first : first + count] = value
    together = derivatives(tensors, packed_info, backend, 0.0)
    for r, (first, count) in enumerate(packed_info.tolist()):
        if r % 2 == 1:
            continue
        alone = derivatives([t[first : first + count] for t in tensors], torch.tensor([[0, count]]), backend, 0.0)
        for i, (a, b) in enumerate(zip(together, alone)):
            assert torch.equal(a[first : first + count] if i < 9 else a[r : r + 1], b), (r, i)


@compiled
@pytest.mark.parametrize("at", [0, 3, 7, 8, 12])
def test_samples_behind_an_opaque_one_do_not_matter(backend: str, at: int) -> None:
    """Behind an opaque sample with an early stop, colors and lengths may be anything; gradients are 0."""
    tensors, packed_info = rays([20, 20], 3)
    tensors[0][at] = 1e4
    wanted = derivatives(tensors, packed_info, backend, 0.01)
    tensors[1][at + 1 : 20] = float("nan")
    found = derivatives(tensors, packed_info, backend, 0.01)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))
    assert all(bool((t[at + 1 : 20] == 0).all()) for t in found[:9])


@compiled
def test_samples_of_no_ray_have_zeros(backend: str, poisoned: None) -> None:
    tensors, packed_info = rays([5, 9, 0, 3, 12], 3)
    kept = packed_info[[1, 3]]
    covered = torch.cat([torch.arange(first, first + count) for first, count in kept.tolist()])
    alone = torch.tensor([[0, 9], [9, 3]])
    found, wanted = (
        derivatives(tensors, kept, backend, 0.0),
        derivatives([t[covered] for t in tensors], alone, backend, 0.0),
    )
    for a, b in zip(found[:9], wanted[:9]):
        assert torch.equal(a[covered], b)
        a[covered] = 0
        assert bool((a == 0).all())


@compiled
def test_the_op_and_the_function_have_the_same_derivatives(backend: str) -> None:
    """The function goes around the registered derivative where nothing traces."""
    tensors, packed_info = rays([5, 17, 0, 8], 3)
    background = torch.rand(3)
    results = []
    for call in (
        lambda *t: composite(*t[:4], packed_info, t[4], backend=backend),
        lambda *t: torch.ops.mclnf_fast.composite_fwd(*t[:4], packed_info, t[4], 0.0),
    ):
        leaves = [t.clone().requires_grad_() for t in (*tensors, background)]
        found = call(*leaves)
        first = torch.autograd.grad(sum(t.square().sum() for t in found), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([*found, *first, *second])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@compiled
@pytest.mark.parametrize("grad", [False, True])
def test_segments_that_overlap_are_refused(backend: str, grad: bool) -> None:
    tensors, _ = rays([8], 3)
    tensors[0].requires_grad_(grad)
    if backend == "cuda":  # which does not look at values, and stays inside the arrays
        found = composite(*tensors, torch.tensor([[0, 5], [4, 4], [-3, 9], [7, 1 << 40]]), backend=backend)
        assert found.weights.shape == (8,)
        return
    with pytest.raises(ValueError, match=r"packed_info\[1\]"):
        composite(*tensors, torch.tensor([[0, 5], [4, 4]]), backend=backend)
