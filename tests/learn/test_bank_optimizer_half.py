"""The bank optimizer of half parameters: float32 masters, rounded copies, a loss scale per module."""

import pytest
import torch
from toy_bank import toy_params

from mclnf_fast.learn import BankOptimizer
from mclnf_fast.learn.mixed import half_copies

halves = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])


def grads_like(params, seed: int):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(p.shape, generator=g).to(p.dtype) for p in params)


def low(half: torch.dtype, modules: int = 3):
    return tuple(p.to(half) for p in toy_params(modules))


def rounded(optimizer: BankOptimizer) -> bool:
    return all(torch.equal(p, m.to(p.dtype)) for p, m in zip(optimizer.params, optimizer.masters))


@halves
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_it_is_the_float32_optimizer_of_the_same_gradients(half: torch.dtype, kind: str) -> None:
    params = low(half)
    mixed, wide = BankOptimizer(params, kind, 1e-3), BankOptimizer(tuple(p.float() for p in params), kind, 1e-3)
    for step in range(20):
        grads = grads_like(params, step)
        mixed.step(grads)
        wide.step([g.float() for g in grads])
    assert all(torch.equal(m, w) for m, w in zip(mixed.masters, wide.params))
    assert rounded(mixed)


@halves
def test_steps_shorter_than_a_weights_last_bit_add_up(half: torch.dtype) -> None:
    """A hundred steps of 1e-6 at weights of 1, of which 16 bits hold no 1e-4 of."""
    optimizer = BankOptimizer((torch.ones(1, 4, dtype=half),), "sgd", 1e-6)
    for _ in range(1000):
        optimizer.step([torch.full((1, 4), 8.0, dtype=half)])
    torch.testing.assert_close(optimizer.masters[0], torch.full((1, 4), 1 - 8e-3), rtol=0, atol=1e-4)
    assert rounded(optimizer)
    assert not bool((optimizer.params[0] == 1).any())


@halves
def test_masters_that_are_given_are_changed_in_place(half: torch.dtype) -> None:
    masters = toy_params(2, dtype=torch.float32)
    params = tuple(torch.zeros_like(m, dtype=half) for m in masters)
    optimizer = BankOptimizer(params, lr=1e-2, masters=masters)
    assert rounded(optimizer)
    before = [m.clone() for m in masters]
    optimizer.step(grads_like(params, 0))
    assert all(o is m for o, m in zip(optimizer.masters, masters))
    assert not any(torch.equal(m, b) for m, b in zip(masters, before))
    assert rounded(optimizer)


@halves
def test_frozen_modules_keep_every_bit(half: torch.dtype) -> None:
    params = low(half)
    optimizer = BankOptimizer(params, lr=0.1)
    optimizer.freeze([1])
    before = [(p.clone(), m.clone()) for p, m in zip(params, optimizer.masters)]
    grads = grads_like(params, 0)
    for g in grads:
        g[1] = torch.nan
    optimizer.step(grads)
    for p, m, (old, master) in zip(params, optimizer.masters, before):
        assert torch.equal(p[1], old[1])
        assert torch.equal(m[1], master[1])
        assert not torch.equal(p[0], old[0])


@halves
def test_append_rebind_and_reset(half: torch.dtype) -> None:
    params = low(half)
    optimizer = BankOptimizer(params, lr=0.1, loss_scale=True)
    optimizer.step(grads_like(params, 0))
    masters = [m.clone() for m in optimizer.masters]
    grown = optimizer.append(low(half, 2))
    assert grown[0].dtype == half
    assert all(torch.equal(m[:3], old) for m, old in zip(optimizer.masters, masters))  # and not the rounded ones
    assert rounded(optimizer)
    assert len(optimizer.loss_scale.scale) == 5
    optimizer.step(grads_like(grown, 1))
    assert rounded(optimizer)
    optimizer.loss_scale.scale[2] = 4.0
    optimizer.reset([2])
    assert optimizer.steps.tolist() == [2, 2, 0, 1, 1]
    assert optimizer.loss_scale.scale.tolist() == [65536.0] * 5
    with pytest.raises(TypeError, match="params must be torch"):
        optimizer.rebind(tuple(p.float() for p in grown))


@halves
def test_state_round_trip(half: torch.dtype) -> None:
    a, b = BankOptimizer(low(half), loss_scale=True), BankOptimizer(low(half), loss_scale=True)
    a.loss_scale.scale.mul_(8)
    for step in range(3):
        a.step(grads_like(a.params, step))
    b.load_state_dict(a.state_dict())
    assert all(torch.equal(p, q) for p, q in zip((*a.params, *a.masters), (*b.params, *b.masters)))
    for optimizer in (a, b):
        optimizer.step(grads_like(a.params, 5))
    state, other = a.state_dict(), b.state_dict()
    assert set(state) == set(other)
    assert all(torch.equal(state[key], other[key]) for key in state)
    with pytest.raises(ValueError, match="state must hold"):
        BankOptimizer(toy_params(3)).load_state_dict(state)


def test_a_fit_that_works_on_the_masters_shows_in_the_copies() -> None:
    optimizer = BankOptimizer(low(torch.bfloat16))
    state = optimizer.fit_state(0)
    assert all(p.dtype == torch.float32 for p in state.params)
    for p in state.params:
        p.add_(0.5)
    optimizer.count(7)
    assert optimizer.steps.tolist() == [7] * 3
    assert rounded(optimizer)


