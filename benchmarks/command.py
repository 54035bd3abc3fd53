"""`mclnf-fast bench`: options, the run, and what is written."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import cases, device, limit, machine, runner, table, timing
from mclnf_fast.cli.parser import CommandParser
from mclnf_fast.cpus import use_threads
from mclnf_fast.errors import InputError, pip_install

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SCHEMA = 1
QUICK_SECONDS = 0.3
MOST_THREADS = 1024  # many more end in a segmentation fault of the threads' library
QUICK_SKIP = ("compile",)  # compiling takes longer than a quick run


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    p = CommandParser("mclnf-fast bench", "Measures every op against its peers and the machine's limit.")
    p.add_argument(
        "--suite", default="cpu", metavar="NAME", help="cases to run: cpu (the default), gpu, auto, or a JSON file"
    )
    p.add_argument("--only", metavar="PATTERN", help="cases whose id holds this or matches it (forward*,maml)")
    p.add_argument("--quick", action="store_true", help="a few cases in about a minute; no torch.compile, no memory")
    p.add_argument("--threads", type=int, metavar="N", help="threads of every contender; default: one per usable CPU")
    p.add_argument("--seconds", type=float, metavar="S", help="time budget of a contender in a case")
    p.add_argument("--out", type=pathlib.Path, metavar="FILE", help="JSON of the results; a plot goes beside it")
    p.add_argument(
        "--dry-run", action="store_true", help="tiny sizes on the CPU: do the cases hold together? No figure counts"
    )
    p.add_argument("--check", action="store_true", help="also the bars that this project sets itself")
    p.add_argument("--list", action="store_true", help="name the cases and stop")
    return p


def main(given: Sequence[str]) -> int:
    """Run a suite. Exit codes: 0 done, 1 something of ours computed wrong, 130 interrupted (what is done is shown and,
    with `--out`, kept). Raises InputError on unusable options."""
    options = parser().parse_args(list(given))
    for name, low, most in (("threads", 1, MOST_THREADS), ("seconds", 0.0, 1e6)):
        value = getattr(options, name)
        if value is not None and not low <= value <= most:
            raise InputError(f"--{name} must be at least {low} and at most {most}, got {value}")
    suite = cases.load_suite(options.suite)
    if options.dry_run:
        suite = cases.tiny(suite)
    picked = cases.pick(suite, options.only, options.quick)
    if options.list:
        widest = 2 + max(18, *(len(case.id) for case in picked))
        for case in picked:
            print(f"{case.id:<{widest}}{case.title}{'  (quick)' if case.quick else ''}")
        return 0
    if (reason := device.unfit(suite.device)) is not None:
        raise InputError(f"--suite {options.suite} {reason}. Remedy: a machine with one, or --dry-run, without figures")
    if options.out is not None and options.out.suffix != ".json":
        raise InputError(f"--out must end in .json, got {str(options.out)!r}")
    use_threads(options.threads)
    with timing.brief() if options.dry_run else contextlib.nullcontext():
        data = run(suite, picked, options)
    path = target(options, data)
    if path is not None:  # first of all: what took minutes is kept whatever happens while it is shown
        keep(path, data)
    print(table.page(data, options.check))
    print()
    if data["interrupted"]:
        print(f"interrupted after {len(data['cases'])} of {len(picked)} cases")
        return 130
    if path is None:
        print("not kept, since not the whole suite was run: --out FILE.json keeps it")
    else:
        print(f"wrote {path.name}{plotted(data, path)}")
    return 1 if any(result["status"] == "red" for result in data["cases"]) else 0


def run(suite: cases.Suite, picked: Sequence[cases.Case], options: argparse.Namespace) -> dict[str, Any]:
    """Run all cases, one after another, and return the data of the JSON; `--out` holds the finished ones after each
    case."""
    seconds = QUICK_SECONDS if options.quick else suite.seconds
    if options.seconds is not None or options.dry_run:
        seconds = options.seconds or 0.0
    began = time.perf_counter()
    limit.cpu_shares.clear()
    results: list[dict[str, Any]] = []
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "suite": suite.name,
        "device": suite.device,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["mclnf-fast bench", *_words(options)]),
        **machine.describe(suite.device),
        "settings": {
            "seconds": seconds,
            "quick": options.quick,
            "only": options.only,
            **({"dry_run": True} if options.dry_run else {}),
        },
        "interrupted": False,
        "took_seconds": 0.0,
        "limits": {},
        "cases": results,
    }
    for k, case in enumerate(picked):
        if options.quick or options.dry_run:
            bars = tuple(bar for bar in case.bars if bar.what != "memory_ratio")
            case = dataclasses.replace(case, memory=(), bars=bars)
        begin = time.perf_counter()
        print(f"[{k + 1}/{len(picked)}] {case.id} ...", end="", file=sys.stderr, flush=True)
        try:
            results.append(runner.run_case(case, seconds, QUICK_SKIP if options.quick or options.dry_run else ()))
        except KeyboardInterrupt:
            data["interrupted"] = True
            break
        print(f" {results[-1]['status']}, {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        data |= {"took_seconds": round(time.perf_counter() - began, 1), "limits": limits_of(results, suite.device)}
        if options.out is not None:
            keep(options.out, data)
    return data


def keep(path: pathlib.Path, data: dict[str, Any]) -> None:
    """Write the JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(data), indent=1) + "\n")


