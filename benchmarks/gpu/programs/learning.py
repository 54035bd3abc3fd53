"""Twenty steps of the quick city and of the quick images under the profiler: launches, waits, how busy the device is.

`python -m benchmarks.gpu.programs.learning cuda`: a line of JSON per method. The steps are made as `mclnf-fast run`
makes them, from a random initialization.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import types
from collections.abc import Sequence
from typing import Annotated, Any

from benchmarks.gpu.programs import trace
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.learn.methods.base import Method

JOBS = ("city mod", "city mim", "city finetune", "image mod", "image mim", "image finetune")
WARM, STEPS = 8, 20
KERNELS = 6  # that are named


def without_tyro() -> None:
    """Let the options of the systems be imported where tyro, which only reads command lines, is not installed."""
    if importlib.util.find_spec("tyro") is not None:
        return

    class OmitArgPrefixes:
        def __class_getitem__(cls, item: Any) -> Any:
            return Annotated[item, "without a prefix"]

    conf = types.ModuleType("tyro.conf")
    vars(conf).update(OmitArgPrefixes=OmitArgPrefixes, arg=lambda **options: None)
    sys.modules.update({"tyro": types.ModuleType("tyro"), "tyro.conf": conf})


def method_of(job: str, device: str) -> Method:
    """Return the method over the first task of a quick run, such as `city mim`."""
    without_tyro()
    system, name = job.split()
    cls = METHODS[name]
    if system == "city":
        from mclnf_fast.systems.city.data import load as load_city
        from mclnf_fast.systems.city.data import random_initialization as initial
        from mclnf_fast.systems.city.options import quick_config as quick_city
        from mclnf_fast.systems.common.checks import wide_spec

        city = dataclasses.replace(quick_city(), init="random")
        city = dataclasses.replace(city, run=dataclasses.replace(city.run, device=device))
        blocks = load_city(city, lambda count: None)
        spec = city.field.spec
        if not cls.modular:
            spec = wide_spec(spec, spec.num_parameters * len(blocks.tasks))
        tasks = blocks.tasks if cls.modular else blocks.tasks_of_one_network(spec, blocks.settings)
        return cls(tasks, initial(spec, city.seed, device), city.adapting(name), city.seed)
    from mclnf_fast.systems.signals import data
    from mclnf_fast.systems.signals.options import quick_config

    config = quick_config("image")
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, device=device))
    sets = data.load(config)
    cut = data.cut_of(config, sets)
    network = config.spec(sets.test.values.shape[-1], cut.tasks, modular=cls.modular)
    signals = data.tasks_of(config, cut, sets.test, network, "local" if cls.modular else "global")
    init = data.random_initialization(config, network, config.seeds[0])
    return cls(signals, init, config.adapting(), config.seeds[0])


def report(job: str, device: str, warm: int = WARM, steps: int = STEPS) -> dict[str, Any]:
    """Return what `steps` steps take, after `warm` others."""
    method = method_of(job, device)
    method.begin(0)

    def until(last: int) -> None:
        while method.made < last:
            method.steps(0, last - method.made)

    until(warm)
    seen = trace.profiled(lambda: until(warm + steps), device)
    kernels = [{**row, "name": trace.short(row["name"])} for row in seen.kernels[:KERNELS]]
    return {
        "name": job,
        "steps": steps,
        "launches": seen.launches / steps,
        "copies": seen.copies / steps,
        "waits": seen.waits / steps,
        "busy": seen.busy,
        "ms": seen.seconds / steps * 1e3,
        "kernels": kernels,
    }


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 all is well, 1 a job broke."""
    code = 0
    for job in JOBS if arguments[0] == "cuda" else JOBS[::3]:  # on a CPU: does it hold together?
        try:
            row = report(job, arguments[0])
        except Exception as error:  # the others go on
            row, code = {"name": job, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}, 1
        print(json.dumps(row), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
