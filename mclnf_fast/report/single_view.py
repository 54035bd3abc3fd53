"""What a run of single-view fields leaves to look at: a table for the terminal, pictures, report.html."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mclnf_fast.report.claims import Figure
from mclnf_fast.report.html import inline, pairs, write_page
from mclnf_fast.report.methods import Method
from mclnf_fast.report.protocol import mapping, sequence
from mclnf_fast.report.signals import look
from mclnf_fast.report.single_view_pictures import contact_sheet, steps_plot, turntable_gif
from mclnf_fast.report.style import db, duration, finite

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
COLUMNS = 5  # of the steps, at most, in the table


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


def start_rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[tuple[Method, list[str]]]]:
    """Heads and, for each start, cells: PSNR along the curve, of all other views, and of the view it learned from."""
    starts = mapping(metrics.get("starts"))
    looks = start_looks(metrics)
    curves = {key: curve_of(starts[key]) for key in looks}
    steps = sorted({s for c in curves.values() for s in c})
    chosen = steps[:: -(-len(steps) // COLUMNS)] if steps else []
    if steps and steps[-1] not in chosen:
        chosen.append(steps[-1])
    heads = [*(f"step {s:,}" for s in chosen), "all other views", "the view learned from", "time"]
    rows = []
    for key, method in looks.items():
        row = mapping(starts[key])
        cells = [estimate(curves[key].get(s)) for s in chosen]
        cells += [estimate(mean_error(row.get("after"))), estimate(mean_error(row.get("input")))]
        rows.append((method, [*cells, duration(row.get("seconds"))]))
    return heads, rows


def start_table(metrics: Mapping[str, Any]) -> str:
    """The starts side by side, for a terminal.

    Args:
        metrics: the content of metrics.json; any key may be missing.
    """
    heads, rows = start_rows(metrics)
    if not rows:
        return "no results yet"
    lines = [["start", *heads], *([method.name, *cells] for method, cells in rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths)))
            for line in lines]  # fmt: skip
    title = f"{metrics.get('title') or 'Single view'}: PSNR in dB on views not learned from, mean ± standard error"
    said = [f"{f.what}: {f.value}" for f in figures(metrics)[1:]]
    return "\n".join([title, "", *text, "", *said])


def figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """The figures of the head: the learned start's PSNR on all other views, and its lead over each other start."""
    starts = mapping(metrics.get("starts"))
    looks = start_looks(metrics)
    ends = {key: mean_error(mapping(starts[key]).get("after")) for key in looks}
    own = ends.get("meta")
    if own is None:
        return []
    steps = max([s for s in sequence(metrics.get("steps")) if isinstance(s, int)], default=0)
    out = [Figure(db(own[0], unit=True), f"PSNR on the other views, {steps:,} steps after the learned start")]
    for key in ("standard", "matched", "shuffled"):
        other = ends.get(key)
        if other is not None:
            gap = own[0] - other[0]
            out.append(Figure(db(gap, sign=True, unit=True), f"against the {looks[key].name} start", gap > 0))
    return out


