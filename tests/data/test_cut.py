"""Cutting a grid into tasks: every sample in exactly one, and coordinates that fit them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mclnf_fast.data.cut import Cut
from mclnf_fast.errors import InputError


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Grids of one to three axes, that mostly do not divide evenly."""
    grid = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    parts = [draw(st.integers(1, size)) for size in grid]
    return Cut(tuple(grid), tuple(parts), tuple(1.0 + k for k in range(len(grid))))


def numbered(cut: Cut) -> torch.Tensor:
    """Two signals of two channels, every number of them another."""
    count = math.prod(cut.grid)
    return torch.arange(4 * count).reshape(2, 2, *cut.grid).movedim(1, -1).float()


@settings(max_examples=60, deadline=None)
@given(cuts())
def test_every_sample_is_owned_once_and_comes_back_to_its_place(cut):
    signals = numbered(cut)
    owned = torch.zeros(cut.grid, dtype=torch.int64)
    for task in range(cut.tasks):
        owned[cut.box(task)] += 1
    assert bool((owned == 1).all())
    pieces = [cut.values(signals, task) for task in range(cut.tasks)]
    assert all(piece.shape[::2] == (2, 2) for piece in pieces)
    assert torch.equal(cut.assemble(pieces), signals)


@settings(max_examples=60, deadline=None)
@given(cuts())
def test_boxes_differ_by_one_sample_an_axis_at_most_and_stand_row_major(cut):
    boxes = [cut.box(task) for task in range(cut.tasks)]
    for axis in range(len(cut.grid)):
        lengths = [box[axis].stop - box[axis].start for box in boxes]
        assert max(lengths) - min(lengths) <= 1
    corners = [tuple(b.start for b in box) for box in boxes]
    assert corners == sorted(corners)


@settings(max_examples=60, deadline=None)
@given(cuts())
def test_local_coordinates_span_the_range_and_are_those_of_equal_boxes(cut):
    known: dict[tuple[int, ...], torch.Tensor] = {}
    for task in range(cut.tasks):
        shape = tuple(b.stop - b.start for b in cut.box(task))
        x = cut.coordinates(task, "local")
        assert x.shape == (math.prod(shape), len(shape))
        for axis, (size, span) in enumerate(zip(shape, cut.span)):
            ends = (-span, span) if size > 1 else (0.0, 0.0)
            assert (float(x[:, axis].min()), float(x[:, axis].max())) == ends
            assert len(x[:, axis].unique()) == size
        assert torch.equal(known.setdefault(shape, x), x)


@settings(max_examples=60, deadline=None)
@given(cuts())
def test_global_coordinates_are_those_of_the_whole_grid(cut):
    axes = [torch.linspace(-s, s, n) if n > 1 else torch.zeros(1) for n, s in zip(cut.grid, cut.span)]
    whole = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    pieces = [cut.coordinates(task, "global")[None] for task in range(cut.tasks)]
    assert torch.equal(cut.assemble(pieces)[0], whole)
    one = Cut(cut.grid, (1,) * len(cut.grid), cut.span)
    assert torch.equal(one.coordinates(0, "local"), one.coordinates(0, "global"))


def test_values_and_coordinates_are_in_the_same_order():
    cut = Cut((4, 6), (2, 2), (1.0, 1.0))
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 6), indexing="ij")
    signals = torch.stack([rows, columns], -1)[None]
    for task in range(4):
        assert torch.equal(cut.values(signals, task)[0], cut.coordinates(task, "global"))


def test_quadrants_of_an_uneven_image():
    cut = Cut((5, 4), (2, 2), (1.0, 1.0))
    assert [cut.box(k) for k in range(4)] == [
        (slice(0, 3), slice(0, 2)),
        (slice(0, 3), slice(2, 4)),
        (slice(3, 5), slice(0, 2)),
        (slice(3, 5), slice(2, 4)),
    ]


@pytest.mark.parametrize(
    ("grid", "parts", "message"),
    [((4, 4), (5, 1), "got \\(5, 1\\)"), ((4,), (0,), "1 \\.\\.\\. the samples"), ((4, 4), (2,), "2 numbers")],
)
def test_signals_that_cannot_be_cut_are_refused(grid, parts, message):
    with pytest.raises(InputError, match=message):
        Cut(grid, parts, (1.0,) * len(grid))


@pytest.mark.parametrize("task", [-1, 4])
def test_a_task_that_there_is_not(task):
    with pytest.raises(IndexError, match="in \\[0, 4\\)"):
        Cut((4, 4), (2, 2), (1.0, 1.0)).box(task)
