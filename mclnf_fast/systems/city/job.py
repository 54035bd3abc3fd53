"""The main job: a city learned block by block, without forgetting, in front of the user's eyes."""

from __future__ import annotations

import pathlib
import sys
from typing import Any, Literal

import torch

from mclnf_fast import ops
from mclnf_fast.learn.params import Params
from mclnf_fast.metrics import steps_to_reach
from mclnf_fast.report.record import CityRecord, CityResults, Comparison, MetaTraining, Picture, from_json
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city import data as city_data
from mclnf_fast.systems.city import pictures as city_pictures
from mclnf_fast.systems.city.options import METHODS, CityConfig, log_steps, quick_config, read_config
from mclnf_fast.systems.city.start import learn_start, random_start
from mclnf_fast.systems.city.stream import Stream
from mclnf_fast.systems.city.wide_start import WideStart, learn_wide_start
from mclnf_fast.systems.common.checks import wide_spec
from mclnf_fast.systems.common.folder import RunFolder, progress
from mclnf_fast.systems.common.run import Run, begin, say

WIDE_KINDS: tuple[Literal["joint", "oml"], ...] = ("joint", "oml")


def run_city(config: CityConfig, command: str | None = None) -> pathlib.Path:
    """Runs the job and returns the run folder.

    Raises InputError on unusable input; whatever ends a run, its folder keeps the last good state and `resume`
    continues it to the same result.
    """
    from mclnf_fast.report import matrix_table, summary_markdown, write_city_report

    run = begin(config, ops.registered(), read_config, command)
    config, folder, phases = run.config, run.folder, run.phases
    torch.manual_seed(config.seed)
    if config.backend != "reference" and (missing := _passed_over(config)):
        say("slow, on the PyTorch reference: " + "; ".join(missing))

    with run.reading(), progress("city", None) as bar:
        data = city_data.load(config, config.spec, config.settings, bar)
    say(f"{data.title}: {len(data.tasks)} blocks, {sum(len(t.pool) for t in data.tasks):,} training rays")
    run.save_phases()

    wide = wide_spec(config.spec, config.spec.num_parameters * len(data.tasks))
    starts, learned = _starts(run, data, wide)
    streams = _streams(config, data, folder, wide, starts)
    for k, task in enumerate(data.tasks):
        for name, stream in streams.items():
            label = f"{task.name} ({k + 1}/{len(data.tasks)}) {name}"
            with phases("learning"), progress(label, config.steps) as bar:
                stream.learn(k, bar)
        summary = {n: from_json(CityResults, s.summary()) for n, s in streams.items() if s.tasks_done}
        say(matrix_table(summary, [t.name for t in data.tasks], color=sys.stdout.isatty()))
        run.save_phases()
        folder.write_lines("metrics.jsonl", _events(streams))

    with phases("pictures"):
        pictures, extra = city_pictures.make(config, data, streams, folder)
    record = _metrics(run, data, streams, learned, extra)
    _save_bank(streams, starts["modules"], config, data, folder)
    record, report = run.finish(record, lambda *_: [Picture(**picture) for picture in pictures], write_city_report)
    say(summary_markdown(record))
    say(f"report: {report}")
    return folder.path


def _where(config: CityConfig) -> tuple[torch.device, torch.dtype]:
    return torch.device(config.device), torch.float32


def _passed_over(config: CityConfig) -> list[str]:
    """Why the networks are left to the reference; nothing where they are not."""
    if ops.select("bank_mlp", config.backend, *_where(config)) != "reference":
        return []
    reasons = [ops.passed_over("bank_mlp", name, *_where(config)) for name in ops.backends("bank_mlp")]
    return [reason for reason in reasons if reason is not None]


def _starts(
    run: Run[CityConfig], data: city_data.CityData, wide: FieldSpec
) -> tuple[dict[str, Params], dict[str, Any]]:
    """The starts by name, random where none is learned: `random` and `modules` of a module, `wide`, `joint` and `oml`
    of one network. And what to report of the learned ones."""
    config, folder, phases = run.config, run.folder, run.phases
    module = random_start(config.spec, config.seed, config.device)
    one = random_start(wide, config.seed, config.device)
    starts = {"random": module, "modules": module, "wide": one, "joint": one, "oml": one}
    learned: dict[str, Any] = {}
    if "modules" in config.starts:
        blocks = [block for district in data.districts for block in district]
        with phases("shared start"), progress("shared start", config.meta.steps) as bar:
            starts["modules"], learned["modules"] = learn_start(
                blocks, config.spec, config.settings, config.meta, folder, config.seed, bar, config.device
            )
        run.save_phases()
    for kind in (k for k in WIDE_KINDS if k in config.starts):
        with phases(f"start {kind}"), progress(f"start {kind}", config.wide.steps) as bar:
            start = WideStart(
                kind,
                data.districts,
                wide,
                config.settings,
                config.wide,
                config.seed,
                config.fast_layers,
                config.device,
            )
            starts[kind], learned[kind] = learn_wide_start(start, folder, bar)
        run.save_phases()
    return starts, learned


