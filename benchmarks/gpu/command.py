"""Options, the order of the parts, and the time that each may take."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import json
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.gpu import figures, process, steps, suite, summary
from benchmarks.gpu.context import Outcome, Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
MINUTES = 9.5
DRY_PACE = 20.0  # seconds of a dry run's clock per second


class Part(NamedTuple):
    """run: what is done. share: of what is left when it begins, and most: seconds at most. What it does not take, the
    rest has."""

    name: str
    run: Callable[[Run, float], Outcome]
    share: float
    most: float


# One stage after another, what tells most first; the parts of a stage side by side. What measures has a stage alone.
STAGES: tuple[tuple[Part, ...], ...] = (
    (Part("build", steps.build, 0.5, 240.0),),
    (Part("small", steps.small, 0.3, 90.0), Part("compiled", steps.compiled, 0.3, 90.0)),
    (Part("bench", figures.bench, 0.6, 180.0),),
    (Part("kernels", figures.kernels, 0.3, 60.0),),
    (Part("learning", figures.learning, 0.3, 60.0),),
    (
        Part("tests", suite.tests("tests", first=True), 0.7, 160.0),
        Part("memcheck", steps.sanitizer("memcheck"), 0.7, 160.0),
        Part("racecheck", steps.sanitizer("racecheck"), 0.7, 160.0),
    ),
    (Part("rest", suite.tests("rest", first=False), 1.0, 600.0),),
)


def names() -> list[str]:
    """Return the names of all parts, in their order."""
    return [part.name for stage in STAGES for part in stage]


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Checks the libraries, measures, and runs the tests and the sanitizer on this machine's GPU, and "
        "prints a short table last. Exit codes: 0 all ok, 1 a part failed, 2 no GPU, 3 time ran out, nothing failed.",
    )
    where = "results; default: what MCLNF_GPU_OUT names, else benchmarks/results"
    p.add_argument("--out", type=pathlib.Path, metavar="DIR", help=where)
    p.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help="for all of it; default: %(default)s")
    p.add_argument("--only", default=",".join(names()), metavar="PARTS", help="default: %(default)s")
    p.add_argument("--build", action="store_true", help="build the libraries here even if there are some that load")
    p.add_argument("--tests", nargs="+", default=(), metavar="PATH", help="files or folders of tests; default: all")
    after = "JSON of an earlier run: leave the tests out that it has passed"
    p.add_argument("--after", type=pathlib.Path, metavar="FILE", help=after)
    p.add_argument("--cpu", action="store_true", help="try the script itself: no GPU, tiny sizes, few tests, no build")
    p.add_argument(
        "--dry-run",
        nargs="?",
        type=float,
        const=1.0,
        metavar="COSTS",
        help="try its clock: programs that wait this many times the usual costs (default: %(const)s), "
        f"{DRY_PACE:g} times as fast",
    )
    return p


def main(arguments: Sequence[str]) -> int:
    """Run the stages one after another, whatever became of those before."""
    p = parser()
    options = p.parse_args(list(arguments))
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in names()]:
        p.error(f"--only must be of {', '.join(names())}, got {', '.join(unknown)}")
    for name in ("minutes", "dry_run"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            p.error(f"--{name.replace('_', '-')} must be above 0, got {value}")
    process.pace = 1.0 if options.dry_run is None else DRY_PACE
    begin = process.now()
    deadline = begin + 60 * options.minutes
    out = options.out or pathlib.Path(os.environ.get("MCLNF_GPU_OUT") or RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(ROOT, out.resolve(), options.cpu, options.dry_run, options.build, tuple(options.tests))
    if options.after is not None:
        run.known |= passed(options.after)
    first = timed(Part("machine", steps.machine, 1.0, 60.0), run, 60.0)
    if first.result == "failed":
        print(summary.page([first], process.now() - begin))
        return 2
    run.stem = stem(run)
    run.log("machine", first.detail)
    outcomes = {"machine": first}
    lock = threading.Lock()

    def keep(outcome: Outcome) -> None:
        with lock:
            outcomes[outcome.part] = outcome
            ordered = [outcomes[name] for name in ("machine", *names()) if name in outcomes]
            summary.keep(run, ordered, {"machine": run.found, "date": today()}, process.now() - begin)

    run.report = keep
    try:
        with interruptible():
            for stage in STAGES:
                together([part for part in stage if part.name in wanted], run, deadline)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
    print(summary.text(run))
    return summary.code(list(outcomes.values()))


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGTERM is as Ctrl-C, and both are heard even if a shell started this in its background, which ignores
    SIGINT: commands would inherit that, and be killed without a word when their time is out."""
    before = {sign: signal.signal(sign, signal.default_int_handler) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def together(parts: Sequence[Part], run: Run, deadline: float) -> None:
    """Run the parts of a stage side by side; each is kept as soon as it ends."""
    left = deadline - process.now()

    def one(part: Part, limit: float) -> None:
        print(f"[{part.name}] at most {limit:.0f} s ...", file=sys.stderr, flush=True)
        outcome = timed(part, run, limit)
        run.report(outcome)
        print(f"[{part.name}] {outcome.result}: {outcome.detail}", file=sys.stderr, flush=True)

    with concurrent.futures.ThreadPoolExecutor(max(len(parts), 1)) as pool:
        every = [pool.submit(one, part, min(left * part.share, part.most)) for part in parts]
        try:
            for future in every:
                future.result()
        except KeyboardInterrupt:
            process.stop()
            raise


def timed(part: Part, run: Run, limit: float) -> Outcome:
    """Run a part within its time; one that breaks has failed, and the others go on."""
    begin = process.now()
    try:
        if limit < 5:
            return Outcome(part.name, "cut", "no time was left for it")
        outcome = part.run(run, limit)
    except Exception as error:
        outcome = Outcome(part.name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    outcome.seconds = process.now() - begin
    return outcome


def passed(path: pathlib.Path) -> set[str]:
    """Return the tests that the run of a JSON has passed."""
    parts: list[dict[str, Any]] = json.loads(path.read_text())["parts"]
    return {test for part in parts for test in part["data"].get("passed", ())}


def today() -> str:
    """Return the date."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def stem(run: Run) -> str:
    """Of the names of what is written, new in the folder: `gpu_h200_2030-01-02`."""
    gpu = run.found["gpu"]
    first = f"gpu_{gpu['short'] if gpu and not run.cpu else 'cpu'}_{today()}"
    candidates = [first, *(f"{first}_{k}" for k in range(2, 1000))]
    return next(name for name in candidates if not (run.out / f"{name}.log").exists())
