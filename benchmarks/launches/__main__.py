"""`python -m benchmarks.launches`: launches and waits of a training step on a GPU, by method; no GPU is needed."""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.launches import cases
from benchmarks.launches.device import SimulatedGpu
from mclnf_fast.learn.methods import METHODS


class Row(NamedTuple):
    """What a step of a method starts and waits for."""

    name: str
    launches: float
    waits: float
    calls: int


def of_method(name: str, kind: str) -> tuple[Row, SimulatedGpu]:
    """Count the steps of a method after as many to warm up."""
    # `mim` scores every 16 steps, and its third scoring by Adam becomes a CUDA graph.
    first = cases.STEPS * (5 if name == "mim" else 1)
    with SimulatedGpu() as warm:
        method = cases.method(name, kind, "cuda")
        method.begin(0)
        while method.made < first:
            method.steps(0, first - method.made)
        warm.launches.clear()
        warm.waits.clear()
        calls = 0
        while method.made < first + cases.STEPS:
            method.steps(0, first + cases.STEPS - method.made)
            calls += 1
    return _row(f"{kind}: {name}", warm, cases.STEPS, calls), warm


def of_meta(name: str) -> tuple[Row, SimulatedGpu]:
    """Count two outer steps after three to warm up, of which the last is captured as a CUDA graph."""
    with SimulatedGpu() as gpu:
        trainer = cases.trainer(name, "cuda")
        for _ in range(3):
            trainer.step()
        gpu.launches.clear()
        gpu.waits.clear()
        for _ in range(2):
            trainer.step()
    return _row(f"meta: {name}", gpu, 2, 2), gpu


def _row(name: str, gpu: SimulatedGpu, steps: int, calls: int) -> Row:
    return Row(name, sum(gpu.launches.values()) / steps, sum(gpu.waits.values()) / steps, calls)


def host_ms(begin: Callable[[], Callable[[], None]], steps: int, rounds: int = 5) -> float:
    """Return the CPU time of a step of tiny sizes in ms, mostly that of the way to the kernels: the least of some
    rounds after one to warm up."""
    times = []
    for _ in range(1 + rounds):
        make_steps = begin()
        began = time.process_time()
        make_steps()
        times.append(time.process_time() - began)
    return 1e3 * min(times[1:]) / steps


def method_on_host(name: str, kind: str) -> float:
    """Return `host_ms` of a method's own steps, one after the other, on the CPU."""

    def begin() -> Callable[[], None]:
        method = cases.method(name, kind, "cpu")
        method.begin(0)

        def make_steps() -> None:
            for step in range(cases.STEPS):
                method.step(0, step)

        return make_steps

    return host_ms(begin, cases.STEPS)


def meta_on_host(name: str) -> float:
    """Return `host_ms` of an outer step on the CPU."""
    return host_ms(lambda: cases.trainer(name, "cpu").step, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the names of the rows")
    parser.add_argument("--by-name", action="store_true", help="also what was started, most often first")
    parser.add_argument("--json", type=pathlib.Path, help="file to write the rows to")
    parser.add_argument("--host", action="store_true", help="in place of counts, CPU ms of a step on this machine")
    options = parser.parse_args()
    counted: dict[str, tuple[Callable[[], tuple[Row, SimulatedGpu]], Callable[[], float]]] = {}
    for kind in cases.KINDS:
        for name in METHODS:
            counts, seconds = functools.partial(of_method, name, kind), functools.partial(method_on_host, name, kind)
            counted[f"{kind}: {name}"] = counts, seconds
    for name in cases.META:
        counted[f"meta: {name}"] = functools.partial(of_meta, name), functools.partial(meta_on_host, name)
    rows = []
    for name, (count, on_host) in counted.items():
        if options.only not in name:
            continue
        if options.host:
            print(f"{name:28} {on_host():8.2f} ms", flush=True)
            continue
        row, gpu = count()
        rows.append(row)
        print(f"{row.name:28} {row.launches:8.2f} {row.waits:8.2f} {row.calls:5}", flush=True)
        if options.by_name:
            for title, counter in (("launches", gpu.launches), ("waits", gpu.waits)):
                print(f"    {title}: " + ", ".join(f"{n} {c}" for n, c in counter.most_common()))
    if options.json:
        options.json.write_text(json.dumps({r.name: [r.launches, r.waits, r.calls] for r in rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
