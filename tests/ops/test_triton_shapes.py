"""Which kernels Triton would compile: another width, depth or number of modules takes those that are there."""

from __future__ import annotations

import pytest
import torch
from bank_cases import make

import mclnf_fast as mf
from mclnf_fast.ops import _triton

pytest.importorskip("triton", reason="triton is not installed")
if not _triton.interpreted():
    pytest.skip("kernels are counted where Triton interprets them", allow_module_level=True)

import triton_recorder

KERNELS = 66
"""Of the calls below: 376 before sizes were arguments of a launch. It may only fall."""


def calls(width: int, hidden: int, modules: int, octaves: int = 2, outputs: int = 3) -> None:
    """Every op that goes layer by layer: forward, both derivatives, the squared error, and the scores of points and of
    rays. None is computed."""
    spec = mf.FieldSpec(2, outputs, width, hidden, "tanh", "sigmoid", mf.Frequency(octaves), skips=(1,))
    case = make(spec, [20] * modules, torch.float32)
    x, weights, biases = case.x.requires_grad_(), case.weights, case.biases
    for t in (*weights, *biases):
        t.requires_grad_()
    y = mf.ops.bank_mlp(x, case.offsets, weights, biases, spec, backend="triton")
    (grad_x, *grads) = torch.autograd.grad(y.sum(), [x, *weights, *biases], create_graph=True)
    torch.autograd.grad(grad_x.sum() + sum(g.sum() for g in grads), [x, *weights, *biases])
    loss = mf.ops.bank_mse(x.detach(), case.offsets, weights, biases, torch.zeros_like(y), spec, backend="triton")
    torch.autograd.grad(loss.sum(), [*weights, *biases])
    for ids in (None, torch.arange(len(x)) // 4):
        fisher = ([torch.ones_like(t) for t in weights], [torch.ones_like(t) for t in biases])
        mf.ops.fisher_scores(
            x.detach(),
            case.offsets,
            [t.detach() for t in weights],
            [t.detach() for t in biases],
            torch.ones_like(y),
            fisher,
            spec,
            sample_ids=ids,
            backend="triton",
        )


def test_the_kernels_of_a_list_of_calls_only_fall() -> None:
    with triton_recorder.recorded(run=False) as kernels:
        for width in (68, 72, 100, 128, 130, 200):
            for hidden, modules in ((2, 1), (3, 3), (5, 8)):
                calls(width, hidden, modules)
    found = {name: len(keys) for name, keys in kernels.items()}
    assert sum(found.values()) <= KERNELS, found


def test_another_size_compiles_nothing() -> None:
    """More modules, layers, features and outputs, and another width, beside widths that are multiples of eight and
    those that are not."""
    with triton_recorder.recorded(run=False) as kernels:
        for width in (70, 72):
            calls(width, 3, 2)
        before = {name: set(keys) for name, keys in kernels.items()}
        for width in (102, 200):
            calls(width, 4, 3, 3, 5)
        calls(70, 3, 16)
    assert before, "no kernel was launched"
    new = {name: len(keys - before.get(name, set())) for name, keys in kernels.items()}
    assert not any(new.values()), new
