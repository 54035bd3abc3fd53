"""`bank.mse`: the fused squared error as a method, with and without a grid in front."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mclnf_fast as mf

PLAIN = mf.FieldSpec(2, 3, width=8, hidden_layers=2, encoding=mf.Frequency(2))
HASH = mf.HashGrid(levels=2, features=2, log2_size=5, base=4, finest=8)
GRIDS = {
    "hash": mf.FieldSpec(2, 3, width=8, hidden_layers=1, activation="softplus", encoding=HASH),
    "triplane": mf.FieldSpec(
        3, 2, width=8, hidden_layers=1, activation="softplus", encoding=mf.TriPlane(features=2, resolution=4)
    ),
    "composite": mf.FieldSpec(
        3, 2, width=8, hidden_layers=1, activation="tanh", encoding=mf.Composite(((HASH, 2), (mf.Frequency(1), 1)))
    ),
}
OFFSETS = torch.tensor([0, 4, 4, 9])


def drawn(spec: mf.FieldSpec, *shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Points, targets and weights."""
    torch.manual_seed(0)
    x, target = torch.rand(*shape, spec.in_dim, dtype=dtype), torch.rand(*shape, spec.out_dim, dtype=dtype)
    return x, target, torch.rand(shape, dtype=dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_op_in_every_way_to_name_modules(reduction: str, weighted: bool) -> None:
    bank = mf.FieldBank(PLAIN, modules=3)
    lists = list(bank.weight), list(bank.bias)
    x, target, w = drawn(PLAIN, 9)
    weight = w if weighted else None
    want = mf.ops.bank_mse(x, OFFSETS, *lists, target, PLAIN, weight, reduction)
    assert torch.equal(bank.mse(x, target, offsets=OFFSETS, sample_weight=weight, reduction=reduction), want)
    ids, order = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2, 2]), torch.randperm(9)
    mixed = None if weight is None else weight[order]
    found = bank.mse(x[order], target[order], module_ids=ids[order], sample_weight=mixed, reduction=reduction)
    torch.testing.assert_close(found, want)
    assert found[1] == 0
    equal = bank.mse(
        x.view(3, 3, 2),
        target.view(3, 3, 3),
        sample_weight=None if weight is None else weight.view(3, 3),
        reduction=reduction,
    )
    shares = torch.tensor([0, 3, 6, 9])
    assert torch.equal(equal, mf.ops.bank_mse(x, shares, *lists, target, PLAIN, weight, reduction))


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_in_front_is_the_error_of_the_outputs(name: str) -> None:
    """Loss and gradients of tables, weights and biases, against float64 autograd of the bank's own outputs."""
    spec = GRIDS[name]
    bank = mf.FieldBank(spec, modules=3, dtype=torch.float64)
    with torch.no_grad():
        for table in bank.grid:
            table.normal_()
    x, target, w = drawn(spec, 9, dtype=torch.float64)
    y = bank(x, offsets=OFFSETS, backend="reference")
    errors = (y - target).square().sum(1) * w
    counts = [4, 0, 5]
    want = torch.stack([e.sum() / max(1, n * spec.out_dim) for e, n in zip(errors.split(counts), counts)])
    expected = torch.autograd.grad(want.sum(), bank.stacked)
    assert all(g.abs().sum() > 0 for g in expected)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        other = mf.FieldBank(spec, modules=3, dtype=dtype)
        with torch.no_grad():
            for p, q in zip(other.stacked, bank.stacked):
                p.copy_(q)
        losses = other.mse(x.to(dtype), target.to(dtype), offsets=OFFSETS, sample_weight=w.to(dtype))
        torch.testing.assert_close(losses, want.to(dtype), rtol=tolerance, atol=tolerance)
        for g, e in zip(torch.autograd.grad(losses.sum(), other.stacked), expected):
            torch.testing.assert_close(g, e.to(dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_in_front_has_second_derivatives(name: str) -> None:
    """In tables, weights, biases and points, by finite differences."""
    spec = GRIDS[name]
    bank = mf.FieldBank(spec, modules=2, dtype=torch.float64)
    with torch.no_grad():
        for table in bank.grid:
            table.normal_()
    x, target, _ = drawn(spec, 3, dtype=torch.float64)
    x.requires_grad_()
    leaves = [x, *bank.stacked]
    ids = torch.tensor([1, 0, 1])

    def loss(*_: Tensor) -> Tensor:
        return bank.mse(x, target, module_ids=ids)

    assert torch.autograd.gradgradcheck(loss, leaves, fast_mode=True)


def test_it_trains_a_grid() -> None:
    spec = GRIDS["hash"]
    bank = mf.FieldBank(spec, modules=2)
    optimizer = mf.optim.Adam(bank, lr=2e-2)
    x = torch.rand(2, 64, 2, generator=torch.Generator().manual_seed(0))
    target = torch.cat((x.sin(), x[..., :1].cos()), 2)
    first = float(bank.mse(x, target).sum().detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss = bank.mse(x, target).sum()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05 * first


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"offsets": OFFSETS, "module_ids": torch.zeros(9, dtype=torch.int64)}, ValueError, "offsets or module_ids"),
        ({"offsets": torch.tensor([0, 4, 3, 9])}, ValueError, "offsets must not go down"),
        ({"offsets": OFFSETS, "target": torch.zeros(9, 1)}, ValueError, "target must have shape"),
        ({"offsets": OFFSETS, "target": torch.zeros(9, 3).double()}, TypeError, "target must have dtype"),
        ({"offsets": OFFSETS, "target": None}, TypeError, "target must be a tensor"),
        ({"offsets": OFFSETS, "sample_weight": torch.zeros(8)}, ValueError, "sample_weight must have shape"),
        ({"offsets": OFFSETS, "reduction": "max"}, ValueError, "reduction must be one of mean, sum, got 'max'"),
        ({"offsets": OFFSETS, "x": torch.zeros(9, 3)}, ValueError, "x must have shape"),
        ({"module_ids": torch.full((9,), 3)}, IndexError, "module_ids must lie in"),
        ({"module_ids": torch.zeros(9, dtype=torch.int64), "target": torch.zeros(8, 3)}, ValueError, "target must"),
        ({"module_ids": torch.zeros(8, dtype=torch.int64)}, ValueError, "module_ids must have shape"),
        ({}, ValueError, r"x must have shape \[M, n, in_dim\]"),
        ({"x": torch.zeros(3, 3, 2)}, ValueError, "target must have shape"),
        ({"x": "no"}, TypeError, "x must be a tensor"),
        ({"offsets": OFFSETS, "x": "no"}, TypeError, "x must be a tensor"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    bank = mf.FieldBank(PLAIN, modules=3)
    x, target, _ = drawn(PLAIN, 9)
    given: dict[str, Any] = {"x": x, "target": target, **change}
    with pytest.raises(error, match=message):
        bank.mse(given.pop("x"), given.pop("target"), **given)


@pytest.mark.parametrize("way", ["offsets", "module_ids", "equal"])
def test_one_module_is_named_as_many_are(way: str) -> None:
    """The short way of a bank of one."""
    bank = mf.FieldBank(PLAIN, modules=1)
    x, _target, _ = drawn(PLAIN, 100)
    want = bank(x, offsets=torch.tensor([0, 100]), backend="reference")
    zeros = torch.zeros(100, dtype=torch.int64)
    found = {
        "offsets": lambda: bank(x, offsets=torch.tensor([0, 100])),
        "module_ids": lambda: bank(x, module_ids=zeros),
        "equal": lambda: bank(x[None])[0],
    }[way]()
    torch.testing.assert_close(found, want)
    for n in (5, 100):
        for wrong in (1, -1):
            zeros[n - 1] = wrong
            with pytest.raises(IndexError, match=rf"module_ids must lie in \[0, 1\), got {wrong}"):
                bank(x[:n], module_ids=zeros[:n])
            zeros[n - 1] = 0


def test_offsets_of_equal_shares_are_made_once() -> None:
    device = torch.device("cpu")
    offsets = mf.ops.offsets_of_equal_shares(2, 7, device)
    assert offsets is mf.ops.offsets_of_equal_shares(2, 7, device)
    offsets[1] = 3  # whoever changes them after all changes nothing for others
    assert mf.ops.offsets_of_equal_shares(2, 7, device).tolist() == [0, 7, 14]
