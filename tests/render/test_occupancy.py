"""The occupancy grid: what it finds, what it never drops, its levels and its state, and rendering with it."""

import hypothesis
import hypothesis.strategies as st
import places
import pytest
import torch
from fields import in_cells
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.ops import march_rays
from mclnf_fast.render import Cells, OccupancyGrid, Rays, render_modules, sample_in_cells
from mclnf_fast.spec import FieldSpec


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(places.here()).manual_seed(seed)


def box_density(low: Tensor, high: Tensor, value: float = 5.0):
    return lambda x: ((x >= low) & (x <= high)).all(-1).to(torch.float32) * value


def cells_touching(low: Tensor, high: Tensor, size: tuple[int, int, int]) -> Tensor:
    """bool [X, Y, Z]: cells of [-1, 1]^3 whose inside meets the box."""
    touched = []
    for axis, n in enumerate(size):
        edges = torch.arange(n + 1, dtype=torch.float64) / n * 2 - 1
        touched.append((edges[1:] > float(low[axis])) & (edges[:-1] < float(high[axis])))
    return touched[0][:, None, None] & touched[1][None, :, None] & touched[2][None, None, :]


def test_everything_is_occupied_before_the_first_update():
    grid = OccupancyGrid((4, 5, 6), levels=2)
    assert grid.grid.shape == (2, 4, 5, 6)
    assert grid.grid.dtype == torch.bool
    assert grid.fraction == 1.0
    grid.update(lambda x: torch.zeros(len(x)), generator())
    assert grid.fraction == 0.0


@places.devices
def test_a_box_of_whole_cells_is_found_exactly_without_growth():
    low, high = torch.tensor([-0.5, -0.25, 0.0]), torch.tensor([0.25, 0.5, 0.75])
    grid = OccupancyGrid(8, grow=0, device=places.here())
    grid.update(box_density(low, high), generator())
    assert torch.equal(grid.grid[0], cells_touching(low, high, (8, 8, 8)))
    assert grid.fraction == pytest.approx(27 / 512)


def test_growth_adds_exactly_the_neighbors():
    low, high = torch.full((3,), -0.25), torch.full((3,), 0.25)
    grid = OccupancyGrid(8, grow=1)
    grid.update(box_density(low, high), generator())
    assert torch.equal(grid.grid[0], cells_touching(low * 2, high * 2, (8, 8, 8)))


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(st.data(), st.integers(0, 2**31 - 1))
def test_nothing_dense_is_dropped(data, seed):
    size = tuple(data.draw(st.integers(4, 9)) for _ in range(3))
    low, high = torch.empty(3), torch.empty(3)
    for axis, n in enumerate(size):
        length = data.draw(st.floats(2.001, n - 0.01))
        start = data.draw(st.floats(0, n - length))
        low[axis], high[axis] = start / n * 2 - 1, (start + length) / n * 2 - 1
    grid = OccupancyGrid(size, threshold=1.0)
    grid.update(box_density(low, high, 1.5), generator(seed))
    missed = cells_touching(low, high, size) & ~grid.grid[0]
    assert not bool(missed.any())


def test_removed_densities_are_forgotten_at_the_rate_of_the_decay():
    grid = OccupancyGrid(3, threshold=0.5, decay=0.5, grow=0)
    values = iter([4.0, 0.0, 0.0, 0.0, 0.0])
    seen = []
    for value in values:
        grid.update(lambda x, value=value: torch.full((len(x),), value), generator())
        seen.append((float(grid.density.max()), grid.fraction))
    assert seen == [(4.0, 1.0), (2.0, 1.0), (1.0, 1.0), (0.5, 0.0), (0.25, 0.0)]


def test_a_larger_density_replaces_the_remembered_one():
    grid = OccupancyGrid(2, decay=0.5)
    for value, kept in ((1.0, 1.0), (3.0, 3.0), (2.0, 2.0), (0.1, 1.0)):
        grid.update(lambda x, value=value: torch.full((len(x),), value), generator())
        assert torch.equal(grid.density, torch.full((1, 2, 2, 2), kept))


def test_samples_lie_one_in_each_octant_of_each_cell_of_each_level():
    box = torch.tensor([[0.0, -2.0, 10.0], [4.0, 2.0, 11.0]])
    seen: list[Tensor] = []

    def record(x: Tensor) -> Tensor:
        seen.append(x)
        return x.new_zeros(len(x))

    OccupancyGrid((2, 3, 4), levels=2, aabb=box).update(record, generator())
    assert [len(x) for x in seen] == [2 * 3 * 4 * 8] * 2
    for level, x in enumerate(seen):
        unit = (x - box.mean(0)) / (box[1] - box[0]) / 2.0**level + 0.5
        octants = (unit * torch.tensor([4.0, 6.0, 8.0])).long()
        flat = (octants[:, 0] * 6 + octants[:, 1]) * 8 + octants[:, 2]
        assert torch.equal(flat.sort().values, torch.arange(4 * 6 * 8))


@places.devices
def test_levels_are_those_that_march_rays_asks():
    """Density at distance 1.5 to 2 along x: outside the unit box, in the second level alone."""
    grid = OccupancyGrid(16, levels=2, grow=0, device=places.here())
    grid.update(lambda x: (x[:, 0] >= 1.5).to(torch.float32), generator())
    assert not bool(grid.grid[0].any())
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    found = march_rays(torch.tensor([[-3.0, 0.1, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]]), grid.grid, box, bins=64)
    assert found.t_starts.min() == pytest.approx(4.5)
    assert found.t_ends.max() == pytest.approx(5.0)
    assert len(found.t_starts) == 8


