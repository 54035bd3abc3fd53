"""Learn a city block by block, without forgetting, in front of the user's eyes: the main job."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

import torch

from mclnf_fast import ops
from mclnf_fast.learn.meta.episodes import Kind
from mclnf_fast.learn.meta.trainer import MetaTrainer, loss_curve, mean_psnr
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.protocol import Plan, Protocol
from mclnf_fast.metrics import mse_to_psnr
from mclnf_fast.report.record import CityRecord, MetaTraining, Picture
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city import pictures
from mclnf_fast.systems.city.data import CityData, load, random_initialization
from mclnf_fast.systems.city.episodes import BlockEpisodes
from mclnf_fast.systems.city.options import CityConfig, logged_steps, quick_config
from mclnf_fast.systems.city.results import comparison, events, finished_modules, stack, summary
from mclnf_fast.systems.common.checks import wide_spec
from mclnf_fast.systems.common.progress import progress
from mclnf_fast.systems.common.result import SCENE, Result, bank_of
from mclnf_fast.systems.common.run import Run, Stretch, begin, say

KINDS: tuple[Kind, ...] = ("modules", "joint", "oml")
# Of the state, and of the phase, of each; state files were called so when initializations were called starts.
STATES = {"modules": "start", "joint": "start_joint", "oml": "start_oml"}
PHASES = {"modules": "meta-training (modules)", "joint": "meta-training (joint)", "oml": "meta-training (OML)"}


def run_city(config: CityConfig, command: str | None = None) -> pathlib.Path:
    """Run the job and return the run folder.

    Whatever ends a run, its folder keeps the last good state, and `resume` continues it to the same result. Raises
    InputError on unusable input.
    """
    from mclnf_fast.report import block_line, city_text, write_city_report

    run = begin(config, ops.registered(), command)
    config, folder = run.config, run.folder
    # Everything random has a generator of its own; this is for what a method of a plugin may draw.
    torch.manual_seed(config.seed)
    if config.run.backend != "reference" and (missing := _passed_over(config)):
        say("slow, on the PyTorch reference: " + "; ".join(missing))

    with run.reading(), progress("city", None) as bar:
        data = load(config, bar)
    say(f"{data.title}: {len(data.tasks)} blocks, {sum(len(t.pool) for t in data.tasks):,} training rays")
    for note in data.notes:
        say(f"note: {note}")
    run.save_phases()

    # One network with as many parameters as all modules: else the comparison would be one of sizes.
    wide = wide_spec(config.field.spec, config.field.spec.num_parameters * len(data.tasks))
    params, learned = _initializations(run, data, wide)
    protocols = _protocols(run, data, wide, params)
    # Block by block over all methods, not method by method: a user who stops early sees all of them.
    for k, task in enumerate(data.tasks):
        for name, protocol in protocols.items():
            label = f"{task.name} ({k + 1}/{len(data.tasks)}) {name}"
            begins = protocol.goal(k - 1) if k else 0
            for _ in run.advance(protocol, name, Stretch(label, "learning", begins, protocol.goal(k))):
                pass
        rows = {name: summary(protocol) for name, protocol in protocols.items() if protocol.tasks_done}
        say(block_line(rows, task.name, k + 1, len(data.tasks)))
        folder.write_lines("metrics.jsonl", events(protocols))

    say("rendering the pictures of the report")
    with run.phases("pictures"):
        drawn, extra = pictures.make(config, data, protocols, folder)
    record = _record(run, data, protocols, learned, extra)
    _result(protocols, params, wide, run, data).write(folder.path)
    record, report = run.finish(record, lambda *_: [Picture(**picture) for picture in drawn], write_city_report)
    say(city_text(record, color=sys.stdout is not None and sys.stdout.isatty()))
    say(f"report: {report}")
    return folder.path


def _passed_over(config: CityConfig) -> list[str]:
    """Return why the networks are left to the reference; nothing if they are not."""
    where = (torch.device(config.run.device), torch.float32)
    if ops.select("bank_mlp", config.run.backend, *where) != "reference":
        return []
    reasons = [ops.passed_over("bank_mlp", name, *where) for name in ops.backends("bank_mlp")]
    return [reason for reason in reasons if reason is not None]


def _psnr_of_mean(losses: torch.Tensor) -> float:
    """Return the PSNR of all rays in dB: blocks have as many each, and an empty one would count without bound."""
    return float(mse_to_psnr(losses.mean()))


def _initializations(
    run: Run[CityConfig], data: CityData, wide: FieldSpec
) -> tuple[dict[str, Params], dict[str, MetaTraining]]:
    """Return the initializations by name, and what to report of the meta-learned ones.

    `random` and `modules` are of a module, `wide`, `joint` and `oml` of one network; those that are not learned are
    random.
    """
    config, device = run.config, run.config.run.device
    module = random_initialization(config.field.spec, config.seed, device)
    one = random_initialization(wide, config.seed, device)
    # The methods look their initialization up by name; without meta-learning the names share the random ones.
    params = {"random": module, "modules": module, "wide": one, "joint": one, "oml": one}
    learned: dict[str, MetaTraining] = {}
    for kind in (kind for kind in KINDS if kind in config.initializations):
        modular = kind == "modules"
        meta, spec = (config.meta, config.field.spec) if modular else (config.meta_joint, wide)
        trainer = MetaTrainer(
            params[kind],
            BlockEpisodes(kind, data.districts, spec, config.settings, meta, device),
            meta,
            config.seed,
            config.adapt.fast_layers if kind == "oml" else None,
            # As the curves of former versions: their states are resumed.
            score=_psnr_of_mean if modular else mean_psnr,
        )
        run.learn(trainer, STATES[kind], PHASES[kind], PHASES[kind])
        params[kind] = trainer.params
        curve = tuple(loss_curve(trainer.curve))
        learned[kind] = MetaTraining(curve, seconds=trainer.seconds, outer_steps=trainer.made)
    return params, learned


def _protocols(run: Run[CityConfig], data: CityData, wide: FieldSpec, params: dict[str, Params]) -> dict[str, Protocol]:
    """Return the methods over the blocks, each from where a former process left it."""
    config, blocks = run.config, len(data.tasks)
    one = data.tasks_of_one_network(wide, data.settings)
    plan = Plan(config.steps, logged_steps(config.steps), blocks, curves=True)
    protocols: dict[str, Protocol] = {}
    for name, cls in METHODS.items():
        if name not in config.methods:
            continue
        tasks = data.tasks if cls.modular else one
        init = params["wide" if cls.initialization == "random" and not cls.modular else cls.initialization]
        picture = pictures.step_picture(name, run.folder, tasks, cls)
        protocols[name] = Protocol(cls, tasks, init, config.adapting(name), plan, config.seed, picture)
        # All at once, before the first step: a state of another configuration is refused now, not in an hour.
        run.restore(protocols[name], name)
    return protocols


def _record(
    run: Run[CityConfig],
    data: CityData,
    protocols: dict[str, Protocol],
    learned: dict[str, MetaTraining],
    extra: dict[str, Any],
) -> CityRecord:
    """Return the record of the run, but for the pictures and the seconds of the report."""
    methods = {
        name: dataclasses.replace(summary(protocol), **extra["ssim"].get(name, {}))
        for name, protocol in protocols.items()
    }
    return CityRecord(
        **run.facts(),
        title=data.title,
        notes=tuple(data.notes),
        tasks=tuple(t.name for t in data.tasks),
        initializations=learned,
        methods=methods,
        across=extra["city"],
        comparison=comparison(protocols),
        block_facts=data.cover.facts,
    )


def _result(
    protocols: dict[str, Protocol], params: dict[str, Params], wide: FieldSpec, run: Run[CityConfig], data: CityData
) -> Result:
    """Return the modules of the best modular method with the cells in which they live; the network of the first method
    with the hull of all cells if none is modular."""
    best = pictures.best_modules(protocols)
    name = next(iter(protocols)) if best is None else best
    protocol, config = protocols[name], run.config
    modules, settings = stack(finished_modules(protocol)), data.settings
    frame = dataclasses.replace(SCENE, unit=data.unit or SCENE.unit, origin=data.origin)
    if best is None:
        bank, cells = bank_of(wide, protocol.method.init, modules), data.tasks_of_one_network(wide, settings)[0].cells
        return Result(config.kind, bank, ["city"], frame, settings, cells, method=name)
    bank = bank_of(config.field.spec, params["modules"], modules)
    return Result(config.kind, bank, [task.name for task in data.tasks], frame, settings, data.cells, method=name)


__all__ = ["CityConfig", "quick_config", "run_city"]
