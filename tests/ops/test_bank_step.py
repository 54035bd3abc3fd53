"""The optimizer step: closed forms, torch.optim, the trust region, the mask, precision, threads, strides."""

from __future__ import annotations

from typing import Any

import places
import pytest
import torch
from bank_step_cases import State, assert_same
from torch import Tensor

import mclnf_fast as mf

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_step")
compiled = places.backends("bank_step", reference=False)
kinds = pytest.mark.parametrize("kind", ["adam", "sgd"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])

ODD = ((1,), (15,), (17,), (63,), (129,), (1000,), (0, 3), ())


@backends
@dtypes
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.6, 0.0), (0.0, 0.0)])
def test_a_constant_gradient_moves_adam_by_its_rate(need, backend: str, dtype: torch.dtype, betas) -> None:
    """From fresh moments, m / (1 - b1^t) = g and v / (1 - b2^t) = g^2 at every t: a step is lr g / (|g| + eps)."""
    need("bank_step", backend, dtype)
    state = State(3, ((7,),), dtype)
    state.exp_avg, state.exp_avg_sq = [torch.zeros(3, 7, dtype=dtype)], [torch.zeros(3, 7, dtype=dtype)]
    state.step.zero_()
    (p,), (g,) = state.params, state.grads
    want, change = p.clone(), (state.lr[:, None] * (g / (g.abs() + 1e-3))).to(dtype)
    for t in range(1, 30):
        state.run(backend, betas=betas, eps=1e-3)
        want -= change
        torch.testing.assert_close(p, want, **({"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}))
        assert state.step.tolist() == [t] * 3


@backends
def test_sgd_is_one_subtraction(need, backend: str) -> None:
    need("bank_step", backend)
    state = State(4, kind="sgd")
    before = [p.clone() for p in state.params]
    state.run(backend, lr=0.5)
    assert all(torch.equal(p, b - 0.5 * g) for p, b, g in zip(state.params, before, state.grads))


@backends
def test_the_trust_region_alone_falls_to_the_anchor_geometrically(need, backend: str) -> None:
    """With g = 0, SGD gives theta_k - anchor = (1 - lr lam F)^k (theta_0 - anchor)."""
    need("bank_step", backend, torch.float64)
    state = State(3, dtype=torch.float64, kind="sgd")
    lam, fisher, anchor = 2.0, *state.trust[1:]
    start = [p - a for p, a in zip(state.params, anchor)]
    for g in state.grads:
        g.zero_()
    for _ in range(6):
        state.run(backend, lr=0.05, trust=(lam, fisher, anchor))
    for p, a, f, s in zip(state.params, anchor, fisher, start):
        torch.testing.assert_close(p - a, (1 - 0.05 * lam * f) ** 6 * s, rtol=1e-12, atol=1e-14)


@backends
@kinds
def test_the_trust_region_is_a_gradient_and_off_at_zero(need, backend: str, kind: str) -> None:
    need("bank_step", backend, torch.float64)
    state = State(3, dtype=torch.float64, kind=kind)
    by_hand, off, plain = state.copy(), state.copy(), state.copy()
    lam, fisher, anchor = state.trust
    by_hand.grads = [g + lam * f * (p - a) for g, f, p, a in zip(state.grads, fisher, state.params, anchor)]
    grads = [g.clone() for g in state.grads]
    state.run(backend, trust=mf.ops.Trust(lam, tuple(fisher), tuple(anchor)))
    assert_same(state, by_hand.run(backend), rtol=1e-13, atol=1e-15)
    assert all(torch.equal(g, old) for g, old in zip(state.grads, grads))
    endless = [torch.full_like(f, torch.inf) for f in fisher]
    assert_same(off.run(backend, trust=(0.0, endless, anchor)), plain.run(backend))


@backends
@kinds
@dtypes
def test_equals_torch_optim(need, backend: str, kind: str, dtype: torch.dtype) -> None:
    need("bank_step", backend, dtype)
    state = State(3, dtype=dtype, kind=kind)
    for t in state.changed[len(state.params) :]:
        t.zero_()
    nets = [[p[m].clone().requires_grad_() for p in state.params] for m in range(3)]
    options = {"betas": (0.8, 0.99), "eps": 1e-6}
    alone = [
        torch.optim.Adam(n, lr=lr, foreach=True, **options) if kind == "adam" else torch.optim.SGD(n, lr=lr)
        for n, lr in zip(nets, state.lr.tolist())
    ]
    for _ in range(20):
        state.grads = [torch.randn_like(p) for p in state.params]
        state.run(backend, **(options if kind == "adam" else {}))
        for m, net in enumerate(nets):
            for p, g in zip(net, state.grads):
                p.grad = g[m].clone()
            alone[m].step()
    tolerance = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    for m, net in enumerate(nets):
        for b, p in zip(state.params, net):
            torch.testing.assert_close(b[m], p.detach(), **tolerance)


@compiled
@kinds
@dtypes
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("modules", [0, 1, 17, 129])
def test_agrees_with_reference(need, backend: str, kind: str, dtype, trust: bool, mask: bool, modules: int) -> None:
    need("bank_step", backend, dtype)
    state = State(modules, ODD, dtype, kind)
    options: dict[str, Any] = {"trust": state.trust} if trust else {}
    if mask:
        options["active"] = torch.rand(modules) < 0.6
    found, wanted = state.copy().run(backend, **options), state.copy().run("reference", **options)
    tolerance = {"rtol": 1e-13, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 3e-6, "atol": 3e-7}
    assert_same(found, wanted, **tolerance)


@compiled
@pytest.mark.parametrize("trust", [False, True])
def test_float_is_within_a_few_ulp_of_the_truth_and_no_worse_than_torch(need, backend: str, trust: bool) -> None:
    """One step from the same float state, against float64; the unit is the last place of what is subtracted."""
    need("bank_step", backend)
    state = State(64, ((1000,),))
    state.step += 3
    options: dict[str, Any] = {"trust": state.trust} if trust else {}
    truth = state.copy(torch.float64).run("reference", **({"trust": state.copy(torch.float64).trust} if trust else {}))
    ours, theirs = state.copy().run(backend, **options), state.copy().run("reference", **options)
    for k, (start, exact) in enumerate(zip(state.changed[:-1], truth.changed)):
        largest = torch.maximum(exact.abs(), (exact - start.double()).abs()).clamp_min(1e-3)
        error, other = (((t.changed[k].double() - exact).abs() / largest).max() for t in (ours, theirs))
        assert float(error) <= 1.5 * float(other)
        if not trust:  # the gradient and the pull cancel here and there, which costs both of us digits
            assert float(error) <= 4 * torch.finfo(torch.float32).eps


@compiled
def test_many_float_steps_are_no_worse_than_torch(need, backend: str) -> None:
    need("bank_step", backend)
    start, grads = torch.randn(4, 500), torch.randn(200, 4, 500)

    def ours(dtype: torch.dtype) -> Tensor:
        p, m, v = start.to(dtype, copy=True), torch.zeros(4, 500, dtype=dtype), torch.zeros(4, 500, dtype=dtype)
        step = torch.zeros(4, dtype=torch.float64)
        for g in grads.to(dtype):
            mf.ops.bank_step([p], [g], [m], [v], step, 1e-2, backend=backend)
        return p.double()

    q = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([q], lr=1e-2, foreach=True)
    for g in grads:
        q.grad = g
        optimizer.step()
    truth = ours(torch.float64)
    error, other = ((t - truth).square().mean().sqrt() for t in (ours(torch.float32), q.detach().double()))
    assert float(error) <= 1.1 * float(other)


@backends
@kinds
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_inactive_modules_keep_every_bit(need, backend: str, kind: str, trust: bool, shared: bool) -> None:
    """Also between modules of one clock and one rate, which are stepped as one range."""
    need("bank_step", backend)
    state = State(9, kind=kind)
    if shared:
        state.step.fill_(3), state.lr.fill_(0.1)
    active = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 0], dtype=torch.bool)
    options: dict[str, Any] = {"trust": state.trust} if trust else {}
    free, before = state.copy().run(backend, **options), state.copy()
    for g in state.grads:
        g[~active] = torch.nan
    state.params[0][0, 0, 0] = torch.nan  # whatever it holds, it keeps
    state.run(backend, active=active, **options)
    assert state.params[0][0, 0, 0].isnan()
    state.params[0][0, 0, 0] = before.params[0][0, 0, 0]
    for now, old, all_active in zip(state.changed, before.changed, free.changed):
        assert torch.equal(now[~active], old[~active])
        assert torch.equal(now[active], all_active[active])
    kept = state.copy()
    assert_same(state.run(backend, active=torch.zeros(9, dtype=torch.bool)), kept)


@compiled
@kinds
@pytest.mark.parametrize("neighbors", [1, 4])
def test_a_bank_is_its_modules_one_by_one(need, backend: str, kind: str, neighbors: int) -> None:
    """Also where neighbors share a clock and a rate, and so are stepped as one range."""
    need("bank_step", backend)
    state = State(23, kind=kind)
    state.step, state.lr = ((t[::neighbors]).repeat_interleave(neighbors)[:23] for t in (state.step, state.lr))
    rows = [state.row(m).run(backend, trust=state.row(m).trust) for m in range(23)]
    state.run(backend, trust=state.trust)
    for k, now in enumerate(state.changed):
        assert torch.equal(now, torch.cat([r.changed[k] for r in rows]))


@pytest.mark.parametrize("modules", [1, 7, 5000])
@pytest.mark.parametrize("mixed", [False, True])
def test_runs_and_thread_counts_give_the_same_bits(need, modules: int, mixed: bool) -> None:
    need("bank_step", "cpu")
    per_module = 400_000 // modules
    state = State(modules, ((per_module // 2 + 1,), (3,), (per_module // 2,)))
    options: dict[str, Any] = {"active": torch.rand(modules) < 0.7} if mixed and modules > 1 else {}
    options["lr"] = state.lr if mixed else 1e-3
    if not mixed:
        state.step.fill_(4)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (2, 2, 1, 5):
            torch.set_num_threads(count)
            runs.append(state.copy().run("cpu", **options))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert_same(run, runs[0])
    assert_same(runs[0], state.copy().run("reference", **options), rtol=1e-5, atol=1e-6)


@backends
def test_any_strides(need, backend: str) -> None:
    need("bank_step", backend)
    state = State(5, ((6, 4), (3,)))
    active = torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    wanted = state.copy().run(backend, active=active, trust=state.trust)

    def strided(t: Tensor) -> Tensor:
        turned = t.transpose(0, -1).contiguous().transpose(0, -1)
        wide = torch.full((*turned.shape[:-1], 2 * turned.shape[-1] + 1), torch.nan, dtype=t.dtype)
        wide[..., 1::2] = turned
        return wide[..., 1::2]

    for name in ("params", "grads", "exp_avg", "exp_avg_sq"):
        setattr(state, name, [strided(t) for t in getattr(state, name)])
    state.step, state.lr = strided(state.step), strided(state.lr)
    places = [t.data_ptr() for t in state.changed]
    trust = (state.trust[0], *([strided(t) for t in ts] for ts in state.trust[1:]))
    state.run(backend, active=active.repeat_interleave(2)[::2], trust=trust)
    assert_same(state, wanted)
    assert places == [t.data_ptr() for t in state.changed]
    one = State(3, ((4,),), kind="sgd")
    other = one.copy()
    one.grads = [torch.ones(1, 1).expand(3, 4)]
    other.grads = [torch.ones(3, 4)]
    assert_same(one.run(backend), other.run(backend))


@backends
@dtypes
def test_without_a_first_moment_the_gradient_is_kept_exactly(need, backend: str, dtype: torch.dtype) -> None:
    """However large the old moment is beside it, with beta1 = 0 it is forgotten; with a small one nearly so."""
    need("bank_step", backend, dtype)
    for beta in (0.0, 0.25):
        state = State(2, ((5,),), dtype)
        state.grads, state.exp_avg = [torch.full((2, 5), 1e-3, dtype=dtype)], [torch.full((2, 5), 1e6, dtype=dtype)]
        exact = beta * 1e6 + (1 - beta) * state.grads[0].double()
        state.run(backend, betas=(beta, 0.9))
        torch.testing.assert_close(state.exp_avg[0].double(), exact, rtol=torch.finfo(dtype).eps, atol=0)


@backends
@kinds
@dtypes
@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_is_torchs(need, backend: str, kind: str, dtype: torch.dtype, decoupled: bool) -> None:
    """Coupled: w theta is part of the gradient; decoupled: theta shrinks by 1 - lr w beside the step."""
    need("bank_step", backend, dtype)
    state = State(3, dtype=dtype, kind=kind)
    by_hand = state.copy()
    for p, g in zip(by_hand.params, by_hand.grads):
        if decoupled:
            p *= (1 - 0.3 * by_hand.lr).to(dtype).view(-1, *[1] * (p.dim() - 1))
        else:
            g += 0.3 * p
    state.run(backend, decay=(0.3, decoupled), active=torch.tensor([True, False, True]))
    by_hand.run(backend, active=torch.tensor([True, False, True]))
    if decoupled:  # the module that is left out does not shrink
        for p, q in zip(by_hand.params, state.params):
            p[1] = q[1]
    else:
        state.grads = by_hand.grads
    assert_same(state, by_hand, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=1e-7)


@backends
@kinds
@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_modules_without_a_gradient_can_be_skipped(need, backend: str, kind: str, half: torch.dtype | None) -> None:
    """Module 0: zeros, -0 among them. 1: one number, the last of all. 2: NaN. 3: frozen. 4: the smallest number."""
    need("bank_step", backend)
    state = State(5, ODD, kind=kind, half=half)
    for g in state.grads:
        g.zero_()
        g[0] *= -1
    state.grads[5][1, -1] = 1.0
    state.grads[0][2] = float("nan")
    state.grads[0][3] = 1.0
    state.grads[2][4, 3] = torch.finfo(half or torch.float32).smallest_normal
    active = torch.tensor([True, True, True, False, True])
    other = state.copy()
    state.run(backend, skip_zero=True, active=active, decay=(0.1, False))
    other.run(backend, active=torch.tensor([False, True, True, False, True]), decay=(0.1, False))
    assert_same(state, other, equal_nan=True)
    state.run(backend, skip_zero=True)
    assert torch.equal(state.step - other.step, torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64))


@compiled
def test_all_threads_find_the_same_gradients(need, backend: str) -> None:
    need("bank_step", backend)
    state = State(2000, kind="adam")
    empty = torch.rand(2000) < 0.5
    for g in state.grads:
        g[empty] = 0
    other = state.copy()
    state.run(backend, skip_zero=True)
    other.run(backend, active=~empty)
    assert_same(state, other)


@backends
def test_wrong_decays_are_named(need, backend: str) -> None:
    need("bank_step", backend)
    state = State(2)
    for wrong, error, message in (
        (0.1, TypeError, r"decay must be \(weight, decoupled\) or None, got float"),
        ((-0.1, True), ValueError, "decay's weight must be finite and at least 0, got -0.1"),
        ((0.1, 1), TypeError, "decay's decoupled must be True or False, got 1"),
    ):
        with pytest.raises(error, match=message):
            state.run(backend, decay=wrong)
    with pytest.raises(TypeError, match="skip_zero must be True or False, got 'no'"):
        state.run(backend, skip_zero="no")
