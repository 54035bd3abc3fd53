"""Meta-learning over a bank: exact second order (A1), Reptile (A2), bit-equal clones (A3), resume."""

import places
import pytest
import torch
from toy_bank import toy_params, toy_task

from mclnf_fast.learn import MAML, Reptile, adapt, fine_tune, shuffled
from mclnf_fast.ops import bank_mse
from mclnf_fast.spec import FieldSpec

MODULES = 3


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def outer_loss(init, support, query, steps: int, lr: float) -> torch.Tensor:
    """The outer objective written out with plain autograd on ordinary SGD steps."""
    bank = [p.detach().repeat(MODULES, *[1] * (p.dim() - 1)).requires_grad_() for p in init]
    for k in range(steps):
        grads = torch.autograd.grad(support(tuple(bank), k).sum(), bank)
        bank = [(p - lr * g).detach().requires_grad_() for p, g in zip(bank, grads)]
    return query(tuple(bank), steps).mean()


@places.devices
def test_second_order_equals_finite_differences() -> None:
    init = toy_params(1)
    support, query = toy_task(MODULES, seed=1), toy_task(MODULES, seed=2)
    meta = MAML(init, inner_lr=0.3, inner_steps=3)
    losses, grads = meta.outer_gradient(support, query, MODULES)
    assert losses.mean().item() == pytest.approx(outer_loss(init, support, query, 3, 0.3).item(), rel=1e-12)
    h = 1e-5
    numeric = []
    for i, p in enumerate(init):
        for j in range(p.numel()):
            ends = []
            for sign in (1, -1):
                moved = [q.clone() for q in init]
                moved[i].view(-1)[j] += sign * h
                ends.append(outer_loss(moved, support, query, 3, 0.3))
            numeric.append((ends[0] - ends[1]) / (2 * h))
    torch.testing.assert_close(flat(grads), torch.stack(numeric), rtol=1e-6, atol=1e-9)


def test_first_order_is_the_query_gradient_at_the_adapted_parameters() -> None:
    init = toy_params(1)
    support, query = toy_task(MODULES, seed=1), toy_task(MODULES, seed=2)
    meta = MAML(init, inner_lr=0.3, inner_steps=3, first_order=True)
    _, grads = meta.outer_gradient(support, query, MODULES)
    adapted = adapt(meta.clone(MODULES), support, 3, 0.3, create_graph=False)
    leaves = tuple(p.requires_grad_() for p in adapted)
    at_end = torch.autograd.grad(query(leaves, 3).mean(), leaves)
    torch.testing.assert_close(flat(grads), flat([g.sum(0, keepdim=True) for g in at_end]))
    _, second = MAML(init, inner_lr=0.3, inner_steps=3).outer_gradient(support, query, MODULES)
    assert not torch.allclose(flat(grads), flat(second), rtol=1e-3)


@pytest.mark.parametrize("ours", [True, False])
def test_a_step_is_taken_in_place_of_a_gradient_that_nobody_else_holds(need, monkeypatch, ours: bool) -> None:
    if ours:
        need("bank_mse", "cpu")
    spec = FieldSpec(2, 1, 8, 1)
    x, offsets = torch.rand(5 * MODULES, 2), torch.arange(MODULES + 1) * 5
    params = tuple(torch.randn(MODULES, *shape) for shape in ((2, 8), (8, 1), (8,), (1,)))

    def loss(theta, step: int) -> torch.Tensor:
        backend = "cpu" if ours else "reference"
        return bank_mse(x, offsets, theta[:2], theta[2:], x[:, :1], spec, backend=backend)

    found: list[torch.Tensor] = []
    grad = torch.autograd.grad

    def kept(*args, **options):
        found[:] = grad(*args, **options)
        values[:] = [g.clone() for g in found]
        return tuple(found)

    values: list[torch.Tensor] = []
    monkeypatch.setattr(torch.autograd, "grad", kept)
    adapted = adapt(params, loss, 1, 0.25)
    for a, p, g, v in zip(adapted, params, found, values):
        assert torch.equal(a, p + v)
        assert (a.data_ptr() == g.data_ptr()) == ours
        assert torch.equal(g, a if ours else v)


@places.devices
def test_adapt_is_sgd_on_each_module_alone() -> None:
    params, support = toy_params(MODULES), toy_task(MODULES)
    lr = torch.tensor([0.1, 0.2, 0.0], dtype=torch.float64)
    adapted = adapt(params, support, 4, lr, create_graph=False)
    tuned = fine_tune(params, support, 4, lr)
    for m in range(MODULES):
        net = [p[m].clone().requires_grad_() for p in params]
        optimizer = torch.optim.SGD(net, lr=lr[m].item())
        for k in range(4):
            optimizer.zero_grad()
            stacked = tuple(torch.stack([n if i == m else n.detach() for i in range(MODULES)]) for n in net)
            support(stacked, k)[m].backward()
            optimizer.step()
        for a, t, n in zip(adapted, tuned, net):
            torch.testing.assert_close(a[m], n.detach())
            torch.testing.assert_close(t[m], n.detach())
    assert all(torch.equal(a[2], p[2]) for a, p in zip(adapted, params))


