"""The bank's compiled ops as torch sees them: schemas, shapes, tracing, transforms, misuse."""

from __future__ import annotations

import subprocess
import sys

import places
import pytest
import torch
from bank_cases import ENCODINGS, Case, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import BackendError

OPS = torch.ops.mclnf_fast


def case_of(dtype: torch.dtype = torch.float32) -> Case:
    encoding = ENCODINGS["composite"][1]
    return make(mf.FieldSpec(6, 3, 5, 2, "tanh", encoding=encoding, skips=(1,)), [4, 0, 5], dtype)


def arguments(op: str, case: Case) -> list[object]:
    """What the op takes, in order."""
    bank = [case.x, case.offsets, case.weights, case.biases]
    net = list(case.spec.packed)
    grad_y = torch.randn(9, 3, dtype=case.x.dtype)
    like = [[torch.rand_like(t) for t in ts] for ts in (case.weights, case.biases)]
    segments, shares = torch.tensor([0, 2, 4, 7, 9]), torch.tensor([0, 2, 2, 4])
    return {
        "bank_mlp_fwd": [*bank, *net],
        "bank_mlp_fwd_keep": [*bank, *net, 0],
        "bank_mlp_bwd": [*bank, grad_y, *net, True, True, None],
        "bank_mlp_bwd_bwd": [*bank, grad_y, torch.rand_like(case.x), *like, *net, True],
        "fisher_points": [*bank, grad_y, *like, 1e-8, *net, True],
        "fisher_segments": [*bank, grad_y, segments, shares, *like, 1e-8, *net, True],
    }[op]


NAMES = ("bank_mlp_fwd", "bank_mlp_fwd_keep", "bank_mlp_bwd", "bank_mlp_bwd_bwd", "fisher_points", "fisher_segments")
DIFFERENTIABLE = ("bank_mlp_fwd", "bank_mlp_fwd_keep", "bank_mlp_bwd")
ops = pytest.mark.parametrize("op", NAMES)


@ops
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("requires", [False, True])
def test_opcheck(need, op: str, dtype: torch.dtype, requires: bool) -> None:
    need("bank_mlp", "cpu")
    case = case_of(dtype)
    if requires and op in DIFFERENTIABLE:
        case.require()
    torch.library.opcheck(getattr(OPS, op), tuple(arguments(op, case)))


@pytest.mark.parametrize(("need_x", "need_params"), [(True, False), (False, True), (False, False)])
def test_opcheck_of_a_partial_backward(need, need_x: bool, need_params: bool) -> None:
    need("bank_mlp", "cpu")
    given = [*arguments("bank_mlp_bwd", case_of())[:-3], need_x, need_params, None]
    torch.library.opcheck(OPS.bank_mlp_bwd, tuple(given))


def test_opcheck_without_the_parts_that_are_optional(need) -> None:
    need("fisher_scores", "cpu")
    for op in ("fisher_points", "fisher_segments"):
        given = arguments(op, case_of())
        torch.library.opcheck(getattr(OPS, op), (*given[:-1], False))
        torch.library.opcheck(getattr(OPS, op), (*given[:-6], [], [], *given[-4:]))


@ops
def test_every_op_has_a_derivative_or_an_error_with_the_reason(need, op: str) -> None:
    need("bank_mlp", "cpu")
    case = case_of().require()
    found = getattr(OPS, op)(*arguments(op, case))
    first = found if isinstance(found, Tensor) else found[0]
    assert first.requires_grad
    if op in DIFFERENTIABLE:
        grads = torch.autograd.grad(first.square().sum(), case.leaves, allow_unused=True)
        assert all(g is not None and bool(g.isfinite().all()) for g in grads)
    else:
        with pytest.raises(RuntimeError, match=r"third derivatives are not|is not differentiable"):
            first.square().sum().backward()


def test_the_list_of_ops_is_complete() -> None:
    """A new op of this family needs a row above."""
    found = [s.name.partition("::") for s in torch._C._jit_get_all_schemas()]
    mine = {n for space, _, n in found if space == "mclnf_fast" and n.startswith(("bank_mlp", "fisher"))}
    assert mine in (set(), set(NAMES))  # none where the library is not built


