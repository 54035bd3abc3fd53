"""Inner loops in one call: the draws and, within rounding, the results of the loop over steps; when it is taken."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn import MAML, Reptile, adapt, fine_tune
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.meta import at_once
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import Episode, TaskEpisodes
from mclnf_fast.learn.meta.trainer import MetaTrainer, mean_psnr
from mclnf_fast.learn.params import Params, repeated
from mclnf_fast.learn.sampled import SampledLoss, StepSamples, drawn_loss
from mclnf_fast.ops.bank_fit import FitData
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask, whole_loss

SPEC = FieldSpec(1, 2, 8, 2, activation="sine(4)")
CONFIG = MetaConfig(steps=5, tasks=3, batch=12, inner_steps=3, inner_lr=5e-2, outer_lr=2e-2, validate_every=2)
KINDS = {
    "exact": {},
    "first order": {"first_order": True},
    "reptile": {"algorithm": "reptile"},
    "reptile through adam": {"algorithm": "reptile", "inner": "adam", "inner_lr": 1e-2},
}


@pytest.fixture
def calls(need: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the ops that made several steps in one call."""
    need("bank_adapt", "cpu")
    made: list[str] = []
    for name in ("bank_adapt", "bank_fit"):
        own = getattr(ops, name)

        def counted(*args: Any, name: str = name, own: Any = own, **options: Any) -> Any:
            made.append(name)
            return own(*args, **options)

        monkeypatch.setattr(ops, name, counted)
    return made


def tasks(signals: int = 4, backend: str = "auto", dtype: torch.dtype = torch.float32) -> list[CoordTask]:
    x = torch.linspace(-1, 1, 40, dtype=dtype)[:, None]
    phase = torch.arange(signals, dtype=dtype)[:, None, None] * 0.3 + torch.tensor([0.0, 1.0], dtype=dtype)
    return [CoordTask(str(k), x, 0.5 + 0.4 * torch.sin(3 * x + phase + k), SPEC, backend) for k in range(2)]


def init(dtype: torch.dtype = torch.float32) -> Params:
    params = initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(1))
    return tuple(p.detach().to(dtype) for p in params)


class StepByStep:
    """The same episodes, with losses that do not tell their samples."""

    def __init__(self, episodes: TaskEpisodes) -> None:
        self.episodes, self.sequence, self.kind = episodes, episodes.sequence, episodes.kind

    def __call__(self, outer: int, generator: torch.Generator) -> Episode:
        episode = self.episodes(outer, generator)
        return episode._replace(support=lambda params, step: episode.support(params, step))


def trainer(kind: str, config: MetaConfig, wrap: Any = lambda episodes: episodes) -> MetaTrainer:
    train = wrap(TaskEpisodes(kind, tasks(), config))
    validation = wrap(TaskEpisodes(kind, tasks(2), config, validation=True))
    return MetaTrainer(init(), train, config, 0, 1 if kind == "oml" else None, validation, mean_psnr)


