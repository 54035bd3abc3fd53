"""What the Triton kernels take, compiled ahead of time: registers, spills, programs a multiprocessor and instructions
of every entry of the tile tables, for counts (modules, points of a chunk ...) of 1, of 16 and of another number.

    python -m benchmarks.triton_kernels --arch 90 --out benchmarks/results/triton_sm90.json

No GPU is needed. With `--before FILE`, the lines that tests/ops/triton_compile.py has printed for other kernels of the
same entries, both stand side by side. Beside the JSON a table is written, as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import triton

Row = dict[str, Any]
SCRIPT = pathlib.Path(__file__).parents[1] / "tests" / "ops" / "triton_compile.py"
COUNTS = (1, 16, 37)
FIGURES = ("registers", "stack", "programs", "instructions")
# Of a row: the entry, and what is reported.
ENTRY = ("kernel", "kind", "width", "features", "skips", "rows", "warps")


def compiled(arch: int) -> str:
    """Return the lines of the script for an architecture."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, str(SCRIPT), str(arch)], stdout=subprocess.PIPE, text=True, env=environment)
    if run.returncode != 0:
        raise SystemExit(f"{SCRIPT.name} ended with {run.returncode}")
    return run.stdout


def entries(lines: Iterable[str]) -> list[list[Row]]:
    """Return the kernels of each entry, in the order of the tables: one, or several for different counts.

    >>> rows = [{"counts": [1]}, {"counts": [16, 37]}, {"counts": [1, 16, 37]}]
    >>> [len(kernels) for kernels in entries(map(json.dumps, rows))]
    [2, 1]
    """
    found: list[list[Row]] = []
    seen: set[int] = set(COUNTS)
    for line in lines:
        read = json.loads(line)
        row = {name: read[name] for name in (*ENTRY, "counts", *FIGURES) if name in read}
        if seen == set(COUNTS):
            found.append([])
            seen = set()
        found[-1].append(row)
        seen |= set(row["counts"])
    return found


def cell(kernels: list[Row], name: str) -> str:
    """Return a figure, or those of the counts where they differ."""
    values = [row[name] for count in COUNTS for row in kernels if count in row["counts"]]
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))


def table(before: list[list[Row]], after: list[list[Row]]) -> str:
    """Return the table as Markdown; `before` may be empty."""
    heads = ["kernel", "numbers", "width", "features", "skip", "rows", "warps"]
    names = ["registers", "spilled bytes", "programs a multiprocessor", "instructions"]
    heads += [f"{name}, {when}" for name in names for when in (("before", "now") if before else ("now",))]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for place, kernels in enumerate(after):
        first = kernels[0]
        if before and any(first[name] != before[place][0][name] for name in ENTRY):
            raise SystemExit(f"--before has another entry at place {place}: {before[place][0]}, not {first}")
        row = [str(first[name]) for name in ENTRY[:4]] + ["yes" if first["skips"] else "no"]
        row += [str(first["rows"]), str(first["warps"])]
        for name in FIGURES:
            row += [cell(before[place], name)] if before else []
            row.append(cell(kernels, name))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90, choices=(80, 90, 100), help="ten times the compute capability")
    parser.add_argument("--before", type=pathlib.Path, help="lines of triton_compile.py for other kernels")
    parser.add_argument("--lines", type=pathlib.Path, help="lines for the present kernels, instead of compiling them")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file of the JSON; the table lies beside it")
    options = parser.parse_args()
    lines = options.lines.read_text(encoding="utf-8") if options.lines else compiled(options.arch)
    after = entries(lines.splitlines())
    before = entries(options.before.read_text(encoding="utf-8").splitlines()) if options.before else []
    if before and len(before) != len(after):
        raise SystemExit(f"--before has {len(before)} entries, the present tables have {len(after)}")
    result = {
        "command": f"python -m benchmarks.triton_kernels --arch {options.arch}",
        "triton": triton.__version__,
        "architecture": options.arch,
        "before": before,
        "now": after,
    }
    options.out.write_text(json.dumps(result, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(
        f"Compiled for sm_{options.arch} with Triton {triton.__version__}, without a GPU. Where a figure differs by the"
        f" counts of a launch, the three are those of counts of {COUNTS[0]}, of {COUNTS[1]} and of {COUNTS[2]}.\n\n"
        + table(before, after),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
