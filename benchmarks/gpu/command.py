"""Options, the order of the parts, and the time that each may take."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.gpu import steps, summary
from benchmarks.gpu.steps import Outcome, Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
MINUTES = 9.5

Part = Callable[[Run, float], Outcome]

# Of each part: the share of what is left when it begins, and seconds at most. What it does not take, the rest has.
PARTS: tuple[tuple[str, Part, float, float], ...] = (
    ("build", steps.build, 0.4, 240.0),
    ("tests", steps.tests, 0.4, 300.0),
    ("small", steps.small, 0.33, 90.0),
    ("memcheck", steps.sanitizer("memcheck"), 0.2, 60.0),
    ("racecheck", steps.sanitizer("racecheck"), 0.2, 60.0),
    ("bench", steps.bench, 1.0, 600.0),
)
NAMES = tuple(name for name, *_ in PARTS)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Builds the libraries, runs the tests, the sanitizer and the benchmark on this machine's GPU, and "
        "prints a short table last. Exit codes: 0 all ok, 1 a part failed, 2 no GPU, 3 time ran out, nothing failed.",
    )
    p.add_argument("--out", type=pathlib.Path, default=RESULTS, metavar="DIR", help="results; default: %(default)s")
    p.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help="for all of it; default: %(default)s")
    p.add_argument("--only", default=",".join(NAMES), metavar="PARTS", help="default: %(default)s")
    p.add_argument("--no-build", action="store_true", help="take the libraries that are there")
    p.add_argument("--tests", nargs="+", default=(), metavar="PATH", help="files or folders of tests; default: all")
    p.add_argument("--cpu", action="store_true", help="try the script itself: no GPU, tiny sizes, few tests, no build")
    return p


def main(given: Sequence[str]) -> int:
    """Run the parts one after another, whatever became of those before."""
    p = parser()
    options = p.parse_args(list(given))
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in NAMES]:
        p.error(f"--only must be of {', '.join(NAMES)}, got {', '.join(unknown)}")
    if not options.minutes > 0:
        p.error(f"--minutes must be above 0, got {options.minutes}")
    begin = time.monotonic()
    deadline = begin + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    places = tuple(options.tests)
    run = Run(ROOT, options.out.resolve(), options.cpu, not (options.no_build or options.cpu), places)
    first = timed("machine", steps.machine, run, 90.0)
    if first.result == "failed":
        print(summary.page([first], time.monotonic() - begin))
        return 2
    run.stem = stem(run)
    run.log("machine", first.detail)
    outcomes = [first]
    for name, part, share, most in PARTS:
        if name not in wanted:
            continue
        left = deadline - time.monotonic()
        print(f"[{name}] at most {min(left * share, most):.0f} s ...", file=sys.stderr, flush=True)
        outcomes.append(timed(name, part, run, min(left * share, most)))
        print(f"[{name}] {outcomes[-1].result}: {outcomes[-1].detail}", file=sys.stderr, flush=True)
        summary.keep(run.out / f"{run.stem}.json", outcomes, {"machine": run.found, "date": today()})
    text = summary.page(outcomes, time.monotonic() - begin)
    run.log("summary", text)
    print(text)
    return summary.code(outcomes)


def timed(name: str, part: Part, run: Run, limit: float) -> Outcome:
    """Run a part within its time; one that breaks has failed, and the others go on."""
    begin = time.monotonic()
    try:
        if limit < 5:
            return Outcome(name, "cut", "no time was left for it")
        outcome = part(run, limit)
    except Exception as error:
        outcome = Outcome(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    outcome.seconds = time.monotonic() - begin
    return outcome


def today() -> str:
    """Return the date."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def stem(run: Run) -> str:
    """Of the names of what is written, new in the folder: `gpu_h200_2030-01-02`."""
    gpu = run.found["gpu"]
    first = f"gpu_{gpu['short'] if gpu and not run.cpu else 'cpu'}_{today()}"
    names = [first, *(f"{first}_{k}" for k in range(2, 1000))]
    return next(name for name in names if not (run.out / f"{name}.log").exists())
