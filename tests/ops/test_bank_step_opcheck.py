"""The optimizer step as torch sees it, autograd, opcheck and torch.compile; and what it refuses."""

from __future__ import annotations

from typing import Any

import places
import pytest
import torch
from bank_step_cases import State, assert_same
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import BackendError

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_step")
compiled = places.backends("bank_step", reference=False)
kinds = pytest.mark.parametrize("kind", ["adam", "sgd"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@backends
def test_autograd_finds_out(need, backend: str) -> None:
    """A leaf is changed though it requires a gradient; what saved it for its backward raises."""
    need("bank_step", backend)
    state = State(2)
    for p in state.params:
        p.requires_grad_()
    loss = sum(p.square().sum() for p in state.params)
    state.run(backend)
    assert all(p.requires_grad and p.is_leaf for p in state.params)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def raw_arguments(state: State, mask: bool, trust: bool) -> list[Any]:
    """What the registered op takes, in order."""
    lam, fisher, anchor = state.trust if trust else (0.0, [], [])
    active = torch.tensor([True, False, True]) if mask else None
    clock = [state.step, None if mask else state.lr, 0.1, active]
    lists = [state.params, state.grads, state.exp_avg, state.exp_avg_sq]
    return [*lists, *clock, state.kind == "adam", 0.9, 0.999, 1e-8, lam, fisher, anchor, state.copies, state.scale]


@compiled
@kinds
@dtypes
@pytest.mark.parametrize(("mask", "trust"), [(False, False), (True, True)])
@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_opcheck(
    need, backend: str, kind: str, dtype: torch.dtype, mask: bool, trust: bool, half: torch.dtype | None
) -> None:
    need("bank_step", backend, dtype)
    if half is not None and dtype != torch.float32:
        pytest.skip("copies stand beside float32 parameters")
    arguments = raw_arguments(State(3, dtype=dtype, kind=kind, half=half), mask, trust)
    torch.library.opcheck(torch.ops.mclnf_fast.bank_step.default, tuple(arguments))


@backends
@kinds
def test_compiles_whole(need, backend: str, kind: str) -> None:
    need("bank_step", backend)
    state = State(3, kind=kind)
    active = torch.tensor([True, False, True])

    def train(params: list[Tensor], rest: tuple[list[Tensor], list[Tensor], Tensor, Tensor], region) -> Tensor:
        exp_avg, exp_avg_sq, step, lr = rest
        grads = [2 * p for p in params]
        mf.ops.bank_step(
            params, grads, exp_avg, exp_avg_sq, step, lr, active=active, kind=kind, trust=region, backend=backend
        )
        return sum(p.sum() for p in params)

    other = state.copy()
    torch._dynamo.reset()
    compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        with places.unaided():
            found = compiled(state.params, (state.exp_avg, state.exp_avg_sq, state.step, state.lr), state.trust)
        want = train(other.params, (other.exp_avg, other.exp_avg_sq, other.step, other.lr), other.trust)
        torch.testing.assert_close(found, want)
        assert_same(state, other)


W = [torch.ones(2, 3), torch.ones(2, 4)]
HALF = {"grads": [t.bfloat16() for t in W], "copies": [t.bfloat16() for t in W]}
BAD = [
    ({"params": []}, ValueError, "params must hold at least one tensor"),
    ({"params": W[0]}, TypeError, "params must be a sequence of tensors"),
    ({"params": [W[0], 3]}, TypeError, r"params\[1\] must be a tensor, got int"),
    ({"params": [t.half() for t in W]}, TypeError, r"params\[0\] must have dtype .*got torch.float16"),
    ({"params": [W[0], W[1].double()]}, TypeError, r"params\[1\] must have dtype torch.float32, got torch.float64"),
    ({"params": [W[0], W[1][:1]]}, ValueError, r"params\[1\] must be \[M, ...\] .*got \[1, 4\]"),
    ({"params": [torch.tensor(1.0), W[1]]}, ValueError, r"params\[0\] must be \[M, ...\] .*got \[\]"),
    ({"params": [torch.ones(1, 3).expand(2, 3), W[1]]}, ValueError, "params must not be expanded"),
    ({"params": [W[0], W[1].to("meta")]}, ValueError, r"params\[1\] must be on cpu"),
    ({"grads": W[:1]}, ValueError, "grads must hold 2 tensors like params, got 1"),
    ({"grads": [W[0], None]}, TypeError, r"grads\[1\] must be a tensor .*got NoneType"),
    ({"grads": W[::-1]}, ValueError, r"grads\[0\] must have shape like params\[0\] = \[2, 3\], got \[2, 4\]"),
    ({"grads": [W[0][:, :2], W[1]]}, ValueError, r"grads\[0\] must have shape .*got \[2, 2\]"),
    ({"grads": [t.double() for t in W]}, TypeError, r"grads\[0\] must have dtype"),
    ({"grads": [t.to("meta") for t in W]}, ValueError, r"grads\[0\] must be on cpu"),
    ({"exp_avg": []}, ValueError, "exp_avg must hold 2 tensors like params, got 0"),
    ({"exp_avg_sq": [W[0], W[1].T]}, ValueError, r"exp_avg_sq\[1\] must have shape"),
    ({"exp_avg_sq": [torch.ones(2, 1).expand(2, 3), W[1]]}, ValueError, "exp_avg_sq must not be expanded"),
    ({"kind": "sgd"}, ValueError, "exp_avg must be empty for SGD, got 2 tensors"),
    ({"kind": "lion"}, ValueError, "kind must be 'adam' or 'sgd', got 'lion'"),
    ({"step": torch.zeros(2)}, TypeError, "step must have dtype torch.float64"),
    ({"step": torch.zeros(3).double()}, ValueError, r"step must have shape \[M\] = \[2\], got \[3\]"),
    ({"step": torch.zeros(1).double().expand(2)}, ValueError, "step must not be expanded"),
    ({"step": -torch.ones(2).double()}, ValueError, "step must be finite and at least 0"),
    ({"step": 0}, TypeError, "step must be a tensor"),
    ({"lr": -1.0}, ValueError, "lr must be finite and at least 0, got -1.0"),
    ({"lr": float("nan")}, ValueError, "lr must be finite"),
    ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
    ({"lr": torch.ones(2)}, TypeError, "lr must have dtype torch.float64"),
    ({"lr": torch.ones(3).double()}, ValueError, r"lr must have shape \[M\] = \[2\], got \[3\]"),
    ({"lr": torch.tensor([0.1, -0.1]).double()}, ValueError, r"lr must be finite and at least 0, got \[0.1"),
    ({"lr": torch.tensor([0.1, torch.nan]).double()}, ValueError, "lr must be finite and at least 0"),
    ({"active": torch.ones(2)}, TypeError, "active must have dtype torch.bool"),
    ({"active": torch.ones(3, dtype=torch.bool)}, ValueError, r"active must have shape \[M\] = \[2\]"),
    ({"active": [True, False]}, TypeError, "active must be a tensor"),
    ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be at least 0 and below 1, got 1.0"),
    ({"eps": -1.0}, ValueError, "eps must be finite and at least 0, got -1.0"),
    ({"copies": [t.half() for t in W]}, TypeError, r"grads\[0\] must have dtype torch.float16, got torch.float32"),
    ({"copies": W}, TypeError, r"copies\[0\] must have dtype .*got torch.float32"),
    ({"copies": W[0]}, TypeError, "copies must be a sequence of tensors"),
    ({"scale": torch.ones(2).double()}, ValueError, "scale must be None without copies"),
    ({**HALF, "copies": HALF["grads"][:1]}, ValueError, "copies must hold 2 tensors like params, got 1"),
    ({**HALF, "copies": HALF["grads"][::-1]}, ValueError, r"copies\[0\] must have shape"),
    (
        {**HALF, "copies": [torch.ones(2, 1).bfloat16().expand(2, 3), HALF["grads"][1]]},
        ValueError,
        "copies must not be expanded",
    ),
    ({**HALF, "params": [t.double() for t in W]}, TypeError, r"params\[0\] must have dtype torch.float32"),
    ({**HALF, "scale": torch.ones(2)}, TypeError, "scale must have dtype torch.float64"),
    ({**HALF, "scale": torch.ones(3).double()}, ValueError, r"scale must have shape \[M\] = \[2\], got \[3\]"),
    ({**HALF, "scale": -torch.ones(2).double()}, ValueError, "scale must be finite and at least 0"),
    ({"trust": 3.0}, TypeError, "trust must be"),
    ({"trust": (-1.0, W, W)}, ValueError, "trust's lam must be finite"),
    ({"trust": (1.0, W[:1], W)}, ValueError, "trust's fisher must hold 2 tensors"),
    ({"trust": (1.0, W, W[::-1])}, ValueError, r"trust's anchor\[0\] must have shape"),
    ({"trust": (1.0, [t.double() for t in W], W)}, TypeError, r"trust's fisher\[0\] must have dtype"),
    ({"backend": "cuda"}, BackendError, "it works on CUDA tensors, got cpu"),
    ({"backend": "fast"}, ValueError, "backend must be one of"),
]


@backends
@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[f"{next(iter(b[0]))}-{i}" for i, b in enumerate(BAD)])
def test_refuses_and_changes_nothing(need, backend: str, change: dict[str, Any], error: type, text: str) -> None:
    need("bank_step", backend)
    state, change = State(2, ((3,), (4,))), places.put(change)
    if "finite and at least 0" in text and any(isinstance(v, Tensor) and v.is_cuda for v in change.values()):
        pytest.skip("values are looked at on the CPU alone")
    before = state.copy()
    good = {name: getattr(state, name) for name in ("params", "grads", "exp_avg", "exp_avg_sq", "step", "lr")}
    with pytest.raises(error, match=text.replace("on cpu", rf"on {places.here()}\S*")):
        mf.ops.bank_step(**{**good, "backend": backend, **change})
    assert_same(state, before)


@compiled
@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_the_raw_op_refuses_arguments_that_do_not_fit(need, backend: str, half: torch.dtype | None) -> None:
    """Also under torch.compile, which calls it without the checks of values."""
    need("bank_step", backend)
    given = raw_arguments(State(3, ((3, 5), (4,)), half=half), False, True)
    given[7] = torch.tensor([True, False, True])

    def refused(k: int, value: Any) -> list[Any]:
        if isinstance(value, Tensor):
            return [value[:-1], value[None], value.to(torch.float32), value.to("meta")] + (
                [] if value.dtype == torch.bool or value.is_cuda else [value - 100, value * torch.nan]
            )
        if value == [] or value is None:  # no copies, no scale
            return []
        if isinstance(value, list):
            shorter = [value[:-1], [t[:1] for t in value], [t[:, :-1] for t in value], []]
            return [*shorter, [t.to(torch.int32) for t in value], [t.to("meta") for t in value]]
        return [] if isinstance(value, bool) or k == 6 else [-1.0, torch.nan]

    before, tried = [t.clone() for t in (*given[0], *given[2], *given[3], given[4], *given[15])], 0
    for k, value in enumerate(given):
        for bad in refused(k, value):
            with pytest.raises((RuntimeError, NotImplementedError)):
                torch.ops.mclnf_fast.bank_step(*given[:k], bad, *given[k + 1 :])
            tried += 1
    assert tried > 45
    for now, old in zip((*given[0], *given[2], *given[3], given[4], *given[15]), before):
        assert torch.equal(now, old)
