"""What stands for every program in a dry run: it waits as long as the program would take, and prints what it would.

`python -m benchmarks.gpu.programs.standin PART WORDS...`, with the pace of the run's clock and the factor of all costs
in the environment. The costs are guesses for a machine with one H200 and 16 cores; nothing here needs torch.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

COSTS = {
    "machine": 10.0,
    "build": 150.0,
    "small": 50.0,
    "compiled": 50.0,
    "bench": 130.0,
    "kernels": 40.0,
    "learning": 50.0,
    "memcheck": 60.0,
    "racecheck": 70.0,
}
"""Seconds of each process of a part."""
START = 6.0  # seconds of a process before its first result: Python, torch, the device
TESTS = (36, 3)  # values of two parameters: a third of their pairs are of the first tier
TEST_SECONDS = 2100.0 / 14 * 4 / (36 * 3)  # as long as 2,100 seconds on 14 cores, in the 4 processes of a dry run
STEPS = {"small": 24, "compiled": 30, "kernels": 16, "learning": 6, "memcheck": 24, "racecheck": 24}
GPU = {"name": "no GPU, a dry run", "short": "dry", "capability": "9.0"}
LOOK: dict[str, Any] = {
    "python": "3",
    "torch": "none",
    "cuda": None,
    "triton": "none",
    "unfit": None,
    "gpu": GPU,
    "libraries": {"cpu": None, "cuda": None},
    "missing": [],
    "commit": {"hash": None, "dirty": None},
}


def tests(folder: pathlib.Path, scale: float) -> str:
    """Write tests that wait, with the mark `gpu`, and return the file."""
    text = f"""import time
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("b", range({TESTS[1]}))
@pytest.mark.parametrize("a", range({TESTS[0]}))
def test_that_waits(a, b):
    time.sleep({TEST_SECONDS * scale})
"""
    path = folder / "test_standin.py"
    path.write_text(text)
    return str(path)


def rows(part: str) -> Iterator[dict[str, Any]]:
    """Yield what a part's program prints, a row per job."""
    for k in range(STEPS[part]):
        row: dict[str, Any] = {"name": f"{part} {k}", "reason": None}
        if part == "learning":
            row |= {"ms": 1.0, "launches": 8.0, "copies": 0.0, "waits": 0.0, "busy": 0.5}
        yield row


def case(name: str) -> dict[str, Any]:
    """Return the result of a case without figures."""
    return {"id": name, "status": "ok", "reason": None, "contenders": [], "absent": {}, "bars": []}


def main(words: Sequence[str]) -> int:
    """Wait and print. Exit codes: 0 to the end, 130 interrupted."""
    part = words[0]
    scale = float(os.environ["MCLNF_GPU_COSTS"]) / float(os.environ["MCLNF_GPU_PACE"])
    try:
        if part in ("machine", "build"):
            time.sleep(COSTS[part] * scale)
            print(json.dumps(LOOK))
            return 0
        time.sleep(START * scale)
        if part == "bench":
            bench(pathlib.Path(words[words.index("--out") + 1]), COSTS[part] * scale)
            return 0
        share = next((word for word in words if word[:1].isdigit() and "/" in word), "0/1")
        first, of = map(int, share.split("/"))
        for row in [*rows(part)][first::of]:
            time.sleep(COSTS[part] / STEPS[part] * of * scale)
            print(json.dumps(row), flush=True)
        print("========= ERROR SUMMARY: 0 errors")
    except KeyboardInterrupt:
        return 130
    return 0


def bench(path: pathlib.Path, seconds: float) -> None:
    """Write the result of the quick cases, as they come."""
    data = json.loads((pathlib.Path(__file__).parents[2] / "cases" / "gpu.json").read_text())
    names = [row["id"] + f"/{dtype}" for row in data["cases"] if row.get("quick") for dtype in row.get("dtypes", [""])]
    done: list[dict[str, Any]] = []
    for name in names:
        time.sleep(seconds / len(names))
        done.append(case(name.rstrip("/")))
        path.write_text(json.dumps({"settings": {}, "limits": {}, "cases": done}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