def test_no_leakage_between_modules() -> None:
    params, support = toy_params(MODULES), toy_task(MODULES)
    other = tuple(torch.cat([p[:1], 5 * p[1:]]) for p in params)
    a, b = (adapt(p, support, 3, 0.1, create_graph=False) for p in (params, other))
    assert all(torch.equal(x[0], y[0]) for x, y in zip(a, b))
    start = tuple(p.clone().requires_grad_() for p in params)
    grads = torch.autograd.grad(support(adapt(start, support, 2, 0.1), 0)[1], start)
    assert all(torch.all(g[0] == 0) and torch.all(g[2] == 0) and torch.any(g[1] != 0) for g in grads)


@places.devices
def test_update_mask_and_clip() -> None:
    params, support = toy_params(MODULES), toy_task(MODULES)
    start = tuple(p.clone().requires_grad_() for p in params)
    adapted = adapt(start, support, 2, 1.0, update=[False, True, False, True], clip_value=0.01)
    assert adapted[0] is start[0]
    assert adapted[2] is start[2]
    assert (adapted[1] - start[1]).abs().max() <= 0.02 + 1e-12
    grads = torch.autograd.grad(support(adapted, 0).sum(), start)
    assert all(torch.any(g != 0) for g in grads)


def test_create_graph_false_keeps_nothing() -> None:
    start = tuple(p.requires_grad_() for p in toy_params(MODULES))
    assert not any(p.requires_grad for p in adapt(start, toy_task(MODULES), 2, 0.1, create_graph=False))
    with torch.no_grad():  # works inside no_grad too, as evaluation code will call it
        adapt(start, toy_task(MODULES), 2, 0.1, create_graph=False)


@pytest.mark.parametrize("learner", [MAML, Reptile])
def test_clone_is_bit_equal(learner) -> None:
    init = toy_params(1)
    bank = learner(init).clone(5)
    for p, b in zip(init, bank):
        assert b.is_contiguous()
        assert all(torch.equal(b[m], p[0]) for m in range(5))


@places.devices
@pytest.mark.parametrize("modules", [1, MODULES])
@pytest.mark.parametrize("inner", ["sgd", "adam"])
def test_reptile_gradient_is_exact(modules: int, inner: str) -> None:
    init, task = toy_params(1, dtype=torch.float32), toy_task(modules, dtype=torch.float32)
    meta = Reptile(init, inner_lr=0.1, inner_steps=5, outer_lr=1e-2, inner=inner)
    theta = fine_tune(meta.clone(modules), task, 5, 0.1, kind=inner)
    twin = [p.clone().requires_grad_() for p in init]
    info = meta.step(task, modules)
    for p, start, t, q in zip(meta.init, init, theta, twin):
        expected = start - (t if modules == 1 else t.mean(0, keepdim=True))
        assert torch.equal(p.grad, expected)
        q.grad = expected
    torch.optim.Adam(twin, lr=1e-2).step()
    torch.testing.assert_close(flat(meta.init), flat(twin), rtol=1e-6, atol=1e-7)
    assert info["last_loss"].shape == (modules,)


def test_outer_clip_and_cosine() -> None:
    task = toy_task(MODULES)
    meta = MAML(toy_params(1), inner_lr=0.1, inner_steps=1, outer_lr=1e-2, grad_clip=1e-3, anneal_steps=4)
    rates = []
    for _ in range(5):
        rates.append(meta.current_lr())
        norm = meta.step(task, modules=MODULES)["grad_norm"]
    assert norm > 1e-3
    assert flat([p.grad for p in meta.init]).norm().item() == pytest.approx(1e-3)
    assert rates[0] == 1e-2
    assert rates[2] == pytest.approx(5e-3)
    assert rates[4] == 0


