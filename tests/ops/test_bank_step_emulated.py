"""The CUDA kernels of the optimizer step on the emulation of CUDA's blocks: against the CPU's op, which runs the same
arithmetic, over every layout, size and option; and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bank_step_cases import State, assert_same
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned")
kinds = pytest.mark.parametrize("kind", ["adam", "sgd"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
OPS = torch.ops.mclnf_fast  # the CPU's, for its tensors
ODD = ((1,), (2,), (3,), (15,), (17,), (4, 16), (63,), (129,), (1000,), (0, 3), ())


def step(ops: Any, state: State, active: Tensor | None = None, trust: bool = False, lr: float | None = None,
         betas: tuple[float, float] = (0.9, 0.999)) -> State:  # fmt: skip
    """One step through the raw op, on copies."""
    new = state.copy()
    lam, fisher, anchor = new.trust if trust else (0.0, [], [])
    lists = [new.params, new.grads, new.exp_avg, new.exp_avg_sq]
    clock = [new.step, new.lr if lr is None else None, lr or 0.0, active]
    ops.bank_step(*lists, *clock, state.kind == "adam", *betas, 1e-8, lam, fisher, anchor, new.copies, new.scale)
    return new


@kinds
@dtypes
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_cpus_step_bit_for_bit(
    need, emulated: Any, kind: str, dtype: torch.dtype, trust: bool, masked: bool
) -> None:
    """Modules of sizes that share a vector of 16 bytes, end in one, or span many blocks."""
    need("bank_step", "cpu", dtype)
    for modules in (0, 1, 3, 9, 65):
        state = State(modules, ODD, dtype, kind)
        active = torch.rand(modules) < 0.6 if masked else None
        for lr in (None, 0.05):
            found = step(emulated, state, active, trust, lr)
            assert_same(found, step(OPS, state, active, trust, lr))
            assert torch.equal(found.step, state.step + (1 if active is None else active.double()))


@kinds
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_half_copies_are_the_cpus_bit_for_bit(
    need, emulated: Any, kind: str, half: torch.dtype, trust: bool, masked: bool
) -> None:
    need("bank_step", "cpu", torch.float32)
    for modules in (0, 1, 3, 9, 65):
        state = State(modules, ODD, kind=kind, half=half)
        for i in range(0, len(ODD), 3):  # some have no copy
            state.grads[i], state.copies[i] = state.grads[i].float(), torch.empty(0)
        active = torch.rand(modules) < 0.6 if masked else None
        found = step(emulated, state, active, trust)
        assert_same(found, step(OPS, state, active, trust))
        if not masked:
            assert all(torch.equal(c, p.to(half)) for c, p in zip(found.copies, found.params) if c.dtype == half)


@dtypes
@pytest.mark.parametrize("betas", [(0.0, 0.5), (0.6, 0.0), (0.0, 0.0)])
def test_betas_of_nothing(need, emulated: Any, dtype: torch.dtype, betas: tuple[float, float]) -> None:
    need("bank_step", "cpu", dtype)
    state = State(5, ((7,), (2, 3)), dtype)
    assert_same(step(emulated, state, betas=betas), step(OPS, state, betas=betas))


@pytest.mark.parametrize("order", ["reverse", "random:1", "random:2"])
def test_the_order_of_threads_does_not_show(emulated: Any, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    """And every clock goes up by one, once."""
    state = State(150, ((37,), (3, 5), ()))
    active = torch.rand(150) < 0.7
    first = step(emulated, state, active, trust=True)
    monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)
    assert_same(step(emulated, state, active, trust=True), first)
    assert torch.equal(first.step, state.step + active.double())


@kinds
def test_more_tensors_than_a_launch_takes(need, emulated: Any, kind: str) -> None:
    """48 of them a launch; those of no values take no place."""
    need("bank_step", "cpu")
    for tensors in (47, 48, 49, 101):
        state = State(3, tuple((k % 7, 2) if k % 5 else (0,) for k in range(tensors + tensors // 4)), kind=kind)
        assert_same(step(emulated, state, trust=True), step(OPS, state, trust=True))


def test_inactive_modules_are_not_touched(emulated: Any) -> None:
    """Also where they share 16 bytes with one that is active, whatever they hold."""
    state = State(9, ((3,), (5, 2), (1,)))
    active = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 0], dtype=torch.bool)
    clean = step(emulated, state, active)
    for k, t in enumerate((*state.grads, *state.params, *state.exp_avg_sq)):
        t[~active] = [torch.nan, torch.inf][k % 2]
    state.step[~active], state.lr[~active] = torch.nan, torch.nan
    found = step(emulated, state, active)
    for now, old, other in zip(found.changed, state.changed, clean.changed, strict=True):
        assert torch.equal(now[active], other[active])
        assert torch.equal(now[~active].nan_to_num(7.0), old[~active].nan_to_num(7.0))


def moved(t: Tensor) -> Tensor:
    """The same values, contiguous, one number behind a multiple of 16 bytes."""
    return torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view(t.shape).copy_(t)


def strided(t: Tensor) -> Tensor:
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan, dtype=t.dtype)
    wide[..., 1::2] = t
    return wide[..., 1::2]


@dtypes
@pytest.mark.parametrize("change", [moved, strided])
@pytest.mark.parametrize(
    "lists", [("params",), ("grads",), ("copies",), ("exp_avg", "exp_avg_sq"), ("fisher", "anchor", "clock")]
)
def test_any_alignment_and_strides(emulated: Any, dtype: torch.dtype, change: Any, lists: tuple[str, ...]) -> None:
    state = State(5, ((6, 4), (3,), (33,)), dtype, half=torch.bfloat16 if dtype == torch.float32 else None)
    active = torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    wanted = step(emulated, state, active, trust=True)
    for name in lists:
        if name == "clock":
            state.step, state.lr, active = change(state.step), change(state.lr), change(active)
        elif name in ("fisher", "anchor"):
            place = 1 if name == "fisher" else 2
            state.trust = tuple([change(t) for t in v] if k == place else v for k, v in enumerate(state.trust))
        else:
            setattr(state, name, [change(t) for t in getattr(state, name)])
    places = [t.data_ptr() for t in state.changed]
    lam, fisher, anchor = state.trust
    tensors = (state.params, state.grads, state.exp_avg, state.exp_avg_sq, state.step, state.lr)
    emulated.bank_step(*tensors, 0.0, active, True, 0.9, 0.999, 1e-8, lam, fisher, anchor, state.copies, state.scale)
    assert_same(state, wanted)
    assert places == [t.data_ptr() for t in state.changed]


def test_clocks_and_rates_are_not_looked_at(emulated: Any) -> None:
    """That would have to wait: what is no number there makes its module's parameters none, and no other's."""
    state = State(4, ((5,),))
    wanted = step(emulated, state)
    state.lr[1], state.step[2] = torch.nan, torch.nan
    found = step(emulated, state)
    assert bool(found.params[0][1:3].isnan().all())
    assert torch.equal(found.params[0][[0, 3]], wanted.params[0][[0, 3]])


def test_unfit_options_are_refused_before_anything_is_written(emulated: Any) -> None:
    state = State(3, ((3, 5), (4,)), half=torch.bfloat16)
    lam, fisher, anchor = state.trust
    given = [state.params, state.grads, state.exp_avg, state.exp_avg_sq, state.step, state.lr, 0.1,
             torch.tensor([True, False, True]), True, 0.9, 0.999, 1e-8, lam, fisher, anchor,
             state.copies, state.scale]  # fmt: skip
    before, tried = state.copy(), 0
    for k, value in enumerate(given):
        bad: list[Any] = []
        if isinstance(value, Tensor):
            bad = [value[:-1], value[None], value.to(torch.float32), value.to("meta")]
        elif isinstance(value, list):
            bad = [value[:-1], [t[:1] for t in value], [t[:, :-1] for t in value], [],
                   [t.to(torch.int32) for t in value], [t.to("meta") for t in value]]  # fmt: skip
        elif not isinstance(value, bool) and k != 6:
            bad = [-1.0, torch.nan]
        for other in bad:
            with pytest.raises((RuntimeError, NotImplementedError)):
                emulated.bank_step(*given[:k], other, *given[k + 1 :])
            tried += 1
    for lr in (-1.0, torch.nan, torch.inf):
        with pytest.raises(RuntimeError, match="lr must be finite and at least 0"):
            emulated.bank_step(*given[:5], None, lr, *given[7:])
    assert tried > 40
    assert_same(state, before)


@kinds
@dtypes
def test_on_a_gpu(need, kind: str, dtype: torch.dtype) -> None:
    """What the emulation can't show, where there is one: the compiled kernels, and a CUDA graph of them."""
    need("bank_step", "cuda", dtype, "cuda")
    state = State(65, ODD, dtype, kind)
    active = torch.rand(65) < 0.6
    wanted = step(OPS, step(OPS, state, active, trust=True), active, trust=True)

    def on_gpu() -> State:
        there = state.copy()
        for name in ("params", "grads", "exp_avg", "exp_avg_sq"):
            setattr(there, name, [t.cuda() for t in getattr(there, name)])
        there.step, there.lr = there.step.cuda(), there.lr.cuda()
        there.trust = (there.trust[0], *([t.cuda() for t in ts] for ts in there.trust[1:]))
        return there

    plain, replayed, mask = on_gpu(), on_gpu(), active.cuda()
    for _ in range(2):
        plain.run("cuda", active=mask, trust=plain.trust)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.run("cuda", active=mask, trust=replayed.trust)
    for _ in range(2):
        graph.replay()
    assert_same(replayed, plain)
    tolerance = {"rtol": 1e-13, "atol": 1e-15} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-7}
    for now, then in zip(plain.changed, wanted.changed, strict=True):
        torch.testing.assert_close(now.cpu(), then, **tolerance)


