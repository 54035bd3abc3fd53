"""Initializations that are meta-trained on pruned contexts (GradNCP)."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mclnf_fast.cli import main
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import Kind, TaskEpisodes
from mclnf_fast.learn.meta.gradncp import GradNCP, PrunedContext
from mclnf_fast.learn.meta.meta import MAML
from mclnf_fast.learn.meta.trainer import MetaTrainer, mean_psnr
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.signals.options import AudioConfig
from mclnf_fast.tasks.coords import CoordTask

SPEC = FieldSpec(1, 1, width=16, hidden_layers=2, activation="sine", w0=15.0)
CONFIG = MetaConfig(
    steps=60, tasks=4, batch=8, inner_steps=3, inner_lr=2e-2, validate_every=0, context="gradncp", keep=0.25
)


def tasks(seed: int, signals: int = 6) -> list[CoordTask]:
    """Two tasks of waves of any phase, each with a step in it."""
    g = torch.Generator().manual_seed(seed)
    x = torch.linspace(-1, 1, 64)
    phase = torch.rand(2, signals, 1, generator=g)
    y = 0.5 + 0.3 * torch.sin(4 * x + 2 * phase) + 0.2 * (x > phase)
    return [CoordTask(f"task {k}", x[:, None], y[k, :, :, None], SPEC) for k in range(2)]


def learner(kind: Kind = "modules", validation: list[CoordTask] | None = None, **changes: object) -> MetaTrainer:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    init = initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(0))
    held = None if validation is None else TaskEpisodes(kind, validation, config, validation=True)
    fast = 2 if kind == "oml" else None
    return MetaTrainer(init, TaskEpisodes(kind, tasks(0), config), config, 5, fast, held, mean_psnr)


@pytest.mark.parametrize("bootstrap", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["modules", "joint"])
def test_an_outer_step_is_gradncps(kind: Kind, bootstrap: float) -> None:
    """On one context a module, four batches large, the same in all inner steps."""
    found = learner(kind, bootstrap=bootstrap)
    found.step()
    g = torch.Generator().manual_seed(5 * 1_000_003)
    chosen = torch.randperm(6, generator=g)[:4]
    parts = [task.draw(32, g, chosen) for task in tasks(0)]
    x, y = (torch.cat(tensors, 0 if kind == "modules" else 1) for tensors in zip(*parts))
    assert x.shape[:2] == ((8, 32) if kind == "modules" else (4, 64))
    offsets = torch.arange(len(x) + 1) * x.shape[1]
    init = initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(0))
    meta = MAML(init, 2e-2, 3, outer_lr=2e-3, anneal_steps=60, grad_clip=1.0)
    gradncp = GradNCP(meta, bootstrap_lr=2e-2, bootstrap_weight=bootstrap)
    gradncp.step(PrunedContext(x.flatten(0, 1), offsets, y.flatten(0, 1), SPEC, 0.25))
    assert all(torch.equal(a, b) for a, b in zip(found.params, meta.init))
    for changes in ({"context": "batch", "bootstrap": 0.0}, {"keep": 0.5}, {"bootstrap": 1.0}):
        other = learner(kind, **{"bootstrap": bootstrap, **changes})
        other.step()
        assert not all(torch.equal(a, b) for a, b in zip(found.params, other.params)), changes


def test_oml_meets_one_task_after_the_other() -> None:
    found = learner("oml")
    everyone = TaskEpisodes("oml", tasks(0), dataclasses.replace(CONFIG, tasks=None))
    support, query, modules = everyone(0, torch.Generator().manual_seed(1))
    params = found.learner.clone(modules)
    values = [support(params, step) for step in (0, 2, 3, 5)]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[2], values[3])
    assert not torch.allclose(values[0], values[2])
    assert query(params, 0).shape == (6,)
    slow = [p.clone() for p in found.params]
    found.step()
    assert any(not torch.equal(a, b) for a, b in zip(slow, found.params))


@pytest.mark.parametrize("bootstrap", [0.0, 0.1])
def test_it_learns(bootstrap: float) -> None:
    """Signals of other phases are learned better in as many steps, and those that were met likewise."""
    found = learner(validation=tasks(1), bootstrap=bootstrap)
    before = found.validate()
    while not found.done:
        found.step()
    after = found.validate()
    assert before is not None
    assert after is not None
    assert after > before + 5
    assert math.isfinite(after)


def test_validation_is_of_the_plain_error() -> None:
    """SGD with rescaled gradients of the whole context, and its plain error, whatever the target's weight."""
    one, two = learner(validation=tasks(1)), learner(validation=tasks(1), bootstrap=100.0)
    assert one.validate() == two.validate()
    g = torch.Generator().manual_seed(5)
    x, y = (torch.cat(t) for t in zip(*(task.draw(32, g, torch.arange(6)) for task in tasks(1))))
    context = PrunedContext(x.flatten(0, 1), torch.arange(13) * 32, y.flatten(0, 1), SPEC, 0.25)
    assert isinstance(one.learner, MAML)
    mean = context.whole(GradNCP(one.learner).adapt(context)).double().log10().mean()
    assert one.validate() == pytest.approx(float(-10 * mean), abs=1e-4)


def test_errors() -> None:
    for changes, told in (
        ({"context": "all"}, "meta.context must be one of batch, gradncp, got 'all'"),
        ({"keep": 0.0}, "meta.keep must be above 0 and at most 1, got 0.0"),
        ({"keep": math.nan}, "meta.keep must"),
        ({"bootstrap": -1.0}, "meta.bootstrap must be at least 0 and finite, got -1.0"),
    ):
        with pytest.raises(InputError, match=told):
            dataclasses.replace(CONFIG, **changes).check()  # type: ignore[arg-type]
    CONFIG.check()
    init = initial_parameters(SPEC, 1)
    weighted = dataclasses.replace(CONFIG, fim_inner="weight")
    episodes = TaskEpisodes("modules", tasks(0), weighted)
    with pytest.raises(InputError, match="fim_inner and fim_outer must be none"):
        MetaTrainer(init, episodes, weighted, 0)
    with pytest.raises(InputError, match=r"must be none with meta\.context gradncp, got none and sample"):
        AudioConfig(meta=dataclasses.replace(CONFIG, fim_outer="sample")).check()


def test_the_help_names_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "audio", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--meta.context {batch,gradncp}" in text
    assert "2302.00617" in text[text.index("--meta.context") :]
