"""The report of a run: one HTML file that holds everything and opens from disk, without a network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import write_atomically
from mclnf_fast.report.page import plots
from mclnf_fast.report.page.claims import figures, sentences
from mclnf_fast.report.page.style import (
    METHODS,
    colour,
    db,
    duration,
    finite,
    matrix_of,
    missing_extra,
    name,
    ordered,
    steps_of,
)

ORDER = ("overview", "modules", "strip", "triptych", "fisher", "curve")
HEADINGS = {
    "overview": "The city",
    "modules": "Which module owns what",
    "strip": "More views while they are learned",
    "triptych": "Truth, renders, errors",
    "fisher": "Where the information is",
    "curve": "More curves",
}
EXPLAIN = {
    "mim": "each block has its own modules; Fisher information says which rays teach them most",
    "mod": "each block has its own modules, trained on the plain squared error",
    "finetune": "one network with as many parameters, trained on block after block",
    "er": "as that one, with rays of earlier blocks replayed beside the new ones: twice the rays a step",
    "ewc": "as that one, held back where earlier blocks depend on a parameter",
    "maml_cl": "as that one, from a start that MAML learned for whole districts",
    "oml": "one network of which only the last layers learn; the first were learned through sequences of blocks before",
    "offline": "one network that meets the rays of all blocks at once, with as many steps as the others make in all",
    "maml_offline": "the same from the start that MAML learned",
    "mod_random": "as the modules, but from a random start instead of the learned one",
}
_UNIT = re.compile(r"(\d) (dB|s|min|h)\b")  # a figure and its unit stay on one line
_LOSS = 0.5  # dB under the block's own figure from which a cell is marked


def write_report(run_dir: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Write `report.html` into a run folder, pictures inlined so that the file can be sent around; its path.

    Args:
        run_dir: the run folder; `config.yaml` is shown where it is there, pictures are read from it.
        metrics: the content of metrics.json. Any key may be missing: what is not there is left out.

    Raises: InputError, if matplotlib or jinja2 is missing (the message names the extra), or a picture's file
        lies outside the run folder.
    """
    folder = Path(run_dir)
    return write_page(folder / "report.html", "report.html", _content(folder, metrics))


