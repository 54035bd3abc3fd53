"""The main job: a city learned block by block, without forgetting, in front of the user's eyes."""

from __future__ import annotations

import functools
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mclnf_fast.errors import InputError
from mclnf_fast.info import info
from mclnf_fast.learn.metrics import steps_to_reach
from mclnf_fast.learn.params import Params
from mclnf_fast.ops import _dispatch
from mclnf_fast.systems import city_data, city_pictures
from mclnf_fast.systems.city_config import METHODS, CityConfig, log_steps, quick_config, read_config, wide_spec
from mclnf_fast.systems.folder import RunFolder, plain
from mclnf_fast.systems.start import learn_start, random_start
from mclnf_fast.systems.stream import Stream

say = functools.partial(print, flush=True)


class _Phases:
    """Seconds of each phase; a phase of a resumed run adds to what it had."""

    def __init__(self, known: dict[str, float]) -> None:
        self.seconds = dict(known)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def run_city(config: CityConfig, command: str | None = None) -> pathlib.Path:
    """Runs the job and returns the run folder.

    Raises InputError on unusable input; whatever ends a run, its folder keeps the last good state and `resume`
    continues it to the same result.
    """
    from mclnf_fast.report import check_extra, matrix_table, summary_markdown, write_report

    check_extra()
    config.check()
    for op in _dispatch.ops():  # a backend that can't serve is told now, not after the data were made
        _dispatch.select(op, config.backend, torch.device(config.device), torch.float32)
    fresh = config.resume is None
    if config.resume is not None:
        known = pathlib.Path(config.resume) if config.resume not in ("", "auto") else config.out
        folder, described = RunFolder.reopen(known, "city")
        config = read_config(described)
    else:
        folder = RunFolder.create(config.out, "city", {**plain(config), "resume": None})
    if config.threads:
        torch.set_num_threads(config.threads)
    folder.clean()
    torch.manual_seed(config.seed)
    state = folder.load_state("run")
    phases = _Phases({} if state is None else state[1]["phases"])
    say(f"run folder: {folder.path}")
    if config.backend != "reference" and (missing := _passed_over(config)):
        say("slow, on the PyTorch reference: " + "; ".join(missing))

    try:
        with phases("data"), progress("city", None) as bar:
            data = city_data.load(config, config.spec, config.settings, bar)
    except InputError:
        if fresh:
            folder.discard()
        raise
    say(f"{data.title}: {len(data.tasks)} blocks, {sum(len(t.pool) for t in data.tasks):,} training rays")
    folder.save_state("run", {}, {"phases": phases.seconds})

    random, start_report = random_start(config.spec, config.seed, config.device), None
    start: Params = random
    if config.start == "city" and set(config.methods) & {"mod", "mim"}:
        with phases("shared start"), progress("shared start", config.meta.steps) as bar:
            start, start_report = learn_start(
                data.meta, config.spec, config.settings, config.meta, folder, config.seed, bar, config.device
            )
        folder.save_state("run", {}, {"phases": phases.seconds})

    streams = _streams(config, data, folder, start, random)
    for k, task in enumerate(data.tasks):
        for name, stream in streams.items():
            label = f"{task.name} ({k + 1}/{len(data.tasks)}) {name}"
            with phases("learning"), progress(label, config.steps) as bar:
                stream.learn(k, bar)
        summary = {name: stream.summary() for name, stream in streams.items()}
        say(matrix_table(summary, [t.name for t in data.tasks], color=sys.stdout.isatty()))
        folder.save_state("run", {}, {"phases": phases.seconds})
        folder.write_lines("metrics.jsonl", _events(streams))

    with phases("pictures"):
        pictures, extra = city_pictures.make(config, data, streams, folder)
    metrics = _metrics(config, data, streams, start_report, phases, pictures, extra, command)
    _save_bank(streams, start, config, data, folder)
    with phases("report"):
        folder.write_json("metrics.json", metrics)
        report = write_report(folder.path, metrics)
    say(summary_markdown(metrics))
    say(f"report: {report}")
    return folder.path