@pytest.mark.parametrize("kind", ["modules", "joint", "oml"])
@pytest.mark.parametrize("algorithm", KINDS)
def test_meta_training_is_that_of_the_loop_over_steps(calls: list[str], kind: str, algorithm: str) -> None:
    config = dataclasses.replace(CONFIG, **KINDS[algorithm])
    if kind == "oml" and config.algorithm == "reptile":
        return
    at_once, by_step = trainer(kind, config), trainer(kind, config, StepByStep)
    while not by_step.done:
        by_step.step()
    assert not calls
    while not at_once.done:
        at_once.step()
    assert set(calls) == {"bank_fit" if config.inner == "adam" else "bank_adapt"}
    assert len(calls) == 5 + 3  # outer steps, and validations after 2, 4 and 5
    for a, b, start in zip(at_once.params, by_step.params, init(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)
        assert not torch.allclose(a, start, atol=1e-3)
    for one, other in zip(at_once.curve, by_step.curve, strict=True):
        assert [v is None for v in one] == [v is None for v in other]
        assert [v or 0 for v in one] == pytest.approx([v or 0 for v in other], rel=1e-4)


@pytest.mark.parametrize("kind", ["modules", "joint", "oml"])
def test_the_draws_are_the_same(calls: list[str], kind: Any) -> None:
    """The samples of each step, and what the generator draws next, bit for bit."""
    config, modules = dataclasses.replace(CONFIG, inner_steps=2), 6 if kind == "modules" else 3
    params, half = repeated(init(), modules), len(init()) // 2
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    known, by_step = (TaskEpisodes(kind, tasks(), config)(0, generator).support for generator in generators)
    assert isinstance(known, SampledLoss)
    data, batch = known.samples(4)
    assert batch == 12 * (2 if kind == "joint" else 1)
    x, y = (t.reshape(modules, 4, batch, -1) for t in data[:2])
    for k in range(4):
        offsets = torch.arange(modules + 1) * batch
        of_step = x[:, k].flatten(0, 1), offsets, params[:half], params[half:], y[:, k].flatten(0, 1), SPEC
        assert torch.equal(ops.bank_mse(*of_step), by_step(params, k))
    assert torch.equal(*(generator.get_state() for generator in generators))


def test_drawn_losses_are_those_of_the_loop(calls: list[str]) -> None:
    """Of some of the signals, by the same draws; of a task with a loss of its own the loop alone."""
    task, chosen = tasks()[0], torch.tensor([3, 1])
    losses = [drawn_loss(task, 9, torch.Generator().manual_seed(7), chosen) for _ in range(2)]
    for a, b in zip(
        fine_tune(repeated(init(), 2), losses[0], 4, 0.02),
        fine_tune(repeated(init(), 2), lambda params, step: losses[1](params, step), 4, 0.02),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert calls == ["bank_adapt"]
    halved = drawn_loss(Halved(task.name, task.x, task.y, SPEC), 9, torch.Generator())
    assert not isinstance(halved, SampledLoss)
    assert halved(repeated(init(), 4), 0).shape == (4,)


def hidden(loss: SampledLoss) -> Any:
    return lambda params, step: loss(params, step)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("lr", ["number", "per module"])
@pytest.mark.parametrize("falls", [False, True])
def test_fine_tuning_is_that_of_the_loop_over_steps(calls: list[str], kind: Any, lr: str, falls: bool) -> None:
    loss, start = whole_loss(tasks()[0]), repeated(init(), 4)
    rate: Any = 0.02 if lr == "number" else torch.tensor([0.01, 0.02, 0.03, 0.04])
    options: dict[str, Any] = {"kind": kind, "lr_end": rate / 8 if falls else None}
    tuned = fine_tune(start, loss, 6, rate, **options)
    assert calls == (["bank_adapt"] if kind == "sgd" else ["bank_fit"] if lr == "number" else [])
    for a, b, p in zip(tuned, fine_tune(start, hidden(loss), 6, rate, **options), start, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert not torch.equal(a, p)
        assert not a.requires_grad


def test_a_module_that_diverges_shows(calls: list[str]) -> None:
    """As in the loop: it is NaN, the others go on."""
    task = tasks()[0]
    y = task.y.clone()
    y[2, 5] = torch.inf
    loss = whole_loss(CoordTask("one infinite", task.x, y, SPEC))
    for kind in ("sgd", "adam"):
        tuned = fine_tune(repeated(init(), 4), loss, 3, 0.01, kind=kind)
        for p in tuned:
            assert p.flatten(1).isnan().any(1).tolist() == [False, False, True, False]
    assert calls == ["bank_adapt", "bank_fit"]


def test_maml_through_one_call_has_the_gradient_of_the_loop(calls: list[str]) -> None:
    loss = whole_loss(tasks(dtype=torch.float64)[0])
    for options in ({}, {"first_order": True}):
        learner = MAML(init(torch.float64), 0.1, 3, **options)
        at_once, by_step = (learner.outer_gradient(f, loss, 4) for f in (loss, hidden(loss)))
        torch.testing.assert_close(at_once[0], by_step[0], rtol=1e-10, atol=1e-12)
        for a, b in zip(at_once[1], by_step[1], strict=True):
            assert a.shape[0] == 1
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert calls == ["bank_adapt"] * 2


def test_reptile_reports_the_losses_before_its_last_step(calls: list[str]) -> None:
    loss = whole_loss(tasks()[0])
    for inner in ("sgd", "adam"):
        at_once, by_step = (Reptile(init(), 0.01, 3, inner=inner).step(f, 4)["last_loss"] for f in (loss, hidden(loss)))
        torch.testing.assert_close(at_once, by_step, rtol=1e-4, atol=1e-6)
    assert calls == ["bank_adapt", "bank_fit"]


def test_when_the_loop_over_steps_is_taken(calls: list[str]) -> None:
    start, loss = repeated(init(), 4), whole_loss(tasks()[0])
    fine_tune(start, loss, 2, 0.01, callback=lambda step, params, losses: None)
    fine_tune(start, whole_loss(tasks(backend="reference")[0]), 2, 0.01)
    adapt(start, loss, 2, 0.01, update=[False, True, True, False, True, False])  # not a layer's weight and bias
    with torch.autocast("cpu", torch.bfloat16):
        adapt(start, loss, 2, 0.01)
    assert not calls
    adapt(start, loss, 2, 0.01, update=[False, True, True] * 2)
    assert calls == ["bank_adapt"]


class Halved(CoordTask):
    """A task with a loss of its own."""

    def loss(self, params: Params, batch: Any, weights: Tensor | None = None, seed: int = 0) -> Tensor:
        return super().loss(params, batch, weights, seed) / 2


def test_episodes_that_do_not_know_their_samples(need: Any) -> None:
    generator, whole = torch.Generator(), tasks()
    halved = [Halved(t.name, t.x, t.y, SPEC) for t in whole]
    for config, own in (
        (dataclasses.replace(CONFIG, fim_inner="weight"), whole),
        (dataclasses.replace(CONFIG, context="gradncp"), whole),
        (CONFIG, halved),
    ):
        episode = TaskEpisodes("modules", own, config, FimConfig())(0, generator)
        assert not isinstance(episode.support, SampledLoss)


def test_samples_of_another_number_of_modules_are_refused(need: Any) -> None:
    need("bank_adapt", "cpu")
    loss = whole_loss(tasks()[0])
    for kind in ("sgd", "adam"):
        with pytest.raises(ValueError, match=r"loss_fn must have one loss per module, \[3\], got samples of 4"):
            fine_tune(repeated(init(), 3), loss, 2, 0.01, kind=kind)
    with pytest.raises(ValueError, match=r"\[3\], got samples of 4"):
        MAML(init()).outer_gradient(loss, loss, 3)


def test_samples_without_a_batch_are_all_in_every_step(need: Any) -> None:
    need("bank_adapt", "cpu")
    x, y = torch.rand(10, 1), torch.rand(1, 10, 2)
    in_two = StepSamples(FitData(x, y), 5)
    loss = SampledLoss(lambda params, step: torch.zeros(1), lambda steps: in_two, SPEC)
    whole = dataclasses.replace(loss, samples=lambda steps: in_two._replace(batch=None))
    a, b = (fine_tune(init(), f, 2, 0.1) for f in (loss, whole))
    assert not torch.allclose(a[0], b[0])


@pytest.mark.parametrize("kind", ["first order", "reptile"])
def test_plain_descent_is_a_fit_where_nothing_adapts_at_once(
    kind: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, which has no `bank_adapt`."""
    config = dataclasses.replace(CONFIG, **KINDS[kind])
    expected = trainer("modules", config)
    expected.step()
    assert set(calls) == {"bank_adapt"}
    calls.clear()
    serves = at_once._serves
    monkeypatch.setattr(at_once, "_serves", lambda op, *rest: op != "bank_adapt" and serves(op, *rest))
    found = trainer("modules", config)
    found.step()
    assert set(calls) == {"bank_fit"}
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-7)
    for a, b in zip(found.learner.init, expected.learner.init, strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)