@kinds
@dtypes
@pytest.mark.parametrize("half", [None, torch.bfloat16])
@pytest.mark.parametrize("decoupled", [False, True])
def test_decay_and_empty_modules_are_the_cpus_bit_for_bit(
    need, emulated: Any, kind: str, dtype: torch.dtype, half: torch.dtype | None, decoupled: bool
) -> None:
    need("bank_step", "cpu", dtype)
    if half is not None and dtype == torch.float64:
        pytest.skip("copies are of float32 parameters")
    for modules in (0, 1, 65):
        state = State(modules, ODD, dtype, kind, half=half)
        for g in state.grads:
            g[modules // 3 : modules // 2] = 0
        for one in state.grads[5][modules // 3 : modules // 2][:2]:
            one[-1] = 1.0
        active = torch.rand(modules) < 0.8
        found = []
        for ops in (emulated, OPS):
            new = state.copy()
            lists = [new.params, new.grads, new.exp_avg, new.exp_avg_sq, new.step, new.lr, 0.0, active]
            rest = [kind == "adam", 0.9, 0.999, 1e-8, 0.0, [], [], new.copies, new.scale]
            ops.bank_step(*lists, *rest, 0.1, decoupled, True)
            found.append(new)
        assert_same(*found)
        assert modules < 65 or 0 < int((found[0].step == state.step).sum()) < int((~active).sum()) + 11


def test_more_tensors_than_a_launch_takes_are_searched(need, emulated: Any) -> None:
    """49 of 48: the gradient of one module is in the last one alone."""
    need("bank_step", "cpu")
    state = State(3, ((2,),) * 49, kind="sgd")
    for g in state.grads:
        g[1:] = 0
    state.grads[48][2] = 1.0
    rest = [state.step, state.lr, 0.0, None, False, 0.9, 0.999, 1e-8, 0.0, [], [], [], None, 0.0, False, True]
    before = state.step.clone()
    emulated.bank_step(state.params, state.grads, [], [], *rest)
    assert (state.step - before).tolist() == [1, 0, 1]
