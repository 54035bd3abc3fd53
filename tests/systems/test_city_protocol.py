"""A method over a stream of tasks: modules are left alone, one network goes on, and a stop anywhere costs nothing."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_city import OneStep

from mclnf_fast.errors import InputError
from mclnf_fast.learn import FimConfig
from mclnf_fast.learn.methods import ER, EWC, MIM, AdaptConfig, FineTune, Method, Mod, Offline
from mclnf_fast.learn.protocol import Plan, Protocol
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.render.cameras import Cameras, look_at
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city.data import random_initialization
from mclnf_fast.systems.city.results import finished_modules, psnr_curves, psnr_matrix, stack, summary
from mclnf_fast.systems.common import run as module
from mclnf_fast.systems.common.folder import Phases, RunFolder
from mclnf_fast.systems.common.run import Run, Stretch
from mclnf_fast.tasks.rays import PosedImages

SPEC = FieldSpec(3, 4, 8, 1)
CELL = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
STEPS = 9
PLAN = Plan(STEPS, (0, 1, 4, STEPS), 3, curves=True)


@pytest.fixture(autouse=True)
def _one_step_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is a state after each of them, whatever `ops.bank_fit` could make at once."""
    monkeypatch.setattr(module, "Pace", OneStep)


class Stopped(Exception):
    """In place of a kill."""


def task(seed: int) -> PosedImages:
    g = torch.Generator().manual_seed(seed)
    position = torch.nn.functional.normalize(torch.randn(3, 3, generator=g), dim=-1) * 2.5
    cameras = Cameras(look_at(position, torch.zeros(3, 3)), 8.0, 8.0, 4.0, 3.0, 8, 6)
    images = torch.randint(0, 256, (3, 1, 1, 3), generator=g, dtype=torch.uint8).expand(3, 6, 8, 3).contiguous()
    settings = RenderSettings(samples_per_ray=3)
    return PosedImages(f"task {seed}", (images[1:], cameras[1:]), (images[:1], cameras[:1]), CELL, SPEC, settings, 4)


def no_picture(*_: object) -> None:
    """A picture that nobody looks at."""


class Stream:
    """A protocol with its state in a folder, as the city has it."""

    def __init__(self, protocol: Protocol, folder: RunFolder) -> None:
        self.protocol, self.run = protocol, Run(None, folder, Phases({}), (), True)  # type: ignore[type-var]
        self.run.restore(protocol, "toy")

    def learn(self, k: int, advance: Callable[[int], object]) -> None:
        """Learn block k; `advance` gets what was done of it, and then each step."""
        one = self.protocol
        begin = one.goal(k - 1) if k else 0
        if one.goal(k) == begin:
            return
        if one.made < one.goal(k):
            advance(one.made - begin)
        for _ in self.run.advance(one, "toy", Stretch("toy", "learning", begin, one.goal(k))):
            advance(1)

    @property
    def matrix(self) -> Any:
        return psnr_matrix(self.protocol)

    @property
    def curves(self) -> Any:
        return psnr_curves(self.protocol)

    @property
    def modules(self) -> Any:
        return finished_modules(self.protocol)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)


def new_stream(path: pathlib.Path, cls: type[Method] = MIM, fim: Any = "sample", picture: Any = no_picture) -> Stream:
    config = AdaptConfig(
        batch=12,
        lr=1e-2,
        schedule="exponential",
        lr_end=1e-3,
        warm_steps=0,
        memory=30,
        fim=FimConfig(use=fim, refresh=2),
    )
    tasks = [task(k) for k in range(3)]
    init = random_initialization(SPEC, 0)
    return Stream(Protocol(cls, tasks, init, config, PLAN, 0, picture), RunFolder(path))


def learn_all(stream: Stream, advance: Callable[[int], object] = lambda _: None) -> Stream:
    for k in range(3):
        stream.learn(k, advance)
    return stream


def assert_same(a: Stream, b: Stream) -> None:
    assert a.matrix == b.matrix
    assert a.curves == b.curves
    for first, second in zip(a.modules, b.modules, strict=True):
        for x, y in zip(first, second, strict=True):
            assert torch.equal(x, y)


def test_modules_are_never_touched_again_and_one_network_is(tmp_path):
    modules, one = new_stream(tmp_path / "a"), new_stream(tmp_path / "b", FineTune)
    modules.learn(0, lambda _: None)
    first = [p.clone() for p in modules.params_of(0)]
    learn_all(modules)
    learn_all(one)
    assert all(torch.equal(a, b) for a, b in zip(first, modules.params_of(0)))
    assert (len(modules.modules), len(one.modules)) == (3, 1)
    for k in range(3):
        assert modules.matrix[k][: k + 1] == [modules.matrix[i][i] for i in range(k + 1)]
    assert one.matrix[2][0] != one.matrix[0][0]
    assert all(torch.equal(a, b) for a, b in zip(one.params_of(0), one.params_of(2)))


def test_every_module_starts_at_the_shared_start_and_one_network_where_it_was(tmp_path):
    modules, one = learn_all(new_stream(tmp_path / "a")), learn_all(new_stream(tmp_path / "b", FineTune))
    start = random_initialization(SPEC, 0)
    for k in range(3):
        assert modules.curves[k][0] == modules.tasks[k].evaluate(start).item()
    after_first = new_stream(tmp_path / "c", FineTune)
    after_first.learn(0, lambda _: None)
    assert one.curves[1][0] == one.tasks[1].evaluate(after_first.params_of(0)).item()


CASES = [
    (Mod, "none"),
    (MIM, "sample"),
    (MIM, "both"),
    (FineTune, "none"),
    (ER, "none"),
    (EWC, "none"),
    (Offline, "none"),
]


