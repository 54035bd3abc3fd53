"""The results of a run as text: a table for the terminal, and one for a README or a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mclnf_fast.report.page.style import db, duration, finite, matrix_of, name, ordered

Summary = Mapping[str, Mapping[str, Any]]

_BOLD, _DIM, _RED, _GREEN, _OFF = "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[0m"
_LOSS = 0.5  # dB under the block's own figure from which a cell is red
_NAME = 12  # longest block name in a table
_GAP = "   "


def matrix_table(summary: Summary, blocks: Sequence[str], *, color: bool = False, width: int = 100) -> str:
    """The block-by-block PSNR of each method, then one line a method.

    A panel has a row for each block learned ("after k") and a column for each block's held-out views; a block
    that is not learned yet has an empty cell.

    Args:
        summary: the `summary` of metrics.json; rows of `matrix` and any key may be missing.
        blocks: their names, in the order in which they were learned.
        color: terminal colours: a block's figure right after it was learned bold, a loss of 0.5 dB or more
            since then red.
        width: characters; as many panels stand side by side as fit.
    """
    methods = ordered(summary)
    panels = [_panel(m, matrix_of(summary[m]), blocks, color, width) for m in methods]
    panels = [p for p in panels if p]
    lines = ["Held-out PSNR in dB, block by block (rows: after learning that block)", ""]
    while panels:
        group, used = [panels.pop(0)], 0
        used = _width(group[0])
        while panels and used + len(_GAP) + _width(panels[0]) <= width:
            used += len(_GAP) + _width(panels[0])
            group.append(panels.pop(0))
        lines += [_GAP.join(row).rstrip() for row in zip(*_same_height(group))]
        lines.append("")
    lines += _method_lines(summary, methods, blocks, color)
    return "\n".join(lines)


def summary_markdown(metrics: Mapping[str, Any]) -> str:
    """The results as Markdown: one row a method, then PSNR over steps; for a README, an issue or a note.

    Args:
        metrics: the content of metrics.json; any key may be missing.
    """
    summary: Summary = metrics.get("summary") or {}
    blocks = [str(b) for b in metrics.get("blocks") or []]
    first = markdown_cell(blocks[0]) if blocks else "first block"
    head = ["method", "PSNR mean", "SSIM", f"{first}: own", f"{first}: last", "forgetting", "city", "time"]
    city = metrics.get("city") if isinstance(metrics.get("city"), Mapping) else {}
    rows = []
    for m in ordered(summary):
        row = summary[m]
        ssim = finite(row.get("ssim_mean"))
        rows.append(
            [
                f"{markdown_cell(name(m))} (`{markdown_cell(m)}`)",
                db(row.get("psnr_mean")),
                "-" if ssim is None else f"{ssim:.3f}",
                db(row.get("psnr_first_task_after_own")),
                db(row.get("psnr_first_task_after_all")),
                db(row.get("forgetting")),
                db((city or {}).get(m)),
                duration(row.get("seconds")),
            ]
        )
    parts = [markdown_table(head, rows)]
    steps = sorted({int(s) for m in summary for s in (summary[m].get("psnr_at_step") or {})})
    if steps:
        curve = [
            [markdown_cell(name(m))] + [db((summary[m].get("psnr_at_step") or {}).get(str(s))) for s in steps]
            for m in ordered(summary)
        ]
        parts.append(markdown_table(["PSNR after step", *map(str, steps)], curve))
    tail = [str(metrics[k]) for k in ("machine",) if metrics.get(k)]
    if finite(metrics.get("seconds_total")) is not None:
        tail.append(f"{duration(metrics['seconds_total'])} in all")
    if tail:
        parts.append("dB on held-out views. " + "; ".join(tail) + ".")
    return "\n\n".join(parts) + "\n"


def _panel(method: str, matrix: list[list[float | None]], blocks: Sequence[str], color: bool, width: int) -> list[str]:
    if not matrix:
        return []
    count = max(len(blocks), *(len(row) for row in matrix))
    full = [str(blocks[i]) if i < len(blocks) else f"block {i + 1}" for i in range(count)]
    room = min(_NAME, max(6, (width - _NAME) // count - 2))
    names = [_short(n, room) for n in full]
    if len(set(names)) < count:  # cut to the same text: number them
        names = [_short(f"{i} {n}", room) for i, n in enumerate(full, start=1)]
    widths = [max(6, len(n)) for n in names]
    left = max(len("after"), *(len(n) for n in names))
    total = left + sum(w + 2 for w in widths)
    title = f"{name(method)} ({method})" if name(method) != method else method
    lines = [_paint(title[:total].ljust(total), _BOLD, color)]
    head = "after".ljust(left) + "".join("  " + n.rjust(w) for n, w in zip(names, widths))
    lines.append(_paint(head, _DIM, color))
    own: dict[int, float] = {}
    for k, row in enumerate(matrix):
        if all(value is None for value in row):  # of a method that met all blocks at once
            continue
        cells = names[k].ljust(left)
        for i in range(count):
            value = row[i] if i < len(row) and i <= k else None
            text = ("" if value is None and i > k else db(value)).rjust(widths[i])
            if value is not None and i == k:
                own[i] = value
                text = _paint(text, _BOLD, color)
            elif value is not None and i in own and value <= own[i] - _LOSS:
                text = _paint(text, _RED, color)
            cells += "  " + text
        lines.append(cells)
    return lines


def _method_lines(summary: Summary, methods: Sequence[str], blocks: Sequence[str], color: bool) -> list[str]:
    first = _short(str(blocks[0])) if blocks else "block 1"
    head = ["method", "mean", "SSIM", f"{first} own", "at end", "forgotten", "seconds", "parameters"]
    rows = []
    for m in methods:
        row = summary[m]
        ssim, seconds, size = (finite(row.get(k)) for k in ("ssim_mean", "seconds", "parameters"))
        rows.append(
            [
                name(m),
                db(row.get("psnr_mean")),
                "-" if ssim is None else f"{ssim:.3f}",
                db(row.get("psnr_first_task_after_own")),
                db(row.get("psnr_first_task_after_all")),
                db(row.get("forgetting")),
                "-" if seconds is None else f"{seconds:.1f}",
                "-" if size is None else f"{int(size):,}",
            ]
        )
    if not rows:
        return ["no results yet"]
    widths = [max(len(r[c]) for r in [head, *rows]) for c in range(len(head))]
    lines = [_paint(_aligned(head, widths), _DIM, color)]
    for m, row_text in zip(methods, rows):
        lost = finite(summary[m].get("forgetting"))
        code = None if lost is None else _RED if lost >= _LOSS else _GREEN if lost <= 0.005 else None
        padded = [t.ljust(w) if c == 0 else t.rjust(w) for c, (t, w) in enumerate(zip(row_text, widths))]
        if code:
            padded[5] = _paint(padded[5], code, color)
        lines.append("  ".join(padded))
    return lines


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(t.ljust(w) if c == 0 else t.rjust(w) for c, (t, w) in enumerate(zip(cells, widths)))


def _same_height(panels: list[list[str]]) -> list[list[str]]:
    height = max(len(p) for p in panels)
    return [p + [" " * _width(p)] * (height - len(p)) for p in panels]


def _width(panel: list[str]) -> int:
    """Visible characters of a panel's lines, which are all as long."""
    line = panel[0]
    for code in (_BOLD, _DIM, _RED, _GREEN, _OFF):
        line = line.replace(code, "")
    return len(line)


def _short(text: str, room: int = _NAME) -> str:
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "?"
    return clean if len(clean) <= room else clean[: room - 1] + "~"


def _paint(text: str, code: str, color: bool) -> str:
    return f"{code}{text}{_OFF}" if color else text


def markdown_cell(text: str) -> str:
    """`text` for a cell of a Markdown table: on one line, its marks escaped."""
    flat = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return flat.replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, figures to the right."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("| " + " | ".join("---" if c == 0 else "---:" for c in range(len(head))) + " |")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
