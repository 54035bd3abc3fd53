"""The bank optimizer: torch.optim per module; append, freeze and reset one module; trust region."""

import places
import pytest
import torch
from toy_bank import toy_params

from mclnf_fast.learn import BankOptimizer


def grads_like(params, seed: int):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(p.shape, generator=g, dtype=p.dtype) for p in params)


def copy(params):
    return tuple(p.clone() for p in params)


@places.devices
@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch_optim_on_each_module(kind: str, dtype: torch.dtype) -> None:
    start = toy_params(3, dtype=dtype)
    lr = torch.tensor([1e-2, 1e-3, 0.1])
    bank = copy(start)
    optimizer = BankOptimizer(bank, kind, lr, betas=(0.8, 0.99), eps=1e-6)
    nets = [[p[m].clone().requires_grad_() for p in start] for m in range(3)]
    alone = [
        torch.optim.Adam(n, lr=lr[m].item(), betas=(0.8, 0.99), eps=1e-6)
        if kind == "adam"
        else torch.optim.SGD(n, lr=lr[m].item())
        for m, n in enumerate(nets)
    ]
    for step in range(20):
        grads = grads_like(bank, step)
        optimizer.step(grads)
        for m, net in enumerate(nets):
            for p, g in zip(net, grads):
                p.grad = g[m].clone()
            alone[m].step()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for m, net in enumerate(nets):
        for b, p in zip(bank, net):
            torch.testing.assert_close(b[m], p.detach(), rtol=tolerance, atol=tolerance)


