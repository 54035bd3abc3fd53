"""Curves with sharp steps as tasks: two signals side by side, a sample is a point."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import AdaptConfig, Method
from mclnf_fast.learn.params import Params
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask

SPEC = FieldSpec(1, 1, 12, 2, activation="tanh")
CONFIG = AdaptConfig(
    batch=16,
    lr=2e-2,
    schedule="exponential",
    lr_end=2e-3,
    decay_steps=60,
    ramp=3,
    warm_steps=2,
    memory=20,
    fast_layers=1,
)
REFRESH = 4


def curve(k: int, points: int = 48) -> CoordTask:
    x = torch.linspace(-1, 1, points)[:, None]
    y = torch.stack([0.5 + torch.tanh(12 * x - 3 - s + k) * 0.4 for s in range(2)])
    return CoordTask(f"curve {k}", x, y, SPEC, "reference")


def start(seed: int = 0) -> Params:
    return initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(seed))


def method(cls: type[Method], use: str = "sample", seed: int = 0, **changes: Any) -> Method:
    fim = FimConfig(use=use, refresh=REFRESH, **{k: changes.pop(k) for k in ("lam", "mix", "draws") if k in changes})  # type: ignore[arg-type]
    tasks = [curve(0)] if cls.joint else [curve(0), curve(1)]
    return cls(tasks, start(), dataclasses.replace(CONFIG, fim=fim, **changes), seed)


def train(given: Method, steps: int, k: int = 0) -> Method:
    """`steps` further steps on task k, which is begun where it has not been."""
    if given.task is None:
        given.begin(k)
    for _ in range(steps):
        given.step(k, given.made)
    return given


def error(given: Method, k: int = 0) -> float:
    return float(given.tasks[k].squared_errors(given.tasks[k].predict(given.params_of(k))).sum())


def assert_same_state(a: Any, b: Any) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert set(first) == set(second)
    for key in first:
        assert torch.equal(first[key], second[key]), key


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])
