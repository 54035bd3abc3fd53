"""Activations that the forward keeps: the same bits as computing them again, and nothing held that need not be."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
from bank_cases import Case, make

import mclnf_fast as mf
from mclnf_fast.ops.bank_mlp.saved import saved_values

OPS = torch.ops.mclnf_fast

SPECS = {
    "relu": mf.FieldSpec(3, 4, 24, 3, encoding=mf.Frequency(2)),
    "skip": mf.FieldSpec(3, 2, 20, 3, encoding=mf.Frequency(2), skips=(1, 3)),
    "output": mf.FieldSpec(3, 4, 17, 2, output_activation="sigmoid"),
    "linear": mf.FieldSpec(2, 1, 33, 1, "none"),
}


def backward(case: Case, values: int | None) -> list[torch.Tensor]:
    """y, and the gradients of everything, from the ops themselves. values None: nothing is kept."""
    bank = (case.x, case.offsets, case.weights, case.biases)
    net = case.spec.packed
    kept = None
    if values is None:
        y = OPS.bank_mlp_fwd(*bank, *net)
    else:
        y, kept = OPS.bank_mlp_fwd_keep(*bank, *net, values)
        assert kept.shape == (values,)
    x, weights, biases = OPS.bank_mlp_bwd(*bank, torch.cos(y), *net, True, True, kept)
    return [y, x, *weights, *biases]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("counts", [[700, 0, 130, 65], [64], [3000]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_are_those_of_computing_again(need, name: str, counts: list[int], dtype: torch.dtype) -> None:
    need("bank_mlp", "cpu")
    case = make(SPECS[name], counts, dtype)
    want = backward(case, None)
    all_of_it = sum(columns for _, columns in case.spec.layer_shapes[:-1]) * (sum(counts) + 63 * len(counts))
    for values in (all_of_it, all_of_it // 2, 64, 0):  # too little for all of them: some runs are computed again
        for found, expected in zip(backward(case, values), want, strict=True):
            assert torch.equal(found, expected)


def test_saved_activations_are_those_of_the_layers(need) -> None:
    need("bank_mlp", "cpu")
    case = make(mf.FieldSpec(2, 1, 8, 1), [64])
    hidden = torch.relu(case.x @ case.weights[0][0] + case.biases[0][0])
    _, kept = OPS.bank_mlp_fwd_keep(case.x, case.offsets, case.weights, case.biases, *case.spec.packed, 64 * 8)
    found = kept.sort().values
    torch.testing.assert_close(found, hidden.flatten().sort().values)
    assert bool((found > 0).any())


def test_smooth_activations_keep_nothing_and_work(need) -> None:
    need("bank_mlp", "cpu")
    case = make(mf.FieldSpec(3, 4, 16, 2, "sine"), [200])
    for found, expected in zip(backward(case, 10_000), backward(case, None), strict=True):
        assert torch.equal(found, expected)


def test_when_it_keeps(need) -> None:
    need("bank_mlp", "cpu")
    spec = mf.FieldSpec(3, 4, 64, 4)
    case = make(spec, [1000, 1000]).require(x=False)
    parameters = [*case.weights, *case.biases]
    assert saved_values(case.x, parameters, spec) == 4 * 64 * (2000 + 2 * 63)
    with torch.no_grad():
        assert saved_values(case.x, parameters, spec) == 0
    assert saved_values(case.x, [p.detach() for p in parameters], spec) == 0
    assert saved_values(case.x.double(), parameters, spec) == 0
    mixed = [p.bfloat16() if k == 1 else p for k, p in enumerate(parameters)]  # float32 in the first layer alone
    assert saved_values(case.x, mixed, spec) == 0
    assert saved_values(case.x[:100], parameters, spec) == 0  # 50 points a module: mostly padding
    # Out of the caches: worth their way to memory beside the arithmetic of narrow vectors alone.
    far = saved_values(case.x.repeat(5, 1), parameters, spec)
    assert far == (0 if torch.ops.mclnf_fast.cpu_instruction_set() == "avx512" else 4 * 64 * (10000 + 2 * 63))
    narrow = make(mf.FieldSpec(3, 4, 32, 4), [1000, 1000]).require(x=False)
    assert saved_values(narrow.x.repeat(9, 1), narrow.weights, narrow.spec) == 0
    wide = make(mf.FieldSpec(3, 4, 256, 4), [1000, 1000]).require(x=False)
    assert saved_values(wide.x.repeat(5, 1), wide.weights, wide.spec) > 0
    linear = make(mf.FieldSpec(3, 4, 64, 0), [1000]).require(x=False)
    assert saved_values(linear.x, linear.weights, linear.spec) == 0
    assert saved_values(case.x, parameters, mf.FieldSpec(3, 4, 64, 4, "sine")) == 0


def test_a_second_backward_and_a_graph_that_goes_on(need) -> None:
    need("bank_mlp", "cpu")
    case = make(mf.FieldSpec(3, 4, 64, 2), [300, 200]).require(x=False)
    leaves = [*case.weights, *case.biases]
    assert saved_values(case.x, leaves, case.spec) > 0
    loss = case.run("cpu").square().sum()
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(loss, leaves, create_graph=True)
    last = torch.autograd.grad(loss, leaves, retain_graph=True)
    for a, b, c in zip(first, again, last, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    reference = case.run("reference").square().sum()
    want = torch.autograd.grad(
        sum(g.square().sum() for g in torch.autograd.grad(reference, leaves, create_graph=True)), leaves
    )
    found = torch.autograd.grad(sum(g.square().sum() for g in again), leaves)
    for f, w in zip(found, want, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-3, atol=1e-3 * float(w.abs().max()))


def test_a_graph_does_not_hold_itself(need) -> None:
    need("bank_mlp", "cpu")
    case = make(mf.FieldSpec(3, 4, 64, 2), [300, 200]).require(x=False)
    gc.collect()
    gc.disable()
    try:
        y = case.run("cpu")
        gone = weakref.ref(y.grad_fn)
        del y
        assert gone() is None
    finally:
        gc.enable()


def test_large_results_share_no_memory_and_are_used_again(need) -> None:
    need("bank_mlp", "cpu")
    case = make(mf.FieldSpec(3, 4, 64, 2), [4] * 700)
    grad_y = torch.ones(2800, 4)

    def grad() -> torch.Tensor:  # 11 MB
        bank = (case.x, case.offsets, case.weights, case.biases)
        return OPS.bank_mlp_bwd(*bank, grad_y, *case.spec.packed, False, True, None)[1][1]

    first, second = grad(), grad()
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second)
    place = first.data_ptr()
    view = first[5:]
    del first
    third = grad()
    assert third.data_ptr() != place  # the view holds the memory
    assert torch.equal(view, second[5:])
    del view, third
    fourth = grad()
    if sys.platform == "linux" and os.environ.get("MCLNF_FAST_POOL_MB") != "0":
        assert fourth.data_ptr() != second.data_ptr()
        del second
        assert grad().data_ptr() != fourth.data_ptr()
        places = {grad().data_ptr() for _ in range(5)}
        assert len(places) == 1  # not asked of the system each time
        alive = [grad() for _ in range(4)]
        assert len({t.data_ptr() for t in (fourth, *alive)}) == 5  # a block that is used again has one owner


POOL = """
import torch, mclnf_fast as mf
bank = mf.FieldBank(mf.FieldSpec(3, 4, 64, 2), 300)
y = bank(torch.rand(600, 3), offsets=torch.arange(301) * 2)
print(float(torch.autograd.grad(y.sum(), bank.weight[1])[0].abs().sum()) > 0)
"""


@pytest.mark.parametrize(("value", "error"), [("0", ""), ("64", ""), ("-1", "got '-1'"), ("1GB", "got '1GB'")])
def test_the_size_of_the_pool(need, value: str, error: str) -> None:
    need("bank_mlp", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", POOL],
        env={**os.environ, "MCLNF_FAST_POOL_MB": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip() == "True") == (not error), done.stderr
    if error:
        assert f"MCLNF_FAST_POOL_MB must be a whole number of megabytes, {error}" in done.stderr


@pytest.mark.parametrize("points", [1, 63, 64, 200, 1000])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_of_the_result_depends_on_nothing_else(need, points: int, autocast: bool, dtype: torch.dtype) -> None:
    """Neither on the number of points nor on whether a gradient is asked for, which decide what is saved."""
    need("bank_mlp", "cpu", dtype)
    case = make(SPECS["relu"], [points]).to(dtype)
    results = []
    for grad in (False, True):
        case.require(x=False, parameters=grad)
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            y = case.run("cpu")
        assert y.dtype == dtype
        results.append(y.detach())
        if grad:
            leaves = torch.autograd.grad(y.float().square().sum(), case.leaves)
            assert all(g.dtype == t.dtype for g, t in zip(leaves, case.leaves, strict=True))
    assert torch.equal(*results)
