"""Measure the peak memory of one training step of every method, in a process of its own.

The peak of the resident set (VmHWM), reset just before the step, less what was resident then; on a GPU what torch's
allocator had handed out. The process is started so that malloc returns what is freed, and keeps no pool: the figure is
what a step holds, not what an allocator kept. Of S signals side by side, as in the run.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import pathlib
import subprocess
import sys

import torch

import mclnf_fast
from mclnf_fast.data.cut import Cut
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.learn.task import join
from mclnf_fast.systems.common.config_file import from_plain
from mclnf_fast.systems.common.folder import plain
from mclnf_fast.systems.signals.options import CONFIGS, SignalConfig
from mclnf_fast.tasks.coords import CoordTask

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "MCLNF_FAST_POOL_MB": "0",
}
SAMPLES = 1 << 14  # of a task's pool, which is no part of a step


def measure_steps(config: SignalConfig, channels: int, signals: int, cut: Cut) -> dict[str, int]:
    """Return the bytes of a step of each method; nothing if the system does not report them."""
    question = {"kind": config.kind, "config": plain(config), "channels": channels, "signals": signals}
    question |= {"cut": dataclasses.asdict(cut), "threads": torch.get_num_threads()}
    root = str(pathlib.Path(mclnf_fast.__file__).resolve().parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mclnf_fast.systems.signals.step_memory"],
        input=json.dumps(question),
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return {}
    peaks: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return peaks


def _peak_of_step(config: SignalConfig, name: str, channels: int, signals: int, cut: Cut) -> int | None:
    cls, adapt = METHODS[name], config.adapting()
    spec = config.spec(channels, cut.tasks, cls.modular)
    count = min(SAMPLES, cut.coordinates(0, "local").shape[0])
    device, backend = config.run.device, config.run.backend
    x, y = (
        torch.rand(count, config.signals.axes, dtype=torch.float32) * 2 - 1,
        torch.rand(signals, count, channels, dtype=torch.float32),
    )
    tasks = [CoordTask(str(k), x.to(device), y.to(device), spec, backend) for k in range(2)]
    method = cls([join(tasks)] if cls.joint else tasks, initial_parameters(spec, 1, device=device), adapt, 0)
    for k in range(len(method.tasks)):  # the second task has what a method remembers of the first
        method.begin(k)
        steps = adapt.warm_steps + adapt.fim.refresh + 1
        for step in range(steps):
            method.step(k, step)
        if k < len(method.tasks) - 1:
            method.finish(k)
    step = -(-steps // adapt.fim.refresh) * adapt.fim.refresh  # one that scores
    gc.collect()
    if torch.device(config.run.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(config.run.device)
        before = torch.cuda.memory_allocated(config.run.device)
        method.step(k, step)
        return int(torch.cuda.max_memory_allocated(config.run.device) - before)
    try:
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        before = _status("VmHWM")
    except (OSError, AttributeError):
        return None
    method.step(k, step)
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def main() -> None:
    """Read what to measure from standard input and print {method: bytes}."""
    question = json.load(sys.stdin)
    torch.set_num_threads(question["threads"])
    config = from_plain(CONFIGS[question["kind"]], question["config"])
    cut = Cut(*(tuple(question["cut"][key]) for key in ("grid", "parts", "span", "box_span")))
    peaks = {
        name: _peak_of_step(config, name, question["channels"], question["signals"], cut) for name in config.methods
    }
    print(json.dumps({name: peak for name, peak in peaks.items() if peak is not None}))


if __name__ == "__main__":
    main()
