"""Wrong arguments of banks, their files and their optimizer: each is refused by an error that names it."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mclnf_fast as mf
from mclnf_fast.fields import encode_grids, evaluate_params, load_bank, save_bank, split_params
from mclnf_fast.fields.functional import parameter_shapes
from mclnf_fast.fields.io import save_tensors
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.ops import activate, encode

SPEC = mf.FieldSpec(2, 3, width=8, hidden_layers=1)
PLANES = mf.FieldSpec(3, 4, 8, 1, encoding=mf.spec.TriPlane(features=4, resolution=4))
X, OFFSETS = torch.rand(5, 2), torch.tensor([0, 2, 5])


def bank() -> mf.FieldBank:
    return mf.FieldBank(SPEC, 2)


def stacked(modules: int = 1) -> list[Tensor]:
    return [torch.rand(modules, *shape) for shape in parameter_shapes(SPEC)]


def freed(t: Tensor) -> Tensor:
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


def changed(index: int, new: Any, modules: int = 1) -> list[Any]:
    return [new if k == index else t for k, t in enumerate(stacked(modules))]


def optimizer(**options: Any) -> BankOptimizer:
    return BankOptimizer(stacked(2), **options)


CALLS: dict[str, list[Callable[[], Any]]] = {
    "spec": [
        lambda: mf.FieldBank("mlp"),
        lambda: split_params(stacked(), None),
        lambda: evaluate_params(stacked(2), "mlp", X, OFFSETS),
        lambda: mf.FieldBank.from_modules([bank().to_module(0)], "mlp"),
    ],
    "modules": [
        lambda: mf.FieldBank(SPEC, 2.0),
        lambda: mf.FieldBank(SPEC, True),
        lambda: mf.FieldBank.from_modules(3),
        lambda: mf.FieldBank.from_modules([]),
        lambda: mf.FieldBank.from_modules([3], SPEC),
        lambda: mf.FieldBank.from_modules([nn.Linear(2, 3)], SPEC),
        lambda: mf.FieldBank.from_modules([bank().to_module(0), bank().to_module(0).double()]),
    ],
    "dtype": [lambda: mf.FieldBank(SPEC, dtype=torch.int32), lambda: mf.FieldBank(SPEC, dtype="float32"),
              lambda: mf.FieldBank(SPEC, dtype=torch.complex64)],
    "device": [lambda: mf.FieldBank(SPEC, device="nowhere"), lambda: mf.FieldBank(SPEC, device=3.5)],
    "init": [
        lambda: mf.FieldBank(SPEC, init=3),
        lambda: mf.FieldBank(SPEC, init=torch.rand(3)),
        lambda: mf.FieldBank(SPEC, init=stacked()[:2]),
        lambda: mf.FieldBank(SPEC, init=stacked(2)),
        lambda: mf.FieldBank(SPEC, init=changed(1, "no")),
        lambda: mf.FieldBank(SPEC, init=changed(0, torch.rand(1, 2, 8).to_sparse())),
        lambda: mf.FieldBank(SPEC, init=changed(0, freed(torch.rand(1, 2, 8)))),
        lambda: mf.FieldBank(SPEC, init=changed(0, torch.ones(1, 2, 8).int())),
    ],
    "state": [
        lambda: bank().append(3),
        lambda: bank().append("no"),
        lambda: bank().append([1, 2, 3, 4]),
        lambda: bank().append(nn.Linear(2, 3)),
        lambda: bank().append(stacked(2)),
        lambda: bank().append(changed(2, freed(torch.rand(1, 8)))),
        lambda: bank().append(changed(2, torch.rand(1, 8).to(torch.complex64))),
    ],
    "index": [lambda: bank().to_module("0"), lambda: bank().to_module(2), lambda: bank().to_module(None)],
    "x": [
        lambda: bank()([1.0]),
        lambda: bank()(torch.rand(2, 5, 2).to_sparse()),
        lambda: bank()(freed(torch.rand(2, 5, 2))),
        lambda: bank()(torch.rand(2, 5, 2).int()),
        lambda: bank()(torch.rand(5, 3), module_ids=torch.zeros(5).long()),
        lambda: bank()(X.to_sparse(), OFFSETS),
        lambda: encode_grids(torch.rand(5, 2), OFFSETS, [torch.rand(2, 48, 4)], PLANES),
        lambda: encode_grids("no", OFFSETS, [torch.rand(2, 48, 4)], PLANES),
    ],
    "module_ids": [
        lambda: bank()(X, module_ids=[0, 1, 0, 1, 0.5]),
        lambda: bank()(X, module_ids=torch.zeros(5)),
        lambda: bank()(X, module_ids=torch.zeros(4).long()),
        lambda: bank()(X, module_ids=torch.zeros(5).long().to("meta")),
        lambda: bank()(X, module_ids=torch.full((5,), 2)),
        lambda: bank()(X, module_ids=freed(torch.zeros(5).long())),
    ],
    "params": [lambda: split_params(3, SPEC), lambda: split_params(stacked()[:3], SPEC),
               lambda: evaluate_params(["no"] * 4, SPEC, X, OFFSETS)],
    "bank": [lambda: save_bank("bank", SPEC)],
    "path": [
        lambda: save_bank(None, bank()),
        lambda: save_bank(3, bank()),
        lambda: save_bank("", bank()),
        lambda: save_bank("a\0b", bank()),
        lambda: save_bank(pathlib.Path(__file__).parent, bank()),
        lambda: load_bank(None),
        lambda: load_bank(["bank"]),
    ],
    "tensors": [lambda: save_tensors("tensors", {"x": freed(torch.rand(3))}, {}),
                lambda: save_tensors("tensors", {"x": 3}, {})],
    "meta": [lambda: save_tensors("tensors", {}, {"x": torch.rand(3)}), lambda: save_bank("bank", bank(), x=object())],
    "encoding": [lambda: encode("no", X), lambda: encode(mf.spec.TriPlane(), X), lambda: encode(Unknown(), X)],
    "kind": [lambda: activate("swish", X, 1.0), lambda: optimizer(kind="rms")],
    "betas": [lambda: optimizer(betas=None), lambda: optimizer(betas=0.9), lambda: optimizer(betas=("a", "b")),
              lambda: optimizer(betas=(0.9,)), lambda: optimizer(betas=(0.9, math.nan))],
    "eps": [lambda: optimizer(eps=None), lambda: optimizer(eps="no"), lambda: optimizer(eps=math.nan),
            lambda: optimizer(eps=-1.0)],
    "lr": [lambda: optimizer(lr=None), lambda: optimizer(lr="no"), lambda: optimizer(lr=math.inf),
           lambda: optimizer(lr=torch.tensor([0.1, math.nan])), lambda: optimizer(lr=freed(torch.rand(2))),
           lambda: optimizer(lr=torch.rand(2).to_sparse()), lambda: optimizer().append(stacked(), lr="no")],
    "lam": [lambda: optimizer(trust=("no", stacked(2), stacked(2))),
            lambda: optimizer(trust=(None, stacked(2), stacked(2))),
            lambda: optimizer(trust=(math.nan, stacked(2), stacked(2)))],
    "fisher": [lambda: optimizer(trust=(1.0, 3, stacked(2))), lambda: optimizer(trust=(1.0, stacked(1), stacked(2))),
               lambda: optimizer(trust=(1.0, changed(1, freed(torch.rand(2, 8, 3)), 2), stacked(2)))],
    "module_params": [lambda: optimizer().append(3), lambda: optimizer().append(stacked()[:2]),
                      lambda: optimizer().append(["no"] * 4),
                      lambda: optimizer().append(changed(0, freed(torch.rand(1, 2, 8))))],
    "grads": [lambda: optimizer().step(3), lambda: optimizer().step(["no"] * 4),
              lambda: optimizer().step(changed(0, freed(torch.rand(2, 2, 8)), 2)),
              lambda: optimizer().step(changed(0, torch.rand(2, 2, 8).to_sparse(), 2))],
}  # fmt: skip


class Unknown(mf.spec.Encoding):
    """An encoding that no op defines."""


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, calls in CALLS.items() for call in calls])
def test_a_wrong_argument_is_named(
    name: str, call: Callable[[], Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError, IndexError)) as refusal:
        call()
    assert re.search(rf"\b{name}\b", str(refusal.value)), str(refusal.value)
    assert not list(tmp_path.iterdir())  # nothing is left half written
