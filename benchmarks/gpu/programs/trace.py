"""What torch's profiler has seen of a run: launches, waits, copies, how busy the device was, and each kernel."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import torch

WINDOW = "measured"
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaLaunchCooperativeKernel")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cuStreamSynchronize")
COPIES = ("cudaMemcpy", "cudaMemset", "cuMemcpy", "cuMemset")
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
# Of a kernel's arguments in the trace, and how they are called here.
ARGUMENTS = {
    "registers per thread": "registers",
    "shared memory": "shared_bytes",
    "grid": "grid",
    "block": "block",
    "blocks per SM": "blocks_per_multiprocessor",
    "est. achieved occupancy %": "occupancy",
}

Event = dict[str, Any]


@dataclasses.dataclass
class Trace:
    """launches, copies, waits: calls of the host within the window. seconds: of the window, until the device was done.
    busy: the share of them in which the device had work. kernels: by name, with `count`, `us` of one, and `ARGUMENTS`;
    the ones that took the longest in all first."""

    launches: int
    copies: int
    waits: int
    seconds: float
    busy: float
    kernels: list[dict[str, Any]]


def profiled(run: Callable[[], object], device: str) -> Trace:
    """Return the trace of a run on a device that has nothing else to do."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    if device == "cuda":
        torch.cuda.synchronize()
    with profile(activities=activities) as profiler:
        with record_function(WINDOW):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return read(json.loads(path.read_text())["traceEvents"])


def read(events: Iterable[Event]) -> Trace:
    """Return what the events of a trace (microseconds) amount to. Raises ValueError if the window is not among them."""
    spans = [e for e in events if e.get("ph") == "X"]
    window = next((e for e in spans if e["name"] == WINDOW and e.get("cat") == "user_annotation"), None)
    if window is None:
        raise ValueError(f"a trace must hold the window {WINDOW!r}, got {len(spans)} events without it")
    begin, end = window["ts"], window["ts"] + window["dur"]
    calls = [e["name"] for e in spans if e.get("cat") in ("cuda_runtime", "cuda_driver") and begin <= e["ts"] <= end]
    work = sorted((e for e in spans if e.get("cat") in ON_DEVICE and e["ts"] >= begin), key=lambda e: e["ts"])
    busy, until = 0.0, begin
    for event in work:
        last = event["ts"] + event["dur"]
        busy += max(0.0, last - max(event["ts"], until))
        until = max(until, last)
    total = max(end, until) - begin
    return Trace(
        launches=sum(name.startswith(LAUNCHES) for name in calls),
        copies=sum(name.startswith(COPIES) for name in calls),
        # A copy that is not asynchronous waits too.
        waits=sum(name.startswith(WAITS) or name == "cudaMemcpy" for name in calls),
        seconds=total * 1e-6,
        busy=busy / total if total > 0 else 0.0,
        kernels=_kernels(e for e in work if e["cat"] == "kernel"),
    )


def _kernels(events: Iterable[Event]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        known = {key: event["args"][name] for name, key in ARGUMENTS.items() if name in event.get("args", {})}
        row = rows.setdefault(event["name"], {"name": event["name"], "count": 0, "us": 0.0, **known})
        row["us"] = (row["us"] * row["count"] + event["dur"]) / (row["count"] + 1)
        row["count"] += 1
    return sorted(rows.values(), key=lambda row: -row["count"] * row["us"])


def short(name: str) -> str:
    """Return a kernel's name without its namespaces, arguments and templates.

    >>> short("void mclnf::(anonymous namespace)::fit_kernel<float, mclnf::Sgd>(mclnf::Plan)"), short("_forward")
    ('fit_kernel', '_forward')
    """
    head = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    return head.split("(")[0].split("<")[0].split("::")[-1]
