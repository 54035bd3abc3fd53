"""Meta-training of shared initializations: exact outer gradients, resume, what the Fisher switches change."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.fisher.scores import FimConfig, FisherScorer
from mclnf_fast.learn.meta import episodes
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import DrawnEpisodes, Episode, TaskEpisodes
from mclnf_fast.learn.meta.meta import MAML
from mclnf_fast.learn.meta.trainer import MetaTrainer, mean_psnr
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.guided import CANDIDATES, guided_batch
from mclnf_fast.metrics import mse_to_psnr
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask

SPEC = FieldSpec(1, 1, 6, 1, activation="sine", w0=4.0)  # two layers
CONFIG = MetaConfig(steps=8, tasks=3, batch=12, inner_steps=2, inner_lr=5e-2, outer_lr=2e-2, validate_every=3)


def tasks(signals: int = 4, dtype: torch.dtype = torch.float32, count: int = 2) -> list[CoordTask]:
    x = torch.linspace(-1, 1, 16, dtype=dtype)[:, None]
    phase = torch.arange(signals, dtype=dtype)[:, None, None] * 0.3
    return [CoordTask(str(k), x, 0.5 + 0.4 * torch.sin(3 * x + phase + k), SPEC, "reference") for k in range(count)]


def init(dtype: torch.dtype = torch.float32) -> Params:
    held = initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(1))
    return tuple(p.detach().to(dtype) for p in held)


def make(kind: str = "modules", dtype: torch.dtype = torch.float32, seed: int = 0, **changes: object) -> MetaTrainer:
    fim = changes.pop("fim", None)
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    train = TaskEpisodes(kind, tasks(4, dtype), config, fim)  # type: ignore[arg-type]
    validation = TaskEpisodes(kind, tasks(2, dtype), config, fim, validation=True)  # type: ignore[arg-type]
    return MetaTrainer(init(dtype), train, config, seed, 1 if kind == "oml" else None, validation, mean_psnr)


def some_episode(learner: MetaTrainer) -> Episode:
    """The same episode every time."""
    return learner.episodes(0, torch.Generator().manual_seed(5))


def outer_loss(learner: MetaTrainer, start: Params) -> Tensor:
    """By its definition in plain steps: SGD of every module, then the mean of the query losses."""
    support, query, modules = some_episode(learner)
    theta = tuple(p.repeat(modules, *([1] * (p.dim() - 1))).detach() for p in start)
    oml = learner.episodes.kind == "oml"  # type: ignore[attr-defined]
    for step in range(2 * (2 if oml else 1)):
        leaves = tuple(p.requires_grad_() for p in theta)
        grads = torch.autograd.grad(support(leaves, step).sum(), leaves)
        fast = [not oml or i in (1, 3) for i in range(4)]
        theta = tuple((p - 5e-2 * g * f).detach() for p, g, f in zip(leaves, grads, fast))
    return query(theta, 0).mean().detach()


@pytest.mark.parametrize("kind", ["modules", "joint", "oml"])
def test_the_outer_gradient_is_that_of_finite_differences(kind):
    learner = make(kind, torch.float64)
    support, query, modules = some_episode(learner)
    assert modules == (6 if kind == "modules" else 3)
    assert isinstance(learner.learner, MAML)
    losses, found = learner.learner.outer_gradient(support, query, modules)
    start, h = learner.params, 1e-6
    torch.testing.assert_close(losses.mean(), outer_loss(learner, start))
    for i, p in enumerate(start):
        for at in range(p.numel()):
            ends = []
            for sign in (1, -1):
                moved = [t.clone() for t in start]
                moved[i].view(-1)[at] += sign * h
                ends.append(float(outer_loss(learner, tuple(moved))))
            assert float(found[i].reshape(-1)[at]) == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-7)
    assert all(float(g.abs().max()) > 1e-4 for g in found)  # slow and fast parts


def test_the_first_order_differs():
    gradients = []
    for first_order in (True, False):
        learner = make(first_order=first_order)
        assert isinstance(learner.learner, MAML)
        gradients.append(learner.learner.outer_gradient(*some_episode(learner))[1][0])
    assert not torch.allclose(*gradients, rtol=1e-3)


@pytest.mark.parametrize("kind", ["modules", "joint", "oml"])
def test_it_learns_and_a_stopped_run_goes_on_to_the_same_bits(kind):
    whole = make(kind, steps=30)
    first = whole.validate()
    while not whole.done:
        whole.step()
    assert whole.validate() > first + 3
    assert [row[0] for row in whole.curve] == list(range(1, 31))
    assert [row[0] for row in whole.curve if row[2] is not None] == [*range(3, 31, 3)]
    assert whole.curve[-1][2] == whole.validate()
    stopped = make(kind, steps=30)
    for _ in range(11):
        stopped.step()
    resumed = make(kind, steps=30)
    resumed.load_state_dict(*stopped.state_dict())
    while not resumed.done:
        resumed.step()
    assert resumed.curve == whole.curve
    assert all(torch.equal(a, b) for a, b in zip(resumed.params, whole.params))
    other = make(kind, steps=30, seed=1)
    other.step()
    assert other.curve[0] != whole.curve[0]


def test_validation_is_deterministic_and_without_signals_there_is_none():
    learner = make()
    assert learner.validate() == learner.validate()
    alone = MetaTrainer(init(), TaskEpisodes("modules", tasks(), CONFIG), CONFIG, 0, score=mean_psnr)
    while not alone.done:
        alone.step()
    assert all(row[2] is None for row in alone.curve)


def test_the_curve_is_a_mean_of_psnr():
    learner = make()
    found: list[Tensor] = []
    real = learner.learner.step
    learner.learner.step = lambda *a: found.append(real(*a)["query_loss"]) or {"query_loss": found[-1], "loss": 0.0}
    learner.step()
    assert learner.curve[0][1] == float(mse_to_psnr(found[0]).mean())


@pytest.mark.parametrize("use", ["sample", "weight", "both"])
@pytest.mark.parametrize("phase", ["none", "inner", "outer", "inner outer"])
def test_the_fisher_switches_change_only_their_phase(phase, use, monkeypatch):
    keys = {f"fim_{name}": use for name in phase.split() if name != "none"}
    learner = make(**keys)
    uses: list[str] = []
    real = episodes.guided_batch

    def seen(draw, count, params, task, how, *rest):
        uses.append(how)
        return real(draw, count, params, task, how, *rest)

    monkeypatch.setattr(episodes, "guided_batch", seen)
    learner.step()
    inner, outer = (use if name in phase else "none" for name in ("inner", "outer"))
    assert uses == [inner, inner, outer]
    uses.clear()
    learner.validate()
    assert uses == [inner, inner, "none"]  # what is told is a PSNR, whatever was weighted
    plain = make()
    plain.step()
    assert all(torch.equal(a, b) for a, b in zip(plain.params, learner.params)) == (phase == "none")


def test_weights_of_strength_zero_change_nothing():
    plain, zero = make(), make(fim_inner="weight", fim_outer="weight", fim=FimConfig(lam=0.0))
    plain.step()
    zero.step()
    assert all(torch.equal(a, b) for a, b in zip(plain.params, zero.params))


@pytest.mark.parametrize(("use", "factor"), [("none", 1), ("weight", 1), ("sample", 2), ("both", 2)])
def test_a_guided_batch_is_as_large_as_a_plain_one(use, factor):
    """Also where every draw takes `count` of each of two tasks."""
    both, params = tasks(), tuple(p.repeat(4, *([1] * (p.dim() - 1))) for p in init())
    counts: list[int] = []

    def draw(count: int) -> tuple[Tensor, ...]:
        counts.append(count)
        g = torch.Generator().manual_seed(0)
        return tuple(torch.cat(t, 1) for t in zip(*(task.draw(count, g) for task in both)))

    scorer = FisherScorer(SPEC, 4, FimConfig(), "reference")
    batch, weights = guided_batch(draw, 5, params, tasks()[0], use, scorer, torch.Generator().manual_seed(1))
    assert counts == [5 * (CANDIDATES if factor == 2 else 1)]
    assert batch[0].shape == (4, 10, 1)
    assert batch[1].shape == (4, 10, 1)
    assert (weights is None) if use == "none" else weights.shape == (4, 10)


def test_drawn_candidates_are_unbiased():
    """Enumerated: sum_i p_i w_i l_i is the candidates' mean, with w = 1 / (n p)."""
    task, params = tasks(1)[0], init()
    pool = task.take(torch.arange(16)[None])
    batch, weights = guided_batch(
        lambda count: tuple(t.repeat(1, count // 16, 1) for t in pool), 32_000, params, task, "sample",
        FisherScorer(SPEC, 1, FimConfig(source="batch"), "reference"),
        torch.Generator().manual_seed(2),
    )  # fmt: skip
    found = (batch[1][0, :, 0] * weights[0]).double()
    assert float(weights.max() / weights.min()) > 1.5
    assert abs(float(found.mean() - pool[1].mean())) < 4 * float(found.std()) / math.sqrt(len(found))


@pytest.mark.parametrize(("name", "value"), [("steps", -1), ("batch", 0), ("inner_lr", 0.0), ("outer_lr", math.inf)])
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"meta.{name} must be"):
        dataclasses.replace(CONFIG, **{name: value}).check()


def test_oml_goes_through_the_tasks_in_their_order_and_is_judged_by_all(monkeypatch):
    learner, drawn, real = make("oml"), [], CoordTask.draw
    monkeypatch.setattr(CoordTask, "draw", lambda task, *rest: drawn.append(task.name) or real(task, *rest))
    learner.step()
    assert drawn == ["0", "0", "1", "1", "0", "1"]


def test_the_inner_gradients_of_oml_are_clamped():
    """A gradient of 1000 moves the fast part by the rate times 10 per step, and the slow part not at all."""
    init = (torch.zeros(1, 2, 2), torch.zeros(1, 2, 1), torch.zeros(1, 2), torch.zeros(1, 1))
    seen: list[list[float]] = []

    def steep(params: Params, step: int) -> torch.Tensor:
        seen.append([float(p.detach().flatten()[0]) for p in params])
        return 1000.0 * sum(p.flatten(1).sum(1) for p in params)

    config = MetaConfig(steps=1, inner_steps=2, inner_lr=0.01, outer_lr=1e-3)
    MetaTrainer(init, DrawnEpisodes(1, lambda tasks, generator: steep, 1), config, 0, fast_layers=1).step()
    # Before steps 0 and 1, and in the outer loss.
    assert [row[1] for row in seen] == pytest.approx([0.0, -0.1, -0.2])
    assert [row[3] for row in seen] == pytest.approx([0.0, -0.1, -0.2])
    assert [row[0] for row in seen] == [row[2] for row in seen] == [0.0, 0.0, 0.0]
