"""The memory of experience replay: a uniform sample of all tasks."""

from __future__ import annotations

import pytest
import torch

from mclnf_fast.learn.methods import reservoir
from mclnf_fast.learn.methods.reservoir import Reservoir
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask

SPEC = FieldSpec(1, 1, 4, 1)


def task(first: int, count: int) -> CoordTask:
    """Samples numbered first ... first + count - 1; the second signal's values are 1000 more."""
    x = torch.arange(first, first + count).float()[:, None]
    return CoordTask("numbered", x, torch.stack([x, x + 1000]), SPEC)


def numbers(memory: Reservoir) -> torch.Tensor:
    x, y = memory.samples
    assert torch.equal(y[0], x[0])
    assert torch.equal(y[1], x[1] + 1000)
    assert torch.equal(x[0], x[1])
    assert len(x[0].unique()) == x.shape[1]  # nothing is kept twice
    return x[0, :, 0].long()


@pytest.mark.parametrize("chunk", [1 << 16, 5])
def test_every_sample_of_every_task_is_kept_with_the_same_probability(chunk, monkeypatch):
    monkeypatch.setattr(reservoir, "CHUNK", chunk)
    tasks, runs = [task(0, 9), task(9, 4), task(13, 11)], 1500
    counts = torch.zeros(24)
    for seed in range(runs):
        memory = Reservoir(6, seed)
        for one in tasks:
            memory.see(one)
        assert len(memory) == 6
        assert memory.seen == 24
        counts[numbers(memory)] += 1
    expected = runs * 6 / 24
    # Without replacement the counts vary by 1 - 6/24 of what a chi-square of 23 degrees has; one in a thousand.
    assert float((counts - expected).square().sum() / expected) / 0.75 < 49.7


def test_a_memory_that_has_room_keeps_everything_in_order():
    memory = Reservoir(40, 0)
    memory.see(task(0, 7))
    assert numbers(memory).tolist() == list(range(7))
    memory.see(task(7, 12))
    assert numbers(memory).tolist() == list(range(19))
    assert len(memory) == memory.seen == 19


@pytest.mark.parametrize("capacity", [1, 2])
def test_a_task_of_which_nothing_is_kept(capacity):
    """Small memories meet small tasks late: most seeds keep none of their samples."""
    kept = 0
    for seed in range(20):
        memory = Reservoir(capacity, seed)
        memory.see(task(0, 500))
        before = numbers(memory)
        memory.see(task(500, 2))
        kept += int(not torch.equal(before, numbers(memory)))
        assert memory.seen == 502
        assert len(memory) == capacity
    assert kept < 5


def test_draws_are_uniform_and_each_signal_has_its_own():
    memory = Reservoir(5, 0)
    memory.see(task(0, 5))
    x, y = memory.draw(10_000, torch.Generator().manual_seed(1))
    assert x.shape == y.shape == (2, 10_000, 1)
    assert torch.equal(y[0], x[0])
    assert torch.equal(y[1], x[1] + 1000)
    assert not torch.equal(x[0], x[1])
    counts = torch.bincount(x[0, :, 0].long(), minlength=5).double()
    assert float((counts - 2000).square().sum() / 2000) < 18.5


def test_one_seed_keeps_the_same():
    kept = []
    for seed in (3, 3, 4):
        memory = Reservoir(6, seed)
        memory.see(task(0, 60))
        kept.append(numbers(memory))
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


def test_an_empty_memory():
    memory = Reservoir(4, 0)
    assert not memory
    assert len(memory) == 0
    with pytest.raises(ValueError, match="seen a task before it is drawn from"):
        memory.draw(1, torch.Generator())
    memory.see(task(0, 1))
    assert memory
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        Reservoir(0, 0)