def test_the_scale_brings_back_gradients_that_float16_does_not_hold() -> None:
    """Of 1e-8: float16 ends at 6e-8."""
    for scaled in (False, True):
        w = torch.ones(2, 5, dtype=torch.float16, requires_grad=True)
        optimizer = BankOptimizer((w,), "sgd", 1.0, loss_scale=scaled)
        losses = (w.float() * 1e-8).sum(1)
        optimizer.scaled(losses).sum().backward()
        optimizer.step()
        moved = 1 - optimizer.masters[0].double()
        # To the next float32 below 1.
        optimizer.masters[0].detach()
        assert bool((w.grad != 0).all()) == scaled
        assert float(moved.abs().max()) < 1e-7


def test_a_module_whose_gradients_overflow_makes_no_step_and_halves_its_scale() -> None:
    params = low(torch.float16)
    optimizer = BankOptimizer(params, lr=0.1, loss_scale=True)
    scale = optimizer.loss_scale
    before = [(p.clone(), m.clone()) for p, m in zip(params, optimizer.masters)]
    grads = grads_like(params, 0)
    grads[1][2] = torch.inf
    optimizer.step(grads)
    assert optimizer.steps.tolist() == [1, 1, 0]
    assert scale.scale.tolist() == [65536.0, 65536.0, 32768.0]
    for p, m, (old, master) in zip(params, optimizer.masters, before):
        assert torch.equal(p[2], old[2])
        assert torch.equal(m[2], master[2])
        assert not torch.equal(p[:2], old[:2])
    scale.good_steps.fill_(1998)
    optimizer.freeze([1])
    for step in range(2):
        optimizer.step(grads_like(params, step))
    assert scale.scale.tolist() == [131072.0, 65536.0, 65536.0]
    assert scale.good_steps.tolist() == [0, 1998, 0]


def test_float32_gradients_are_scaled_and_rounded() -> None:
    params = low(torch.float16)
    plain, scaled = BankOptimizer(tuple(p.clone() for p in params)), BankOptimizer(params, loss_scale=True)
    grads = [g.float() * 1e-3 for g in grads_like(params, 0)]
    plain.step([g.half() for g in grads])
    scaled.step(grads)
    for a, b in zip(plain.masters, scaled.masters):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@halves
def test_float32_parameters_beside_half_ones_are_their_own_masters(half: torch.dtype) -> None:
    """A loss of the scaled parameters: one step changes all of them as float32's optimizer would."""
    masters = tuple(p.requires_grad_() for p in toy_params(3, dtype=torch.float32))
    params = half_copies(masters, half)
    kinds = [p.dtype for p in params]
    assert kinds == [torch.float32, *[half] * (len(masters) // 2 - 1), *[torch.float32] * (len(masters) // 2)]
    wide = BankOptimizer(tuple(p.detach().float() for p in params), lr=1e-2)
    with torch.no_grad():
        for master, p in zip(masters, params):
            master.copy_(p)
    mixed = BankOptimizer(params, lr=1e-2, masters=masters, loss_scale=True)
    for seed in range(3):
        grads = grads_like(params, seed)
        wide.step([g.float() for g in grads])
        mixed.loss_scale.scale.fill_(16)
        mixed.step([g * 16 for g in grads])
    assert all(torch.equal(m, w) for m, w in zip(mixed.masters, wide.params))
    assert rounded(mixed)
    assert all((p is m) == (p.dtype == torch.float32) for p, m in zip(mixed.params, mixed.masters))
    before = [m.detach().clone() for m in mixed.masters]
    mixed.step([g.float() for g in grads])  # all float32: not scaled
    wide.step([g.float() for g in grads])
    assert not any(torch.equal(m, b) for m, b in zip(mixed.masters, before))
    for m, w in zip(mixed.masters, wide.params):
        torch.testing.assert_close(m, w, rtol=1e-5, atol=1e-6)
    assert [p.dtype for p in mixed.append(tuple(p[:1].detach() for p in params))] == kinds
    with pytest.raises(ValueError, match=r"masters\[0\] must be params\[0\] itself"):
        BankOptimizer(params, masters=tuple(m.detach().clone() for m in masters))


def test_errors() -> None:
    params = low(torch.bfloat16)
    with pytest.raises(ValueError, match=r"loss_scale must be False for params of torch\.float32"):
        BankOptimizer(toy_params(2, dtype=torch.float32), loss_scale=True)
    with pytest.raises(ValueError, match=r"masters must be None for params of torch\.float32"):
        BankOptimizer(toy_params(2, dtype=torch.float32), masters=toy_params(2, dtype=torch.float32))
    with pytest.raises(TypeError, match=r"masters\[0\] must have dtype torch.float32"):
        BankOptimizer(params, masters=params)
    with pytest.raises(ValueError, match=r"masters\[0\] must be"):
        BankOptimizer(params, masters=toy_params(2, dtype=torch.float32))
    optimizer = BankOptimizer(params)
    with pytest.raises(TypeError, match=r"grads\[0\] must have dtype torch.bfloat16"):
        optimizer.step([p.half() for p in params])
