"""Which samples shall a step take? Uniform and even draws, ours by Fisher scores, and selectors of the literature, in
the same run: `python -m benchmarks.sampling_peers STAGE image DIR` or `audio DIR`.

Modules of width 32 on a quarter of each signal, side by side, 512 steps of 128 samples. `tune` tries five to seven
settings of each sampler (its own options and Adam's rate) on signals that are neither meta-trained on nor tested on,
`compare` runs the best ones in turn on the test signals on one thread; each adds to
`benchmarks/results/sampling_peers.json`, of which `table` writes `docs/results/sampling_peers.md`. With --random from a
random initialization. A stage takes two to four minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import shlex
import statistics
import subprocess
import sys
from typing import Any

import torch

from benchmarks import steps_to_psnr
from benchmarks.sampling import measure, report
from benchmarks.sampling.contenders import CONTENDERS, Contender, Place
from benchmarks.sampling.measure import Curve, Setting
from mclnf_fast.data.signals import Signals
from mclnf_fast.fields import initial_parameters
from mclnf_fast.info import info
from mclnf_fast.learn.methods import AdaptConfig
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.even import hilbert_order
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask

ROOT = pathlib.Path(__file__).parents[1]
FILE = ROOT / "benchmarks" / "results" / "sampling_peers.json"
PAGE = ROOT / "docs" / "results" / "sampling_peers.md"
BATCH, RATES, AIMS = 128, (2e-3, 1e-3, 4e-3), ("psnr", "psnr_equal")
SEEDS = {"image": (0,), "audio": (0, 1)}  # fewer signals of speech, more seeds
PLAIN_RATES = (*RATES, 1.4e-3, 2.8e-3)  # of samplers without options: as many settings as the others have
HELD = {"image": 4, "audio": 3}  # signals to tune on


class Bench:
    """Signals of a kind, cut and split, with the initialization that all samplers begin from."""

    def __init__(self, kind: str, folder: str, init: pathlib.Path | None, random: bool) -> None:
        self.kind = steps_to_psnr.kind(kind, folder)
        sets, cut = self.kind.sets, self.kind.cut
        held = HELD[kind]
        self.test = sets.test
        self.tuned_on, self.meta = part(sets.train, slice(-held, None)), part(sets.train, slice(0, -held))
        self.box = tuple(s.stop - s.start for s in cut.box(0))
        self.spec = FieldSpec(len(cut.grid), sets.test.values.shape[-1], 32, 3, "sine", w0=30.0)
        *rest, last = initial_parameters(self.spec, 1, generator=torch.Generator().manual_seed(0))
        self.init: Params = (*rest, last + self.kind.offset)
        maml = self.kind.maml
        self.config = AdaptConfig(batch=BATCH, fall=self.kind.fall, warm_lr=maml.inner_lr)
        if random:
            self.config = AdaptConfig(batch=BATCH, fall=self.kind.fall, warm_steps=0)
        elif init is not None and init.exists():
            self.init = tuple(torch.load(init))
        else:
            self.init = steps_to_psnr.learned(self.task(self.meta), self.init, maml)
            if init is not None:
                torch.save(list(self.init), init)

    def task(self, signals: Signals) -> CoordTask:
        """Return all parts of all signals side by side, with the curve that even draws follow."""
        task = steps_to_psnr.side_by_side(self.kind.cut, signals, self.spec)
        task.curve = hilbert_order(self.box)
        return task

    def place(self, signals: Signals) -> Place:
        """Return what a run needs."""
        return Place(self.task(signals), self.box, self.init, self.config, 0, measure.STEPS)


def part(signals: Signals, which: slice) -> Signals:
    """Return some of the signals."""
    return Signals(signals.kind, signals.names[which], signals.values[which], signals.rate)


def tune(bench: Bench) -> dict[str, Any]:
    """Return five settings of each sampler with their PSNR, and the best at equal steps and at equal operations."""
    place, parts = bench.place(bench.tuned_on), bench.kind.cut.tasks

    def tried(contender: Contender, settings: list[Setting]) -> list[dict[str, Any]]:
        rows = []
        for setting in settings:
            curve = measure.run(setting, place, parts, measure.FEW)
            equal = measure.at_budget(curve, measure.budget(BATCH))
            row = {
                "options": dict(setting.options),
                "lr": setting.lr,
                "psnr": round(statistics.fmean(curve.psnr[-1]), 3),
            }
            row["psnr_equal"] = round(statistics.fmean(equal), 3)
            rows.append(row)
            print(f"{contender.name:14} {rows[-1]}", flush=True)
        return rows

    found: dict[str, Any] = {}
    for contender in CONTENDERS:
        first, *others = contender.tried
        rates = RATES if others else PLAIN_RATES
        rows = tried(contender, [Setting(contender.name, first, lr) for lr in rates])
        lr = max(rows, key=lambda row: row["psnr"])["lr"]
        rows += tried(contender, [Setting(contender.name, options, lr) for options in others])
        # Options that look more often bear longer steps: the best ones have all rates.
        top = max(rows, key=lambda row: row["psnr"])["options"]
        if others and top != first:
            rows += tried(contender, [Setting(contender.name, top, other) for other in RATES if other != lr])
        best = {name: max(rows, key=lambda row: row[name]) for name in AIMS}
        found[contender.name] = {"tried": rows} | {
            name: {"options": row["options"], "lr": row["lr"]} for name, row in best.items()
        }
    return found


def compare(bench: Bench, tuned: dict[str, Any], seeds: tuple[int, ...]) -> dict[str, Any]:
    """Return the rows of the test signals: of each sampler the setting that was best at equal steps and the one that
    was best at equal operations; they take turns."""
    place, parts, budget = bench.place(bench.test), bench.kind.cut.tasks, measure.budget(BATCH)
    best = {aim: {n: Setting(n, t[aim]["options"], t[aim]["lr"]) for n, t in tuned.items()} for aim in AIMS}
    curves: list[tuple[Setting, Curve]] = []
    for seed in seeds:
        for name in tuned:
            # Both aims often have the same setting; one of its own ends with the operations.
            runs = {repr(best[aim][name]): (best[aim][name], most) for aim, most in zip(AIMS[::-1], (budget, math.inf))}
            for setting, most in runs.values():
                curves.append((setting, measure.run(setting, measure.seeded(place, seed), parts, most=most)))
                print(seed, setting, round(statistics.fmean(curves[-1][1].psnr[-1]), 2), flush=True)

    def of(aim: str, name: str) -> list[Curve]:
        return [curve for setting, curve in curves if setting == best[aim][name]]

    ends = {"psnr": measure.at_steps, "psnr_equal": measure.at_operations}
    return {
        name: {aim: tuned[name][aim] | end(of(aim, name), of(aim, "uniform"), BATCH) for aim, end in ends.items()}
        for name in tuned
    }


def facts() -> dict[str, str]:
    """Return what the figures depend on."""
    head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    about = info()
    return {"commit": head.stdout.strip(), "machine": about["machine"], "torch": about["versions"]["torch"]}


def main(argv: list[str] | None = None) -> int:
    """Run a stage and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("tune", "compare", "table"))
    parser.add_argument("kind", choices=("image", "audio"), nargs="?")
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--name", help="of the signals in the results; default: the kind")
    parser.add_argument("--random", action="store_true", help="from a random initialization")
    parser.add_argument("--init", type=pathlib.Path, help="file that the learned initialization is kept in")
    parser.add_argument("--out", type=pathlib.Path, default=FILE)
    arguments = parser.parse_args(argv)
    content = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.stage == "table":
        PAGE.write_text(report.markdown(content))
        print(PAGE.read_text())
        return 0
    if arguments.folder is None:
        parser.error("a kind and a folder are needed")
    measure.threads()
    bench = Bench(arguments.kind, arguments.folder, arguments.init, arguments.random)
    name = arguments.name or arguments.kind
    key = f"{name}, {'random' if arguments.random else 'meta-learned'}"
    entry = content.setdefault(key, {})
    if arguments.stage == "tune":
        entry["signals"] = {"meta-training": len(bench.meta), "tuning": len(bench.tuned_on)}
        entry["test"] = list(bench.test.names)
        entry["tuned"] = tune(bench)
    else:
        entry["rows"] = compare(bench, entry["tuned"], SEEDS[arguments.kind])
    words = [arguments.stage, arguments.kind, "DIR", *(["--random"] if arguments.random else [])]
    entry.setdefault("made", {})[arguments.stage] = facts() | {
        "command": "python -m benchmarks.sampling_peers " + shlex.join(words)
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
