"""The parts without figures: machine, build, every op once, compiling ahead, sanitizer.

Each takes a `Run` and the seconds that it has, and returns an `Outcome`.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu import process
from benchmarks.gpu.context import PROGRAMS, Outcome, Run, json_lines, tool

LIBRARIES = {"cpu": "mclnf_fast/_C_cpu.so", "cuda": "mclnf_fast/_C_cuda.so"}
SANITIZED = 3  # processes of a sanitizer
# Of the sanitizer's own lines: it can't work on this machine; it found something.
BLIND = re.compile(r"device not supported|not supported on|failed to initialize|no attachable process", re.I)
FOUND = re.compile(r"^(Invalid __|Misaligned|Uninitialized|Barrier error|Error: .*(hazard|race)|Race reported)", re.I)
RESULTS = ("failed", "cut", "skipped", "ok")  # the first of these that a share has is that of all


def look(run: Run, limit: float) -> tuple[dict[str, Any], str]:
    """What `programs.look` found, or an empty mapping and why."""
    done = run.python("machine", f"{PROGRAMS}.look", limit=limit)
    rows = json_lines(done.output)
    return (rows[-1], "") if rows else ({}, "it took too long" if done.late else done.last())


def machine(run: Run, limit: float) -> Outcome:
    """Python, torch, triton, nvcc and the GPU. Failed: no GPU that serves, on which nothing else can be tried."""
    run.found, reason = look(run, limit)
    if not run.found:
        return Outcome("machine", "failed", f"Python can't tell what is here: {reason}")
    found, nvcc = run.found, tool("nvcc")
    version = ""
    if nvcc:
        release = re.search(r"release ([\d.]+)", process.run([nvcc, "--version"], 20, run.root).output)
        version = release.group(1) if release else "of an unknown version"
    gpu = found["gpu"]
    words = [
        f"{gpu['name']} (sm_{gpu['capability'].replace('.', '')})" if gpu else "no GPU, a CPU run",
        f"Python {found['python']}",
        f"torch {found['torch']}",
        f"triton {found['triton'] or 'missing'}",
        f"nvcc {version or 'missing'}",
    ]
    if gpu and gpu.get("driver_version"):
        words.insert(1, f"driver {gpu['driver_version']}")
    outcome = Outcome("machine", "ok", ", ".join(words), data={**found, "nvcc": version or None})
    if not run.cpu and found["unfit"]:
        outcome.result, outcome.detail = "failed", f"a GPU is needed: it {found['unfit']}"
    elif not run.cpu and not found["triton"]:
        outcome.result = "failed"
    return outcome


def broken(run: Run) -> dict[str, str]:
    """Return why libraries that are needed do not load, by name."""
    wanted = ("cpu",) if run.cpu else ("cpu", "cuda")
    return {name: run.found["libraries"][name] for name in wanted if run.found["libraries"][name]}


def build(run: Run, limit: float) -> Outcome:
    """Take libraries that were built beforehand if they load; else build both, in place, for this GPU alone."""
    reasons = broken(run)
    names = "cpu library" if run.cpu else "cpu and cuda libraries"
    if not reasons and not run.build:
        return Outcome("build", "ok", f"not needed: {names} built beforehand, loaded")
    environment = {"MCLNF_NO_CUDA": "1"} if run.cpu else {}
    if not run.cpu and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        environment["TORCH_CUDA_ARCH_LIST"] = run.found["gpu"]["capability"]
    done = run.start("build", [sys.executable, "setup.py", "build_ext", "--inplace"], limit, environment)
    said = [line.removeprefix("mclnf_fast: ") for line in done.output.splitlines() if line.startswith("mclnf_fast: ")]
    missing = [name for name in (("cpu",) if run.cpu else LIBRARIES) if not (run.root / LIBRARIES[name]).exists()]
    if run.dry is None and (done.late or done.code != 0 or missing):
        reason = "it took too long" if done.late else "; ".join(said) or done.last()
        return Outcome("build", "failed", f"{', '.join(missing) or 'a'} library not built: {reason}", done.seconds)
    run.found, why = look(run, 60)
    if not run.found:
        return Outcome("build", "failed", f"built, but Python can't tell whether it loads: {why}", done.seconds)
    before = [f"{name} before: {reason}" for name, reason in reasons.items()]
    if after := broken(run):
        failed = "; ".join(f"{name}: {reason}" for name, reason in after.items())
        return Outcome("build", "failed", failed, done.seconds, before)
    return Outcome("build", "ok", f"{names} built here, loaded", done.seconds, before)


def shares(
    run: Run, part: str, words: Callable[[str], Sequence[str]], count: int, limit: float, **environment: str
) -> list[process.Done]:
    """Run a command `count` times side by side, each with its share (`0/3`, `1/3`, ...) of the work."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        every = [pool.submit(run.start, part, words(f"{k}/{count}"), limit, environment) for k in range(count)]
        return [one.result() for one in every]