def write_page(target: Path, template: str, content: Mapping[str, Any]) -> Path:
    """Fill a template of this folder and write it, whole or not at all; the path.

    Raises: InputError, if jinja2 is missing (the message names the extra).
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise InputError(missing_extra("jinja2")) from None
    loader = PackageLoader("mclnf_fast.report.page", ".")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["units"] = lambda text: _UNIT.sub("\\1\u00a0\\2", str(text))
    text = page.get_template(template).render(**content)
    write_atomically(target, text.encode("utf-8"))
    return target


def _content(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    summary = {str(m): r for m, r in _mapping(metrics.get("summary")).items() if isinstance(r, Mapping)}
    blocks = [str(b) for b in _sequence(metrics.get("blocks"))]
    methods = ordered(summary)
    config = folder / "config.yaml"
    hero, sections = _pictures(folder, metrics)
    return {
        "title": str(metrics.get("title") or "A city, learned block by block"),
        "blocks": blocks,
        "machine": str(metrics.get("machine") or ""),
        "seconds": duration(metrics.get("seconds_total")),
        "figures": figures(metrics),
        "sentences": sentences(metrics),
        "notes": [str(n) for n in _sequence(metrics.get("notes"))],
        "methods": [{"key": m, "name": name(m), "explain": EXPLAIN.get(m, "")} for m in methods],
        "table": _table(summary, methods, blocks, _mapping(metrics.get("city"))),
        "curve": _curve(summary, methods),
        "matrices": _matrices(summary, methods, blocks),
        "plots": _plots(metrics, summary, blocks),
        "hero": hero,
        "sections": sections,
        "comparison": pairs(metrics.get("comparison")),
        "versions": pairs(metrics.get("versions")),
        "command": str(metrics.get("command") or ""),
        "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        "order": {m: i for i, m in enumerate(METHODS)},
        "light": {m: colour(m) for m in METHODS},
        "dark": {m: colour(m, dark=True) for m in METHODS},
    }


def _table(
    summary: Mapping[str, Any], methods: Sequence[str], blocks: Sequence[str], city: Mapping[str, Any]
) -> dict[str, Any]:
    """Heads and rows of the main table; a column that no method fills is left out."""
    first = blocks[0] if blocks else "first block"
    columns: list[tuple[str, str, list[str]]] = [
        ("mean PSNR", "dB", [db(summary[m].get("psnr_mean")) for m in methods]),
        ("mean SSIM", "", [_fixed(summary[m].get("ssim_mean"), 3) for m in methods]),
        (f"{first}, when learned", "dB", [db(summary[m].get("psnr_first_task_after_own")) for m in methods]),
        (f"{first}, at the end", "dB", [db(summary[m].get("psnr_first_task_after_all")) for m in methods]),
        ("forgotten, mean", "dB", [db(summary[m].get("forgetting")) for m in methods]),
        ("whole-city views", "dB", [db(city.get(m)) for m in methods]),
        ("learning time", "", [duration(summary[m].get("seconds")) for m in methods]),
        ("steps per block", "", [_count(summary[m].get("steps_per_block")) for m in methods]),
        ("parameters", "", [_count(summary[m].get("parameters")) for m in methods]),
    ]
    kept = [c for c in columns if any(v != "-" for v in c[2])]
    return {
        "heads": [(title, unit) for title, unit, _ in kept],
        "rows": [{"name": name(m), "key": m, "cells": [c[2][i] for c in kept]} for i, m in enumerate(methods)],
    }


def _curve(summary: Mapping[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    curves = {m: steps_of(summary[m]) for m in methods}
    steps = sorted({s for c in curves.values() for s in c})
    return {
        "steps": [f"{s:,}" for s in steps],
        "rows": [
            {"name": name(m), "key": m, "cells": [db(curves[m].get(s)) for s in steps]} for m in methods if curves[m]
        ],
    }


def _matrices(summary: Mapping[str, Any], methods: Sequence[str], blocks: Sequence[str]) -> list[dict[str, Any]]:
    """PSNR tables with each cell's place in 0..1 between the worst and the best of all of them."""
    matrices = {m: matrix_of(summary[m]) for m in methods}
    values = [v for r in matrices.values() for k, line in enumerate(r) for v in line[: k + 1] if v is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    out = []
    for m, rows in matrices.items():
        count = max([len(rows), *(len(line) for line in rows)]) if rows else 0
        names = [blocks[i] if i < len(blocks) else f"block {i + 1}" for i in range(count)]
        lines = []
        for k, line in enumerate(rows):
            if all(v is None for v in line):  # of a method that met all blocks at once
                continue
            cells = []
            for i in range(count):
                value = line[i] if i <= k and i < len(line) else None
                own = rows[i][i] if i < k and i < len(rows[i]) else None
                drop = None if value is None or own is None else value - own
                place = 0.5 if value is None or high <= low else (value - low) / (high - low)
                cells.append(
                    {
                        "text": db(value) if i <= k else "",
                        "heat": None if value is None else f"{100 * place:.0f}",
                        "drop": "" if drop is None else "no change" if drop == 0 else db(drop, sign=True),
                        "bad": drop is not None and drop <= -_LOSS,
                    }
                )
            lines.append({"name": names[k], "cells": cells})
        if lines:
            out.append({"name": name(m), "key": m, "blocks": names, "lines": lines})
    return out


def _plots(metrics: Mapping[str, Any], summary: Mapping[str, Any], blocks: Sequence[str]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    drawn = []
    if any(steps_of(r) for r in summary.values()):
        caption = "PSNR of held-out views over the steps of a block, mean over the blocks."
        drawn.append(("How fast a block is learned", caption, plots.steps_figure(summary)))
    if any(len(matrix_of(r)) > 1 for r in summary.values()):
        caption = "Each block's held-out views, from the moment the block was learned to the end of the run."
        drawn.append(("What is kept", caption, plots.forgetting_figure(summary, blocks)))
    meta = _mapping(metrics.get("meta"))
    if len(_sequence(meta.get("curve"))) > 1:
        caption = "The modules' shared initialisation, while it is learned on other districts."
        if finite(meta.get("seconds")) is not None:
            caption = caption[:-1] + f" ({duration(meta['seconds'])})."
        drawn.append(("The shared start", caption, plots.meta_figure(meta)))
    for kind, heading in (("joint", "The start by MAML"), ("oml", "The start of OML")):
        start = _mapping(_mapping(metrics.get("starts")).get(kind))
        if len(_sequence(start.get("curve"))) > 1:
            caption = (
                f"One network for all blocks, adapted to whole other districts ({duration(start.get('seconds'))})."
            )
            drawn.append((heading, caption, plots.meta_figure(start)))
    phases = {str(k): s for k, v in _mapping(metrics.get("phases")).items() if (s := finite(v)) is not None}
    if phases:
        drawn.append(("Where the time went", "", plots.phase_figure(phases)))
    return [
        {
            "heading": heading,
            "caption": caption,
            "svg": Markup(_themed(plots.svg(figure))),
            "wide": figure.get_figwidth() > 8,
        }
        for heading, caption, figure in drawn
    ]


def _themed(svg: str) -> str:
    """The plot with its colours as CSS variables of the page, so that it follows light and dark."""
    names = {plots.INK: "ink", plots.SOFT: "soft", plots.GRID: "grid", plots.NEUTRAL: "neutral"}
    names |= {colour(m): m.replace("_", "-") for m in METHODS}
    for value, variable in names.items():
        svg = re.sub(rf"(fill|stroke): {value}\b", rf"\1: var(--{variable}, {value})", svg)
    return svg


def _pictures(folder: Path, metrics: Mapping[str, Any]) -> tuple[dict[str, str] | None, list[dict[str, Any]]]:
    """The picture for the head (the first strip), and the others in sections by kind.

    Kinds unknown here come last, under their own name.
    """
    groups: dict[str, list[dict[str, str]]] = {}
    for entry in _sequence(metrics.get("pictures")):
        if not isinstance(entry, Mapping) or not entry.get("file"):
            continue
        kind, file = str(entry.get("kind") or "overview"), str(entry["file"])
        caption = str(entry.get("caption") or "")
        groups.setdefault(kind, []).append({"uri": inline(folder, file), "file": file, "caption": caption})
    hero = groups["strip"].pop(0) if "strip" in groups else None
    groups = {k: v for k, v in groups.items() if v}
    kinds = [k for k in ORDER if k in groups] + [k for k in groups if k not in ORDER]
    return hero, [{"heading": HEADINGS.get(k, k), "pictures": groups[k]} for k in kinds]


def inline(folder: Path, file: str) -> str:
    """A picture as a data URI, empty where the file is not there."""
    root = folder.resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root):
        raise InputError(f"pictures: file must lie inside the run folder, was {file!r}")
    kind = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}.get(path.suffix.lower())
    if kind is None or not path.is_file():
        return ""
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def pairs(value: object) -> list[tuple[str, str]]:
    """What a mapping holds as (name, text), for a list of definitions."""
    out = []
    for key, item in _mapping(value).items():
        if isinstance(item, Mapping):
            text = ", ".join(f"{k} {_plain(v)}" for k, v in item.items())
        else:
            text = _plain(item)
        out.append((str(key), text))
    return out


def _plain(value: object) -> str:
    if isinstance(value, float):
        return "-" if finite(value) is None else f"{value:.4g}"
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def _fixed(value: object, digits: int) -> str:
    number = finite(value)
    return "-" if number is None else f"{number:.{digits}f}"


def _count(value: object) -> str:
    number = finite(value)
    return "-" if number is None else f"{round(number):,}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else []