@places.devices
@pytest.mark.parametrize("frozen", [[0], [3], [0, 3], [1], [1, 2], [0, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_frozen_modules_keep_every_bit(frozen: list[int], kind: str) -> None:
    bank, free = copy(toy_params(4)), copy(toy_params(4))
    optimizer, other = BankOptimizer(bank, kind, 0.1), BankOptimizer(free, kind, 0.1)
    for o, b in ((optimizer, bank), (other, free)):
        o.step(grads_like(b, 0))
    optimizer.freeze(frozen)
    before, state = copy(bank), optimizer.state_dict()
    grads = grads_like(bank, 1)
    for g in grads:
        g[frozen] = float("nan")
    optimizer.step(grads)
    other.step(grads_like(free, 1))
    after = optimizer.state_dict()
    active = [m for m in range(4) if m not in frozen]
    for b, old, f in zip(bank, before, free):
        assert torch.equal(b[frozen], old[frozen])
        torch.testing.assert_close(b[active], f[active], rtol=0, atol=0)
    for key in state:
        if key != "frozen":
            assert torch.equal(after[key][frozen], state[key][frozen])
    assert optimizer.steps.tolist() == [1 if m in frozen else 2 for m in range(4)]
    optimizer.unfreeze(frozen)
    assert not optimizer.frozen.any()


def test_an_empty_bank_grows_at_the_rate_that_was_set() -> None:
    empty = (torch.zeros(0, 3, 2), torch.zeros(0, 2))
    optimizer = BankOptimizer(empty, kind="sgd", lr=0.5)
    optimizer.set_lr(0.25)
    params = optimizer.append((torch.ones(2, 3, 2), torch.ones(2, 2)))
    assert optimizer.lr.tolist() == [0.25, 0.25]
    optimizer.step([torch.ones_like(p) for p in params])
    assert all(bool((p == 0.75).all()) for p in params)
    optimizer.append((torch.ones(1, 3, 2), torch.ones(1, 2)), lr=2.0)
    assert optimizer.lr.tolist() == [0.25, 0.25, 2.0]


@places.devices
def test_append_gives_a_fresh_clock() -> None:
    optimizer = BankOptimizer(copy(toy_params(2)), lr=0.1)
    for step in range(3):
        optimizer.step(grads_like(optimizer.params, step))
    kept = copy(optimizer.params)
    module = toy_params(1, seed=5)
    grown = optimizer.append(module, lr=0.01)
    assert optimizer.modules == 3
    assert all(torch.equal(g[:2], k) and torch.equal(g[2:], m) for g, k, m in zip(grown, kept, module))
    assert optimizer.steps.tolist() == [3, 3, 0]
    assert optimizer.lr.tolist() == [0.1, 0.1, 0.01]
    alone = BankOptimizer(copy(module), lr=0.01)
    grads = grads_like(grown, 9)
    optimizer.step(grads)
    alone.step([g[2:] for g in grads])
    assert all(torch.equal(g[2:], a) for g, a in zip(grown, alone.params))


@places.devices
def test_rebind_and_reset() -> None:
    optimizer = BankOptimizer(copy(toy_params(2)), lr=0.1)
    optimizer.step(grads_like(optimizer.params, 0))
    bigger = tuple(torch.cat([p, p[:1]]) for p in optimizer.params)
    optimizer.rebind(bigger)
    assert optimizer.params[0] is bigger[0]
    assert optimizer.steps.tolist() == [1, 1, 0]
    optimizer.reset(0)
    state = optimizer.state_dict()
    assert optimizer.steps.tolist() == [0, 1, 0]
    for key in [key for key in state if key.startswith("exp_avg")]:
        assert torch.all(state[key][0] == 0), key
        assert torch.any(state[key][1] != 0), key
    with pytest.raises(ValueError, match="params"):
        optimizer.rebind(toy_params(2))


@places.devices
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_trust_region(kind: str) -> None:
    start, fisher, anchor = (
        toy_params(2),
        tuple(p.abs() for p in toy_params(2, seed=1)),
        toy_params(2, seed=2),
    )
    grads = grads_like(start, 0)
    plain, off, on, by_hand = (copy(start) for _ in range(4))
    BankOptimizer(plain, kind, 0.1).step(grads)
    BankOptimizer(off, kind, 0.1, trust=(0.0, fisher, anchor)).step(grads)
    BankOptimizer(on, kind, 0.1, trust=(3.0, fisher, anchor)).step(grads)
    pulled = [g + 3.0 * f * (p - a) for g, f, p, a in zip(grads, fisher, start, anchor)]
    BankOptimizer(by_hand, kind, 0.1).step(pulled)
    for p, o, n, h in zip(plain, off, on, by_hand):
        assert torch.equal(p, o)
        torch.testing.assert_close(n, h)
        assert not torch.equal(p, n)
    assert all(torch.equal(g, again) for g, again in zip(grads, grads_like(start, 0)))


@places.devices
def test_trust_region_takes_another_dtype_and_follows_its_tensors() -> None:
    start = toy_params(2)
    fisher = tuple(p.abs() for p in toy_params(2, seed=1))
    one, two, three = copy(start), copy(start), copy(start)
    zero = tuple(torch.zeros_like(p) for p in start)
    narrow = tuple(f.float() for f in fisher), tuple(z.float() for z in zero)
    BankOptimizer(one, "sgd", 0.1, trust=(2.0, *narrow)).step(grads_like(start, 0))
    later = copy(zero)
    optimizer = BankOptimizer(two, "sgd", 0.1, trust=(2.0, later, zero))
    for f, now in zip(later, fisher):  # a running Fisher
        f.copy_(now)
    optimizer.step(grads_like(start, 0))
    BankOptimizer(three, "sgd", 0.1, trust=(2.0, fisher, zero)).step(grads_like(start, 0))
    for a, b, c in zip(one, two, three):
        torch.testing.assert_close(a, c, rtol=1e-6, atol=1e-7)
        assert torch.equal(b, c)


def test_a_step_that_is_refused_changes_nothing() -> None:
    optimizer = BankOptimizer(copy(toy_params(2)), lr=0.1)
    before, state = copy(optimizer.params), optimizer.state_dict()
    grads = grads_like(optimizer.params, 0)
    for wrong, error in (
        (grads[1:], ValueError),
        ((None, *grads[1:]), ValueError),
        ((*grads[:-1], grads[-1][..., :-1]), ValueError),
        (tuple(g.float() for g in grads), TypeError),
    ):
        with pytest.raises(error, match="grads"):
            optimizer.step(wrong)
    assert all(torch.equal(p, b) for p, b in zip(optimizer.params, before))
    assert all(torch.equal(value, state[key]) for key, value in optimizer.state_dict().items())


def test_parameters_may_move_under_the_optimiser() -> None:
    """`module.to(...)` gives a parameter another storage: the step must reach it, or say why it can't."""
    params = tuple(torch.nn.Parameter(p) for p in toy_params(2))
    optimizer = BankOptimizer(params, lr=0.1)
    for p in params:
        p.data = p.data.clone()
    before = copy(p.detach() for p in params)
    optimizer.step(grads_like(params, 0))
    assert not any(torch.equal(p, b) for p, b in zip(params, before))
    for p in params:
        p.data = p.data.float()
    with pytest.raises(TypeError, match=r"exp_avg\[0\] must have dtype torch.float32, got torch.float64"):
        optimizer.step(grads_like(params, 0))


@places.devices
def test_takes_p_grad() -> None:
    params = tuple(p.requires_grad_() for p in toy_params(2))
    optimizer = BankOptimizer(params, "sgd", 0.5)
    with pytest.raises(ValueError, match=r"grads\[0\].*None"):
        optimizer.step()
    before = copy(p.detach() for p in params)
    sum(p.sum() for p in params).backward()
    optimizer.step()
    assert all(torch.equal(p, b - 0.5) for p, b in zip(params, before))
    optimizer.zero_grad()
    assert params[0].grad is None


@places.devices
def test_state_round_trip() -> None:
    a = BankOptimizer(copy(toy_params(3)), lr=torch.tensor([0.1, 0.2, 0.3]))
    a.step(grads_like(a.params, 0))
    a.freeze(1)
    b = BankOptimizer(copy(a.params))
    b.load_state_dict(a.state_dict())
    for o in (a, b):
        o.step(grads_like(o.params, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.params, b.params))
    assert all(isinstance(v, torch.Tensor) for v in a.state_dict().values())
    with pytest.raises(ValueError, match="state"):
        BankOptimizer(copy(toy_params(2))).load_state_dict(a.state_dict())


def test_errors() -> None:
    params = toy_params(2)
    with pytest.raises(ValueError, match="kind"):
        BankOptimizer(params, "lion")
    with pytest.raises(ValueError, match="lr"):
        BankOptimizer(params, lr=-1.0)
    with pytest.raises(ValueError, match="lr"):
        BankOptimizer(params, lr=torch.ones(3))
    with pytest.raises(ValueError, match="betas"):
        BankOptimizer(params, betas=(0.9, 1.0))
    with pytest.raises(TypeError, match="float32, float64, bfloat16 or float16"):
        BankOptimizer([p.to(torch.float8_e4m3fn) for p in params])
    with pytest.raises(ValueError, match="params"):
        BankOptimizer([])
    with pytest.raises(ValueError, match="fisher"):
        BankOptimizer(params, trust=(1.0, params[:1], params))
    with pytest.raises(ValueError, match="lam"):
        BankOptimizer(params, trust=(-1.0, params, params))
    optimizer = BankOptimizer(params)
    with pytest.raises(ValueError, match="grads"):
        optimizer.step([torch.ones(1)] * 4)
    with pytest.raises(IndexError, match="modules"):
        optimizer.freeze(2)
    with pytest.raises(ValueError, match="module_params"):
        optimizer.append(toy_params(1, width=6))
