"""Which backend `auto` should take, by measurement: `python -m benchmarks.rules RESULT.json`.

Reads a result of `mclnf-fast bench --suite auto --out RESULT.json`, in which the reference runs beside the compiled ops
over sizes, and prints where it is the faster one. A size counts where the ratio of times is beyond what the spread of
the two explains. It changes nothing: a rule is worth its line in `mclnf_fast/ops/_dispatch.py` only if it holds on more
machines than one.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import table
from mclnf_fast.errors import InputError

MARGIN = 1.1  # a rule must win at least this much


class Row(NamedTuple):
    """One size: `ratio` is the reference's time over the compiled op's, `noise` the spread of that as a factor."""

    case: str
    op: str
    sizes: dict[str, Any]
    ratio: float
    noise: float

    @property
    def winner(self) -> str:
        """`reference`, `cpu`, or `even` where the spread hides who is faster."""
        margin = max(MARGIN, self.noise)
        return "reference" if self.ratio < 1 / margin else "cpu" if self.ratio > margin else "even"


def rows_of(data: dict[str, Any]) -> list[Row]:
    """Return every size of a result at which both were timed."""
    found = []
    for result in data["cases"]:
        if result["status"] != "ok":
            continue
        for own in table.ours_of(result):
            for peer in table.peers_of(result, own):
                if peer["peer"] != "reference" or "seconds" not in own:
                    continue
                key, _, value = own["variant"].partition("=")
                sizes = {k: v for k, v in result["shapes"].items() if k in ("modules", "points", "width", "bins")}
                sizes[{"N": "points", "W": "width", "R": "rays", "M": "modules"}.get(key, key)] = int(value)
                noise = 1 + _spread(own) + _spread(peer)
                found.append(Row(result["id"], result["op"], sizes, peer["times_ours"], noise))
    return found


def _spread(row: dict[str, Any]) -> float:
    """Return half the distance between the quartiles over the median."""
    s = row["seconds"]
    return float((s["q3"] - s["q1"]) / (2 * s["median"]))


def main(arguments: Sequence[str]) -> int:
    """Print the table and the sizes at which the reference wins. Exit codes: 0, 2 unusable input."""
    if len(arguments) != 1:
        raise InputError(f"usage: python -m benchmarks.rules RESULT.json, got {len(arguments)} arguments")
    rows = rows_of(json.loads(pathlib.Path(arguments[0]).read_text()))
    if not rows:
        raise InputError(
            "RESULT.json must hold a case with the peer reference: run mclnf-fast bench --suite auto --out"
        )
    head = ["case", "sizes", "reference over cpu", "spread", "faster"]
    cells = [
        [r.case, ", ".join(f"{k} {v}" for k, v in r.sizes.items()), f"{r.ratio:.2f}", f"{r.noise:.2f}", r.winner]
        for r in rows
    ]
    print("\n".join(table.aligned(head, cells, {2, 3})))
    won = [r for r in rows if r.winner == "reference"]
    print(f"\nthe reference is faster at {len(won)} of {len(rows)} sizes" + (":" if won else "; no rule is needed"))
    for r in won:
        print(f"  {r.op}: {', '.join(f'{k} {v}' for k, v in r.sizes.items())} ({1 / r.ratio:.2f}x)")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, OSError, ValueError) as error:
        print(f"rules: {error}", file=sys.stderr)
        sys.exit(2)