def write_pictures(folder: str | Path, metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Draws the pictures of a run into `images/`; the list for `pictures` of metrics.json.

    Args:
        folder: the run's folder; `predictions/truth.safetensors` and `predictions/<start>.safetensors` are read.
        metrics: the content of metrics.json.

    Returns: `{"kind", "file", "caption"}` each, `file` relative to the folder. Raises InputError, if matplotlib is
    missing or a file of predictions is torn.
    """
    place, looks = Path(folder), start_looks(metrics)
    curves = {key: curve_of(mapping(metrics.get("starts"))[key]) for key in looks}
    sheet = contact_sheet(place, looks, metrics)
    gif = turntable_gif(place, looks, metrics)
    plot = steps_plot(place, looks, curves)
    captions = {
        "sheet": "Unseen objects: the truth, and each start before and after it has learned from one view of each.",
        "turntable": "Around one unseen object, through all of its views: the truth, the learned start as it is, and "
        "what the starts become from the one view on the left.",
        "curve": "PSNR on views not learned from over the SGD steps on one view; the mean over the test objects, and "
        "in the band its standard error.",
    }
    found = {"sheet": sheet, "turntable": gif, "curve": plot}
    return [
        {"kind": kind, "file": f"images/{file.name}", "caption": captions[kind]}
        for kind, file in found.items()
        if file is not None
    ]


def write_single_view_report(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `report.html` into a run's folder, its pictures inlined; the path.

    Args:
        folder: the run's folder; `config.yaml` is shown where it is there.
        metrics: the content of metrics.json, `pictures` included; what is missing is left out.

    Raises: InputError, if jinja2 is missing, or a picture's file lies outside the folder.
    """
    place, looks = Path(folder), start_looks(metrics)
    heads, rows = start_rows(metrics)
    shown = [
        {"uri": inline(place, str(p["file"])), "file": p["file"], "caption": p.get("caption", ""), "commands": ()}
        for p in map(mapping, sequence(metrics.get("pictures")))
        if p.get("file")
    ]
    objects, views = mapping(metrics.get("objects")), mapping(metrics.get("views"))
    config = place / "config.yaml"
    content = {
        "title": str(metrics.get("title") or "A field from a single view"),
        "facts": _facts(metrics),
        "figures": figures(metrics),
        "heads": heads,
        "rows": rows,
        "pictures": shown,
        "tested": _tested(views),
        "objects": _objects(metrics, looks),
        "looks": list(looks.values()),
        "meta": _meta(metrics),
        "notes": [*(str(n) for n in sequence(metrics.get("notes"))), NOT_CLAIMED],
        "command": str(metrics.get("command") or ""),
        "made": [
            ("machine", str(metrics.get("machine") or "-")),
            *((f"{part} objects", f"{len(sequence(v))}") for part, v in objects.items()),
            *pairs({k: metrics.get(k) for k in ("versions", "backends", "phases") if metrics.get(k)}),
        ],
        "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        **look(looks),
    }
    return write_page(place / "report.html", "single_view.html", content)


def _facts(metrics: Mapping[str, Any]) -> list[str]:
    objects = mapping(metrics.get("objects"))
    out = [f"{len(sequence(objects.get('train')))} objects to learn from"] if objects else []
    out += [f"{len(sequence(objects.get('test')))} unseen ones"] if objects else []
    size = sequence(mapping(metrics.get("views")).get("size"))
    out += [f"{size[1]} x {size[0]} pixels"] if len(size) == 2 else []
    if finite(metrics.get("seconds_total")) is not None:
        out.append(f"{duration(metrics['seconds_total'])} in all")
    return out


def _tested(views: Mapping[str, Any]) -> str:
    curve = [len(sequence(v)) for v in sequence(views.get("curve"))]
    tested = [int(v) for v in sequence(views.get("tested"))]
    if not curve or not tested:
        return ""
    return (
        f"The columns of steps and the plot are over {max(curve)} other views of each object, evenly chosen; "
        f'"all other views" are {max(tested)}.'
    )


def _objects(metrics: Mapping[str, Any], looks: Mapping[str, Method]) -> list[tuple[str, list[str]]]:
    """Each test object's PSNR on all its other views, a column a start."""
    names = [str(n) for n in sequence(mapping(metrics.get("objects")).get("test"))]
    starts = mapping(metrics.get("starts"))
    columns = [sequence(mapping(starts[key]).get("after")) for key in looks]
    return [(n, [db(c[i]) if i < len(c) else "-" for c in columns]) for i, n in enumerate(names)]


def _meta(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    meta = mapping(metrics.get("meta"))
    curve = [p for p in map(sequence, sequence(meta.get("curve"))) if len(p) == 2]
    checks = [p for p in map(sequence, sequence(meta.get("checks"))) if len(p) == 2]
    out = [("parameters", f"{meta['parameters']:,}")] if isinstance(meta.get("parameters"), int) else []
    if curve:
        ends = f"{db(curve[0][1])} to {db(curve[-1][1], unit=True)}"
        out += [("outer steps", f"{curve[-1][0]:,.0f}"), ("PSNR at the last inner step, first to last", ends)]
        out.append(("time", duration(meta.get("seconds"))))
    if checks:
        out.append(
            ("checks on a view, after outer step", ", ".join(f"{s:,.0f}: {db(v, unit=True)}" for s, v in checks))
        )
    return out
