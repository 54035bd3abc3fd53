"""Derivatives of the grid encodings: against finite differences in float64, and the kernels against the reference."""

from __future__ import annotations

import places
import pytest
import torch
from bank_cases import assert_no_worse, spread
from grid_cases import GRIDS, Case, gradients, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.grids import Grid

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("grid_encode")
compiled = places.backends("grid_encode", reference=False)
names = pytest.mark.parametrize("name", GRIDS)
orders = pytest.mark.parametrize("second", [False, True], ids=["first", "second"])


def away_from_borders(case: Case) -> Case:
    """Moves points off the borders of cells, where a difference finds no derivative of linear interpolation, and
    for the nearest node off their middles."""
    nearest = isinstance(case.grid, mf.HashGrid) and case.grid.interpolation == "nearest"
    for cells in sorted({level.cells for level in case.grid.layout(case.x.shape[1]).levels}):
        size = (case.grid.high - case.grid.low) / cells
        p = (case.x - case.grid.low) / size + (0.5 if nearest else 0.0)
        case.x[(p - p.round()).abs() < 1e-3] += 0.01 * size
    return case


@names
@backends
@pytest.mark.parametrize(("x", "tables"), [(True, True), (True, False), (False, True)])
def test_first_and_second_derivatives(need, name: str, backend: str, x: bool, tables: bool) -> None:
    need("grid_encode", backend, torch.float64)
    case = away_from_borders(make(name, [3, 0, 4], torch.float64)).require(x, tables)

    def f(*leaves: Tensor) -> Tensor:
        given = iter(leaves)
        own = [next(given) if t.requires_grad else t for t in (case.x, case.tables)]
        return mf.ops.grid_encode(own[0], case.offsets, own[1], case.grid, backend=backend)

    assert torch.autograd.gradcheck(f, case.leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, case.leaves, fast_mode=True)


@backends
@pytest.mark.parametrize("grid", [mf.HashGrid(2, 1, 3, 2, 2.0), mf.TriPlane(1, 2, "product")], ids=["hash", "plane"])
def test_the_full_jacobian_once(need, grid: Grid, backend: str) -> None:
    # fast_mode above checks one random direction a test; here every entry.
    need("grid_encode", backend, torch.float64)
    tables = torch.randn(2, grid.layout(3).entries, 1, dtype=torch.float64)
    x = torch.tensor([[0.3, -0.7, 0.1], [0.6, 0.2, -1.4], [-0.2, 0.8, 0.4]], dtype=torch.float64)
    leaves = (x.requires_grad_(), tables.requires_grad_())

    def f(x: Tensor, tables: Tensor) -> Tensor:
        return mf.ops.grid_encode(x, torch.tensor([0, 2, 3]), tables, grid, backend=backend)

    assert torch.autograd.gradcheck(f, leaves)
    assert torch.autograd.gradgradcheck(f, leaves)


@compiled
@names
@orders
def test_agrees_with_reference_in_double(need, backend: str, name: str, second: bool) -> None:
    need("grid_encode", backend, torch.float64)
    case = make(name, [0, 40, 0, 33, 129], torch.float64)
    for found, wanted in zip(gradients(case, backend, second), gradients(case, "reference", second)):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@compiled
@names
@orders
@pytest.mark.parametrize("points", [0, 1, 15, 17, 63, 129, 1000])
def test_agrees_at_every_number_of_points(need, backend: str, name: str, points: int, second: bool) -> None:
    need("grid_encode", backend)
    # 0.99: on the box's border itself, rounding decides whether a point is inside.
    case = make(name, spread(points, 3), spread=0.99)
    found, same = gradients(case, backend, second), gradients(case, "reference", second)
    truth = gradients(case.to(torch.float64), "reference", second)
    for k, (f, s, t) in enumerate(zip(found, same, truth)):
        assert_no_worse(f, s, t, f"gradient {k}")


@names
@backends
def test_nothing_depends_on_x_outside_the_box(need, name: str, backend: str) -> None:
    need("grid_encode", backend, torch.float64)
    case = make(name, [60], torch.float64, spread=2.0).require()
    outside = (case.x < case.grid.low) | (case.x > case.grid.high)
    assert 0 < int(outside.sum()) < outside.numel()
    y = case.run(backend)
    grad, tables = torch.autograd.grad((y * torch.randn_like(y)).sum(), case.leaves, create_graph=True)
    assert bool((grad[outside] == 0).all())
    assert bool(tables.isfinite().all())
    if "nearest" not in name:
        assert bool((grad[~outside] != 0).all())
        (second,) = torch.autograd.grad(grad.square().sum(), case.tables)
        assert bool((second != 0).any())


