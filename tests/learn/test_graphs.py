"""Steps replayed as graphs: the bits of the steps one by one, and what is not replayed says why."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import pathlib
import types
from collections.abc import Callable

import pytest
import torch
from curves import CONFIG, curve
from curves import start as curve_start
from emulated_graphs import EmulatedGraphs, Unrecorded
from test_fitted_rays import SPEC as RAY_SPEC
from test_fitted_rays import posed
from test_meta_trainer import CONFIG as META
from test_meta_trainer import init, make, tasks
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn import graphs
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.graphs import WARM_UP, GraphedStep, Recorder
from mclnf_fast.learn.meta.episodes import TaskEpisodes
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.learn.methods import MIM, Method, MIMWeight

CPU = torch.device("cpu")
META_KINDS = {
    "exact": {},
    "first order": {"first_order": True},
    "reptile": {"algorithm": "reptile", "grad_clip": None},
    "reptile by adam": {"algorithm": "reptile", "inner": "adam", "grad_clip": None},
}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recorder | None], None]:
    """Take a recorder, or none, for every device."""

    def take(recorder: Recorder | None) -> None:
        monkeypatch.setattr(graphs, "recorder", lambda device: recorder)

    return take


def test_a_step_is_replayed_with_new_inputs(recorded):
    emulated = EmulatedGraphs()
    recorded(emulated)
    total, calls = torch.zeros(3), []

    def add(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        calls.append(1)
        total.add_(2 * x + y)
        return (total.sum(),)

    step, expected = GraphedStep(add, "add", CPU), torch.zeros(3)
    for k in range(6):
        x, y = torch.full((3,), float(k)), torch.arange(3.0)
        expected += 2 * x + y
        assert step(x, y)[0] == expected.sum()
        assert torch.equal(total, expected)
    assert (len(calls), emulated.records, emulated.replays) == (WARM_UP + 1, 1, 6 - WARM_UP)
    # Inputs of another shape are another graph.
    step(torch.ones(1), torch.ones(1))
    assert len(calls) == WARM_UP + 2


def test_what_cannot_be_recorded_is_called_and_says_why(recorded, caplog):
    class Refusing(EmulatedGraphs):
        def record(self, work):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorded(Refusing())
    total = torch.zeros(1)
    step = GraphedStep(lambda x: (total.add_(x).clone(),), "sum of ones", CPU)
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        assert [step(torch.ones(1))[0].item() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert step.reason == "operation not permitted when stream is capturing"
    assert [r.getMessage() for r in caplog.records] == [
        f"sum of ones: its steps are not replayed as a CUDA graph: {step.reason}"
    ]
    recorded(EmulatedGraphs())
    changing = GraphedStep(lambda x: (x.sum(),), "growing", CPU)
    assert [changing(torch.ones(n))[0].item() for n in range(1, 8)] == [1, 2, 3, 4, 5, 6, 7]
    assert changing.reason == "its inputs have more than 4 shapes"
    recorded(None)
    assert GraphedStep(lambda x: (x,), "none", CPU).reason == "cpu has no graphs"


def method(cls: type[Method], kind: str, use: str) -> Method:
    fim = FimConfig(use=use, refresh=4)
    config = dataclasses.replace(CONFIG, fim=fim, lr=5e-3)
    if kind == "points":
        made = [curve(k) for k in range(2)]
        start = curve_start()
    else:
        made = [posed(k, masked=kind == "masked rays") for k in range(2)]
        start = initial_parameters(RAY_SPEC, 1, generator=torch.Generator().manual_seed(1))
    return cls(made, start, config, seed=3)


def after(steps: int, learner: Method) -> dict[str, Tensor]:
    learner.begin(0)
    for step in range(steps):
        learner.step(0, step)
    assert learner.losses is not None or learner.config.fim.use == "sample"
    return learner.state_dict()


CASES = [
    pytest.param(MIMWeight, "points", "weight", id="mim_weight, points"),
    pytest.param(MIMWeight, "rays", "weight", id="mim_weight, rays"),
    pytest.param(MIM, "rays", "sample", id="mim, rays"),
    pytest.param(MIM, "masked rays", "both", id="mim with weights, masked rays"),
]


@pytest.mark.parametrize(("cls", "kind", "use"), CASES)
def test_a_replayed_method_has_the_bits_of_its_steps(recorded, cls, kind, use):
    states, emulated = [], EmulatedGraphs()
    for recorder in (Unrecorded(), emulated):
        recorded(recorder)
        states.append(after(22, method(cls, kind, use)))
    assert emulated.replays >= (2 if use == "sample" else 15)
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    # On the CPU without graphs the same, but for the order of sums over rays, of which none is left out.
    recorded(None)
    plain = after(22, method(cls, kind, use))
    for name, value in states[0].items():
        if kind == "points":
            assert torch.equal(value, plain[name]), name
        elif name.startswith("params"):
            torch.testing.assert_close(value, plain[name], rtol=2e-2, atol=2e-3)


def trainer(kind: str, changes: dict[str, object]) -> MetaTrainer:
    if kind == "oml":
        return make("oml", **changes)
    config = dataclasses.replace(META, **changes)
    return MetaTrainer(init(), TaskEpisodes(kind, tasks(), config), config, 0)


def trained(kind: str, changes: dict[str, object], steps: int = 6) -> MetaTrainer:
    learner = trainer(kind, changes)
    for _ in range(steps):
        learner.step()
    return learner


@pytest.mark.parametrize("name", META_KINDS)
@pytest.mark.parametrize("kind", ["modules", "joint", "oml"])
def test_replayed_meta_training_has_the_bits_of_its_steps(recorded, kind, name):
    if kind == "oml" and "reptile" in name:
        pytest.skip("OML is MAML's")
    emulated = EmulatedGraphs()
    recorded(emulated)
    found = trained(kind, META_KINDS[name])
    assert emulated.replays == 6 - WARM_UP
    recorded(None)
    expected = trained(kind, META_KINDS[name])
    assert found.curve == expected.curve
    tensors, plain = found.state_dict()[0], expected.state_dict()[0]
    assert tensors.keys() == plain.keys()
    for key, value in tensors.items():
        assert torch.equal(value, plain[key]), key


def test_meta_training_by_scores_is_not_replayed(recorded):
    emulated = EmulatedGraphs()
    recorded(emulated)
    trained("modules", {"fim_inner": "weight"})
    trained("modules", {"context": "gradncp"})
    assert emulated.records == 0


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The counted steps. Imported late: the package switches Triton's interpreter off."""
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).resolve().parents[2]))
    return importlib.import_module("benchmarks.launches.cases")


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("name", "kind"), [("mim_weight", "images"), ("mim_weight", "city"), ("mim", "city")])
def test_graphs_of_a_gpu_have_the_bits_of_its_steps(recorded, cases, name, kind):
    learner = cases.method(name, kind, "cuda")
    graph = after(70, learner)
    assert learner._graph.reason is None
    recorded(Unrecorded())
    for key, value in after(70, cases.method(name, kind, "cuda")).items():
        assert torch.equal(value, graph[key]), key


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("name", ["maml", "maml first order", "reptile", "reptile, adam", "oml"])
def test_graphs_of_meta_training_on_a_gpu_have_the_bits_of_its_steps(recorded, cases, name):
    trainers = [cases.trainer(name, "cuda")]
    recorded(Unrecorded())
    trainers.append(cases.trainer(name, "cuda"))
    for learner in trainers:
        for _ in range(6):
            learner.step()
    assert trainers[0]._graph.reason is None
    assert all(map(torch.equal, trainers[0].params, trainers[1].params))


def test_a_copy_from_the_host_is_refused_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"a CUDA graph holds no copy from the host, got one of \[3\]"):
        ops.uploaded(torch.zeros(3), "cuda")