def verdict(part: str, dones: Sequence[process.Done]) -> Outcome:
    """Return what the lines of programs that check something come to: a name and, if it is wrong, the reason."""
    rows = [row for done in dones for row in json_lines(done.output)]
    wrong = [f"{row['name']}: {row['reason']}" for row in rows if row["reason"]]
    waits = {row["name"]: row["waits"] for row in rows if row.get("waits")}
    outcome = Outcome(part, "ok", f"{len(rows)} of them, each right", lines=[*wrong], data={"done": rows})
    if waits:
        outcome.lines.append("calls that wait for the device: " + ", ".join(f"{n} ({c})" for n, c in waits.items()))
    ended = [done.last() for done in dones if done.code != 0 and not done.late]
    if wrong or ended:
        outcome.result, outcome.detail = "failed", f"{len(wrong)} of {len(rows)} wrong" if wrong else ended[0]
    elif any(done.late for done in dones):
        outcome.result, outcome.detail = "cut", f"time ran out after {len(rows)}"
    return outcome


def small(run: Run, limit: float) -> Outcome:
    """Run every op once, small, against its truth; this also compiles what the sanitizer will watch."""
    base = [sys.executable, "-m", f"{PROGRAMS}.small", run.device, "--check"]
    return verdict("small", shares(run, "small", lambda k: [*base, k], max(1, run.processes // 3), limit))


def compiled(run: Run, limit: float) -> Outcome:
    """Compile, on as many cores as there are, what the benchmark will run, into Triton's cache; and check it."""
    base = [sys.executable, "-m", f"{PROGRAMS}.compiled", run.device]
    count = max(1, run.processes - run.processes // 3)
    return verdict("compiled", shares(run, "compiled", lambda k: [*base, k], count, limit))


def sanitizer(kind: str) -> Any:
    """Return the part that runs every op under a tool of compute-sanitizer."""

    def part(run: Run, limit: float) -> Outcome:
        found = "compute-sanitizer" if run.dry is not None else tool("compute-sanitizer")
        if run.cpu or found is None:
            why = "it watches a GPU" if run.cpu else "compute-sanitizer is not found"
            return Outcome(kind, "skipped", why, skipped=[f"{kind}: {why}"])
        words = [found, "--tool", kind, "--error-exitcode", "66", "--print-limit", "20"]
        words += ["--report-api-errors", "no"] if kind == "memcheck" else []
        words += [sys.executable, "-m", f"{PROGRAMS}.small", "cuda"]
        # A tensor an allocation: what runs over one's end must not land in another.
        dones = shares(run, kind, lambda k: [*words, k], SANITIZED, limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        return merged(kind, [judged(kind, done) for done in dones])

    return part


def merged(kind: str, every: Sequence[Outcome]) -> Outcome:
    """Return the outcome of all shares: the worst result, with what the shares of that result report, and all ops."""
    result = next(name for name in RESULTS if any(o.result == name for o in every))
    details = dict.fromkeys(o.detail for o in every if o.result == result)
    skipped = list(dict.fromkeys(line for o in every for line in o.skipped))
    ops = sum(o.data.get("ops", 0) for o in every)
    lines = [line for o in every for line in o.lines]
    return Outcome(kind, result, f"{'; '.join(details)}, {ops} ops", lines=lines, skipped=skipped, data={"ops": ops})


def judged(kind: str, done: process.Done) -> Outcome:
    """What a tool's output means: its own summary, or that it can't watch this machine."""
    own = [line.strip(" =") for line in done.output.splitlines() if line.startswith("=====")]
    errors = [line for line in own if FOUND.search(line)]
    blind = [line for line in own if BLIND.search(line)]
    if blind and not errors:
        why = f"compute-sanitizer can't watch here: {blind[0][:120]}"
        return Outcome(kind, "skipped", why, skipped=[f"{kind}: {why}"])
    summary = next((line for line in own if "SUMMARY: " in line), "")
    count = re.search(r"(\d+) errors?\b", summary)
    outcome = Outcome(kind, "ok", summary, data={"ops": len(json_lines(done.output))})
    if errors or (count and int(count[1]) > 0):
        outcome.result, outcome.detail, outcome.lines = "failed", summary or f"{len(errors)} errors", errors[:5]
    elif done.late:
        outcome.result, outcome.detail = "cut", "time ran out, no error until then"
    elif done.code != 0 or not count:
        outcome.result, outcome.detail = "failed", f"exit code {done.code}: {done.last()}"
    return outcome
