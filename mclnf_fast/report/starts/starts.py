"""What the reports of learned starts share: tables of PSNR over steps, the facts of a run, and its page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mclnf_fast.report.page.claims import Figure
from mclnf_fast.report.page.html import inline, pairs, write_page
from mclnf_fast.report.page.methods import Method
from mclnf_fast.report.page.style import db, duration, finite
from mclnf_fast.report.protocol.counts import mapping, sequence
from mclnf_fast.report.protocol.signals import look

STARTS = (
    Method("standard", "standard", "", "#6b7280", "#a6adbb", "s", "random weights"),
    Method("shuffled", "shuffled", "", "#7a4fd0", "#b79cff", "^", "the learned weights, permuted within each tensor"),
    Method("matched", "matched", "", "#008f6b", "#3fcaa1", "v", "random, but with the learned start's mean output"),
    Method("meta", "meta-learned", "", "#c44e00", "#ff9a57", "o", "learned over the training objects by Reptile"),
)
NOT_CLAIMED = (
    "The method is that of Learned Initializations (arXiv 2012.02189). No figure of any paper is reproduced or claimed "
    "here: all figures were measured in the run whose command stands below."
)
SHOWN = 4  # test pictures in the sheet
Rows = list[tuple[Method, list[str]]]


@dataclass(frozen=True)
class Words:
    """What a page says that its figures do not: `intro` under the title, `note` under the table, and of the table by
    pictures its `each` and what it shows, `each_note`."""

    intro: str
    note: str
    each: str
    each_note: str


@dataclass(frozen=True)
class Between:
    """What lies between the weights of two adapted networks: a title, a line each, and what it is."""

    title: str
    lines: Sequence[tuple[str, str]]
    note: str


def start_looks(metrics: Mapping[str, Any]) -> dict[str, Method]:
    """How the starts of a run are shown, in their order."""
    found = mapping(metrics.get("starts"))
    return {m.key: m for m in STARTS if m.key in found}


def mean_error(values: object) -> tuple[float, float | None] | None:
    """Mean over objects and its standard error (None for one object); None where there is nothing finite."""
    known = [v for v in map(finite, sequence(values)) if v is not None]
    if not known:
        return None
    return statistics.fmean(known), statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else None


def curve_of(row: object) -> dict[int, tuple[float, float | None]]:
    """Step -> mean and standard error over objects, of one start of metrics.json."""
    curve = {int(s): mean_error(v) for s, v in mapping(mapping(row).get("curve")).items() if str(s).isdigit()}
    return {s: m for s, m in sorted(curve.items()) if m is not None}


def estimate(found: tuple[float, float | None] | None) -> str:
    """Mean and standard error as text; a dash for None."""
    if found is None:
        return "-"
    return db(found[0]) if found[1] is None else f"{db(found[0])} ± {db(found[1])}"


def start_curves(
    metrics: Mapping[str, Any], looks: Mapping[str, Method]
) -> dict[str, dict[int, tuple[float, float | None]]]:
    """Step -> mean PSNR and standard error over test pictures, of each start."""
    starts = mapping(metrics.get("starts"))
    return {key: curve_of(starts.get(key)) for key in looks}


def step_rows(metrics: Mapping[str, Any], looks: Mapping[str, Method], steps: Sequence[int]) -> tuple[list[str], Rows]:
    """Heads and, for each start, cells: PSNR at each of `steps`, and the seconds that its steps took."""
    starts, curves = mapping(metrics.get("starts")), start_curves(metrics, looks)
    heads = [*(f"step {s:,}" for s in steps), "time"]
    rows = [
        (m, [*(estimate(curves[key].get(s)) for s in steps), duration(mapping(starts.get(key)).get("seconds"))])
        for key, m in looks.items()
    ]
    return heads, rows


def table_text(title: str, heads: Sequence[str], rows: Rows, said: Sequence[Figure]) -> str:
    """A table and figures for a terminal."""
    if not rows:
        return "no results yet"
    lines = [["start", *heads], *([method.name, *cells] for method, cells in rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths)))
        for line in lines
    ]
    return "\n".join([title, "", *text, "", *(f"{f.what}: {f.value}" for f in said)])


def write_starts_page(
    folder: str | Path,
    metrics: Mapping[str, Any],
    looks: Mapping[str, Method],
    words: Words,
    head: Sequence[Figure],
    heads: Sequence[str],
    rows: Rows,
    between: Between | None = None,
) -> Path:
    """Writes `report.html` into a run's folder, its pictures inlined; the path.

    Args:
        folder: the run's folder; `config.yaml` is shown where it is there.
        metrics: the content of metrics.json, `pictures` included; what is missing is left out.
        looks: the starts, as they are shown.
        words: what stands around the figures.
        head: the figures at the top.
        heads, rows: the table.
        between: what lies between two networks; None: no word of it.

    Raises: InputError, if jinja2 is missing, or a picture's file lies outside the folder.
    """
    place, config = Path(folder), Path(folder) / "config.yaml"
    objects = mapping(metrics.get("objects"))
    shown = [
        {"uri": inline(place, str(p["file"])), "file": p["file"], "caption": p.get("caption", ""), "commands": ()}
        for p in map(mapping, sequence(metrics.get("pictures")))
        if p.get("file")
    ]
    content = {
        "title": str(metrics.get("title") or "Learned starts"),
        "facts": _facts(metrics, words.each),
        "figures": list(head),
        "words": words,
        "heads": list(heads),
        "rows": rows,
        "pictures": shown,
        "objects": _each(metrics, looks),
        "looks": list(looks.values()),
        "between": between if between is not None and between.lines else None,
        "meta": _meta(metrics),
        "network": "The learned start" if mapping(metrics.get("meta")).get("curve") else "The network",
        "notes": [*(str(n) for n in sequence(metrics.get("notes"))), NOT_CLAIMED],
        "command": str(metrics.get("command") or ""),
        "made": [
            ("machine", str(metrics.get("machine") or "-")),
            *((f"{part} {words.each}s", f"{len(sequence(v))}") for part, v in objects.items()),
            *pairs({k: metrics.get(k) for k in ("versions", "backends", "phases") if metrics.get(k)}),
        ],
        "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        **look(looks),
    }
    return write_page(place / "report.html", "starts.html", content)


def lead(metrics: Mapping[str, Any], key: str, other: str, step: int | None = None) -> float | None:
    """By how many dB one start is better than another, at a step or after the last; None where one is missing."""

    def value(name: str) -> float | None:
        row = mapping(mapping(metrics.get("starts")).get(name))
        found = mean_error(row.get("after") if step is None else mapping(row.get("curve")).get(str(step)))
        return None if found is None else found[0]

    own, their = value(key), value(other)
    return None if own is None or their is None else own - their


def _facts(metrics: Mapping[str, Any], one: str) -> list[str]:
    objects = mapping(metrics.get("objects"))
    out = [f"{len(sequence(objects['train']))} {one}s to learn from"] if objects.get("train") else []
    count = len(sequence(objects.get("test")))
    unseen = "unseen" if objects.get("train") else one if count == 1 else f"{one}s"
    out += [f"{count} {unseen}"] if objects else []
    shown = mapping(metrics.get("views") or metrics.get("photos") or metrics)
    size = sequence(shown.get("size"))
    out += [f"{size[1]} x {size[0]} pixels"] if len(size) == 2 else []
    if finite(metrics.get("seconds_total")) is not None:
        out.append(f"{duration(metrics['seconds_total'])} in all")
    return out


def _each(metrics: Mapping[str, Any], looks: Mapping[str, Method]) -> list[tuple[str, list[str]]]:
    """Each test picture's PSNR after the last step, a column a start."""
    names = [str(n) for n in sequence(mapping(metrics.get("objects")).get("test"))]
    starts = mapping(metrics.get("starts"))
    columns = [sequence(mapping(starts.get(key)).get("after")) for key in looks]
    return [(n, [db(c[i]) if i < len(c) else "-" for c in columns]) for i, n in enumerate(names)]


def _meta(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    meta = mapping(metrics.get("meta"))
    curve = [p for p in map(sequence, sequence(meta.get("curve"))) if len(p) == 2]
    checks = [p for p in map(sequence, sequence(meta.get("checks"))) if len(p) == 2]
    out = [("parameters", f"{meta['parameters']:,}")] if isinstance(meta.get("parameters"), int) else []
    if curve:
        ends = f"{db(curve[0][1])} to {db(curve[-1][1], unit=True)}"
        out += [("outer steps", f"{curve[-1][0]:,.0f}"), ("loss after the inner steps as PSNR, first to last", ends)]
        out.append(("time", duration(meta.get("seconds"))))
    if checks:
        said = ", ".join(f"{s:,.0f}: {db(v, unit=True)}" for s, v in checks)
        out.append(("checks, after outer step", said))
    return out
