"""Grids whose nodes lie half a cell off the border, as tiny-cuda-nn's: sizes, places, values and derivatives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import places
import pytest
import torch
from bank_cases import assert_no_worse, spread
from grid_cases import Case, gradients
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.compat.tinycudann.grid import HalfCellGrid

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("grid_encode")
compiled = places.backends("grid_encode", reference=False)
OPS = torch.ops.mclnf_fast

GRIDS = {
    "hash": (3, HalfCellGrid("Hash", 4, 2, 7, 3, 1.7)),
    "hash_2d": (2, HalfCellGrid("Hash", 3, 4, 6, 5, 2.0, "smoothstep")),
    "hash_4d": (4, HalfCellGrid("Hash", 2, 1, 6, 2, 2.0)),
    "dense": (3, HalfCellGrid("Dense", 3, 2, 0, 3, 1.5)),  # 27, 64 and 343 nodes: 32, 64 and 344 entries
    "tiled": (2, HalfCellGrid("Tiled", 3, 2, 0, 5, 2.0, "smoothstep")),  # 25 entries, no power of two
    "nearest": (3, HalfCellGrid("Hash", 3, 2, 6, 3, 2.0, "nearest")),
}
names = pytest.mark.parametrize("name", GRIDS)


def make(name: str, counts: list[int], dtype: torch.dtype = torch.float32, low: float = 0.0, high: float = 1.0) -> Case:
    """`counts[m]` points for module m in [low, high]."""
    dims, grid = GRIDS[name]
    layout = grid.layout(dims)
    g = torch.Generator().manual_seed(0)
    tables = torch.randn(len(counts), layout.entries, layout.features, dtype=torch.float64, generator=g)
    x = low + (high - low) * torch.rand(sum(counts), dims, dtype=torch.float64, generator=g)
    return Case(grid, x.to(dtype), torch.tensor([0, *counts]).cumsum(0), tables.to(dtype))


def by_hand(name: str, x: list[float], table: list[list[float]]) -> list[float]:
    """The features of one point, a number at a time, in plain Python."""
    dims, grid = GRIDS[name]
    values, begin = [], 0
    for level, of_layout in enumerate(grid.layout(dims).levels):
        scale = grid.growth**level * grid.base - 1
        nodes = math.ceil(scale - 1e-6) + 1
        assert of_layout.scale == pytest.approx(scale, rel=1e-6)
        scale = of_layout.scale  # in float32
        size = (nodes**dims + 7) // 8 * 8
        if grid.kind == "Hash":
            size = min(size, 2**grid.log2_size)
        if grid.kind == "Tiled":
            size = min(size, grid.base**dims)
        p = [v * scale + 0.5 for v in x]
        t = [v - math.floor(v) for v in p]
        if grid.interpolation == "smoothstep":
            t = [3 * v**2 - 2 * v**3 for v in t]
        for f in range(grid.features):
            value = 0.0
            for bits in itertools.product((0, 1), repeat=dims):
                if grid.interpolation == "nearest" and any(bits):
                    continue
                node = [math.floor(v) + bit for v, bit in zip(p, bits)]
                place = sum(i * nodes**a for a, i in enumerate(node))
                if grid.kind == "Hash" and nodes**dims > size:
                    place = 0
                    for i, prime in zip(node, (1, 2654435761, 805459861, 3674653429)):
                        place ^= i * prime % 2**32
                weight = math.prod(v if bit else 1 - v for v, bit in zip(t, bits))
                if grid.interpolation == "nearest":
                    weight = 1.0
                value += weight * table[begin + place % 2**32 % size][f]
            values.append(value)
        begin += size
    assert begin == len(table)
    return values


@names
@backends
def test_a_number_at_a_time(need, name: str, backend: str) -> None:
    need("grid_encode", backend, torch.float64)
    case = make(name, [40], torch.float64)
    case.x[0], case.x[1], case.x[2, -1] = 0.0, 1.0, 1.0  # on the border places go round
    wanted = [by_hand(name, row, case.tables[0].tolist()) for row in case.x.tolist()]
    torch.testing.assert_close(case.run(backend), torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@names
@backends
def test_outside_the_box_places_go_round(need, name: str, backend: str) -> None:
    need("grid_encode", backend, torch.float64)
    case = make(name, [40], torch.float64, -3.0, 4.0)
    wanted = [by_hand(name, row, case.tables[0].tolist()) for row in case.x.tolist()]
    torch.testing.assert_close(case.run(backend), torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@names
@compiled
@pytest.mark.parametrize("points", [0, 1, 15, 33, 129])
def test_agrees_with_reference(need, name: str, backend: str, points: int) -> None:
    need("grid_encode", backend)
    for second in (False, True):
        case = make(name, spread(points, 3), torch.float64, -0.2, 1.2)
        torch.testing.assert_close(case.run(backend), case.run("reference"), rtol=1e-12, atol=1e-12)
        for found, wanted in zip(gradients(case, backend, second), gradients(case, "reference", second)):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-9)
    case = make(name, spread(points, 3))
    truth = case.to(torch.float64).run("reference")
    assert_no_worse(case.run(backend), case.run("reference"), truth, name)


@names
@backends
def test_first_and_second_derivatives(need, name: str, backend: str) -> None:
    need("grid_encode", backend, torch.float64)
    case = make(name, [3, 0, 4], torch.float64)
    for level in case.grid.layout(case.x.shape[1]).levels:  # off the nodes, where linear interpolation has a kink
        p = case.x * level.scale + 0.5
        case.x[(p - p.round()).abs() < 1e-3] += 0.01 / level.scale
    case.require()

    def f(x: Tensor, tables: Tensor) -> Tensor:
        return mf.ops.grid_encode(x, case.offsets, tables, case.grid, backend=backend)

    assert torch.autograd.gradcheck(f, case.leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, case.leaves, fast_mode=True)


@names
@backends
def test_numbers_that_are_none_stay_with_their_point(need, name: str, backend: str) -> None:
    need("grid_encode", backend)
    case = make(name, [40])
    clean = case.run(backend)
    case.x[7, -1], case.x[20, 0], case.x[33, 0] = float("nan"), float("inf"), -float("inf")
    y = case.run(backend)
    assert bool(y[7].isnan().all())
    assert not bool(y[[20, 33]].isfinite().any())
    kept = [k for k in range(40) if k not in (7, 20, 33)]
    assert torch.equal(y[kept], clean[kept])


@backends
def test_a_dense_order_that_32_bits_do_not_count_has_one_entry(need, backend: str) -> None:
    """As in tiny-cuda-nn, where a tiled level of more than 1625^3 nodes is read at place 0."""
    need("grid_encode", backend)
    grid = HalfCellGrid("Tiled", 2, 1, 0, 4, 500.0)
    assert [level.cells + 1 for level in grid.layout(3).levels] == [4, 2000]
    tables = torch.arange(128.0).reshape(1, 128, 1)
    y = mf.ops.grid_encode(torch.rand(9, 3), torch.tensor([0, 9]), tables, grid, backend=backend)
    torch.testing.assert_close(y[:, 1], torch.full((9,), 64.0))


@pytest.mark.parametrize("second", [False, True])
@names
def test_same_bits_for_every_thread_count(need, name: str, second: bool) -> None:
    need("grid_encode", "cpu")
    case = make(name, [5000, 0, 129])
    threads = torch.get_num_threads()
    first = gradients(case, "cpu", second)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert all(map(torch.equal, gradients(case, "cpu", second), first)), f"{count} threads"
    finally:
        torch.set_num_threads(threads)


@names
def test_emulated_kernels_agree_with_the_cpu(emulated: Any, name: str) -> None:
    case = make(name, [40, 0, 23], torch.float64, -0.2, 1.2)
    net = case.grid.layout(case.x.shape[1]).packed
    inputs = (case.x, case.offsets, case.tables)
    y = OPS.grid_encode_fwd(*inputs, *net)
    torch.testing.assert_close(emulated.grid_encode_fwd(*inputs, *net), y, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(y)
    along = (torch.randn_like(case.x), torch.randn_like(case.tables))
    first = (*inputs, cotangent, *net, True, True)
    second = (*inputs, cotangent, *along, *net, True, True, True)
    pairs = [
        *zip(emulated.grid_encode_bwd(*first), OPS.grid_encode_bwd(*first)),
        *zip(emulated.grid_encode_bwd_bwd(*second), OPS.grid_encode_bwd_bwd(*second)),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_raw_ops() -> None:
    case = make("tiled", [4, 0, 5])
    ints, floats = case.grid.layout(2).packed
    inputs = (case.x, case.offsets, case.tables)
    torch.library.opcheck(OPS.grid_encode_fwd, (*inputs, ints, floats))
    torch.library.opcheck(OPS.grid_encode_bwd, (*inputs, torch.randn(9, 6), ints, floats, True, True))
    for wrong in (floats[:2], [*floats, 1.0], [*floats[:-1], -1.0], [*floats[:-1], math.nan]):
        with pytest.raises(RuntimeError, match=r"wrong length|scale must not be negative"):
            OPS.grid_encode_fwd(*inputs, ints, wrong)


@pytest.mark.parametrize(("base", "growth"), [(1, 0.5), (16, 1e9)])
def test_scales_out_of_range(base: int, growth: float) -> None:
    with pytest.raises(ValueError, match="base_resolution and per_level_scale must give every level 1 to"):
        HalfCellGrid("Hash", 3, 2, 10, base, growth)
