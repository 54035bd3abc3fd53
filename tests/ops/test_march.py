"""Marching: entry and exit, which bins are kept, agreement of the backends, and what it refuses."""

from __future__ import annotations

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import places
import pytest
import torch
from torch import Tensor

from mclnf_fast.errors import BackendError
from mclnf_fast.ops import _dispatch
from mclnf_fast.ops.march import Samples, march_rays

backends = places.backends("march_rays")
compiled = places.backends("march_rays", reference=False)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def need(backend: str, dtype: torch.dtype = torch.float32) -> str:
    reason = _dispatch.why_not("march_rays", backend, torch.device(places.here()), dtype)
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    return backend


def box(low: float = -1.0, high: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([[low] * 3, [high] * 3], dtype=dtype)


def ray(origin: tuple[float, ...], direction: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    return torch.tensor([origin]), torch.tensor([direction])


def random_rays(rays: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rays from inside and outside, some along an axis, some of no direction."""
    origins, directions = torch.randn(rays, 3, dtype=dtype) * 1.5, torch.randn(rays, 3, dtype=dtype)
    directions[: rays // 5, 0] = 0
    directions[: rays // 7, 1] = 0
    directions[: rays // 10] = 0
    return origins, directions


def assert_same(a: Samples, b: Samples) -> None:
    for name, x, y in zip(Samples._fields, a, b):
        assert x.shape == y.shape, name
        assert torch.equal(x, y), name


@backends
@pytest.mark.parametrize(
    ("origin", "direction", "options", "interval"),
    [
        ((-3.0, 0.1, 0.2), (1.0, 0.0, 0.0), {}, (2.0, 4.0)),
        ((-3.0, 0.1, 0.2), (2.0, 0.0, 0.0), {}, (1.0, 2.0)),  # t is in units of the direction
        ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), {}, (0.0, 1.0)),  # from inside
        ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), {"near": -math.inf}, (-1.0, 1.0)),
        ((-2.0, -2.0, -2.0), (1.0, 1.0, 1.0), {}, (1.0, 3.0)),  # through two corners
        ((-3.0, 0.0, 0.0), (1.0, 0.0, 0.0), {"near": 2.5, "far": 3.5}, (2.5, 3.5)),
        ((-3.0, 1.0, 0.0), (1.0, 0.0, 0.0), {}, (2.0, 4.0)),  # along a face: the box is closed
        ((-3.0, 1.01, 0.0), (1.0, 0.0, 0.0), {}, None),  # beside it
        ((3.0, 0.0, 0.0), (1.0, 0.0, 0.0), {}, None),  # behind the ray
        ((-3.0, 0.0, 0.0), (1.0, 0.0, 0.0), {"far": 1.9}, None),
        ((-3.0, 0.0, 0.0), (1.0, 0.0, 0.0), {"near": 4.0}, None),
        ((-3.0, 0.0, 0.0), (1.0, 0.0, 0.0), {"near": 3.0, "far": 2.5}, None),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), {"far": 1.0}, None),  # no direction
        ((-3.0, -0.0, 0.0), (1.0, -0.0, 0.0), {}, (2.0, 4.0)),
    ],
)
def test_entry_and_exit(
    backend: str,
    origin: tuple[float, ...],
    direction: tuple[float, ...],
    options: dict,
    interval: tuple[float, float] | None,
) -> None:
    need(backend)
    found = march_rays(*ray(origin, direction), None, box(), bins=4, backend=backend, **options)
    if interval is None:
        assert found.packed_info.tolist() == [[0, 0]]
        assert found.t_starts.shape == (0,)
        return
    edges = torch.linspace(*interval, 5)
    torch.testing.assert_close(found.t_starts, edges[:-1])
    torch.testing.assert_close(found.t_ends, edges[1:])
    assert found.packed_info.tolist() == [[0, 4]]
    assert found.ray_ids.tolist() == [0] * 4


@compiled
@dtypes
@pytest.mark.parametrize("grid", ["none", "bool", "levels", "density"])
@pytest.mark.parametrize("options", [{"bins": 1}, {"bins": 65}, {"step": 0.03}, {"step": 0.3}], ids=str)
@pytest.mark.parametrize("stratified", [False, True])
def test_it_keeps_the_very_samples_of_the_reference(
    backend: str, dtype: torch.dtype, grid: str, options: dict, stratified: bool
) -> None:
    need(backend, dtype)
    occupancy, options = (
        {
            "none": None,
            "bool": torch.rand(7, 9, 11) < 0.4,
            "levels": torch.rand(3, 7, 8, 5) < 0.4,
            "density": torch.rand(2, 4, 5, 6).sub(0.3) * 10,
        }[grid],
        dict(options, stratified=stratified, seed=-3),
    )
    if grid == "density":
        options["early_stop_eps"] = 0.01
    aabb = torch.tensor([[-1.0, -1.2, -0.7], [1.0, 0.9, 1.0]], dtype=dtype)
    for rays in (0, 1, 17, 129):
        origins, directions = random_rays(rays, dtype)
        bounds = {"near": torch.rand(rays, dtype=dtype), "far": 1 + torch.rand(rays, dtype=dtype)}
        for limits in ({}, {"near": 0.3, "far": 1.7}, bounds):
            found, wanted = (
                march_rays(origins, directions, occupancy, aabb, backend=b, **options, **limits)
                for b in (backend, "reference")
            )
            assert_same(found, wanted)
            assert_same(found, march_rays(origins, directions, occupancy, aabb, backend=backend, **options, **limits))


@backends
def test_kept_bins_are_those_in_occupied_cells(backend: str) -> None:
    """Along an axis, away from the borders of cells: checked cell by cell."""
    need(backend)
    occupied = torch.tensor([True, False, False, True, True, False, True, True])
    grid = occupied[:, None, None].expand(8, 3, 2)
    found = march_rays(*ray((-2.0, 0.3, 0.3), (1.0, 0.0, 0.0)), grid, box(), bins=16, backend=backend)
    wanted = [1 + k / 8 for k in range(16) if occupied[k // 2]]
    assert found.t_starts.tolist() == wanted
    assert found.packed_info.tolist() == [[0, len(wanted)]]


@backends
def test_a_point_belongs_to_the_finest_level(backend: str) -> None:
    """Three levels of a unit box, only one of them occupied at a time, marched from -4 to 4."""
    need(backend)
    rays = ray((-5.0, 0.1, 0.1), (1.0, 0.0, 0.0))
    shells = {0: [(-1.0, 1.0)], 1: [(-2.0, -1.0), (1.0, 2.0)], 2: [(-4.0, -2.0), (2.0, 4.0)]}
    for level, spans in shells.items():
        grid = torch.zeros(3, 4, 4, 4, dtype=torch.bool)
        grid[level] = True
        found = march_rays(*rays, grid, box(), bins=64, backend=backend)
        wanted = [x / 8 for x in range(-32, 32) if any(a <= x / 8 < b for a, b in spans)]
        assert (found.t_starts - 5).tolist() == wanted
    # One cell of the coarsest level: x in [2, 4] is its last quarter.
    grid = torch.zeros(3, 4, 4, 4, dtype=torch.bool)
    grid[2, 3, 2, 2] = True
    found = march_rays(*rays, grid, box(), bins=64, backend=backend)
    assert (found.t_starts[0] - 5, found.t_ends[-1] - 5) == (2.0, 4.0)


@backends
def test_the_border_of_a_level_belongs_to_the_finer_one(backend: str) -> None:
    """Two bins of length 2 whose middles lie on the faces of the unit box."""
    need(backend)
    for level, kept in ((0, 2), (1, 0)):
        grid = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
        grid[level] = True
        found = march_rays(*ray((-5.0, 0.1, 0.1), (1.0, 0.0, 0.0)), grid, box(), bins=2, backend=backend)
        assert found.packed_info.tolist() == [[0, kept]]


def assert_tiles(found: Samples, whole: Samples) -> None:
    """The bins of each ray join up, go up, and cover what the single bins of `whole` cover."""
    for (first, count), (where, one) in zip(found.packed_info.tolist(), whole.packed_info.tolist()):
        assert (count > 0) == (one > 0)
        if count == 0:
            continue
        starts, ends = found.t_starts[first : first + count], found.t_ends[first : first + count]
        assert torch.equal(starts[1:], ends[:-1])
        assert bool((ends > starts).all())
        assert starts[0] == whole.t_starts[where]
        assert ends[-1] == whole.t_ends[where]


@backends
@dtypes
@pytest.mark.parametrize("options", [{"bins": 1}, {"bins": 37}, {"step": 0.07}], ids=str)
def test_stratified_bins_tile_the_ray(backend: str, dtype: torch.dtype, options: dict) -> None:
    need(backend, dtype)
    rays = random_rays(50, dtype)
    whole = march_rays(*rays, None, box(dtype=dtype), bins=1, backend=backend)
    found = [
        march_rays(*rays, None, box(dtype=dtype), stratified=True, seed=s, backend=backend, **options)
        for s in (1, 1, 2)
    ]
    for samples in found:
        assert_tiles(samples, whole)
    assert_same(found[0], found[1])
    if options != {"bins": 1}:
        assert not torch.equal(found[0].t_ends, found[2].t_ends)


@backends
def test_jitter_is_uniform_within_half_a_bin(backend: str) -> None:
    need(backend)
    origins = torch.tensor([[-2.0, 0.0, 0.0]]).expand(2000, 3)
    rays = origins, torch.tensor([[1.0, 0.0, 0.0]]).expand(2000, 3)
    plain, moved = (
        march_rays(*rays, None, box(), bins=8, stratified=s, seed=2**40, backend=backend) for s in (False, True)
    )
    shift = ((moved.t_ends - plain.t_ends) * 4).reshape(2000, 8)[:, :-1]  # in bins; the last edge does not move
    assert float(shift.abs().max()) <= 0.5
    assert abs(float(shift.mean())) < 0.01
    assert abs(float(shift.var()) - 1 / 12) < 0.003
    correlation = torch.corrcoef(shift.t())
    assert float((correlation - torch.eye(7)).abs().max()) < 0.1


@backends
def test_steps_and_bins(backend: str) -> None:
    need(backend)
    rays = ray((-2.0, 0.2, 0.0), (1.0, 0.0, 0.0))
    assert_same(*(march_rays(*rays, None, box(), backend=backend, **o) for o in ({"bins": 8}, {"step": 0.25})))
    found = march_rays(*rays, None, box(), step=0.75, backend=backend)  # the last step is shorter
    assert found.t_starts.tolist() == [1.0, 1.75, 2.5]
    assert found.t_ends.tolist() == [1.75, 2.5, 3.0]
    assert march_rays(*rays, None, box(), step=100.0, backend=backend).packed_info.tolist() == [[0, 1]]
    # The quotient of length and step underflows to 0: there is one bin still.
    rays = ray((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    assert march_rays(*rays, None, box(-1e-8, 1e-8), step=3e38, backend=backend).packed_info.tolist() == [[0, 1]]


@backends
def test_density_stops_the_ray(backend: str) -> None:
    """Density 2 in a box of length 2 in bins of 1/8: exp(-2 i / 8) < 0.1 from i = 10 on."""
    need(backend)
    rays, density = ray((-2.0, 0.2, 0.0), (1.0, 0.0, 0.0)), torch.full((4, 4, 4), 2.0)
    stopped = march_rays(*rays, density, box(), bins=16, early_stop_eps=0.1, backend=backend)
    assert stopped.packed_info.tolist() == [[0, 10]]
    assert march_rays(*rays, density, box(), bins=16, backend=backend).packed_info.tolist() == [[0, 16]]
    density[0], density[1] = 0.0, -1.0  # not occupied, and not in the way
    stopped = march_rays(*rays, density, box(), bins=16, early_stop_eps=0.1, backend=backend)
    assert stopped.t_starts.tolist() == [2 + k / 8 for k in range(8)]
    density[2] = math.inf
    stopped = march_rays(*rays, density, box(), bins=16, early_stop_eps=0.1, backend=backend)
    assert stopped.t_starts.tolist() == [2.0]


@backends
def test_the_ray_ends_beyond_the_depth_and_not_at_it(backend: str) -> None:
    """Density 1 in bins of 1/2: exp(-1) of the light is left before the third bin, which is kept, as 1 is not below."""
    need(backend)
    rays, density = ray((-2.0, 0.2, 0.0), (1.0, 0.0, 0.0)), torch.ones(2, 2, 2)
    stopped = march_rays(*rays, density, box(), bins=4, early_stop_eps=math.exp(-1.0), backend=backend)
    assert stopped.t_starts.tolist() == [1.0, 1.5, 2.0]


@backends
@pytest.mark.parametrize(("axis", "side"), itertools.product(range(3), (0, -1)))
def test_a_ray_along_a_face_is_in_the_cells_behind_it(backend: str, axis: int, side: int) -> None:
    """The upper face belongs to the last cells, not to ones beyond them."""
    need(backend)
    along, other = (axis + 1) % 3, (axis + 2) % 3
    origin, direction = [0.0] * 3, [0.0] * 3
    origin[axis], origin[along], origin[other], direction[along] = (-1.0, 1.0)[side], -3.0, -0.9, 1.0
    grid = torch.zeros(4, 4, 4, dtype=torch.bool)
    grid.select(axis, side)[:] = True
    rays = ray(tuple(origin), tuple(direction))
    found, none = (march_rays(*rays, g, box(), bins=4, backend=backend) for g in (grid, ~grid))
    assert found.t_starts.tolist() == [2.0, 2.5, 3.0, 3.5]
    assert none.packed_info.tolist() == [[0, 0]]


@compiled
def test_any_strides(backend: str) -> None:
    need(backend)
    origins, directions = random_rays(33)
    grid = torch.rand(5, 6, 7) < 0.5
    wanted = march_rays(origins, directions, grid, box(), bins=20, backend=backend)
    turned = grid.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    wide = torch.cat([torch.zeros(33, 1), origins], dim=1)[:, 1:]
    found = march_rays(wide, directions.t().contiguous().t(), turned, box(), bins=20, backend=backend)
    assert_same(found, wanted)


def test_number_of_threads_changes_nothing() -> None:
    need("cpu")
    rays, grid, threads = random_rays(3000), torch.rand(16, 16, 16) < 0.5, torch.get_num_threads()
    runs = []
    try:
        for count in (threads, 1):
            torch.set_num_threads(count)
            runs.append(march_rays(*rays, grid, box(), step=0.02, stratified=True, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    assert_same(*runs)


@compiled
@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    rays=st.integers(0, 20),
    bins=st.integers(1, 130),
    seed=st.integers(-(2**63), 2**63 - 1),
    share=st.floats(0, 1),
)
def test_packing(backend: str, rays: int, bins: int, seed: int, share: float) -> None:
    """Samples go by ray and t, packed_info and ray_ids agree, each middle is in an occupied cell."""
    need(backend)
    origins, directions = random_rays(rays)
    grid = torch.rand(4, 4, 4) < share
    found = march_rays(origins, directions, grid, box(), bins=bins, stratified=True, seed=seed, backend=backend)
    first, count = found.packed_info.unbind(1)
    assert torch.equal(first, count.cumsum(0) - count)
    assert torch.equal(found.ray_ids, torch.arange(rays).repeat_interleave(count))
    assert found.t_starts.shape == found.t_ends.shape == (int(count.sum()),)
    same = found.ray_ids[1:] == found.ray_ids[:-1]
    assert bool((found.t_starts[1:] >= found.t_ends[:-1])[same].all())
    middle = 0.5 * (found.t_starts + found.t_ends)
    points = origins[found.ray_ids] + directions[found.ray_ids] * middle[:, None]
    cell = ((points + 1) * 2).long().clamp(0, 3)
    assert bool(grid[tuple(cell.unbind(1))].all())


@backends
def test_rays_that_require_grad_are_constants(backend: str) -> None:
    need(backend)
    origins, directions = (t.requires_grad_() for t in random_rays(5))
    found = march_rays(origins, directions, None, box(), bins=4, backend=backend)
    assert not any(t.requires_grad for t in found)


@compiled
def test_opcheck(backend: str) -> None:
    need(backend)
    origins, directions = random_rays(7)
    limits = torch.rand(7), None
    for occupancy in (None, torch.rand(2, 3, 4, 5) < 0.5):
        for required in (False, True):
            inputs = (
                origins.requires_grad_(required),
                directions,
                occupancy,
                box(),
                *limits,
                0.0,
                9.0,
                8,
                0.0,
                True,
                1,
                0.0,
            )
            torch.library.opcheck(torch.ops.mclnf_fast.march_rays_fwd.default, inputs)


@compiled
def test_compiles_whole(backend: str) -> None:
    need(backend)
    grid, aabb = torch.rand(4, 4, 4) < 0.5, box()

    def total(origins: Tensor, directions: Tensor) -> Tensor:
        found = march_rays(origins, directions, grid, aabb, bins=8, stratified=True, seed=3, backend=backend)
        return (found.t_ends - found.t_starts).sum() + found.packed_info.sum()

    rays = random_rays(12)
    with places.unaided():
        torch.testing.assert_close(torch.compile(total, fullgraph=True, backend="aot_eager")(*rays), total(*rays))


def with_value(t: Tensor, row: int, value: float) -> Tensor:
    t = t.clone()
    t[row, 1] = value
    return t


GOOD = {
    "origins": torch.rand(4, 3),
    "directions": torch.rand(4, 3),
    "occupancy": None,
    "aabb": box(),
    "bins": 4,
}
BAD = [
    ({"origins": torch.rand(4, 2)}, ValueError, "origins must have shape"),
    ({"origins": torch.rand(4, 3).half()}, TypeError, "origins must have dtype"),
    (
        {"origins": with_value(torch.rand(4, 3), 2, math.nan)},
        ValueError,
        r"origins must be finite, got origins\[2\]",
    ),
    (
        {"directions": with_value(torch.rand(4, 3), 3, math.inf)},
        ValueError,
        r"directions must be finite, got directions\[3\]",
    ),
    ({"directions": torch.rand(5, 3)}, ValueError, "directions must have shape"),
    ({"directions": torch.rand(4, 3).double()}, TypeError, "directions must have dtype"),
    ({"aabb": torch.rand(3, 2)}, ValueError, "aabb must have shape"),
    ({"aabb": box(1.0, -1.0)}, ValueError, r"aabb\[0\] < aabb\[1\]"),
    ({"aabb": box(0.0, math.inf)}, ValueError, "aabb must be finite"),
    ({"occupancy": torch.ones(2, 2, dtype=torch.bool)}, ValueError, "occupancy must be"),
    ({"occupancy": torch.ones(2, 0, 2, dtype=torch.bool)}, ValueError, "occupancy must be"),
    ({"occupancy": torch.ones(40, 1, 1, 1, dtype=torch.bool)}, ValueError, "at most 32 levels"),
    ({"occupancy": torch.ones(2, 2, 2, dtype=torch.uint8)}, TypeError, "occupancy must have dtype"),
    (
        {"occupancy": torch.ones(2, 2, 2, dtype=torch.bool), "early_stop_eps": 0.1},
        ValueError,
        "needs densities",
    ),
    ({"early_stop_eps": -0.1}, ValueError, "early_stop_eps must be at least 0 and below 1, got -0.1"),
    ({"bins": 0}, ValueError, "bins must be"),
    ({"bins": 2.0}, ValueError, "bins must be"),
    ({"bins": None}, ValueError, "exactly one of bins and step"),
    ({"step": 0.1}, ValueError, "exactly one of bins and step"),
    ({"bins": None, "step": 0.0}, ValueError, "step must be"),
    ({"bins": None, "step": math.nan}, ValueError, "step must be"),
    ({"near": math.nan}, ValueError, "near must be"),
    ({"far": torch.rand(3)}, ValueError, "far must have shape"),
    ({"near": torch.rand(4).double()}, TypeError, "near must have dtype"),
    ({"seed": 2**63}, ValueError, "seed must be"),
    ({"seed": 0.5}, ValueError, "seed must be"),
    ({"backend": "cuda"}, BackendError, "CUDA"),
    ({"backend": "triton"}, BackendError, "no triton backend"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[f"{next(iter(b[0]))}-{i}" for i, b in enumerate(BAD)])
def test_refuses(change: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        march_rays(**{**GOOD, **change})


@backends
def test_refuses_a_step_of_too_many_bins(backend: str) -> None:
    need(backend)
    rays = ray((-2.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    for step in (1e-9, 1e-44):
        with pytest.raises((ValueError, RuntimeError), match="step must give at most"):
            march_rays(*rays, None, box(), step=step, backend=backend)


@backends
def test_extreme_values_stay_in_bounds(backend: str) -> None:
    """Coordinates near the largest float overflow on the way; nothing is read outside the grid."""
    need(backend)
    values = (-3e38, -1e-38, 0.0, 1e-38, 3e38)
    corners = torch.tensor(list(itertools.product(values, repeat=3)))
    origins, directions = corners.repeat_interleave(len(corners), 0), corners.repeat(len(corners), 1)
    grid = torch.ones(2, 3, 3, 3, dtype=torch.bool)
    found = march_rays(origins, directions, grid, box(), bins=3, backend=backend)
    assert bool(torch.isfinite(found.t_starts).all() & torch.isfinite(found.t_ends).all())
