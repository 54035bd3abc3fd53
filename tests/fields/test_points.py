"""The forms in which points and their modules may be given: every one is the same points."""

from __future__ import annotations

import pytest
import torch

import mclnf_fast as mf

SPEC = mf.FieldSpec(2, 3, 8, 1, encoding=mf.Frequency(2))


def bank(modules: int) -> mf.FieldBank:
    return mf.FieldBank(SPEC, modules, init="independent", generator=torch.Generator().manual_seed(0))


def test_lists_and_small_ints_are_offsets_and_ids() -> None:
    three, x = bank(3), torch.rand(9, 2)
    offsets, ids = [0, 4, 4, 9], [0, 0, 0, 0, 2, 2, 2, 2, 2]
    y = three(x, offsets=torch.tensor(offsets))
    target = torch.rand(9, 3)
    loss = three.mse(x, target, offsets=torch.tensor(offsets))
    for form in (offsets, torch.tensor(offsets, dtype=torch.int32)):
        assert torch.equal(three(x, offsets=form), y)
        assert torch.equal(three.mse(x, target, offsets=form), loss)
    for form in (ids, torch.tensor(ids), torch.tensor(ids, dtype=torch.int32)):
        assert torch.equal(three(x, module_ids=form), y)
        assert torch.equal(three.mse(x, target, module_ids=form), loss)
    assert torch.equal(three(x[4:], module_ids=2), y[4:])
    assert torch.equal(three.mse(x[4:], target[4:], module_ids=2)[2], loss[2])


def test_any_leading_shape_is_kept() -> None:
    three, one, x = bank(3), bank(1), torch.rand(3, 4, 5, 2)
    y, target, weight = three(x.flatten(1, 2)), torch.rand(3, 4, 5, 3), torch.rand(3, 4, 5)
    assert torch.equal(three(x).flatten(1, 2), y)
    ids = torch.arange(3)[:, None, None].expand(3, 4, 5)
    assert torch.equal(three(x, module_ids=ids).flatten(1, 2), y)
    loss = three.mse(x.flatten(1, 2), target.flatten(1, 2), sample_weight=weight.flatten(1))
    assert torch.equal(three.mse(x, target, sample_weight=weight), loss)
    assert torch.equal(three.mse(x, target, module_ids=ids, sample_weight=weight), loss)
    picture, alone = x[0], one(x[:1].flatten(1, 2))[0]
    assert torch.equal(one(picture).flatten(0, 1), alone)  # [H, W, 2]
    assert torch.equal(one(picture.flatten(0, 1)), alone)  # [N, 2]
    assert one(picture[0, 0]).shape == (3,)
    assert one(picture[:0]).shape == (0, 5, 3)
    assert torch.equal(one.mse(picture, target[0]), one.mse(picture.flatten(0, 1)[None], target[0].flatten(0, 1)[None]))
    assert three(x[:, :0], module_ids=ids[:, :0]).shape == (3, 0, 5, 3)


@pytest.mark.parametrize(
    ("call", "error", "what"),
    [
        (lambda b, x: b(x, offsets=[0, 9], module_ids=[0] * 9), ValueError, "give offsets or module_ids, not both"),
        (lambda b, x: b(x, offsets=[0, 4.5, 9, 9]), TypeError, "offsets must hold ints"),
        (lambda b, x: b(x, offsets="abc"), TypeError, "offsets must be an int64 tensor, an int32 one or a list"),
        (
            lambda b, x: b(x, offsets=torch.tensor([0, 4, 4, 9], dtype=torch.int16)),
            TypeError,
            "offsets must have dtype",
        ),
        (lambda b, x: b(x, module_ids=[0] * 8), ValueError, "module_ids must have shape"),
        (lambda b, x: b(x, module_ids=True), TypeError, "module_ids must be an int64 tensor"),
        (lambda b, x: b(x, module_ids=3), IndexError, r"module_ids must lie in \[0, 3\), got 3"),
        (lambda b, x: b(x, module_ids=[0] * 8 + [-1]), IndexError, r"module_ids must lie in \[0, 3\), got -1"),
        (lambda b, x: b(x), ValueError, r"x must have shape \[M, n, in_dim\] = \[3, \*, 2\]"),
        (lambda b, x: b(x[:, :1], module_ids=0), ValueError, "x must have shape"),
        (lambda b, x: bank(1)(x[:, :1]), ValueError, "x must have shape"),
        (lambda b, x: b.mse(x, x, module_ids=0), ValueError, "target must have shape"),
        (
            lambda b, x: b.mse(x, torch.rand(9, 3), module_ids=0, sample_weight=torch.ones(8)),
            ValueError,
            "sample_weight",
        ),
    ],
)
def test_other_forms_are_refused_by_name(call, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        call(bank(3), torch.rand(9, 2))
