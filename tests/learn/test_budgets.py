"""The protocol: what stands at a budget is what a run with that many steps a task would leave."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from curves import CONFIG, SPEC, curve, start
from torch import Tensor

from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.budgets import Budgets, Record
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.learn.task import join
from mclnf_fast.metrics import mse_to_psnr
from mclnf_fast.tasks.coords import CoordTask

BUDGETS = (1, 2, 4, 8)
CONFIGURED = dataclasses.replace(CONFIG, schedule="hold", hold=4)
TASKS = [curve(0, 24), curve(1, 40)]


def measure(predictions: list[Tensor]) -> dict[str, list[float]]:
    assert [p.shape for p in predictions] == [t.y.shape for t in TASKS]
    error = sum((p.clamp(0, 1) - t.y).double().square().sum((1, 2)) for p, t in zip(predictions, TASKS))
    assert isinstance(error, Tensor)
    return {"psnr": mse_to_psnr(error / 64).tolist()}


def runs(name: str, budgets: tuple[int, ...] = BUDGETS, fine: tuple[int, ...] = (), seed: int = 3) -> Budgets:
    made = Budgets(METHODS[name], TASKS, start(), CONFIGURED, seed, budgets, measure, fine)
    while not made.done:
        made.step()
    return made


def run(name: str, budgets: tuple[int, ...] = BUDGETS, fine: tuple[int, ...] = (), **keys: Any) -> Record:
    return runs(name, budgets, fine, **keys).record


def after(name: str, steps: int) -> list[float]:
    """A method's PSNR after the sequence with `steps` a task, by hand; all tasks at once take as many steps in all."""
    cls = METHODS[name]
    tasks = [join(TASKS)] if cls.joint else TASKS
    steps *= len(TASKS) if cls.joint else 1
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
    given, steps = Budgets(METHODS[name], TASKS, start(), CONFIGURED, 0, BUDGETS, measure), 0
    while not given.done:
        assert given.made == steps
        given.step()
        steps += 1
    assert given.made == given.total == steps
    found, predictions = given.record, given.final_predictions()
    assert found.steps == 8 * 2  # of every method as many, whether it meets the tasks one by one or at once
    batches = 2 if name == "er" else 1
    assert found.points_per_step == batches * 2 * CONFIGURED.batch
    assert found.samples == 16 * batches * CONFIGURED.batch
    assert found.operations == 6 * found.samples * sum(p.numel() for p in start())  # one network per step
    assert found.seconds > 0
    assert found.parameters == sum(p.numel() for p in start()) * (2 if METHODS[name].modular else 1)
    assert measure(predictions)["psnr"] == found.curve["psnr"]["8"]


def test_the_same_seed_gives_the_same_bits():
    assert run("mim").curve == run("mim").curve
    assert runs("mim", seed=4).record.curve != run("mim").curve


@pytest.mark.parametrize("name", ["offline", "ewc", "mod", "mim"])
def test_stopped_after_any_step_it_goes_on_to_the_same_bits(name):
    whole = runs(name, (1, 3))
    stopped = Budgets(METHODS[name], TASKS, start(), CONFIGURED, 3, (1, 3), measure)
    while not stopped.done:
        stopped.step()
        again = Budgets(METHODS[name], TASKS, start(), CONFIGURED, 3, (1, 3), measure)
        tensors, meta = stopped.state_dict()
        again.load_state_dict(tensors, json.loads(json.dumps(meta)))
        assert again.made == stopped.made
        stopped = again
    for one in (whole, stopped):
        one.record.seconds = 0.0
    assert stopped.record == whole.record
    assert all(torch.equal(a, b) for a, b in zip(stopped.final_predictions(), whole.final_predictions()))


def test_the_psnr_of_several_channels_is_over_all_of_them():
    """The finer log adds up sums of squares; over the samples alone it would be 10 log10(3) dB too low."""
    spec = dataclasses.replace(SPEC, out_dim=3)
    tasks = [CoordTask(t.name, t.x, t.y.repeat(1, 1, 3) * torch.tensor([1.0, 0.5, 0.2]), spec, "reference")
             for t in TASKS]  # fmt: skip
    init = initial_parameters(spec, 1, generator=torch.Generator().manual_seed(0))

    def whole(predictions: list[Tensor]) -> dict[str, list[float]]:
        errors = [(p.clamp(0, 1) - t.y).double().square().flatten(1) for p, t in zip(predictions, tasks)]
        return {"psnr": mse_to_psnr(torch.cat(errors, 1).mean(1)).tolist()}

    made = Budgets(METHODS["mod"], tasks, init, CONFIGURED, 3, (1, 4), whole)
    while not made.done:
        made.step()
    assert made.record.fine is not None
    for step, values in zip(made.record.fine["steps"], made.record.fine["psnr"]):
        assert values == pytest.approx(made.record.curve["psnr"][str(step)], abs=1e-6)
