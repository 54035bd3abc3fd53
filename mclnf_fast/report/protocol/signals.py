"""What a run of images, videos or sound leaves to look at: a table for the terminal, pictures, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mclnf_fast.report.page.claims import Figure
from mclnf_fast.report.page.html import inline, pairs, write_page
from mclnf_fast.report.page.methods import CATEGORIES, Method
from mclnf_fast.report.page.style import db, duration, finite
from mclnf_fast.report.protocol.counts import Protocol, mapping, sequence
from mclnf_fast.report.protocol.relations import relations
from mclnf_fast.report.protocol.run_pictures import draw_run
from mclnf_fast.report.protocol.tables import (
    Cell,
    Labelled,
    Row,
    Table,
    aligned,
    details,
    results,
    sizes,
    steps_to_reach,
)

NOT_CLAIMED = (
    "The methods are those of arXiv 2504.05806 (MCL-NF) and of the papers it compares with. No figure of any paper is "
    "reproduced or claimed here: all figures were measured in the runs whose commands stand beside them."
)
_SECTIONS = {
    "qualitative": "Truth and reconstructions",
    "curve": "How fast it is learned",
    "reach": "Fisher information against plain modules",
    "matrix": "What is kept",
    "meta": "Meta-training",
}
_INTRO = {
    "image": "Each image that was never seen in training is cut into patches, which are learned one after another.",
    "video": "Each video that was never seen in training is cut into groups of frames, learned one after another.",
    "audio": "Each recording that was never heard in training is cut into windows, learned one after another.",
}


def signal_table(metrics: Mapping[str, Any]) -> str:
    """The results for a terminal: PSNR at step 1, best and last, what stands beside it, and the relations.

    Args:
        metrics: the content of metrics.json; any key may be missing.
    """
    run = Protocol(metrics)
    if not run.methods:
        return "no results yet"
    one = Labelled(run.title, run)
    beside = details(run, run.title)
    parts = [f"{run.title}: PSNR in dB, {sizes(run)} (* best of its column)", aligned(results([one]))]
    if beside.heads:
        parts.append(aligned(_narrow(beside)))
    parts.append("\n".join(f"{r.statement}: {r.verdict}" for r in relations(run)))
    return "\n\n".join(parts)


def _narrow(table: Table) -> Table:
    """The table without its widest columns, for a terminal."""
    kept = [c for c, head in enumerate(table.heads) if "transfer" not in head and "points" not in head]
    rows = [Row(r.category, r.key, r.name, tuple(r.cells[c] for c in kept)) for r in table.rows]
    heads = tuple(table.heads[c].split(",")[0].replace(" a step", "/step") for c in kept)
    return Table(table.title, heads, tuple(rows))


def write_run_pictures(folder: str | Path, metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Draws the pictures of a run into `images/`; the list for `pictures` of metrics.json.

    Args:
        folder: the run's folder; `predictions/truth.safetensors` and `predictions/<method>.safetensors` (tensor
            `values`, as `Signals.values` of the test signals) are read where they are there.
        metrics: the content of metrics.json; any key may be missing.

    Returns: `{"kind", "file", "caption"}` each, `file` relative to the folder.
    Raises: InputError, if matplotlib is missing, or a file of predictions is torn or of another shape.
    """
    run = Protocol(metrics)
    out = []
    for made in draw_run(Path(folder), Labelled(run.title, run)):
        made.save(Path(folder) / "images" / f"{made.stem}.png")
        out.append({"kind": made.kind, "file": f"images/{made.stem}.png", "caption": made.caption})
    return out