def _words(options: argparse.Namespace) -> list[str]:
    """Return the options that shape a result, as typed; no paths."""
    words = ["--suite", pathlib.Path(options.suite).stem]
    for name in ("only", "threads", "seconds"):
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    return words + [f"--{name.replace('_', '-')}" for name in ("quick", "dry_run") if getattr(options, name)]


def limits_of(results: Sequence[dict[str, Any]], device: str = "cpu") -> dict[str, Any]:
    """Return the quartiles of all that the limits were measured at during the run, by kind; a matrix product by dtype
    too."""
    values: dict[str, list[float]] = {}
    for r in results:
        if r["limit"] is not None:
            kind = f"matmul {r['shapes'].get('dtype', 'float32')}" if r["limit"] == "matmul" else r["limit"]
            found_here = [v for row in r["contenders"] for v in row.get("limits", ()) if v > 0]
            values[kind] = values.get(kind, []) + found_here
    found: dict[str, Any] = {}
    for kind in sorted(values, key=lambda kind: (kind == "copy", kind)):
        if values[kind]:
            low, middle, high = timing.quartiles(values[kind])
            found[kind] = {"median": middle, "q1": low, "q3": high, "count": len(values[kind])}
    if limit.cpu_shares:
        found["cpu_share"] = timing.median(limit.cpu_shares)
    if device != "cpu":
        return found
    if (reason := limit.why_no_fma()) is not None:
        found["unknown"] = reason
    return found


def target(options: argparse.Namespace, data: dict[str, Any]) -> pathlib.Path | None:
    """Where the JSON goes: `--out`; else, for a whole suite, a new file in `results/`."""
    if options.out is not None:
        return pathlib.Path(options.out)
    if options.only or options.quick or options.dry_run or options.suite.endswith(".json") or data["interrupted"]:
        return None
    machine = data["machine"].get("gpu") or data["machine"]["cpu"]
    stem = f"bench_{data['suite']}_{machine['short']}_{data['date']}"
    names = [f"{stem}.json", *(f"{stem}_{k}.json" for k in range(2, 1000))]
    return next(RESULTS / name for name in names if not (RESULTS / name).exists())


def plotted(data: dict[str, Any], path: pathlib.Path) -> str:
    """Draw the plot beside the JSON if matplotlib is installed; return the line about it."""
    from benchmarks import plot

    try:
        plot.draw(data, path.with_suffix(".png"))
    except ImportError as error:
        return f"; no plot, {error.name} is not installed ({pip_install('report')})"
    return f" and {path.with_suffix('.png').name}"


def rounded(value: Any) -> Any:
    """Return floats with 6 significant digits and no NaN: what JSON can hold."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value
