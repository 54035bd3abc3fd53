"""Cells: their margin, who owns a point and with which share, and what is refused."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render import Cells


def grid_of_cells(nx: int, ny: int, size: float = 2.0, at: float = 0.0, margin: float = 1.15) -> Cells:
    """nx x ny cells of equal size, side by side, low corner at (at, at, 0)."""
    boxes = [
        [[at + size * i, at + size * j, 0.0], [at + size * (i + 1), at + size * (j + 1), 1.0]]
        for i in range(nx)
        for j in range(ny)
    ]
    return Cells(torch.tensor(boxes), margin)


def share_table(cells: Cells, points: Tensor) -> Tensor:
    """Shares as a dense [N, M]."""
    rows, modules, shares = cells.owners(points)
    table = points.new_zeros(len(points), len(cells))
    table[rows, modules] = shares
    return table


def test_the_default_margin_grows_the_ground_plan_by_15_percent_and_not_the_height():
    cells = Cells(torch.tensor([[[0.0, 10.0, -1.0], [2.0, 14.0, 3.0]]]))
    assert cells.margin == 1.15
    torch.testing.assert_close(cells.centers, torch.tensor([[1.0, 12.0, 1.0]]))
    torch.testing.assert_close(cells.halves, torch.tensor([[1.15, 2.3, 2.0]]))
    torch.testing.assert_close(cells.grown[0], torch.tensor([[-0.15, 9.7, -1.0], [2.15, 14.3, 3.0]]))
    assert cells.unit == 2.0


def test_the_hull_holds_every_grown_cell():
    cells = grid_of_cells(2, 3)
    torch.testing.assert_close(cells.hull(), torch.tensor([[-0.15, -0.15, 0.0], [4.15, 6.15, 1.0]]))


def test_one_owner_inside_and_equal_shares_on_the_border():
    cells = grid_of_cells(2, 2)
    points = torch.tensor([[1.0, 1.0, 0.5], [1.84, 1.0, 0.5], [2.0, 1.0, 0.5], [2.0, 2.0, 0.5], [3.0, 1.0, 0.1]])
    expected = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0, 0.5, 0], [0.25] * 4, [0, 0, 1, 0]])
    torch.testing.assert_close(share_table(cells, points), expected, atol=1e-5, rtol=0)


def test_shares_fall_linearly_across_the_overlap():
    cells = grid_of_cells(2, 1)
    x = torch.linspace(1.85, 2.15, 31)
    table = share_table(cells, torch.stack((x, torch.ones(31), torch.full((31,), 0.5)), 1))
    torch.testing.assert_close(table[:, 1], torch.linspace(0, 1, 31), atol=1e-4, rtol=0)


def test_rows_and_modules_are_ordered_as_a_bank_needs_them():
    cells = grid_of_cells(3, 2)
    points = torch.rand(200, 3) * torch.tensor([6.0, 4.0, 1.0])
    rows, modules, _ = cells.owners(points)
    key = modules * len(points) + rows
    assert bool((key.diff() > 0).all())


def test_a_point_in_no_cell_has_no_owner():
    rows, modules, shares = grid_of_cells(1, 1).owners(torch.tensor([[5.0, 0.0, 0.0], [1.0, 1.0, 1.1]]))
    assert rows.numel() == modules.numel() == shares.numel() == 0


def test_no_points():
    rows, modules, shares = grid_of_cells(2, 2).owners(torch.zeros(0, 3))
    assert rows.dtype == modules.dtype == torch.int64
    assert rows.shape == modules.shape == shares.shape == (0,)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    nx=st.integers(1, 4),
    ny=st.integers(1, 4),
    size=st.floats(0.1, 50.0),
    at=st.floats(-100.0, 100.0),
    margin=st.sampled_from([1.0, 1.001, 1.15, 1.5, 2.0, 3.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_owners_are_a_partition_of_unity_over_the_whole_hull(nx, ny, size, at, margin, seed):
    cells = grid_of_cells(nx, ny, size, at, margin)
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(64, 3, generator=generator)
    u[:8] = u[:8].round()  # corners of the hull
    u[8:24] = (u[8:24] * torch.tensor([nx, ny, 1])).round() / torch.tensor([nx, ny, 1])  # corners of cells
    hull = cells.hull()
    table = share_table(cells, hull[0] + u * (hull[1] - hull[0]))
    assert bool((table >= 0).all())
    torch.testing.assert_close(table.sum(1), torch.ones(64), atol=1e-5, rtol=0)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(margin=st.floats(1.0, 1.9), seed=st.integers(0, 2**31 - 1))
def test_the_interior_of_a_cell_has_one_owner(margin, seed):
    cells = grid_of_cells(3, 3, margin=margin)
    inner = 2.0 - margin  # the neighbors' grown cells end there
    u = torch.rand(9, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    half = torch.tensor([inner * 0.999, inner * 0.999, 0.5])
    table = share_table(cells, cells.centers + u * half)
    assert torch.equal(table, torch.eye(9))


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(seed=st.integers(0, 2**31 - 1))
def test_shares_are_continuous(seed):
    cells = grid_of_cells(2, 2, margin=1.3)
    points = torch.rand(64, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = points * torch.tensor([4.0, 4.0, 1.0], dtype=torch.float64)
    step = 1e-4
    moved = share_table(cells, points + torch.tensor([step, -step, 0.0], dtype=torch.float64))
    # The ramp is 0.6 wide here; a product of two of them changes by at most about 2 / 0.3 of the step.
    assert float((moved - share_table(cells, points)).abs().max()) < 10 * step


def test_append_leaves_the_others_as_they_are():
    cells = grid_of_cells(1, 2)
    more = cells.append(torch.tensor([[5.0, 5.0, 0.0], [6.0, 6.0, 1.0]]))
    assert (len(cells), len(more)) == (2, 3)
    assert torch.equal(more.boxes[:2], cells.boxes)
    assert more.margin == cells.margin


@pytest.mark.parametrize(
    ("boxes", "margin", "named"),
    [
        ([[0.0] * 3, [1.0] * 3], 1.15, r"boxes must be \[M, 2, 3\], got list"),
        (torch.zeros(2, 3), 1.15, r"boxes must be \[M, 2, 3\], got torch.Size\(\[2, 3\]\)"),
        (torch.zeros(1, 2, 3), 1.15, "finite with low < high"),
        (torch.tensor([[[0.0] * 3, [1.0, float("nan"), 1.0]]]), 1.15, "finite with low < high"),
        (torch.tensor([[[0.0] * 3, [1.0, float("inf"), 1.0]]]), 1.15, "finite with low < high"),
        (torch.tensor([[[0.0] * 3, [1.0] * 3]]), 0.9, "margin must be at least 1, got 0.9"),
        (torch.tensor([[[0.0] * 3, [1.0] * 3]]), float("nan"), "margin must be at least 1, got nan"),
    ],
)
def test_refused_arguments(boxes, margin, named):
    with pytest.raises(InputError, match=named):
        Cells(boxes, margin)
