"""Milliseconds of a step of `mod`, `mod_even` and `mim`, in turn: `python -m benchmarks.guided_steps --out FILE`.

12 signals side by side from a random initialization, steps made as `run image` makes them. CPU time on one thread, the
median of nine blocks of 128 steps; about two minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from typing import Any

import torch

from benchmarks import machine
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import METHODS, AdaptConfig, Method, ModEven
from mclnf_fast.learn.sampling.even import hilbert_order
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask, pixel_places

METHODS_IN_TURN: dict[str, type[Method]] = {"mod": METHODS["mod"], "mod_even": ModEven, "mim": METHODS["mim"]}
SIGNALS, ROUNDS, BLOCK = 12, 9, 128
SIDES, WIDTHS, BATCHES = (48, 89), (32, 64), (128, 256)


def task(width: int, side: int) -> CoordTask:
    """Return pictures of waves."""
    generator = torch.Generator().manual_seed(0)
    x = pixel_places(side, side)
    waves = 20 * torch.rand(SIGNALS, 2, 6, generator=generator)
    y = 0.5 + 0.5 * torch.sin(x @ waves).mean(-1, keepdim=True)
    return CoordTask("waves", x, y, FieldSpec(2, 1, width, 3, "sine", w0=30.0), curve=hilbert_order((side, side)))


def measure(width: int, side: int, batch: int, rounds: int = ROUNDS, block: int = BLOCK) -> dict[str, Any]:
    """Return the milliseconds of a step of every method."""
    given, config = task(width, side), AdaptConfig(batch=batch, fim=FimConfig(use="sample"))
    init = initial_parameters(given.spec, 1, generator=torch.Generator().manual_seed(1))
    methods = {name: cls([given], init, dataclasses.replace(config), 0) for name, cls in METHODS_IN_TURN.items()}
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for k in range(rounds + 1):  # the first, with the steps by SGD, is thrown away
        for name, method in methods.items():
            if k == 0:
                method.begin(0)
            end, began = (k + 1) * block, time.process_time()
            while method.made < end:
                method.steps(0, end - method.made)
            spent[name].append((time.process_time() - began) / block * 1e3)
    ms = {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}
    against = {f"{name} / mod": round(ms[name] / ms["mod"], 3) for name in ("mod_even", "mim")}
    row = {"width": width, "points": side * side, "batch": batch}
    return row | {name: round(value, 3) for name, value in ms.items()} | against


def main() -> None:
    """Measure all sizes and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the file")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows = []
    for width in WIDTHS:
        for side in SIDES:
            for batch in BATCHES:
                rows.append(measure(width, side, batch))
                print(rows[-1], flush=True)
    command = "python -m benchmarks.guided_steps"
    result = {"command": command, **machine.commit(), "cpu": machine.cpu(), "threads": 1, "rows": rows}
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