def _streams(
    config: CityConfig, data: city_data.CityData, folder: RunFolder, wide: FieldSpec, starts: dict[str, Params]
) -> dict[str, Stream]:
    one = data.tasks_of_one_network(wide, config.settings)
    streams: dict[str, Stream] = {}
    for method, cls in METHODS.items():
        if method in config.methods:
            streams[method] = Stream(
                method,
                cls,
                data.tasks if cls.modular else one,
                starts["wide" if cls.start == "random" and not cls.modular else cls.start],
                config.adapting(method),
                config.steps,
                log_steps(config.steps),
                folder,
                config.seed,
                city_pictures.step_picture(folder, data.tasks if cls.modular else one, cls),
            )
    return streams


def _events(streams: dict[str, Stream]) -> list[dict[str, Any]]:
    """One line a logged step and a line a block's end, in the order in which they happened."""
    rows: list[dict[str, Any]] = []
    for k in range(max(s.tasks_done for s in streams.values())):
        for name, stream in streams.items():
            if k >= stream.tasks_done:  # a resumed run: this method was not as far as the others
                continue
            block = stream.tasks[k].name
            rows += [
                {"method": name, "block": block, "step": step, "psnr": value}
                for step, value in sorted(stream.curves[k].items())
            ]
            after = {stream.tasks[i].name: v for i, v in enumerate(stream.matrix[k]) if v is not None}
            if after:
                rows.append({"method": name, "after": block, "psnr": after})
    return rows


def _metrics(
    run: Run[CityConfig],
    data: city_data.CityData,
    streams: dict[str, Stream],
    learned: dict[str, Any],
    extra: dict[str, Any],
) -> CityRecord:
    """Return the record of the run, but for the pictures and the seconds of the report."""
    rows = {name: {**s.summary(), **extra["ssim"].get(name, {})} for name, s in streams.items()}
    initializations = {
        name: MetaTraining(tuple(map(tuple, row["curve"])), seconds=row["seconds"], outer_steps=row["steps"])
        for name, row in learned.items()
    }
    return CityRecord(
        **run.facts(),
        title=data.title,
        notes=tuple(data.notes),
        tasks=tuple(t.name for t in data.tasks),
        initializations=initializations,
        methods={name: from_json(CityResults, row) for name, row in rows.items()},
        across=extra["city"],
        comparison=_comparison(run.config.steps, data, streams),
    )


def _comparison(last: int, data: city_data.CityData, streams: dict[str, Stream]) -> Comparison | None:
    """Return `mim` against `mod`, whose final PSNR is that after `last` steps; None if one of them did not run."""
    if not {"mod", "mim"} <= set(streams):
        return None
    first_steps = {}
    for k, task in enumerate(data.tasks):
        steps, values = zip(*sorted(streams["mim"].curves[k].items()))
        first_steps[task.name] = steps_to_reach(steps, values, streams["mod"].curves[k][last])
    return Comparison(first_steps, streams["mim"].seconds / streams["mod"].seconds)


def _save_bank(
    streams: dict[str, Stream], start: Params, config: CityConfig, data: city_data.CityData, folder: RunFolder
) -> None:
    """The modules of the best modular method as a bank, with the cells in which they live."""
    from mclnf_fast.fields import FieldBank, save_bank

    best = city_pictures.best_modules(streams)
    if best is None:
        return
    bank = FieldBank(config.spec, 0, init=tuple(p.cpu() for p in start))
    for module in best.modules:
        bank.append(tuple(p.cpu() for p in module))
    cells = {t.name: t.cells.boxes[0].tolist() for t in data.tasks}
    save_bank(folder.path / "bank.safetensors", bank, method=best.name, cells=cells, margin=config.margin)


__all__ = ["CityConfig", "quick_config", "run_city"]
