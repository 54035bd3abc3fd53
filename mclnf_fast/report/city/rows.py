"""The rows and the refinement strip of a city run, for a table of several runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from mclnf_fast.report.page.canvas import MARGIN, Sheet
from mclnf_fast.report.page.claims import changed
from mclnf_fast.report.page.style import db, duration, finite, name, ordered
from mclnf_fast.report.protocol.counts import mapping, sequence
from mclnf_fast.report.protocol.qualitative import small_print
from mclnf_fast.report.protocol.run_folder import Finished
from mclnf_fast.report.protocol.run_pictures import Drawn
from mclnf_fast.report.protocol.tables import Cell, Row, Table

_CSV = (("psnr_mean", "psnr", "last"), ("ssim_mean", "ssim", "last"), ("forgetting", "psnr", "forgetting"))


def city_table(f: Finished) -> Table:
    """One row a method: mean PSNR and SSIM of held-out views, forgetting, whole-city views, time, parameters."""
    summary = _summary(f)
    city = mapping(f.metrics.get("city"))
    columns: list[tuple[str, list[str], list[float | None]]] = []

    def column(head: str, show: Any, value: Any = None) -> None:
        texts = [show(summary[m], m) for m in summary]
        ranked = [value(summary[m], m) if value else None for m in summary]
        columns.append((head, texts, ranked))

    column("mean PSNR (dB)", lambda r, m: db(r.get("psnr_mean")), lambda r, m: _rounded(r.get("psnr_mean")))
    column("SSIM", lambda r, m: "-" if (v := finite(r.get("ssim_mean"))) is None else f"{v:.3f}")
    column("forgetting (dB)", lambda r, m: _forgetting(r))
    column("whole-city views (dB)", lambda r, m: db(city.get(m)), lambda r, m: _rounded(city.get(m)))
    column("time", lambda r, m: duration(r.get("seconds")))
    column("parameters", lambda r, m: "-" if (v := finite(r.get("parameters"))) is None else f"{v:,.0f}")
    kept = [c for c in columns if any(t != "-" for t in c[1])]
    rows = []
    for i, m in enumerate(summary):
        cells = [Cell(texts[i], _rank(values, i)) for _, texts, values in kept]
        rows.append(Row("", m, name(m), tuple(cells)))
    blocks = [str(b) for b in sequence(f.metrics.get("blocks"))]
    note = (
        "PSNR of held-out views, mean over the blocks after the last one was learned. Forgetting: what a block loses "
        "on average from when it was learned to the end; a bare 0 is exactly zero, bit for bit."
    )
    if blocks:
        note = f"{len(blocks)} blocks, one after another. {note}"
    return Table(f.label, tuple(c[0] for c in kept), tuple(rows), (note,))


def city_strips(f: Finished, made: str) -> list[Drawn]:
    """The refinement strips that the run left in its folder, as they are, over the commands that made them."""
    from PIL import Image

    out: list[Drawn] = []
    for entry in sequence(f.metrics.get("pictures")):
        if not isinstance(entry, dict) or entry.get("kind") != "strip" or not entry.get("file"):
            continue
        file = (f.folder / str(entry["file"])).resolve()
        if file.is_relative_to(f.folder.resolve()) and file.is_file():
            with Image.open(file) as image:
                stem = "strip" if not out else f"strip_{len(out) + 1}"
                caption = str(entry.get("caption") or "A view while it is learned.")
                signed = _signed(image.convert("RGB"), [f"run: {f.command}"] * bool(f.command) + [f"figure: {made}"])
                out.append(Drawn("strip", stem, f"{f.label}. {caption}", signed))
    return out


def city_csv(cities: Sequence[Finished]) -> str:
    """Lines for the CSV of `protocol_tables.csv_text`, without its heads where there are none."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    for f in cities:
        for m, row in _summary(f).items():
            figures = [(metric, kind, finite(row.get(key))) for key, metric, kind in _CSV]
            figures += [(k, "last", finite(row.get(k))) for k in ("seconds", "parameters")]
            for metric, kind, value in figures:
                if value is not None:
                    steps = row.get("steps_per_block", "") if kind == "last" else ""
                    lines.writerow([f.label, "", m, metric, kind, steps, repr(value), "", "", 1, f.command])
    return out.getvalue()


def _signed(picture: Any, lines: Sequence[str]) -> Any:
    """A picture with lines of small type below it."""
    sheet = Sheet(picture.width, picture.height + 18 * len(lines) + 8)
    sheet.put(picture, 0, 0)
    for k, line in enumerate(lines):
        small_print(sheet, MARGIN, picture.height + 8 + 18 * k, line)
    return sheet.image


def _summary(f: Finished) -> dict[str, Any]:
    rows = mapping(f.metrics.get("summary"))
    return {m: mapping(rows[m]) for m in ordered(rows)}


def _forgetting(row: Any) -> str:
    value = finite(row.get("forgetting"))
    return "0" if value == 0 and not changed(row) else db(value)


def _rounded(value: object) -> float | None:
    number = finite(value)
    return None if number is None else round(number, 2)


def _rank(values: Sequence[float | None], i: int) -> int:
    """1 for the highest, 2 for the next, 0 for what is lower or stands alone."""
    order = sorted({v for v in values if v is not None}, reverse=True)
    value = values[i]
    if value is None or sum(v is not None for v in values) < 2:
        return 0
    place = order.index(value) + 1
    return place if place <= 2 else 0