FIRST_CALL = """
import sys
import torch
import mclnf_fast as mf
spec = mf.FieldSpec(3, 4, 16, 2, "sine", encoding=mf.Frequency(3))
bank = mf.FieldBank(spec, 3).to(sys.argv[1])
x, offsets = torch.rand(20, 3, device=sys.argv[1]), torch.tensor([0, 10, 10, 20], device=sys.argv[1])
def f(x, offsets, weights, biases):
    return mf.ops.bank_mlp(x, offsets, weights, biases, spec, backend="auto").square()
y = torch.compile(f, fullgraph=True)(x, offsets, list(bank.weight), list(bank.bias))
y.sum().backward()
compiled = [p.grad.clone() for p in bank.parameters()]
bank.zero_grad()
want = f(x, offsets, list(bank.weight), list(bank.bias))
want.sum().backward()
torch.testing.assert_close(y, want)
for c, p in zip(compiled, bank.parameters()):
    torch.testing.assert_close(c, p.grad)
for call in ({"offsets": offsets}, {"module_ids": torch.arange(20, device=x.device) % 3}):
    torch.testing.assert_close(torch.compile(bank, fullgraph=True)(x, **call), bank(x, **call))
"""


@places.backends("bank_mlp", reference=False)
def test_compile_without_graph_breaks_as_the_very_first_call(need, backend: str) -> None:
    need("bank_mlp", backend)
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL, places.here()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@places.backends("bank_mlp", reference=False)
def test_torch_func_takes_the_reference_and_reports_it(need, backend: str) -> None:
    need("bank_mlp", backend)
    case = case_of()

    def loss(x: Tensor, backend: str = "auto") -> Tensor:
        y = mf.ops.bank_mlp(x, case.offsets, case.weights, case.biases, case.spec, backend=backend)
        return y.square().sum()

    found = torch.func.grad(loss)(case.x)
    want = torch.autograd.grad(loss(case.x.requires_grad_(), "reference"), case.x)[0]
    torch.testing.assert_close(found, want)
    many = torch.randn(4, 9, 6)
    each = torch.stack([loss(x, "reference") for x in many])
    torch.testing.assert_close(torch.func.vmap(loss)(many), each)
    grads = torch.func.vmap(torch.func.grad(loss))(many)
    torch.testing.assert_close(grads[2], torch.func.grad(loss)(many[2]))
    with pytest.raises(BackendError, match=rf"backend '{backend}' can't serve .*torch.func.*Remedy"):
        torch.func.grad(lambda x: loss(x, backend))(case.x.detach())
    with pytest.raises(RuntimeError, match=r"fisher_scores: must be called outside torch.func"):
        torch.func.vmap(
            lambda x: (
                mf.ops.fisher_scores(
                    x, case.offsets, case.weights, case.biases, torch.ones(9, 3), None, case.spec
                ).scores
            )
        )(many)


@ops
def test_raw_ops_refuse_arguments_that_do_not_fit(need, op: str) -> None:
    """Whatever one argument is, a raw op raises: it never reads or writes where it should not."""
    need("bank_mlp", "cpu")
    given = arguments(op, case_of())

    def refused(value: object) -> list[object]:
        if isinstance(value, Tensor):
            bad: list[object] = [value[:-1], value[None], value.to(torch.float16)]
            return bad + ([value.flip(0), value - 1, value * 1000] if value.dtype == torch.int64 else [])
        if isinstance(value, list) and isinstance(value[0], Tensor):
            bad = [value[:-1], [t[:1] for t in value], [t.mT for t in value], [t.double() for t in value]]
            return [*bad, [*value, value[0]]]
        if isinstance(value, list) and isinstance(value[0], int):
            sizes = (-1, 2**40, 2**31 - 1)
            changed = [[*value[:k], v, *value[k + 1 :]] for k in range(len(value)) for v in sizes]
            # Bits of the skip mask that name no layer are ignored, so a change of it may be none.
            return [c for c in changed if c[6] == value[6]] + [value[:-1], [*value, 1], []]
        return [[]] if isinstance(value, list) else []

    tried = 0
    for k, value in enumerate(given):
        for bad in refused(value):
            with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
                getattr(OPS, op)(*given[:k], bad, *given[k + 1 :])
            tried += 1
    assert tried > 40
