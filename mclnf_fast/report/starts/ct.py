"""What a run of ct leaves to look at: a table for the terminal, pictures, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mclnf_fast.report.page.canvas import save_image
from mclnf_fast.report.page.claims import Figure
from mclnf_fast.report.page.methods import Method
from mclnf_fast.report.page.style import db, finite
from mclnf_fast.report.protocol.counts import mapping, sequence
from mclnf_fast.report.protocol.qualitative import qualitative_picture
from mclnf_fast.report.starts.single_view_pictures import saved_values, steps_plot
from mclnf_fast.report.starts.starts import (
    SHOWN,
    STARTS,
    Rows,
    Words,
    lead,
    mean_error,
    start_curves,
    step_rows,
    table_text,
    write_starts_page,
)

FBP = Method("fbp", "back-projection", "", "#0072b2", "#62b5ea", "D", "filtered back-projection, with the ramp filter")
MEAN = Method(
    "mean", "mean slice", "", "#b98a00", "#e0bd4a", "x", "the mean of the training slices, no projection used"
)
LOOKS = (FBP, MEAN, *STARTS)
_GROUP = {True: "classical", False: "fields, before and after their steps"}


def looks_of(metrics: Mapping[str, Any]) -> dict[str, Method]:
    """How the rows of a run are shown, in their order."""
    found = mapping(metrics.get("starts"))
    return {m.key: m for m in LOOKS if m.key in found}


def words_of(metrics: Mapping[str, Any]) -> Words:
    """What stands around the figures."""
    return Words(
        f"A start is learned over slices of which many projections are known. It, and others to compare it with, are "
        f"continued on {metrics.get('views')} parallel projections of a slice that was never seen, each at its best "
        "rate of those tried on slices kept back; the loss is between projections, the PSNR between slices.",
        "PSNR in dB of the slices, mean ± standard error over the test slices. Projection loss: the mean squared error "
        "of the projections at the last step, of means along rays.",
        "slice",
        "PSNR in dB after the last step.",
    )


def rows_of(metrics: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Heads and cells: PSNR over steps, the loss between projections, the rate."""
    looks = looks_of(metrics)
    known = sorted({s for curve in start_curves(metrics, looks).values() for s in curve})
    steps = [s for s in (0, 8, 32, 128, 512) if s in known[:-1]] + known[-1:]
    heads, rows = step_rows(metrics, looks, steps)
    starts = mapping(metrics.get("starts"))
    for method, cells in rows:
        row = mapping(starts[method.key])
        losses = {int(step): values for step, values in mapping(row.get("fit")).items()}
        fit = mean_error(losses[max(losses)]) if losses else None
        rate = finite(row.get("lr"))
        cells[-1:-1] = ["-" if fit is None else f"{fit[0]:.1e}", "-" if rate is None else f"{rate:g}"]
        if method.key in (FBP.key, MEAN.key):
            cells[: len(steps) - 1] = ["-"] * (len(steps) - 1)
    return [*heads[:-1], "projection loss", "rate", heads[-1]], rows


def figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """The figures of the head: the learned start's PSNR and its lead over everything else."""
    own = mean_error(mapping(mapping(metrics.get("starts")).get("meta")).get("after"))
    if own is None:
        return []
    steps = max([s for s in sequence(metrics.get("steps")) if isinstance(s, int)], default=0)
    out = [Figure(db(own[0], unit=True), f"PSNR of unseen slices, {steps:,} steps after the learned start")]
    for key, method in looks_of(metrics).items():
        gap = lead(metrics, "meta", key) if key != "meta" else None
        if gap is not None:
            what = method.name if key in (FBP.key, MEAN.key) else f"{method.name} start"
            out.append(Figure(db(gap, sign=True, unit=True), f"against the {what}", gap > 0))
    return out


def ct_table(metrics: Mapping[str, Any]) -> str:
    """The starts side by side, for a terminal; any key of metrics.json may be missing."""
    heads, rows = rows_of(metrics)
    title = f"{metrics.get('title')}: PSNR in dB, mean ± standard error"
    return table_text(title, heads, rows, figures(metrics))


def write_pictures(folder: str | Path, metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Draws the pictures of a run into `images/`; the list for `pictures` of metrics.json.

    Args:
        folder: the run's folder; `predictions/*.safetensors` are read.
        metrics: the content of metrics.json.

    Returns: `{"kind", "file", "caption"}` each. Raises InputError, if matplotlib is missing or a file is torn.
    """
    place, looks = Path(folder), looks_of(metrics)
    found = []
    if (truth := saved_values(place, "truth")) is not None:
        save_image(place / "images" / "sheet.png", _sheet(place, truth, metrics))
        said = f"Unseen slices from {metrics.get('views')} projections: the truth, filtered back-projection, and each "
        found.append({"kind": "sheet", "file": "images/sheet.png", "caption": said + "start before and after."})
    plot = steps_plot(place, looks, start_curves(metrics, looks), "SGD steps on the projections", "PSNR of slices (dB)")
    said = (
        "PSNR of slices over steps on their projections; the mean over the test slices, and in the band its standard "
    )
    found.append({"kind": "curve", "file": f"images/{plot.name}", "caption": said + "error."})
    return found


def write_ct_report(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `report.html` into a run's folder; the path. Raises as `write_starts_page`."""
    words = words_of(metrics)
    return write_starts_page(folder, metrics, looks_of(metrics), words, figures(metrics), *rows_of(metrics))


def _sheet(place: Path, truth: np.ndarray, metrics: Mapping[str, Any]) -> Any:
    columns: dict[str, np.ndarray] = {}
    psnrs: dict[str, list[float | None]] = {}
    heads: dict[str, Method] = {}
    for key, method in looks_of(metrics).items():
        made, row = saved_values(place, key), mapping(mapping(metrics.get("starts"))[key])
        if made is None or key == MEAN.key:
            continue
        kept = [int(s) for s in sequence(row.get("kept"))] or [0]
        for k, step in enumerate(kept):
            name = f"{key} {step}"
            label = method.name if len(kept) == 1 else f"{method.key}, {'before' if k == 0 else 'after'}"
            heads[name] = Method(name, label, _GROUP[key == FBP.key], method.colour, method.dark, method.marker)
            columns[name] = made[k][:SHOWN] / 255.0
            psnrs[name] = [finite(v) for v in sequence(mapping(row.get("curve")).get(str(step)))][:SHOWN]
    names = [Path(str(n)).name for n in sequence(mapping(metrics.get("objects")).get("test"))]
    return qualitative_picture("image", truth[:SHOWN] / 255.0, columns, psnrs, names=names, looks=heads, detail=False)
