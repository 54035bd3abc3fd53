"""An initialization by Reptile over objects: its outer gradient, resume, its meta-batches, and that it beats a random
one."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys

import pytest
import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn import fine_tune
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import DrawnEpisodes
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.learn.params import Params
from mclnf_fast.render import RenderSettings
from mclnf_fast.render.objects import ObjectPool, ray_loss
from mclnf_fast.tasks.coords import coord_loss

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "systems"))
from tiny_objects import procedural_cars

SPEC = mf.FieldSpec(3, 4, 16, 2, encoding=mf.LogFrequency(20, 8.0))
PLAIN = MetaConfig(
    inner_steps=32, inner_lr=0.5, outer_lr=5e-5, algorithm="reptile", first_order=True, grad_clip=None, validate_every=0
)
CONFIG = dataclasses.replace(PLAIN, steps=6, tasks=3, inner_steps=4, outer_lr=1e-3)


def pool(count: int = 5, size: int = 12) -> ObjectPool:
    sets = procedural_cars(count + 1, 1, views=4, size=size)
    return ObjectPool([(one.images, one.cameras) for one in sets.train], RenderSettings.between(samples_per_ray=8))


def start(seed: int = 0) -> Params:
    return initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(seed))


def learner(config: MetaConfig = CONFIG, seed: int = 0, objects: ObjectPool | None = None) -> MetaTrainer:
    objects = pool() if objects is None else objects
    episodes = DrawnEpisodes(len(objects), lambda tasks, g: ray_loss(objects, tasks, SPEC, 16, g), config.tasks)
    return MetaTrainer(start(), episodes, config, seed)


def test_the_outer_gradient_is_exactly_start_minus_adapted():
    objects = pool()
    config = dataclasses.replace(PLAIN, steps=6, tasks=1, inner_steps=4)
    one = learner(config, objects=objects)
    before = one.params
    one.step()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(objects), generator=generator)[:1]
    adapted = fine_tune(before, ray_loss(objects, chosen, SPEC, 16, generator), 4, 0.5)
    for p, old, new in zip(one.learner.init, before, adapted):
        assert p.grad is not None
        assert torch.equal(p.grad, old - new)
        moved = old - p.detach()  # Adam's first step: the rate times the sign
        assert torch.allclose(moved[p.grad.abs() > 1e-4], 5e-5 * p.grad.sign()[p.grad.abs() > 1e-4], rtol=1e-2)
    assert any(float(p.grad.abs().max()) > 1e-4 for p in one.learner.init)  # type: ignore[union-attr]


def test_a_meta_batch_is_the_mean_of_its_objects():
    objects, found = pool(), learner()
    drawn: list[Tensor] = []

    def draw(tasks: Tensor, g: torch.Generator) -> object:
        drawn.append(tasks)
        return ray_loss(objects, tasks, SPEC, 16, g)

    found.episodes = DrawnEpisodes(len(objects), draw, 3)  # type: ignore[arg-type]
    before = found.params
    found.step()
    bank = tuple(p.repeat(3, *([1] * (p.dim() - 1))) for p in before)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(objects), generator=generator)[:3]
    assert torch.equal(drawn[0], chosen)
    assert len(set(chosen.tolist())) == 3
    adapted = fine_tune(bank, ray_loss(objects, chosen, SPEC, 16, generator), 4, 0.5)
    for p, old, new in zip(found.learner.init, before, adapted):
        assert p.grad is not None
        assert torch.equal(p.grad, old - new.mean(0, keepdim=True))
    found.step()
    found.step()
    assert len({tuple(tasks.tolist()) for tasks in drawn}) > 1  # another meta-batch each time


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_in_two_steps_is_autograd_by_hand(first_order):
    """theta2 = theta1 - r L'(theta1), theta1 = theta0 - r L'(theta0); the outer gradient d mean L(theta2) / d theta0,
    through both steps or through none."""
    spec = mf.FieldSpec(2, 1, 5, 1, "sine", w0=3.0)
    init = initial_parameters(spec, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.rand(3, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = x[..., :1] * torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)[:, None, None]
    config = dataclasses.replace(
        PLAIN, steps=1, tasks=3, inner_steps=2, inner_lr=0.1, algorithm="maml", first_order=first_order
    )

    def by_hand(weights: list[Tensor], task: int) -> Tensor:
        w0, w1, b0, b1 = weights
        out = torch.sin(3.0 * (x[task] @ w0[0] + b0[0])) @ w1[0] + b1[0]
        return (out - y[task]).square().mean()

    episodes = DrawnEpisodes(3, lambda tasks, g: lambda p, s: coord_loss(p, (x[tasks], y[tasks]), spec), 3)
    made = MetaTrainer(init, episodes, config, 0)
    made.step()
    start = [p.clone().requires_grad_() for p in init]
    total = torch.zeros((), dtype=torch.float64)
    for task in range(3):
        theta = start
        for _ in range(2):
            grads = torch.autograd.grad(by_hand(theta, task), theta, create_graph=True)
            theta = [p - 0.1 * (g.detach() if first_order else g) for p, g in zip(theta, grads)]
        total = total + by_hand(theta, task) / 3
    for p, wanted in zip(made.learner.init, torch.autograd.grad(total, start)):
        assert p.grad is not None
        assert torch.allclose(p.grad, wanted, rtol=1e-9, atol=1e-12)
    assert made.curve == [[1, pytest.approx(total.item()), None]]


@pytest.mark.parametrize("algorithm", ["reptile", "maml"])
def test_a_resumed_start_has_the_same_bits(algorithm):
    config = dataclasses.replace(PLAIN, steps=6, tasks=2, inner_steps=2, outer_lr=1e-3, algorithm=algorithm)
    whole, first, second = (learner(config) for _ in range(3))
    while not whole.done:
        whole.step()
    for _ in range(3):
        first.step()
    second.load_state_dict(*first.state_dict())
    while not second.done:
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.params, second.params))
    assert whole.curve == second.curve
    assert whole.curve[-1][0] == 6
    assert not any(torch.equal(a, b) for a, b in zip(whole.params[:3], learner(config).params))
    other = learner(config, seed=1)
    while not other.done:
        other.step()
    assert not all(torch.equal(a, b) for a, b in zip(whole.params, other.params))


def test_more_modules_than_tasks_take_some_twice():
    two = learner(dataclasses.replace(PLAIN, steps=1, tasks=5, inner_steps=1), objects=pool(2))
    two.step()
    assert two.done
    assert all(bool(p.isfinite().all()) for p in two.params)


def test_a_learned_start_beats_a_random_one_on_an_unseen_object():
    sets = procedural_cars(13, 1, views=8, size=16)
    settings = RenderSettings.between(2.8, 5.2, samples_per_ray=16)
    train = ObjectPool([(o.images, o.cameras) for o in sets.train], settings)
    test = ObjectPool([(o.images, o.cameras) for o in sets.test], settings)
    config = dataclasses.replace(PLAIN, steps=60, tasks=6, inner_steps=8, outer_lr=1e-2)
    episodes = DrawnEpisodes(12, lambda tasks, g: ray_loss(train, tasks, SPEC, 24, g), 6)
    made = MetaTrainer(start(), episodes, config, 0)
    while not made.done:
        made.step()

    def db(params: Params) -> float:
        one = torch.zeros(1, dtype=torch.int64)
        adapted = fine_tune(params, ray_loss(test, one, SPEC, 64, torch.Generator().manual_seed(0), 1), 64, 0.5)
        with torch.no_grad():
            every = ray_loss(test, one, SPEC, 4000, torch.Generator().manual_seed(1))
            return -10 * math.log10(float(every(adapted, 0)))

    assert db(made.params) > db(start()) + 3


def test_unusable_numbers():
    for given, message in (
        ({"inner_lr": math.nan}, "meta.inner_lr must be above 0 and finite, got nan"),
        ({"algorithm": "sgd"}, "meta.algorithm must be one of maml, reptile, got 'sgd'"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(PLAIN, **given).check()  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"meta\.steps must be at least 1, got 0"):
        dataclasses.replace(PLAIN, steps=0).check(least_steps=1)
    with pytest.raises(InputError, match="tasks must be at least 1, got 0"):
        DrawnEpisodes(0, lambda tasks, g: ray_loss(pool(), tasks, SPEC, 16, g))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "maml", "inner": "adam"}, "meta.inner must be sgd with meta.algorithm maml, got adam"),
        ({"context": "gradncp"}, "meta.context must be batch with meta.algorithm reptile, got gradncp"),
        ({"fim_outer": "weight"}, "meta.fim_outer must be none with meta.algorithm reptile, got weight"),
        ({"bootstrap": 1.0}, "meta.bootstrap must be 0 without meta.context gradncp, got 1.0"),
    ],
)
def test_an_option_without_effect_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(PLAIN, **changes).check()
    with pytest.raises(InputError, match=r"wide\.center has no effect here and must be False, got True"):
        dataclasses.replace(PLAIN, center=True).check("wide", unused=("center",))
    with pytest.raises(InputError, match="must be maml for OML"):
        MetaTrainer(start(), DrawnEpisodes(2, lambda tasks, g: ray_loss(pool(), tasks, SPEC, 16, g)), PLAIN, 0, 1)
