"""The parts. Each takes a `Run` and the seconds that it has, and returns an `Outcome`; none of them raises."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from typing import Any

from benchmarks import cases, table
from benchmarks.gpu import process, suite

LIBRARIES = {"cpu": "mclnf_fast/_C_cpu.so", "cuda": "mclnf_fast/_C_cuda.so"}
# Of the sanitizer's own lines: it can't work on this machine; it found something.
BLIND = re.compile(r"device not supported|not supported on|failed to initialize|no attachable process", re.I)
FOUND = re.compile(r"^(Invalid __|Misaligned|Uninitialized|Barrier error|Error: .*(hazard|race)|Race reported)", re.I)
CPU_CASES = "backward/16x64/bf16,composite/forward,render/fp32"
CPU_TESTS = ("tests/ops/test_triton_launch.py",)


@dataclasses.dataclass
class Outcome:
    """result: `ok`, `failed`, `cut` (time ran out before the end, nothing failed) or `skipped`. detail: one line.
    lines: what is shown below it. skipped: what took no part, with the reason. data: for the JSON."""

    part: str
    result: str
    detail: str
    seconds: float = 0.0
    lines: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Run:
    """root: the checkout. out: where results go; stem: of their names. cpu: the same parts on a CPU, tiny. places: of
    the tests. found: what `look` said."""

    root: pathlib.Path
    out: pathlib.Path
    cpu: bool = False
    build: bool = True
    places: tuple[str, ...] = ()
    stem: str = "gpu"
    found: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def device(self) -> str:
        """Of the small run."""
        return "cpu" if self.cpu else "cuda"

    def log(self, title: str, text: str) -> None:
        """Add to the one log."""
        with (self.out / f"{self.stem}.log").open("a") as file:
            file.write(f"=== {title}\n{text.rstrip()}\n")

    def python(self, module: str, *words: str, limit: float, **environment: str) -> process.Done:
        """`python -m module words`, logged."""
        done = process.run([sys.executable, "-m", module, *words], limit, self.root, environment)
        self.log(" ".join([module, *words]), done.output)
        return done


def tool(name: str) -> str | None:
    """Return a tool of the CUDA toolkit: on the path, or where the toolkit is."""
    home = pathlib.Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / name
    return shutil.which(name) or (str(home) if home.exists() else None)


def look(run: Run, limit: float) -> tuple[dict[str, Any], str]:
    """What `look` found, or an empty mapping and why."""
    done = process.run([sys.executable, "-m", "benchmarks.gpu.look"], limit, run.root)
    try:
        found: dict[str, Any] = json.loads(done.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}, "it took too long" if done.late else done.last()
    return found, ""


def machine(run: Run, limit: float) -> Outcome:
    """Python, torch, triton, nvcc and the GPU. Failed: no GPU that serves, on which nothing else can be tried."""
    run.found, said = look(run, limit)
    if not run.found:
        return Outcome("machine", "failed", f"Python can't tell what is here: {said}")
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


def build(run: Run, limit: float) -> Outcome:
    """Build both libraries, in place, for this GPU alone, and check that they load."""
    if not run.build:
        why_not = run.found["libraries"]["cpu"]
        kept = Outcome("build", "skipped" if why_not is None else "failed", why_not or "what is there is kept")
        kept.skipped = [f"build: {kept.detail}"]
        return kept
    environment = {"MCLNF_NO_CUDA": "1"} if run.cpu else {}
    if not run.cpu and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        environment["TORCH_CUDA_ARCH_LIST"] = run.found["gpu"]["capability"]
    words = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = process.run(words, limit, run.root, environment)
    run.log("build", done.output)
    said = [line.removeprefix("mclnf_fast: ") for line in done.output.splitlines() if line.startswith("mclnf_fast: ")]
    wanted = ["cpu"] if run.cpu else ["cpu", "cuda"]
    missing = [name for name in wanted if not (run.root / LIBRARIES[name]).exists()]
    if done.late or done.code != 0 or missing:
        reason = "it took too long" if done.late else "; ".join(said) or done.last()
        return Outcome("build", "failed", f"{', '.join(missing) or 'a'} library not built: {reason}", done.seconds)
    run.found, why = look(run, 60)
    if not run.found:
        return Outcome("build", "failed", f"built, but Python can't tell whether it loads: {why}", done.seconds)
    broken = [f"{name}: {run.found['libraries'][name]}" for name in wanted if run.found["libraries"][name]]
    if broken:
        return Outcome("build", "failed", "; ".join(broken), done.seconds)
    return Outcome("build", "ok", f"{' and '.join(wanted)} librar{'y' if run.cpu else 'ies'}, loaded", done.seconds)


def tests(run: Run, limit: float) -> Outcome:
    """Run the tests marked `gpu`; on a CPU a few without a mark."""
    if "pytest" in run.found.get("missing", ()):
        return Outcome("tests", "failed", "pytest is not installed")
    places = run.places or (CPU_TESTS if run.cpu else tuple(p for p in suite.PLACES if (run.root / p).exists()))
    processes = 2 if run.cpu else max(1, min(suite.MOST_PROCESSES, (os.cpu_count() or 2) - 2))
    with tempfile.TemporaryDirectory() as work:
        found, output = suite.run(
            limit - process.GRACE, run.root, pathlib.Path(work), places, "not slow" if run.cpu else "gpu", processes
        )
    run.log("tests", output)
    outcome = Outcome("tests", "ok", found.text())
    if found.failed or found.broken or not found.total:
        outcome.result = "failed"
        if not found.total:
            last = process.Done(0, False, 0.0, output).last()
            outcome.detail = f"no test was collected ({last})"
    elif found.left:
        outcome.result = "cut"
    both = [*found.broken.items(), *found.failed.items()]
    outcome.lines = [f"{test}: {why}" for test, why in both[:10]] + [f"and {len(both) - 10} more"] * (len(both) > 10)
    most = found.skipped.most_common()
    outcome.skipped = [f"{count} test{'s' * (count > 1)}: {why}" for why, count in most[:8]]
    if len(most) > 8:
        outcome.skipped.append(
            f"{sum(count for _, count in most[8:])} tests for {len(most) - 8} other reasons: see the log"
        )
    outcome.data = {
        "passed": found.passed,
        "failed": found.failed,
        "broken": found.broken,
        "skipped": dict(found.skipped),
        "not_reached": found.left,
    }
    return outcome


def small(run: Run, limit: float) -> Outcome:
    """Run every op once, small, against its truth; this also compiles what the sanitizer will watch."""
    done = run.python("benchmarks.gpu.small", run.device, "--check", limit=limit)
    lines = [line for line in done.output.splitlines() if re.match(r"\w+: ", line)]
    wrong = [line for line in lines if not line.endswith(": ok")]
    if done.late:
        return Outcome("small", "cut", f"time ran out after {len(lines)} ops", done.seconds, wrong)
    if done.code != 0:
        return Outcome("small", "failed", f"{len(wrong)} wrong" if wrong else done.last(), done.seconds, wrong)
    return Outcome("small", "ok", f"{len(lines)} ops, each right", done.seconds)


def sanitizer(kind: str) -> Any:
    """Return the part that runs every op under a tool of compute-sanitizer."""

    def part(run: Run, limit: float) -> Outcome:
        found = tool("compute-sanitizer")
        if run.cpu or found is None:
            why = "it watches a GPU" if run.cpu else "compute-sanitizer is not found"
            return Outcome(kind, "skipped", why, skipped=[f"{kind}: {why}"])
        words = [found, "--tool", kind, "--error-exitcode", "66", "--print-limit", "20"]
        words += ["--report-api-errors", "no"] if kind == "memcheck" else []
        words += [sys.executable, "-m", "benchmarks.gpu.small", "cuda"]
        # A tensor an allocation: what runs over one's end must not land in another.
        done = process.run(words, limit, run.root, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        run.log(kind, done.output)
        return judged(kind, done)

    return part


def judged(kind: str, done: process.Done) -> Outcome:
    """What a tool's output means: its own summary, or that it can't watch this machine."""
    own = [line.strip(" =") for line in done.output.splitlines() if line.startswith("=====")]
    errors = [line for line in own if FOUND.search(line)]
    blind = [line for line in own if BLIND.search(line)]
    if blind and not errors:
        why = f"compute-sanitizer can't watch here: {blind[0][:120]}"
        return Outcome(kind, "skipped", why, done.seconds, skipped=[f"{kind}: {why}"])
    ops = sum(line.endswith(": ok") for line in done.output.splitlines())
    summary = next((line for line in own if "SUMMARY: " in line), "")
    count = re.search(r"(\d+) errors?\b", summary)
    if errors or (count and int(count[1]) > 0):
        return Outcome(kind, "failed", summary or f"{len(errors)} errors", done.seconds, errors[:5])
    if done.late:
        return Outcome(kind, "cut", f"time ran out after {ops} ops, no error until then", done.seconds)
    if done.code != 0 or not count:
        return Outcome(kind, "failed", f"exit code {done.code}: {done.last()}", done.seconds)
    return Outcome(kind, "ok", f"{summary}, {ops} ops", done.seconds)


def bench(run: Run, limit: float) -> Outcome:
    """`mclnf-fast bench --suite gpu --quick`: what is done when the time is out is kept."""
    path = run.out / f"bench_{run.stem}.json"
    words = ["--suite", "gpu", "--quick", "--out", str(path)]
    words += ["--dry-run", "--only", CPU_CASES] if run.cpu else []
    done = run.python("benchmarks", *words, limit=limit - process.GRACE)
    wanted = cases.pick(cases.load_suite("gpu"), CPU_CASES if run.cpu else None, quick=True)
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return Outcome("bench", "failed", "time ran out in the first case" if done.late else done.last(), done.seconds)
    return measured(data, [case.id for case in wanted], done)


def measured(data: dict[str, Any], wanted: list[str], done: process.Done) -> Outcome:
    """Return the bars of a result, and who took no part."""
    results = data["cases"]
    red = [f"{r['id']}: {r['reason']}" for r in results if r["status"] == "red"]
    left = len(wanted) - len(results)
    passed, judged_bars, aims, aimed = table.count(results)
    dry = data["settings"].get("dry_run")
    reached = f"{passed} of {judged_bars} bars and {aims} of {aimed} aims reached"
    detail = f"{len(results)} cases, {'a dry run at tiny sizes' if dry else reached}"
    outcome = Outcome("bench", "ok", detail, done.seconds, [*red, *([] if dry else bars(results))])
    if left:
        outcome.result, outcome.detail = "cut", f"{detail}, {left} cases not reached"
    if red or (done.code != 0 and not done.late):
        outcome.result = "failed"
        outcome.detail = f"{len(red)} cases wrong, {detail}" if red else done.last()
    outcome.skipped = [f"{r['id']}: {r['reason']}" for r in results if r["status"] == "skipped"]
    outcome.skipped += absent(results)
    outcome.data = {"limits": data["limits"], "not_reached": wanted[len(results) :]}
    return outcome


def absent(results: list[dict[str, Any]]) -> list[str]:
    """Return the contenders that took no part, or were wrong and got no figure, and why; what a quick run leaves out
    aside."""
    lines: dict[str, None] = {}
    for r in results:
        for peer, reason in r["absent"].items():
            if "quick run" not in reason:
                lines[f"{peer}: {reason}" if "not installed" in reason else f"{r['id']}, {peer}: {reason}"] = None
        for row in r["contenders"]:
            if row["reason"] and row["peer"]:
                lines[f"{r['id']}, {row['name']}: no figure, {row['reason']}"] = None
    return list(lines)


def bars(results: list[dict[str, Any]]) -> list[str]:
    """Return every bar with its value against what it must reach and what is aimed at."""
    rows = [
        [r["id"], table.bar_name(b), table.figure(b["what"], b["value"]), table.goal(b, "must"), table.goal(b, "aim"),
         table.verdict(b)]
        for r in results for b in r["bars"]
    ]  # fmt: skip
    return table.aligned(["case", "bar", "got", "must", "aim", "verdict"], rows, {2, 3, 4}) if rows else []
