"""Grid encodings: closed forms, agreement of the backends, what comes out at the edges and what is refused."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import places
import pytest
import torch
from bank_cases import assert_no_worse, spread
from grid_cases import GRIDS, Case, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import BackendError
from mclnf_fast.grids import Grid

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("grid_encode")
compiled = places.backends("grid_encode", reference=False)
names = pytest.mark.parametrize("name", GRIDS)


def whole(x: Tensor, tables: Tensor, grid: Grid, backend: str) -> Tensor:
    """All points in the one module."""
    return mf.ops.grid_encode(x, torch.tensor([0, x.shape[0]]), tables, grid, backend=backend)


def lattice(nodes: int, dims: int) -> Tensor:
    """Every node's indices [nodes^dims, dims], the first axis fastest."""
    return torch.tensor([n[::-1] for n in itertools.product(range(nodes), repeat=dims)]).reshape(-1, dims)


@backends
@pytest.mark.parametrize("dims", [1, 2, 3, 4])
@pytest.mark.parametrize("interpolation", ["nearest", "linear", "smoothstep"])
def test_nodes_return_their_rows(need, backend: str, dims: int, interpolation: str) -> None:
    need("grid_encode", backend, torch.float64)
    grid = mf.HashGrid(1, 3, 12, base=5, interpolation=interpolation, low=-2.0, high=3.0)
    tables = torch.randn(1, 6**dims, 3, dtype=torch.float64)
    x = lattice(6, dims).double() - 2.0
    torch.testing.assert_close(whole(x, tables, grid, backend), tables[0], rtol=1e-12, atol=1e-12)


