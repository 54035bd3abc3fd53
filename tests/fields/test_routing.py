"""Routing by module id: a permutation there and back, whatever the ids."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.fields import route
from mclnf_fast.ops import offsets_of_equal_shares

banks = st.integers(1, 9).flatmap(lambda m: st.tuples(st.just(m), st.lists(st.integers(0, m - 1), max_size=60)))


@hypothesis.given(banks)
@hypothesis.settings(deadline=None, max_examples=80)
def test_round_trip(drawn: tuple[int, list[int]]) -> None:
    modules, listed = drawn
    ids = torch.tensor(listed, dtype=torch.int64)
    order, offsets = route(ids, modules)
    assert sorted(order.tolist()) == list(range(len(listed)))  # a permutation
    assert offsets.tolist() == [sum(i < m for i in listed) for m in range(modules + 1)]
    for m in range(modules):
        own = order[int(offsets[m]) : int(offsets[m + 1])].tolist()
        assert own == [k for k, i in enumerate(listed) if i == m]  # in the caller's order within a module


@hypothesis.given(banks)
@hypothesis.settings(deadline=None, max_examples=40)
def test_values_come_back_in_the_callers_order(drawn: tuple[int, list[int]]) -> None:
    modules, listed = drawn
    bank = mf.FieldBank(mf.FieldSpec(1, 1, 2, 0), modules)
    with torch.no_grad():
        bank.weight[0].fill_(1.0)
        bank.bias[0].copy_(100.0 * torch.arange(modules)[:, None])
    x = torch.arange(len(listed), dtype=torch.float32)
    y = bank(x[:, None], module_ids=torch.tensor(listed, dtype=torch.int64))
    assert y[:, 0].tolist() == [k + 100.0 * i for k, i in enumerate(listed)]


def test_equal_shares() -> None:
    assert offsets_of_equal_shares(3, 4, torch.device("cpu")).tolist() == [0, 4, 8, 12]
    assert offsets_of_equal_shares(0, 4, torch.device("cpu")).tolist() == [0]


def test_bad_ids() -> None:
    with pytest.raises(TypeError, match=r"module_ids must have dtype torch.int64, got torch.int32"):
        route(torch.zeros(3, dtype=torch.int32), 2)
    with pytest.raises(ValueError, match=r"module_ids must have shape \[N\] = \[\*\], got \[3, 1\]"):
        route(torch.zeros(3, 1, dtype=torch.int64), 2)
    with pytest.raises(IndexError, match=r"module_ids must lie in \[0, 2\), got 5"):
        route(torch.tensor([0, 5]), 2)