def test_maml_learns_to_adapt() -> None:
    task = toy_task(MODULES)
    meta = MAML(toy_params(1), inner_lr=0.2, inner_steps=2, outer_lr=2e-2)
    losses = [meta.step(task, modules=MODULES)["loss"].item() for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("learner", [MAML, Reptile])
def test_resume_is_exact(learner) -> None:
    task = toy_task(MODULES)
    settings = {"inner_lr": 0.1, "inner_steps": 2, "outer_lr": 1e-2, "anneal_steps": 9}
    meta = learner(toy_params(1), **settings)
    for _ in range(3):
        meta.step(task, modules=MODULES)
    twin = learner(toy_params(1, seed=9), **settings)
    twin.load_state_dict(meta.state_dict())
    for m in (meta, twin):
        for _ in range(2):
            m.step(task, modules=MODULES)
    assert torch.equal(flat(meta.init), flat(twin.init))
    assert all(isinstance(v, torch.Tensor) for v in meta.state_dict().values())
    with pytest.raises(ValueError, match="state"):
        twin.load_state_dict({})


def test_shuffled_permutes_inside_each_tensor() -> None:
    init = toy_params(2)
    mixed = shuffled(init, torch.Generator().manual_seed(0))
    for p, s in zip(init, mixed):
        for m in range(2):
            assert torch.equal(p[m].flatten().sort().values, s[m].flatten().sort().values)
    assert not torch.equal(init[0], mixed[0])
    again = shuffled(init, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(mixed, again))


def test_fine_tune_calls_back() -> None:
    calls = []
    params = toy_params(2)
    before = flat(params)
    fine_tune(params, toy_task(2), 3, 0.1, callback=lambda k, p, loss: calls.append((k, loss.shape)))
    assert calls == [(1, (2,)), (2, (2,)), (3, (2,))]
    assert torch.equal(before, flat(params))


def test_the_rate_falls_by_the_same_factor_each_step_to_its_end() -> None:
    params = tuple(torch.zeros(2, n, dtype=torch.float64) for n in (3, 1))
    slope = torch.tensor([[1.0], [2.0]], dtype=torch.float64)

    def loss(theta, step: int):
        return sum((p * slope).sum(1) for p in theta)

    found, before = [], [torch.zeros(2, dtype=torch.float64)]

    def after(step: int, theta, losses) -> None:
        found.append((before[-1] - theta[0][:, 0]) / slope[:, 0])
        before.append(theta[0][:, 0].clone())

    fine_tune(params, loss, 5, 0.8, lr_end=0.05, callback=after)
    want = 0.8 * 0.5 ** torch.arange(5, dtype=torch.float64)
    torch.testing.assert_close(torch.stack(found), want[:, None].expand(-1, 2))
    found.clear()
    before[:] = before[:1]
    fine_tune(params, loss, 1, 0.8, lr_end=0.05, callback=after)
    torch.testing.assert_close(found[0], torch.full((2,), 0.8, dtype=torch.float64))
    found.clear()
    before[:] = before[:1]
    each = torch.tensor([0.4, 0.1], dtype=torch.float64)
    fine_tune(params, loss, 3, each, lr_end=each / 4, callback=after)
    torch.testing.assert_close(torch.stack(found), each * torch.tensor([[1.0], [0.5], [0.25]], dtype=torch.float64))


def test_errors() -> None:
    params, task = toy_params(2), toy_task(2)
    with pytest.raises(ValueError, match="steps"):
        adapt(params, task, 0, 0.1)
    with pytest.raises(ValueError, match="loss_fn"):
        adapt(params, lambda p, k: task(p, k).sum(), 1, 0.1)
    with pytest.raises(TypeError, match="loss_fn"):
        adapt(params, lambda p, k: 1.0, 1, 0.1)
    with pytest.raises(ValueError, match="lr"):
        adapt(params, task, 1, torch.ones(3))
    with pytest.raises(ValueError, match="update"):
        adapt(params, task, 1, 0.1, update=[False] * 4)
    with pytest.raises(ValueError, match="clip_value"):
        adapt(params, task, 1, 0.1, clip_value=0.0)
    with pytest.raises(ValueError, match="init"):
        MAML(params)
    with pytest.raises(ValueError, match="inner_lr"):
        MAML(toy_params(1), inner_lr=0.0)
    with pytest.raises(ValueError, match="grad_clip"):
        MAML(toy_params(1), grad_clip=-1.0)
    with pytest.raises(ValueError, match="modules"):
        MAML(toy_params(1)).clone(0)
    with pytest.raises(ValueError, match="inner"):
        Reptile(toy_params(1), inner="lbfgs")
    with pytest.raises(TypeError, match="params"):
        adapt(params[0], task, 1, 0.1)


def test_the_outer_rate_falls_along_half_a_cosine() -> None:
    meta = MAML(toy_params(1), outer_lr=0.4, anneal_steps=8)
    found = []
    for step in (0, 2, 4, 6, 8, 20):
        meta.outer_steps = step
        found.append(meta.current_lr())
    # cos(0), cos(pi / 4), cos(pi / 2), ...: (1 + that) / 2 of the rate, and nothing past the end.
    assert found == pytest.approx([0.4, 0.2 * (1 + 0.5**0.5), 0.2, 0.2 * (1 - 0.5**0.5), 0.0, 0.0])


@pytest.mark.parametrize(("clip", "scale"), [(None, 1.0), (10.0, 1.0), (0.5, 0.1)])
def test_only_a_gradient_that_is_too_long_is_clipped(clip, scale) -> None:
    meta = MAML((torch.zeros(1, 2, dtype=torch.float64),), grad_clip=clip)
    norm = meta._outer_step([torch.tensor([[3.0, 4.0]], dtype=torch.float64)])
    assert norm.item() == pytest.approx(5.0)  # before the clip
    assert meta.init[0].grad.tolist() == [pytest.approx([3.0 * scale, 4.0 * scale])]