@backends
@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_linear_functions_come_out_exactly(need, backend: str, dims: int) -> None:
    need("grid_encode", backend, torch.float64)
    grid = mf.HashGrid(2, 2, 14, base=3, growth=2.0)
    slope, shift = torch.randn(dims, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    rows = [2 * lattice(n + 1, dims).double() / n - 1 for n in grid.cells]
    tables = torch.cat([r @ slope + shift for r in rows])[None]
    x = torch.rand(200, dims, dtype=torch.float64) * 2 - 1
    x[0], x[1], x[2, -1] = 1.0, -1.0, 1.0  # the box's border belongs to it, derivatives included
    x.requires_grad_()
    y = whole(x, tables, grid, backend)
    torch.testing.assert_close(y, (x @ slope + shift).repeat(1, 2), rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(y[:, :2].sum(), x)
    torch.testing.assert_close(grad, slope.sum(1).expand(200, dims), rtol=1e-10, atol=1e-10)


@backends
def test_smoothstep_between_two_nodes(need, backend: str) -> None:
    need("grid_encode", backend, torch.float64)
    grid = mf.HashGrid(1, 1, 4, base=1, interpolation="smoothstep", low=0.0)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
    y = whole(t, torch.tensor([[[2.0], [5.0]]], dtype=torch.float64), grid, backend)
    torch.testing.assert_close(y, 2 + 3 * (3 * t**2 - 2 * t**3))


@backends
@pytest.mark.parametrize("features", [1, 8, 32, 41])
def test_tri_plane_agrees_with_grid_sample(need, backend: str, features: int) -> None:
    need("grid_encode", backend, torch.float64)
    plane = mf.TriPlane(features, 7, "concat")
    tables = torch.randn(1, 3 * 49, features, dtype=torch.float64)
    x = torch.rand(100, 3, dtype=torch.float64) * 2.6 - 1.3
    wanted = []
    for k, axes in enumerate([[0, 1], [0, 2], [1, 2]]):
        image = tables[0, 49 * k : 49 * (k + 1)].T.reshape(1, features, 7, 7)
        found = torch.nn.functional.grid_sample(
            image, x[None, None, :, axes], align_corners=True, padding_mode="border"
        )
        wanted.append(found[0, :, 0].T)
    torch.testing.assert_close(whole(x, tables, plane, backend), torch.cat(wanted, 1))
    total = whole(x, tables, mf.TriPlane(features, 7, "sum"), backend)
    torch.testing.assert_close(total, wanted[0] + wanted[1] + wanted[2])
    product = whole(x, tables, mf.TriPlane(features, 7, "product"), backend)
    torch.testing.assert_close(product, wanted[0] * wanted[1] * wanted[2])


def by_hand(x: list[float], table: list[float], cells: int, size: int, low: float, high: float) -> float:
    """One feature of one point on one hashed level, in plain Python."""
    node, part = [], []
    for v in x:
        p = (min(max(v, low), high) - low) / (high - low) * cells
        node.append(min(int(p), cells - 1))
        part.append(p - node[-1])
    value = 0.0
    for bits in itertools.product((0, 1), repeat=len(x)):
        entry, weight = 0, 1.0
        for a, bit in enumerate(bits):
            entry ^= ((node[a] + bit) * (1, 2654435761, 805459861, 3674653429)[a]) & 0xFFFFFFFF
            weight *= part[a] if bit else 1 - part[a]
        value += weight * table[entry % size]
    return value


@backends
@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_the_hash_is_the_papers(need, backend: str, dims: int) -> None:
    need("grid_encode", backend, torch.float64)
    cells = 100_003 if dims < 3 else 5_003  # products far beyond 32 bits
    grid = mf.HashGrid(1, 1, 5, base=cells, low=-3.0, high=2.0)
    tables = torch.randn(1, 32, 1, dtype=torch.float64)
    x = torch.rand(60, dims, dtype=torch.float64) * 7 - 4
    wanted = [by_hand(row, tables[0, :, 0].tolist(), cells, 32, -3.0, 2.0) for row in x.tolist()]
    found = whole(x, tables, grid, backend)[:, 0]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@compiled
@names
def test_agrees_with_reference_in_double(need, backend: str, name: str) -> None:
    need("grid_encode", backend, torch.float64)
    case = make(name, [0, 40, 0, 33, 129], torch.float64)
    torch.testing.assert_close(case.run(backend), case.run("reference"), rtol=1e-12, atol=1e-12)


@compiled
@names
@pytest.mark.parametrize("points", [0, 1, 15, 17, 63, 129, 1000])
def test_agrees_at_every_number_of_points(need, backend: str, name: str, points: int) -> None:
    need("grid_encode", backend)
    for modules in (1, 3):
        case = make(name, spread(points, modules))
        truth = case.to(torch.float64).run("reference")
        assert_no_worse(case.run(backend), case.run("reference"), truth, name)


@compiled
def test_the_default_hash_grid(need, backend: str) -> None:
    """Full size: 16 levels up to 2048 cells, 2^19 entries."""
    need("grid_encode", backend)
    grid = mf.HashGrid()
    layout = grid.layout(3)
    g = torch.Generator().manual_seed(0)
    tables = torch.rand(1, layout.entries, 2, generator=g)
    case = Case(grid, torch.rand(3000, 3, generator=g) * 2.1 - 1.05, torch.tensor([0, 3000]), tables)
    truth = case.to(torch.float64).run("reference")
    assert case.run(backend).shape == (3000, 32)
    assert_no_worse(case.run(backend), case.run("reference"), truth)


@names
@backends
def test_modules_have_tables_of_their_own(need, name: str, backend: str) -> None:
    need("grid_encode", backend)
    case = make(name, [7, 0, 5])
    y = case.run(backend)
    for m, (a, b) in enumerate(itertools.pairwise(case.offsets.tolist())):
        assert torch.equal(whole(case.x[a:b], case.tables[m : m + 1], case.grid, backend), y[a:b])


@names
@backends
def test_outside_the_box_is_its_border(need, name: str, backend: str) -> None:
    need("grid_encode", backend)
    case = make(name, [50], spread=3.0)
    x = case.x.clone()
    x[0], x[1] = float("inf"), -float("inf")
    border = x.clamp(case.grid.low, case.grid.high)
    y = whole(x, case.tables, case.grid, backend)
    assert torch.equal(y, whole(border, case.tables, case.grid, backend))
    assert bool(y.isfinite().all())


@names
@backends
def test_nan_stays_with_its_point(need, name: str, backend: str) -> None:
    need("grid_encode", backend)
    case = make(name, [40])
    x = case.x.clone()
    x[7, -1] = x[33, 0] = float("nan")
    y, clean = whole(x, case.tables, case.grid, backend), case.run(backend)
    assert torch.equal(y[[0, 6, 8, 39]], clean[[0, 6, 8, 39]])
    seen = y[[7, 33]].isnan()
    # A map of a tri-plane that does not read the coordinate has its features still.
    assert bool(seen.any(1).all())
    if not name.startswith("plane_concat"):
        assert bool(seen.all())


@backends
def test_any_strides_and_dtypes(need, backend: str) -> None:
    need("grid_encode", backend)
    case = make("hash_3d", [20, 0, 13])
    wanted = case.run(backend)
    wide = torch.cat((torch.zeros(33, 1), case.x, torch.zeros(33, 2)), 1)
    strided = Case(case.grid, wide[:, 1:4], case.offsets, case.tables.transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(strided.run(backend), wanted)
    assert torch.equal(Case(case.grid, case.x.T.contiguous().T, case.offsets, case.tables).run(backend), wanted)
    one = case.tables[:1].expand(3, -1, -1)
    copied = Case(case.grid, case.x, case.offsets, one.contiguous()).run(backend)
    assert torch.equal(Case(case.grid, case.x, case.offsets, one).run(backend), copied)
    for dtype in (torch.float16, torch.bfloat16):
        low = case.to(dtype)
        assert torch.equal(low.run(backend), low.to(torch.float32).run(backend).to(dtype))


@backends
def test_empty(need, backend: str) -> None:
    need("grid_encode", backend)
    for name in ("hash_2d", "plane_sum"):
        dims, grid = GRIDS[name]
        none = make(name, [0, 0])
        assert none.run(backend).shape == (0, grid.out_dim(dims))
        no_modules = Case(grid, none.x, torch.tensor([0]), none.tables[:0])
        assert no_modules.run(backend).shape == (0, grid.out_dim(dims))


@compiled
@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    levels=st.integers(1, 4),
    features=st.integers(1, 10),
    log2_size=st.integers(1, 9),
    base=st.integers(1, 9),
    growth=st.floats(1.0, 3.0),
    dims=st.integers(1, 4),
    interpolation=st.sampled_from(["nearest", "linear", "smoothstep"]),
    seed=st.integers(0, 99),
)
def test_any_grid(
    need,
    backend: str,
    levels: int,
    features: int,
    log2_size: int,
    base: int,
    growth: float,
    dims: int,
    interpolation: str,
    seed: int,
) -> None:
    need("grid_encode", backend, torch.float64)
    grid = mf.HashGrid(levels, features, log2_size, base, growth, interpolation=interpolation)
    torch.manual_seed(seed)
    layout = grid.layout(dims)
    tables = torch.randn(2, layout.entries, features, dtype=torch.float64)
    case = Case(grid, torch.rand(37, dims, dtype=torch.float64) * 2.2 - 1.1, torch.tensor([0, 5, 37]), tables)
    torch.testing.assert_close(case.run(backend), case.run("reference"), rtol=1e-11, atol=1e-11)


GOOD = make("hash_3d", [3, 2])
BAD = [
    ({"encoding": mf.Frequency(3)}, TypeError, "encoding must be a HashGrid or a TriPlane, got Frequency"),
    ({"x": [1.0]}, TypeError, "x must be a tensor"),
    ({"x": torch.rand(5)}, ValueError, r"x must have shape \[N, dims\]"),
    ({"x": torch.rand(5, 5)}, ValueError, "HashGrid: needs 1 or 2 or 3 or 4 coordinates, got 5"),
    ({"encoding": mf.TriPlane(2, 3), "x": torch.rand(5, 2)}, ValueError, "TriPlane: needs 3 coordinates, got 2"),
    ({"x": torch.zeros(5, 3, dtype=torch.int64)}, TypeError, "x must have dtype"),
    ({"x": torch.rand(5, 2)}, ValueError, r"tables must have shape \[M, entries, features\]"),
    ({"tables": GOOD.tables[:, :-1]}, ValueError, "tables must have shape"),
    ({"tables": GOOD.tables.double()}, TypeError, "tables must have dtype torch.float32"),
    ({"tables": None}, TypeError, "tables must be a tensor"),
    ({"offsets": torch.tensor([0, 5])}, ValueError, r"offsets must have shape \[M \+ 1\] = \[3\]"),
    ({"offsets": torch.tensor([0, 6, 5])}, ValueError, "offsets must not go down"),
    ({"offsets": torch.tensor([0, 3, 4])}, ValueError, "offsets must end at the number of points, 5"),
    ({"offsets": torch.tensor([0.0, 3.0, 5.0])}, TypeError, "offsets must have dtype torch.int64"),
    ({"backend": "triton"}, BackendError, "grid_encode has no triton backend"),
    ({"backend": "fast"}, ValueError, "backend must be one of"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[f"{next(iter(b[0]))}-{i}" for i, b in enumerate(BAD)])
def test_refuses(change: dict, error: type[Exception], text: str) -> None:
    good = {"x": GOOD.x, "offsets": GOOD.offsets, "tables": GOOD.tables, "encoding": GOOD.grid}
    with pytest.raises(error, match=text):
        mf.ops.grid_encode(**{**good, **change})