@pytest.mark.parametrize(("cls", "fim"), CASES)
def test_stopped_after_any_step_it_goes_on_to_the_same_bits(tmp_path, monkeypatch, cls, fim):
    """Stopped after every third step, whatever task it is in, each time by an exception out of the loop."""
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    whole = learn_all(new_stream(tmp_path / "whole", cls, fim))
    left = [0]

    def advance(steps: int) -> None:
        left[0] -= steps == 1
        if left[0] < 0:
            raise Stopped

    stops = 0
    while True:
        left[0] = 3
        stream = new_stream(tmp_path / "stopped", cls, fim)
        try:
            learn_all(stream, advance)
        except Stopped:
            stops += 1
            continue
        break
    assert stops > 5
    assert_same(stream, whole)


def test_without_a_save_within_a_task_it_starts_that_task_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", float("inf"))
    whole = learn_all(new_stream(tmp_path / "whole"))
    stream = new_stream(tmp_path / "stopped")
    stream.learn(0, lambda _: None)

    def stop(steps: int) -> None:
        if stream.method.task == 1 and stream.method.made == 5:
            raise Stopped

    with pytest.raises(Stopped):
        stream.learn(1, stop)
    again = new_stream(tmp_path / "stopped")
    assert again.tasks_done == 1
    assert_same(learn_all(again), whole)


def test_progress_counts_every_step_once_also_when_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    counted = []
    stream = new_stream(tmp_path)

    def stop(steps: int) -> None:
        if stream.method.made == 5:
            raise Stopped

    with pytest.raises(Stopped):
        stream.learn(0, stop)
    new_stream(tmp_path).learn(0, counted.append)
    assert counted[0] == 4  # the step in which it was stopped had not been saved
    assert sum(counted) == STEPS


def test_pictures_are_asked_for_at_the_start_and_each_logged_step(tmp_path):
    asked: list[tuple[int, int]] = []
    learn_all(new_stream(tmp_path, picture=lambda *a: asked.append(a[:2])))
    assert asked == [(k, step) for k in range(3) for step in (0, 1, 4, STEPS)]


def test_offline_meets_all_blocks_at_once_with_the_steps_of_all(tmp_path, monkeypatch):
    stream = new_stream(tmp_path, Offline)
    counted: list[int] = []
    stream.learn(0, counted.append)
    stream.learn(1, counted.append)
    assert (counted, stream.tasks_done) == ([], 0)
    drawn: list[Any] = []
    one = stream.method.tasks[0]
    batch = one.pool.batch
    monkeypatch.setattr(one.pool, "batch", lambda ids: drawn.append(ids) or batch(ids))
    stream.learn(2, counted.append)
    assert sum(counted) == len(drawn) == 3 * STEPS
    ids = torch.cat(drawn)
    rays = len(stream.tasks[0].pool)
    assert [int(((ids >= k * rays) & (ids < (k + 1) * rays)).sum()) > 60 for k in range(3)] == [True] * 3
    assert [list(c) for c in stream.curves] == [[0, 1, 4, STEPS]] * 3
    assert stream.matrix[:2] == [[None] * 3] * 2
    assert stream.matrix[2] == [stream.curves[k][STEPS] for k in range(3)]
    assert stream.method.rate(3 * STEPS - 1) == pytest.approx(1e-3)
    found = dataclasses.asdict(summary(stream.protocol))
    assert found["forgetting"] is found["psnr_first_task_after_own"] is None
    assert found["psnr_mean"] == sum(stream.matrix[2]) / 3
    assert (found["steps_per_block"], found["steps_total"]) == (STEPS, 3 * STEPS)


def test_replay_and_consolidation_act_from_the_second_block_on(tmp_path):
    plain = learn_all(new_stream(tmp_path / "plain", FineTune))
    for cls in (ER, EWC):
        other = learn_all(new_stream(tmp_path / cls.__name__, cls))
        assert other.matrix[0] == plain.matrix[0]
        assert other.matrix[1] != plain.matrix[1]


def test_the_summary(tmp_path):
    stream = learn_all(new_stream(tmp_path, FineTune))
    found = dataclasses.asdict(summary(stream.protocol))
    last = stream.matrix[2]
    assert found["psnr_mean"] == sum(last) / 3
    assert found["psnr_first_task_after_own"] == stream.matrix[0][0]
    assert found["psnr_first_task_after_all"] == last[0]
    assert found["forgetting"] == pytest.approx(sum(stream.matrix[i][i] - last[i] for i in range(3)) / 3)
    assert list(found["psnr_at_step"]) == [0, 1, 4, 9]
    assert found["matrix"][0] == (stream.matrix[0][0], None, None)
    assert found["parameters"] == SPEC.num_parameters


def test_a_state_of_another_architecture_or_stream_is_refused(tmp_path):
    stream = learn_all(new_stream(tmp_path))
    wide = FieldSpec(3, 4, 9, 1)
    config = stream.method.config
    with pytest.raises(InputError, match=r"must be the state of this configuration.*must be \(1, 3, 9\) like its"):
        Stream(Protocol(MIM, stream.tasks, random_initialization(wide, 0), config, PLAN, 0), stream.run.folder)
    with pytest.raises(InputError, match="at most 2 tasks can be done, got 3"):
        Stream(Protocol(MIM, stream.tasks[:2], random_initialization(SPEC, 0), config, PLAN, 0), stream.run.folder)


def test_stacked_modules_are_a_bank():
    modules = [random_initialization(SPEC, k) for k in range(3)]
    bank = stack(modules)
    assert [tuple(p.shape) for p in bank] == [(3, 3, 8), (3, 8, 4), (3, 8), (3, 4)]
    assert torch.equal(bank[0][1:2], modules[1][0])