@names
@backends
def test_modules_without_points_and_empty_batches_have_zero_gradients(need, name: str, backend: str) -> None:
    need("grid_encode", backend)
    for counts in ([0, 9, 0], [0, 0], [0]):
        case = make(name, counts)
        for second in (False, True):
            grad_x, grad_tables = gradients(case, backend, second)
            assert grad_x.shape == case.x.shape
            assert grad_tables.shape == case.tables.shape
            assert bool((grad_tables[0] == 0).all())
    none = Case(case.grid, case.x[:0], torch.tensor([0]), case.tables[:0].detach())
    assert all(g.numel() == 0 for g in gradients(none, backend, second=True))


@orders
@pytest.mark.parametrize("name", ["hash_3d", "smooth_3d", "hash_4d", "plane_wide", "nearest_3d"])
def test_same_bits_for_every_run_and_thread_count(need, name: str, second: bool) -> None:
    need("grid_encode", "cpu")
    # Enough points for several shares of them, and for tables in parts; a few entries receive hundreds of gradients.
    case = make(name, [9000, 0, 129, 2500])
    forward, first = case.run("cpu"), gradients(case, "cpu", second)
    threads = torch.get_num_threads()
    try:
        for count in (threads, 1, 2, 3, 7):
            torch.set_num_threads(count)
            assert torch.equal(case.run("cpu"), forward), f"{count} threads"
            assert all(map(torch.equal, gradients(case, "cpu", second), first)), f"{count} threads"
    finally:
        torch.set_num_threads(threads)


@compiled
def test_strided_cotangents(need, backend: str) -> None:
    need("grid_encode", backend)
    case = make("hash_3d", [40, 0, 33]).require()
    cotangent = torch.randn(8, 73).T
    plain = torch.autograd.grad(case.run(backend), case.leaves, cotangent.contiguous())
    assert all(map(torch.equal, torch.autograd.grad(case.run(backend), case.leaves, cotangent), plain))
    ones = torch.autograd.grad(case.run(backend).sum(), case.leaves)  # an expanded cotangent
    assert all(map(torch.equal, ones, torch.autograd.grad(case.run(backend), case.leaves, torch.ones(73, 8))))


@compiled
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(need, backend: str, dtype: torch.dtype) -> None:
    need("grid_encode", backend, dtype)
    case = make("hash_3d", [50, 0, 14], spread=0.9).to(dtype)
    found, same = gradients(case, backend), gradients(case.to(dtype), "reference")
    truth = gradients(case.to(torch.float64), "reference")
    for k, (f, s, t) in enumerate(zip(found, same, truth)):
        assert f.dtype == dtype
        assert_no_worse(f, s, t, f"gradient {k}")


@compiled
@pytest.mark.parametrize("name", ["smooth_3d", "plane_product"])
def test_second_derivative_with_one_cotangent_at_a_time(need, backend: str, name: str) -> None:
    need("grid_encode", backend, torch.float64)
    case = make(name, [5, 0, 6], torch.float64).require()
    rows = {}
    for each in (backend, "reference"):
        grads = torch.autograd.grad(case.run(each).square().sum(), case.leaves, create_graph=True)
        rows[each] = [
            torch.autograd.grad(g.square().sum(), leaf, retain_graph=True) for g in grads for leaf in case.leaves
        ]
    for (found,), (wanted,) in zip(rows[backend], rows["reference"]):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@backends
def test_an_eikonal_step(need, backend: str) -> None:
    """The gradient of (|dy/dx| - 1)^2 in the tables, against differences of the tables."""
    need("grid_encode", backend, torch.float64)
    case = make("smooth_3d", [30], torch.float64, spread=0.95).require()

    def loss(tables: Tensor) -> Tensor:
        y = mf.ops.grid_encode(case.x, case.offsets, tables, case.grid, backend=backend).sum(1)
        (normal,) = torch.autograd.grad(y.sum(), case.x, create_graph=True)
        return (normal.norm(dim=1) - 1).square().mean()

    assert torch.autograd.gradcheck(loss, (case.tables,), fast_mode=True)


@compiled
def test_graph_can_be_used_twice_and_inputs_are_not_overwritten(need, backend: str) -> None:
    need("grid_encode", backend)
    case = make("hash_3d", [20]).require()
    before = [t.detach().clone() for t in case.leaves]
    loss = case.run(backend).square().sum()
    first = torch.autograd.grad(loss, case.leaves, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(loss, case.leaves), first))
    assert all(map(torch.equal, case.leaves, before))


@backends
def test_third_order(need, backend: str) -> None:
    need("grid_encode", backend, torch.float64)
    case = make("smooth_3d", [4], torch.float64, spread=0.9).require()
    value = case.run(backend).square().sum()
    for _ in range(2):
        value = torch.autograd.grad(value, case.x, create_graph=True)[0].square().sum()
    if backend == "reference":
        assert bool(torch.autograd.grad(value, case.x)[0].isfinite().all())
    else:
        with pytest.raises(RuntimeError, match=r"third derivatives .* use backend='reference'"):
            torch.autograd.grad(value, case.x)