def test_the_same_generator_gives_the_same_grid():
    def blob(x: Tensor) -> Tensor:
        return torch.exp(-8 * x.square().sum(-1))

    grids = [OccupancyGrid(5, threshold=0.3) for _ in range(2)]
    for grid in grids:
        grid.update(blob, generator(3))
    assert torch.equal(grids[0].density, grids[1].density)
    grids[1].update(blob, generator(4))
    assert not torch.equal(grids[0].density, grids[1].density)


def test_state_round_trip_goes_on_to_the_same_bits():
    def blob(x: Tensor) -> Tensor:
        return torch.exp(-8 * x.square().sum(-1))

    first, second = OccupancyGrid(5, 2, 0.3), OccupancyGrid(5, 2, 0.3)
    second.load_state_dict(first.state_dict())
    assert second.fraction == 1.0
    first.update(blob, generator(1))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.grid, second.grid)
    assert 0 < second.fraction < 1
    for grid in (first, second):
        grid.update(blob, generator(2))
    assert torch.equal(first.density, second.density)
    assert first.updates == second.updates == 2


def test_loading_does_not_share_memory_with_the_state():
    grid = OccupancyGrid(2)
    grid.update(lambda x: torch.ones(len(x)), generator())
    state = grid.state_dict()
    other = OccupancyGrid(2)
    other.load_state_dict(state)
    state["density"].zero_()
    assert float(other.density.min()) == 1.0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"resolution": 0}, "resolution must be"),
        ({"resolution": (2, 2)}, "resolution must be"),
        ({"resolution": (2, 2, 1.5)}, "resolution must be"),
        ({"levels": 0}, "levels must be"),
        ({"levels": 33}, "levels must be"),
        ({"threshold": -1.0}, "threshold must be"),
        ({"threshold": float("nan")}, "threshold must be"),
        ({"decay": 0.0}, "decay must be"),
        ({"decay": 1.1}, "decay must be"),
        ({"grow": -1}, "grow must be"),
        ({"aabb": torch.zeros(3)}, r"aabb must be \[2, 3\]"),
        ({"aabb": torch.zeros(2, 3)}, r"aabb must be finite with aabb\[0\] < aabb\[1\]"),
    ],
)
def test_bad_options(options, named):
    with pytest.raises(InputError, match=named):
        OccupancyGrid(**{"resolution": 4, **options})


@pytest.mark.parametrize(
    ("density", "error", "named"),
    [
        (lambda x: [0.0] * len(x), TypeError, "must return a tensor"),
        (lambda x: x, ValueError, r"must return \[N\] = \[64\]"),
        (lambda x: x[:, 0] * float("nan"), ValueError, "finite"),
    ],
)
def test_a_bad_density_leaves_the_grid_as_it_was(density, error, named):
    grid = OccupancyGrid(2)
    with pytest.raises(error, match=named):
        grid.update(density, generator())
    assert grid.fraction == 1.0
    assert grid.updates == 0


def test_a_state_that_does_not_fit():
    with pytest.raises(InputError, match="state must hold 'updates'"):
        OccupancyGrid(2).load_state_dict({"density": torch.zeros(1, 2, 2, 2)})
    with pytest.raises(InputError, match=r"must be \[1, 2, 2, 2\], got \[1, 3, 3, 3\]"):
        OccupancyGrid(2).load_state_dict(OccupancyGrid(3).state_dict())


def slab_field(spec: FieldSpec) -> tuple[Tensor, ...]:
    """A module that is dense where |x| is below 0.2 and empty elsewhere: exp(20 - 200 relu(x - .2) - ...)."""
    params = [t.zero_() for t in places.put(initial_parameters(spec, 1))]
    params[0][0, 0, 0], params[0][0, 0, 1] = 1.0, -1.0
    params[2][0, :2] = -0.2
    params[1][0, :2, 0] = -200.0
    params[3][0] = torch.tensor([3.0, 0.5, -0.5, 1.0])
    return tuple(params)


@places.devices
def test_a_render_with_the_grid_agrees_with_one_without_and_asks_fewer_points():
    spec = FieldSpec(3, 4, 2, 1)
    params = slab_field(spec)
    cells = Cells(torch.tensor([[[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]]), margin=1.0)
    settings = in_cells(96, (0.1, 0.2, 0.3))
    origins = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * 0.2 + torch.tensor([-1.0, 2.0, 2.0])
    directions = torch.nn.functional.normalize(torch.tensor([2.0, 0.3, -0.2]) + 0.1 * torch.randn(50, 3), dim=-1)
    rays = Rays.through_one_module(origins, directions)

    def density(x: Tensor) -> Tensor:
        return (3.0 - 200.0 * ((x[:, 0] - 0.2).clamp(min=0) + (-x[:, 0] - 0.2).clamp(min=0))).exp()

    grid = OccupancyGrid(16, threshold=1e-3, device=places.here())
    grid.update(density, generator())
    assert 0.2 < grid.fraction < 0.6
    whole = render_modules(params, spec, rays, cells, settings)
    sparse = render_modules(params, spec, rays, cells, settings, occupancy=grid.grid)
    assert float(whole.opacity.min()) > 0.99
    for a, b in zip(whole, sparse):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    points = [sample_in_cells(rays, cells, settings, occupancy).x.shape[0] for occupancy in (None, grid.grid)]
    assert points[1] < 0.6 * points[0]
