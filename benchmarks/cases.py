"""The cases, read from data: `cases/<suite>.json`."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import pathlib
from typing import Any

from mclnf_fast.errors import InputError

FOLDER = pathlib.Path(__file__).resolve().parent / "cases"
LATER = {"gpu": "its cases come with the GPU kernels"}
BARS = ("limit_share", "speedup", "time_ratio", "spread", "memory_ratio")


@dataclasses.dataclass(frozen=True)
class Bar:
    """What a result must reach.

    what: `limit_share`, our GFLOP/s over the limit's, at least `must`; `speedup`, time of the best contender of
    `against` over ours, at least; `time_ratio`, our time over that of `against`, at most; `spread`, the slowest of our
    variants over the first, at most; `memory_ratio`, our peak memory over that of `against`, at most.
    must None: only an aim.
    against: names of contenders; empty: every peer. needs: a property of the machine without which the bar is void.
    """

    what: str
    must: float | None
    aim: float | None = None
    against: tuple[str, ...] = ()
    needs: str | None = None

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.what in ("limit_share", "speedup")


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table, or a few (variants).

    op: the problem, a name of `benchmarks.work`. shapes: its sizes, as the problem's file documents them. peers: names
    of `benchmarks.peers`. variants: sizes that differ from `shapes`, each a contender of ours with a `name`. limit:
    `fma`, `copy` or none. quick: also part of `--quick`. memory: whether peak memory is measured, of ours and of
    `memory_against`.
    """

    id: str
    op: str
    device: str
    shapes: dict[str, Any]
    peers: tuple[str, ...] = ()
    variants: tuple[dict[str, Any], ...] = ()
    bars: tuple[Bar, ...] = ()
    limit: str | None = "fma"
    quick: bool = False
    time: bool = True
    memory: tuple[str, ...] = ()
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Suite:
    """A file of cases; `seconds` is the time budget of a contender in a case."""

    name: str
    device: str
    seconds: float
    cases: tuple[Case, ...]


def load_suite(name: str) -> Suite:
    """Reads a suite. Raises InputError, naming what there is, for an unknown one; a path to a JSON file also serves."""
    path = pathlib.Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if name in LATER and not path.exists():
        raise InputError(f"--suite {name} is not there yet: {LATER[name]}; there is: {', '.join(suites())}")
    if not path.exists():
        raise InputError(f"--suite must be one of {', '.join(suites())} or a JSON file of cases, got {name!r}")
    return read_suite(json.loads(path.read_text()), path.stem)


def suites() -> list[str]:
    """Names of the suites at hand."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_suite(data: dict[str, Any], name: str) -> Suite:
    """A suite from plain data. Raises InputError where a case has an unknown key, a bar of an unknown kind or an id
    that another has."""
    known = {field.name for field in dataclasses.fields(Case)} - {"device"}
    cases: list[Case] = []
    for row in data["cases"]:
        if unknown := sorted(set(row) - known):
            raise InputError(f"case {row.get('id', '?')!r}: keys must be of {', '.join(sorted(known))}, got {unknown}")
        given = dict(row, device=data["device"], shapes={**data.get("shapes", {}), **row.get("shapes", {})})
        given["bars"] = tuple(_bar(row["id"], bar) for bar in row.get("bars", ()))
        for key in ("peers", "variants", "memory"):
            given[key] = tuple(row.get(key, ()))
        if any(case.id == row["id"] for case in cases):
            raise InputError(f"case ids must differ, got {row['id']!r} twice")
        cases.append(Case(**given))
    return Suite(name, data["device"], float(data["seconds"]), tuple(cases))


def _bar(case: str, row: dict[str, Any]) -> Bar:
    bar = Bar(**{**row, "against": tuple(row.get("against", ()))})
    if bar.what not in BARS:
        raise InputError(f"case {case!r}: a bar must be one of {', '.join(BARS)}, got {bar.what!r}")
    return bar


def pick(suite: Suite, pattern: str | None, quick: bool) -> list[Case]:
    """The cases whose id holds `pattern` or matches it as a glob (`forward*`); several patterns are divided by commas.

    Raises InputError where none does.
    """
    found = [case for case in suite.cases if not quick or case.quick or pattern]
    if pattern:
        words = [word.strip() for word in pattern.split(",") if word.strip()]
        found = [c for c in found if any(word in c.id or fnmatch.fnmatch(c.id, word) for word in words)]
    if not found:
        ids = ", ".join(case.id for case in suite.cases)
        raise InputError(f"--only must match a case of suite {suite.name} ({ids}), got {pattern!r}")
    return found