def _where(config: CityConfig) -> tuple[torch.device, torch.dtype]:
    return torch.device(config.device), torch.float32


def _passed_over(config: CityConfig) -> list[str]:
    """Why the networks are left to the reference; nothing where they are not."""
    if _dispatch.select("bank_mlp", config.backend, *_where(config)) != "reference":
        return []
    reasons = [_dispatch.passed_over("bank_mlp", name, *_where(config)) for name in _dispatch.backends("bank_mlp")]
    return [reason for reason in reasons if reason is not None]


def _streams(
    config: CityConfig, data: city_data.CityData, folder: RunFolder, start: Params, random: Params
) -> dict[str, Stream]:
    wide = wide_spec(config.spec, config.spec.num_parameters * len(data.tasks))
    streams: dict[str, Stream] = {}
    for method in (m for m in METHODS if m in config.methods):
        modular = method != "finetune"
        streams[method] = Stream(
            method,
            data.tasks if modular else data.tasks_of_one_network(wide, config.settings),
            {"mod_random": random, "finetune": random_start(wide, config.seed, config.device)}.get(method, start),
            modular,
            config.learner(method),
            log_steps(config.steps),
            folder,
            config.seed,
            city_pictures.step_picture(folder, data),
        )
    return streams


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar with rate and time left; silent where the output is no terminal."""
    from tqdm import tqdm

    with tqdm(total=total, desc=label, disable=None, leave=False, dynamic_ncols=True) as bar:
        yield bar.update


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
            after = {stream.tasks[i].name: v for i, v in enumerate(stream.matrix[k])}
            rows.append({"method": name, "after": block, "psnr": after})
    return rows


def _metrics(
    config: CityConfig,
    data: city_data.CityData,
    streams: dict[str, Stream],
    start: dict[str, Any] | None,
    phases: _Phases,
    pictures: list[dict[str, str]],
    extra: dict[str, Any],
    command: str | None,
) -> dict[str, Any]:
    about = info()
    summary = {name: {**s.summary(), **extra["ssim"].get(name, {})} for name, s in streams.items()}
    comparison: dict[str, Any] = {}
    if {"mod", "mim"} <= set(streams):
        found = {}
        for k, task in enumerate(data.tasks):
            target = streams["mod"].curves[k][config.steps]
            steps, values = zip(*sorted(streams["mim"].curves[k].items()))
            found[task.name] = steps_to_reach(steps, values, target)
        comparison["mim_steps_to_mod_final"] = found
        comparison["mim_over_mod_seconds"] = streams["mim"].seconds / streams["mod"].seconds
    return {
        "title": data.title,
        "blocks": [t.name for t in data.tasks],
        "machine": about["machine"],
        "versions": about["versions"],
        "backends": {op: _dispatch.select(op, config.backend, *_where(config)) for op in _dispatch.ops()},
        "seconds_total": sum(phases.seconds.values()),
        "phases": phases.seconds,
        "meta": start,
        "city": extra["city"],
        "summary": summary,
        "comparison": comparison,
        "pictures": pictures,
        "command": command or "mclnf-fast run city " + shlex.join(sys.argv[3:]),
        "config": json.loads(json.dumps(plain(config))),
        "notes": data.notes,
    }


def _save_bank(
    streams: dict[str, Stream], start: Params, config: CityConfig, data: city_data.CityData, folder: RunFolder
) -> None:
    """The modules of the best modular method as a bank, with the cells in which they live."""
    from mclnf_fast.fields import FieldBank, save_bank

    best = next((streams[m] for m in ("mim", "mod", "mod_random") if m in streams), None)
    if best is None:
        return
    bank = FieldBank(config.spec, 0, init=tuple(p.cpu() for p in start))
    for module in best.finished:
        bank.append(tuple(p.cpu() for p in module))
    cells = {t.name: t.cells.boxes[0].tolist() for t in data.tasks}
    save_bank(folder.path / "bank.safetensors", bank, method=best.name, cells=cells, margin=config.margin)


__all__ = ["CityConfig", "quick_config", "run_city"]
