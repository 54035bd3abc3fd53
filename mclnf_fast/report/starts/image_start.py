"""What a run of image-start leaves to look at: a table for the terminal, pictures, report.html."""

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
    Rows,
    Words,
    mean_error,
    start_curves,
    step_rows,
    table_text,
    write_starts_page,
)

META = Method("meta", "meta-learned", "", "#c44e00", "#ff9a57", "o", "learned over the training images by MAML; SGD")
STANDARD = Method("standard", "standard", "", "#6b7280", "#a6adbb", "s", "random weights; SGD at the same rate")
ADAM = (("#0072b2", "#62b5ea", "^"), ("#008f6b", "#3fcaa1", "v"), ("#7a4fd0", "#b79cff", "D"))
WORDS = Words(
    "A start is learned over many images so that a few steps of gradient descent, each on all pixels, fit one that was "
    "never seen. Beside it a random start takes the same steps, and Adam goes on from it until it is as good.",
    "PSNR in dB of the network's values, mean ± standard error over the test images. To match: the steps after which "
    "the mean PSNR is that of the learned start after its steps.",
    "image",
    "PSNR in dB after the last step.",
)


def looks_of(metrics: Mapping[str, Any]) -> dict[str, Method]:
    """How the starts of a run are shown, in their order."""
    found: dict[str, Method] = {}
    for key, row in mapping(metrics.get("starts")).items():
        if key.startswith("adam_"):
            rate, (colour, dark, marker) = mapping(row).get("lr"), ADAM[int(key[5:]) % len(ADAM)]
            name = f"Adam {rate:g}"
            found[key] = Method(
                key, name, "", colour, dark, marker, f"the same random weights as standard; Adam at {rate:g}"
            )
        else:
            found[key] = META if key == "meta" else STANDARD
    return found


def rows_of(metrics: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Heads and cells: PSNR over steps, and the steps until each start matches the learned one."""
    looks, inner = looks_of(metrics), _inner(metrics)
    known = {s for curve in start_curves(metrics, looks).values() for s in curve}
    steps = sorted({s for s in (0, 1, inner, 8, 32, 128, 512) if s in known} | ({max(known)} if known else set()))
    heads, rows = step_rows(metrics, looks, steps)
    starts = mapping(metrics.get("starts"))
    for method, cells in rows:
        cells.insert(-1, _matched(mapping(starts[method.key]), inner if method.key == "meta" else None))
    return [*heads[:-1], "steps to match", heads[-1]], rows


def figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """The figures of the head: PSNR after the learned start's steps, its lead, and what Adam needs to match it."""
    starts, inner = mapping(metrics.get("starts")), _inner(metrics)
    values = {k: mean_error(mapping(mapping(row).get("curve")).get(str(inner))) for k, row in starts.items()}
    own, other = values.get("meta"), values.get("standard")
    if own is None:
        return []
    out = [Figure(db(own[0], unit=True), f"PSNR of unseen images, {inner} steps after the learned start")]
    if other is not None:
        gap = own[0] - other[0]
        out.append(Figure(db(gap, sign=True, unit=True), f"against a random start after {inner} steps", gap > 0))
    for key, method in looks_of(metrics).items():
        row = mapping(starts[key])
        if not key.startswith("adam_"):
            continue
        reached = row.get("reached_mean")
        if isinstance(reached, int):
            what = f"as many steps until {method.name} matches them ({reached:,} against {inner})"
            out.append(Figure(f"{reached / inner:.3g}x", what, reached > inner))
        else:
            out.append(Figure("no match", f"{method.name}, within {row.get('steps'):,} steps", True))
    return out


def image_start_table(metrics: Mapping[str, Any]) -> str:
    """The starts side by side, for a terminal; any key of metrics.json may be missing."""
    heads, rows = rows_of(metrics)
    return table_text(f"{metrics.get('title')}: PSNR in dB, mean ± standard error", heads, rows, figures(metrics))


def write_pictures(folder: str | Path, metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Draws the pictures of a run into `images/`; the list for `pictures` of metrics.json.

    Args:
        folder: the run's folder; `predictions/*.safetensors` are read.
        metrics: the content of metrics.json.

    Returns: `{"kind", "file", "caption"}` each. Raises InputError, if matplotlib is missing or a file is torn.
    """
    place, looks, inner = Path(folder), looks_of(metrics), _inner(metrics)
    found = []
    if (truth := saved_values(place, "truth")) is not None:
        save_image(place / "images" / "sheet.png", _sheet(place, truth, metrics))
        said = "Unseen images: the truth, the learned start before and after its steps, and a random start's."
        found.append({"kind": "sheet", "file": "images/sheet.png", "caption": said})
    plot = steps_plot(place, looks, start_curves(metrics, looks), "steps on an image", "PSNR (dB)")
    said = "PSNR over steps; the mean over the test images, and in the band its standard error. The learned start was "
    said += f"trained to be best after {inner}."
    found.append({"kind": "curve", "file": f"images/{plot.name}", "caption": said})
    return found


def write_image_start_report(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `report.html` into a run's folder; the path. Raises as `write_starts_page`."""
    return write_starts_page(folder, metrics, looks_of(metrics), WORDS, figures(metrics), *rows_of(metrics))


def _sheet(place: Path, truth: np.ndarray, metrics: Mapping[str, Any]) -> Any:
    """The learned start at each of its kept steps, then the others after as many and after their last."""
    inner, starts = _inner(metrics), mapping(metrics.get("starts"))
    columns: dict[str, np.ndarray] = {}
    psnrs: dict[str, list[float | None]] = {}
    heads: dict[str, Method] = {}
    for key, method in looks_of(metrics).items():
        row, made = mapping(starts[key]), saved_values(place, key)
        kept = [int(s) for s in sequence(row.get("kept"))]
        wanted = kept[:-1] if key == "meta" else [inner, kept[-1]] if key == "standard" else kept[-1:]
        for step in wanted if made is not None else ():
            name = f"{key} {step}"
            assert made is not None
            columns[name] = made[kept.index(step)][:SHOWN]
            psnrs[name] = [finite(v) for v in sequence(mapping(row.get("curve")).get(str(step)))][:SHOWN]
            short = {"meta": "meta", "standard": "standard"}.get(key, f"Adam {row.get('lr'):g}")
            label = f"{short}, step {step:,}"
            group = "learned start" if key == "meta" else "random start"
            heads[name] = Method(name, label, group, method.colour, method.dark, method.marker)
    names = [str(n) for n in sequence(mapping(metrics.get("objects")).get("test"))]
    return qualitative_picture("image", truth[:SHOWN] / 255.0, {k: v / 255.0 for k, v in columns.items()}, psnrs,
                               names=[Path(n).name for n in names], looks=heads)  # fmt: skip


def _inner(metrics: Mapping[str, Any]) -> int:
    value = metrics.get("inner_steps")
    return value if isinstance(value, int) else 2


def _matched(row: Mapping[str, Any], own: int | None) -> str:
    if own is not None:
        return f"{own:,}"
    value = row.get("reached_mean")
    return f"{value:,}" if isinstance(value, int) else f"over {row.get('steps', 0):,}"
