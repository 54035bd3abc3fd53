"""Methods and kinds of task from outside the package."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator

import pytest
import torch

from mclnf_fast.cli import main
from mclnf_fast.errors import InputError
from mclnf_fast.learn import DrawnEpisodes, MetaConfig, MetaTrainer, Plan, Protocol
from mclnf_fast.learn.methods import ER, EWC, METHODS, MIM, AdaptConfig, FineTune, Method, Mod, Offline
from mclnf_fast.learn.methods import table as module
from mclnf_fast.learn.methods.table import BUILT_IN, MethodTable, check_methods, entry_of

PLUGINS = pathlib.Path(__file__).resolve().parents[1] / "plugins"


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setattr(METHODS, "_complete", False)
    yield
    if "anchored" in METHODS.entries:
        METHODS.remove("anchored")


def broken(folder: pathlib.Path, entry: str, code: str = "") -> str:
    """A package whose one entry point is `entry`."""
    info = folder / "bad_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mclnf_fast.methods]\n{entry}\n")
    (folder / "bad_method_module.py").write_text(code)
    return str(folder)


def test_a_method_from_outside_is_run_like_the_others(plugins, tmp_path):
    from toy_plugins.method import ANCHORED, Anchored

    assert list(METHODS)[-1] == "anchored"
    assert METHODS["anchored"] is Anchored
    assert METHODS.entries["anchored"] == ANCHORED
    out = tmp_path / "run"
    words = ["--size", "16", "--limit", "4", "--steps", "2", "--width", "8", "--hidden-layers", "1", "--threads", "1"]
    assert main(["run", "image", "--out", str(out), *words, "--methods", "anchored", "finetune"]) == 0
    methods = json.loads((out / "metrics.json").read_text())["seeds"]["0"]["methods"]
    assert set(methods) == {"anchored", "finetune"}
    assert methods["anchored"]["category"] == "CL"
    assert methods["anchored"]["curve"]["psnr"]["2"] != methods["finetune"]["curve"]["psnr"]["2"]


@pytest.mark.parametrize(
    ("entry", "code", "part"),
    [
        ("odd = no_such_module:ODD", "", "ModuleNotFoundError"),
        ("odd = bad_method_module:ODD", "ODD = 3", "must be a subclass of Method, got 3"),
        (
            "mim = bad_method_module:ODD",
            "from mclnf_fast.learn.methods import Mod as ODD",
            "name of a method must be new",
        ),
    ],
)
def test_a_broken_plugin_is_named(tmp_path, monkeypatch, entry, code, part):
    monkeypatch.syspath_prepend(broken(tmp_path, entry, code))
    monkeypatch.delitem(__import__("sys").modules, "bad_method_module", raising=False)
    table = MethodTable(BUILT_IN)
    assert list(table) == [one.name for one in BUILT_IN], "it disturbs no other method"
    (line,) = table.broken.values()
    assert re.search(f"plugin .* of the package bad-plugin is broken: .*{part}", line)
    monkeypatch.setattr(module, "METHODS", table)
    check_methods(["mod"])
    with pytest.raises(InputError, match=f"got lost; plugin .* of the package bad-plugin is broken: .*{part}"):
        check_methods(["mod", "lost"])


def test_a_program_adds_a_method_without_a_package():
    class Slow(FineTune):
        """Fine-tuning at a tenth of the rate."""

        def rate(self, step: int) -> float:
            return super().rate(step) / 10

    table = MethodTable(BUILT_IN)
    table.add(entry_of("slow", Slow))
    assert table["slow"] is Slow
    assert table.entries["slow"].sentence == "Fine-tuning at a tenth of the rate"
    with pytest.raises(InputError, match="name of a method must be new, got mod, which"):
        table.add(entry_of("mod", Slow))
    with pytest.raises(InputError, match="name of a method must be small letters"):
        entry_of("Slow!", Slow)
    with pytest.raises(InputError, match=r"methods must be among .*, got slow$"):
        check_methods(["mod", "slow"])
    with pytest.raises(InputError, match="color of method mod must be #rrggbb, got 'red'"):
        dataclasses.replace(METHODS.entries["mod"], color="red")


def lines(plugins: None, count: int = 2, modules: int = 3):
    from toy_plugins.task import LineTask

    g = torch.Generator().manual_seed(0)
    x = torch.rand(count, modules, 40, generator=g) * 2 - 1
    slopes = torch.tensor([1.0, -1.0, 0.5])[:modules, None]
    return [LineTask(f"line {k}", x[k], slopes * x[k] + k) for k in range(count)]


ZERO = (torch.zeros(1, 1), torch.zeros(1, 1))
CONFIG = AdaptConfig(batch=16, lr=5e-2, warm_steps=0)


@pytest.mark.parametrize("cls", [FineTune, ER, Mod, Offline])
def test_a_task_without_points_is_learned_by_methods_that_need_none(plugins, cls: type[Method]):
    tasks = lines(plugins)
    protocol = Protocol(cls, tasks, ZERO, CONFIG, Plan(60, (0, 60), 2, curves=True), 0)
    while not protocol.done:
        protocol.step()
    last = protocol.matrix[-1]
    assert len(last) == 2
    assert last[1] is not None
    assert len(last[1]) == 3  # one quality per signal
    if cls in (ER, Offline):  # one line for both tasks, which are 1 apart
        assert min(*last[0], *last[1]) > -0.4
    else:
        assert min(last[1]) > -0.01  # the task that was just learned
        assert (min(last[0]) > -0.01) == cls.modular
    tensors, meta = protocol.state_dict()
    again = Protocol(cls, tasks, ZERO, CONFIG, Plan(60, (0, 60), 2, curves=True), 0)
    again.load_state_dict(tensors, json.loads(json.dumps(meta)))
    assert again.done
    assert again.matrix == protocol.matrix


@pytest.mark.parametrize("cls", [MIM, EWC])
def test_a_method_that_needs_scores_refuses_it(plugins, cls: type[Method]):
    with pytest.raises(InputError, match=r"needs tasks with Fisher scores, got LineTask without items, draw_in"):
        Protocol(cls, lines(plugins), ZERO, CONFIG, Plan(1), 0)


def test_an_initialization_of_it_is_meta_learned(plugins):
    task = lines(plugins, count=1)[0]

    def draw(chosen, generator):
        return lambda params, step: task.loss(params, task.draw(8, generator, chosen))

    config = MetaConfig(steps=80, inner_lr=0.3, inner_steps=2, outer_lr=2e-2)
    trainer = MetaTrainer(ZERO, DrawnEpisodes(3, draw, 3), config, 0)
    while not trainer.done:
        trainer.step()
    assert float(trainer.params[0]) == pytest.approx(0.5 / 3, abs=0.1)  # the mean slope