def write_signal_report(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `report.html` into a run's folder, its pictures inlined; the path.

    Args:
        folder: the run's folder; `config.yaml` is shown where it is there, pictures are read from it.
        metrics: the content of metrics.json, `pictures` included; what is missing is left out.

    Raises: InputError, if jinja2 is missing (the message names the extra), or a picture's file lies outside
        the folder.
    """
    place = Path(folder)
    run = Protocol(metrics)
    one = Labelled(run.title, run)
    config = place / "config.yaml"
    sections = _sections(place, metrics)
    content = {
        "title": run.title,
        "facts": _facts(run),
        "figures": figures(run),
        "intro": _INTRO.get(run.kind, "Each test signal is cut into tasks, which are learned one after another.")
        + " After the last task the whole signal is scored: what was learned first must still be there.",
        "results": results([one]),
        "methods": list(run.looks.values()),
        "relation_list": relations(run),
        "details": details(run, run.title),
        "reached": steps_to_reach(run, run.title),
        "starts": _starts(run),
        "hero": sections.pop("qualitative", []),
        "sections": [{"heading": _SECTIONS.get(k, k), "pictures": v} for k, v in sections.items()],
        "notes": [*(str(n) for n in sequence(metrics.get("notes"))), NOT_CLAIMED],
        "command": run.command,
        "made": _made(run),
        "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        **look(run.looks),
    }
    return write_page(place / "report.html", "signal.html", content)


def look(looks: Mapping[str, Method]) -> dict[str, Any]:
    """What the pages' style needs to colour methods: each by its number, since a name may hold anything."""
    return {
        "order": {m: i for i, m in enumerate(looks)},
        "light": {f"m{i}": k.colour for i, k in enumerate(looks.values())},
        "dark": {f"m{i}": k.dark for i, k in enumerate(looks.values())},
        "categories": CATEGORIES,
    }


def figures(run: Protocol) -> list[Figure]:
    """The figures of the head: PSNR of the modules, what is forgotten, the lead over the best sequential rival."""
    ours = [m for m in ("mim", "mod") if m in run.looks]
    out = [
        Figure(db(last.mean, unit=True), f"PSNR of {run.looks[m].name} at step {run.last:,}")
        for m in ours
        if (last := run.final(m)) is not None
    ]
    changes = [c for m in ours if (c := run.largest_change(m)) is not None]
    if changes:
        exact = max(changes) == 0.0
        text = "0 dB" if exact else f"{max(changes):.2g} dB"
        out.append(
            Figure(text, "forgotten by the modules, bit for bit" if exact else "most that a module changed", exact)
        )
    if "finetune" in run.looks and (lost := run.forgetting("finetune")) is not None:
        out.append(Figure(db(lost.mean, unit=True), "forgotten by the one network that goes on learning"))
    rivals = {
        m: e.mean
        for m in run.methods
        if run.sequential(m) and not m.startswith(("mod", "mim")) and (e := run.final(m)) is not None
    }
    last = run.final(ours[-1]) if ours else None
    if rivals and last is not None:
        best = max(rivals, key=lambda m: rivals[m])
        gap = last.mean - rivals[best]
        what = f"{run.looks[ours[-1]].name} against {run.looks[best].name}, the best other that learns in sequence"
        out.append(Figure(db(gap, sign=True, unit=True), what, gap > 0))
    return out


def _facts(run: Protocol) -> list[str]:
    count = len(sequence(run.metrics.get("tasks")))
    out = [f"{count} tasks a signal"] if count else []
    out.append(sizes(run))
    if run.last:
        out.append(f"{run.last:,} steps a task")
    if finite(run.metrics.get("seconds_total")) is not None:
        out.append(f"{duration(run.metrics['seconds_total'])} in all")
    return out


def _sections(folder: Path, metrics: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {k: [] for k in _SECTIONS}
    for entry in sequence(metrics.get("pictures")):
        if isinstance(entry, Mapping) and entry.get("file"):
            file = str(entry["file"])
            shown = {
                "uri": inline(folder, file),
                "file": file,
                "caption": str(entry.get("caption") or ""),
                "commands": (),
            }
            found.setdefault(str(entry.get("kind") or "curve"), []).append(shown)
    return {k: v for k, v in found.items() if v}


def _starts(run: Protocol) -> Table | None:
    """What the meta-learned starts took: of the first seed that has them."""
    starts = next((mapping(c.get("starts")) for c in run.seeds.values() if mapping(c.get("starts"))), {})
    rows = []
    for name, start in starts.items():
        curve = [p for p in sequence(mapping(start).get("curve")) if isinstance(p, list | tuple)]
        checks = [v for p in curve if len(p) > 2 and (v := finite(p[2])) is not None]
        steps, size = (finite(mapping(start).get(k)) for k in ("outer_steps", "parameters"))
        cells = [
            "-" if steps is None else f"{steps:,.0f}",
            "-" if not checks else f"{checks[0]:.2f} to {checks[-1]:.2f}",
            duration(mapping(start).get("seconds")),
            "-" if size is None else f"{size:,.0f}",
        ]
        rows.append(Row("", "", str(name), tuple(Cell(c) for c in cells)))
    heads = ("outer steps", "validation PSNR (dB), first to last", "time", "parameters")
    return Table("starts", heads, tuple(rows)) if rows else None


def _made(run: Protocol) -> list[tuple[str, str]]:
    signals = mapping(run.metrics.get("signals"))
    out = [("machine", str(run.metrics.get("machine") or "-"))]
    out += [(f"{k} signals", f"{len(sequence(v))}: {', '.join(map(str, sequence(v)))}") for k, v in signals.items()]
    out += pairs({k: run.metrics.get(k) for k in ("versions", "backends", "phases") if run.metrics.get(k)})
    return out
