"""Our own calls of compiled ops: the derivative that is registered, without the way through the registration."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from types import FrameType

import pytest
import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops._autograd import joined

SPEC = mf.FieldSpec(3, 4, 8, 2, "relu")
OFFSETS = torch.tensor([0, 5, 5, 12])


def bank(dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return points and parameters that require a gradient."""
    torch.manual_seed(0)
    made = mf.FieldBank(SPEC, 3, dtype=dtype)
    x = torch.rand(12, 3, dtype=dtype)
    return x, *([p.detach().clone().requires_grad_() for p in ps] for ps in (made.weight, made.bias))


def mlp() -> Tensor:
    x, weights, biases = bank()
    return mf.ops.bank_mlp(x, OFFSETS, weights, biases, SPEC, backend="cpu")


def saving_mlp() -> Tensor:
    torch.manual_seed(0)
    made, x = mf.FieldBank(SPEC, 3), torch.rand(600, 3)
    offsets = torch.tensor([0, 200, 400, 600])
    return mf.ops.bank_mlp(x, offsets, list(made.weight), list(made.bias), SPEC, backend="cpu")


def mse() -> Tensor:
    x, weights, biases = bank()
    return mf.ops.bank_mse(x, OFFSETS, weights, biases, torch.ones(12, 4).double(), SPEC, backend="cpu")


def ray_mse() -> Tensor:
    x, weights, biases = bank()
    rays, ray_offsets = torch.tensor([0, 2, 5, 9, 12]), torch.tensor([0, 2, 2, 4])
    widths, target = torch.full((12,), 0.5).double(), torch.ones(4, 3).double()
    return mf.ops.bank_ray_mse(x, rays, ray_offsets, weights, biases, widths, target, SPEC, backend="cpu")


def composited() -> Tensor:
    starts = torch.arange(4.0).expand(2, 4)
    density = torch.rand(2, 4, requires_grad=True)
    return mf.ops.composite(density, torch.rand(2, 4, 3), starts, starts + 1, backend="cpu").color


def grid() -> Tensor:
    encoding = mf.HashGrid(levels=2, features=2, base=4, finest=8)
    tables = torch.rand(3, encoding.layout(3).entries, 2, requires_grad=True)
    return mf.ops.grid_encode(torch.rand(12, 3), OFFSETS, tables, encoding, backend="cpu")


def scores() -> Tensor:
    x, weights, biases = bank()
    return mf.ops.fisher_scores(
        x, OFFSETS, weights, biases, torch.ones(12, 4).double(), None, SPEC, backend="cpu"
    ).scores


def march() -> Tensor:
    aabb = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    return mf.ops.march_rays(torch.full((2, 3), -2.0), torch.ones(2, 3), None, aabb, bins=8, backend="cpu").t_starts


def registration_frames(call: Callable[[], object]) -> int:
    """Return how many Python functions of torch's registered derivatives a call enters."""
    entered = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal entered
        entered += event == "call" and frame.f_code.co_filename.replace("\\", "/").endswith("_library/autograd.py")

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered


def derived(call: Callable[[], Tensor]) -> None:
    y = call()
    if not y.requires_grad:
        return
    inputs = [n.variable for n in leaves(y.grad_fn)]
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    sum(g.square().sum() for g in first).backward()


def leaves(node: object) -> list[object]:
    """Return the nodes that gather the gradients of the leaves behind a node."""
    seen, found, todo = set(), [], [node]
    while todo:
        n = todo.pop()
        if n is None or n in seen:
            continue
        seen.add(n)
        if hasattr(n, "variable"):
            found.append(n)
        todo.extend(parent for parent, _ in n.next_functions)
    return found


CALLS = (mlp, saving_mlp, mse, ray_mse, composited, grid, scores, march)


@pytest.mark.parametrize("call", CALLS)
def test_no_call_of_ours_goes_through_the_registration(need, call: Callable[[], Tensor]) -> None:
    need("bank_mlp", "cpu")
    derived(call)  # what a first call imports
    assert registration_frames(lambda: derived(call)) == 0


def test_the_count_sees_a_call_that_does(need) -> None:
    need("bank_mlp", "cpu")
    x, weights, biases = bank()
    ints, floats = SPEC.packed
    op = torch.ops.mclnf_fast.bank_mlp_fwd
    assert registration_frames(lambda: op(x, OFFSETS, weights, biases, ints, floats)) > 0


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_both_ways_give_the_same_bits_to_the_second_order(need, needs: tuple[bool, bool]) -> None:
    need("bank_mse", "cpu")
    results = []
    for ops in (torch.ops.mclnf_fast, joined("mclnf_fast")):
        x, weights, biases = bank()
        asked = [t for k, t in enumerate((*weights, *biases)) if needs[k % 2]]
        for t in (*weights, *biases):
            t.requires_grad_(any(t is a for a in asked))
        net = SPEC.packed
        y = ops.bank_mlp_fwd(x, OFFSETS, weights, biases, *net)
        loss, *_ = ops.bank_mse_fwd(x, OFFSETS, weights, biases, torch.ones_like(y), None, *net, True, True)
        first = torch.autograd.grad((y.sin().sum() + loss.square().sum()), asked, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), asked)
        results.append([y, loss, *first, *second])
    for registered, short in zip(*results):
        assert torch.equal(registered, short)


def test_a_graph_lets_go_of_its_gradients(need) -> None:
    """Nothing of a call stays behind when its loss is gone: the node must not hold itself."""
    need("bank_mse", "cpu")
    gc.collect()
    gc.disable()
    try:
        x, weights, biases = bank()
        loss = mf.ops.bank_mse(x, OFFSETS, weights, biases, torch.ones(12, 4).double(), SPEC, backend="cpu")
        node = weakref.ref(loss.grad_fn)
        point = weakref.ref(x)
        del loss, x
        assert node() is None
        assert point() is None
    finally:
        gc.enable()
