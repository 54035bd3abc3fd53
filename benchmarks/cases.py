"""The cases, read from data: `cases/<suite>.json`."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from mclnf_fast.errors import InputError

FOLDER = pathlib.Path(__file__).resolve().parent / "cases"
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "tf32": "tf32", "float64": "fp64"}
TINY = {"points": 128, "modules": 4, "width": 16, "hidden": 2, "octaves": 3, "rays": 16, "samples": 4, "bins": 5}
TINY |= {"resolution": 8, "levels": 2, "log2_size": 8, "peer_points": 16, "ray_points": 4, "steps": 2, "psnr": 0}
BARS = ("limit_share", "speedup", "time_ratio", "seconds", "spread", "memory_ratio")


@dataclasses.dataclass(frozen=True)
class Bar:
    """What a result must reach.

    what: `limit_share`, our GFLOP/s over the limit's, at least `must`; `speedup`, time of the best contender of
    `against` over ours, at least; `time_ratio`, our time over that of `against`, at most; `seconds`, our time, at most;
    `spread`, the slowest of our variants over the first, at most; `memory_ratio`, our peak memory over that of
    `against`, at most.
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
    `fma` (of a CPU), `matmul` (of a GPU, in the case's dtype), `copy` or none. quick: also part of `--quick`. memory:
    whether peak memory is measured, of ours and of `memory_against`.
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
    """Read a suite. Raises InputError, naming what there is, for an unknown one; a path to a JSON file also serves."""
    path = pathlib.Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        raise InputError(f"--suite must be one of {', '.join(suites())} or a JSON file of cases, got {name!r:.200}")
    try:
        return read_suite(json.loads(path.read_text(encoding="utf-8")), path.stem)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"--suite: {path} must be a JSON file of cases, but: {reason:.300}") from None


def suites() -> list[str]:
    """Return the names of the suites of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_suite(data: dict[str, Any], name: str) -> Suite:
    """Return a suite from plain data. A row with `dtypes` is a case per dtype, `forward/bf16` and so on.

    Raises InputError if a case has an unknown key, a bar of an unknown kind or an id that another has.
    """
    known = {field.name for field in dataclasses.fields(Case)} - {"device"}
    cases: list[Case] = []
    for row in _rows(data["cases"]):
        if unknown := sorted(set(row) - known):
            raise InputError(f"case {row.get('id', '?')!r}: keys must be of {', '.join(sorted(known))}, got {unknown}")
        given = dict(row, device=data["device"], shapes={**data.get("shapes", {}), **row.get("shapes", {})})
        given["bars"] = tuple(_bar(row["id"], bar) for bar in row.get("bars", ()))
        for key in ("peers", "variants", "memory"):
            given[key] = tuple(row.get(key, ()))
        if any(case.id == row["id"] for case in cases):
            raise InputError(f"case ids must differ, got {row['id']!r} twice")
        cases.append(_checked(Case(**given)))
    if data["device"] not in ("cpu", "cuda"):
        raise InputError(f"device of a suite must be cpu or cuda, got {data['device']!r:.80}")
    return Suite(name, data["device"], float(data["seconds"]), tuple(cases))


TYPES = {"id": str, "op": str, "title": str, "shapes": dict, "quick": bool, "time": bool}
ITEMS = {"peers": str, "variants": dict, "memory": str}


def _checked(case: Case) -> Case:
    """Return the case. Raises InputError if a value is of another type: it would fail in the middle of a suite."""
    for key, kind in TYPES.items():
        if not isinstance(getattr(case, key), kind):
            raise InputError(f"case {case.id!r:.80}: {key} must be {kind.__name__}, got {getattr(case, key)!r:.80}")
    for key, kind in ITEMS.items():
        if not all(isinstance(item, kind) for item in getattr(case, key)):
            raise InputError(f"case {case.id!r:.80}: {key} must be a list of {kind.__name__}")
    if case.limit not in (None, "fma", "matmul", "copy"):
        raise InputError(f"case {case.id!r:.80}: limit must be fma, matmul, copy or null, got {case.limit!r:.80}")
    return case


def _rows(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the rows, one per dtype if a row names several."""
    for row in rows:
        if "dtypes" not in row:
            yield row
        for dtype in row.get("dtypes", ()):
            one = {key: value for key, value in row.items() if key != "dtypes"}
            title = f"{row['title']}, {SHORT[dtype]}" if row.get("title") else ""
            shapes = {**row.get("shapes", {}), "dtype": dtype}
            yield {**one, "id": f"{row['id']}/{SHORT[dtype]}", "title": title, "shapes": shapes}


def tiny(suite: Suite) -> Suite:
    """Return the same cases at tiny sizes on the CPU: whether they hold together can be tried anywhere."""

    def shrunk(shapes: dict[str, Any]) -> dict[str, Any]:
        return {key: min(value, TINY[key]) if key in TINY else value for key, value in shapes.items()}

    cases = [
        dataclasses.replace(
            case, device="cpu", shapes=shrunk(case.shapes), variants=tuple(shrunk(v) for v in case.variants)
        )
        for case in suite.cases
    ]
    return dataclasses.replace(suite, device="cpu", cases=tuple(cases))


def _bar(case: str, row: dict[str, Any]) -> Bar:
    bar = Bar(**{**row, "against": tuple(row.get("against", ()))})
    if bar.what not in BARS:
        raise InputError(f"case {case!r}: a bar must be one of {', '.join(BARS)}, got {bar.what!r}")
    return bar


def pick(suite: Suite, pattern: str | None, quick: bool) -> list[Case]:
    """Return the cases whose id holds `pattern` or matches it as a glob (`forward*`); several patterns are divided by
    commas.

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
