"""The protocol: what stands at a budget is what a run with that many steps a task would leave."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from curves import CONFIG, curve, start
from torch import Tensor

from mclnf_fast.learn.methods import METHODS
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.protocol import Protocol, Record
from mclnf_fast.learn.task import join
from mclnf_fast.metrics import mse_to_psnr

BUDGETS = (1, 2, 4, 8)
CONFIGURED = dataclasses.replace(CONFIG, schedule="hold", hold=4)
TASKS = [curve(0, 24), curve(1, 40)]


def measure(predictions: list[Tensor]) -> dict[str, list[float]]:
    assert [p.shape for p in predictions] == [t.y.shape for t in TASKS]
    error = sum((p.clamp(0, 1) - t.y).double().square().sum((1, 2)) for p, t in zip(predictions, TASKS))
    assert isinstance(error, Tensor)
    return {"psnr": mse_to_psnr(error / 64).tolist()}


def run(name: str, budgets: tuple[int, ...] = BUDGETS, fine: tuple[int, ...] = (), **keys: Any) -> Record:
    return Protocol(TASKS, budgets, measure, fine, **keys).run(METHODS[name], start(), CONFIGURED, 3)[0]


def after(name: str, steps: int) -> list[float]:
    """A method's PSNR after the sequence with `steps` a task, by hand."""
    cls = METHODS[name]
    tasks = [join(TASKS)] if cls.joint else TASKS
    method = cls(tasks, start(), CONFIGURED, 3)
    for k in range(len(tasks)):
        method.begin(k)
        for step in range(steps):
            method.step(k, step)
        method.finish(k)
    return measure([t.predict(method.params_of(0 if cls.joint else k)) for k, t in enumerate(TASKS)])["psnr"]


@pytest.mark.parametrize("name", METHODS)
def test_a_budget_is_a_run_of_its_own(name):
    found = run(name)
    assert list(found.curve["psnr"]) == ["0", "1", "2", "4", "8"]
    for budget in (1, 4, 8):
        assert found.curve["psnr"][str(budget)] == pytest.approx(after(name, budget), abs=1e-6)
    assert found.curve["psnr"]["1"] != found.curve["psnr"]["8"]


@pytest.mark.parametrize("name", METHODS)
def test_the_matrix_holds_every_task_after_every_task(name):
    cls, found = METHODS[name], run(name)
    assert torch.tensor(found.before).shape == (2, 2)  # task, signal
    if cls.joint:
        assert found.matrix is None
        return
    r = torch.tensor(found.matrix, dtype=torch.float64)
    assert r.shape == (2, 2, 2)  # after task, of task, signal
    forgot = (r[0, 0] - r[1, 0]).abs().max()
    assert (float(forgot) == 0) == cls.modular
    if cls.modular:  # nothing was done yet for task 1: its module is the start
        assert r[0, 1].tolist() == found.before[1]
    assert bool((torch.tensor(found.before, dtype=torch.float64) < r.diagonal().T).all())


@pytest.mark.parametrize(("name", "looked_into"), [("offline", True), ("mod", True), ("er", False)])
def test_the_fine_log(name, looked_into):
    found = run(name, fine=(3, 8, 100))
    if not looked_into:
        assert found.fine is None
        return
    assert found.fine is not None
    assert found.fine["steps"] == [1, 2, 3, 4, 8]
    for step, values in zip(found.fine["steps"], found.fine["psnr"]):
        assert values == pytest.approx(after(name, step), abs=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_steps_are_those_announced(name):
    made: list[int] = []
    protocol = Protocol(TASKS, BUDGETS, measure, advance=made.append)
    found, predictions = protocol.run(METHODS[name], start(), CONFIGURED, 0)
    assert sum(made) == protocol.steps_of(METHODS[name])
    assert found.steps == 8 * (1 if METHODS[name].joint else 2)
    assert found.points_per_step == (2 if name == "er" else 1) * 2 * CONFIGURED.batch
    assert found.seconds > 0
    assert found.parameters == sum(p.numel() for p in start()) * (2 if METHODS[name].modular else 1)
    assert measure(predictions)["psnr"] == found.curve["psnr"]["8"]


def test_the_same_seed_gives_the_same_bits():
    assert run("mim").curve == run("mim").curve
    other: Params = start()
    assert Protocol(TASKS, BUDGETS, measure).run(METHODS["mim"], other, CONFIGURED, 4)[0].curve != run("mim").curve
