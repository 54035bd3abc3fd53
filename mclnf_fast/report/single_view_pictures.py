"""The pictures of a run of single-view fields: the starts over steps, a contact sheet, a turn around an object."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mclnf_fast.fields.io import load_tensors, write_atomically
from mclnf_fast.report.canvas import BODY, GAP, MARGIN, SOFT, Sheet, enlarge, factor, text_width
from mclnf_fast.report.methods import Method
from mclnf_fast.report.plots import FINE, WIDE, new_figure, plain_axes, save, spread
from mclnf_fast.report.protocol import mapping, sequence

_OBJECTS, _VIEWS = 2, 4  # of the contact sheet; the first view is the one learned from
_LABEL = 26  # pixels
_FRAME = 180  # milliseconds


def saved_values(folder: Path, name: str) -> np.ndarray | None:
    """What `RunFolder.save_values` left of a start, or of the truth; None where it is not there."""
    file = folder / "predictions" / f"{name}.safetensors"
    return load_tensors(file)[0]["values"].numpy() if file.is_file() else None


def steps_plot(
    folder: Path,
    looks: Mapping[str, Method],
    curves: Mapping[str, Mapping[int, tuple[float, float | None]]],
    along: str = "SGD steps on one view",
    value: str = "PSNR on other views (dB)",
) -> Path:
    """`images/curve.png`: PSNR over steps (step 0 at the left), one line a start with its error; `along` and `value`
    name the axes."""
    figure = new_figure(WIDE, 3.5)
    axes = figure.add_axes((0.105, 0.155, 0.605, 0.805))
    ends = []
    for key, method in looks.items():
        points = curves.get(key) or {}
        if not points:
            continue
        xs, ys = [max(s, 0.5) for s in points], [m for m, _ in points.values()]
        errors = [e or 0.0 for _, e in points.values()]
        low, high = ([y + sign * e for y, e in zip(ys, errors)] for sign in (-1, 1))
        axes.fill_between(xs, low, high, color=method.colour, alpha=0.15, linewidth=0)
        axes.plot(xs, ys, color=method.colour, linewidth=2, marker=method.marker, markersize=4.5, clip_on=False)
        ends.append((ys[-1], method))
    plain_axes(axes, f"{along} (log scale)", value)
    steps = sorted({s for c in curves.values() for s in c})
    if steps:
        axes.set_xscale("log", base=2)
        shown = [s for i, s in enumerate(steps) if i % 2 == 0 or i == len(steps) - 1]
        if len(shown) > 2 and shown[-1] < 1.5 * shown[-2]:
            shown.pop(-2)
        axes.set_xticks([max(s, 0.5) for s in shown], [f"{s:,}" for s in shown])
        axes.minorticks_off()
        axes.set_xlim(0.5, max(steps[-1], 1))
    bottom, top = axes.get_ylim()
    ends.sort(key=lambda e: e[0])
    for at, (y, method) in zip(spread([y for y, _ in ends], 0.065 * (top - bottom)), ends):
        axes.annotate(f"{method.name}  {y:.2f}", (1.02, (at - bottom) / (top - bottom)), xycoords="axes fraction",
                      color=method.colour, fontsize=FINE, va="center", annotation_clip=False)  # fmt: skip
    return save(figure, folder / "images" / "curve.png")


def contact_sheet(folder: Path, looks: Mapping[str, Method], metrics: Mapping[str, Any]) -> Path | None:
    """`images/sheet.png`: two unseen objects, the view learned from and three others of each; the truth in the first
    row, then each start before and after. None where there is no truth."""
    truth = saved_values(folder, "truth")
    if truth is None:
        return None
    objects, views, height, width = truth.shape[:4]
    count, columns = min(_OBJECTS, objects), min(_VIEWS, views)
    chosen = [0, *(round((k + 1) * (views - 1) / (columns - 1)) for k in range(columns - 1))]
    rows: list[tuple[str, str | None, np.ndarray]] = [("truth", None, truth)]
    for key, method in looks.items():
        made = saved_values(folder, key)
        if made is not None:
            rows += [(f"{method.name}, before", method.colour, made[0]), ("after", method.colour, made[1])]
    scale = factor(width, 112)
    w, h = width * scale, height * scale
    gutter = round(max(text_width(label, BODY) for label, _, _ in rows)) + 35
    block = columns * (w + GAP)
    sheet = Sheet(MARGIN + gutter + count * block + (count - 1) * 2 * GAP + MARGIN - GAP,
                  2 * MARGIN + _LABEL + len(rows) * (h + GAP) - GAP)  # fmt: skip
    for r, (label, fill, pictures) in enumerate(rows):
        y = MARGIN + _LABEL + r * (h + GAP)
        if fill:
            sheet.swatch(MARGIN, y + h / 2, fill)
        sheet.text(MARGIN + 19, y + h / 2, label)
        for o in range(count):
            for c, view in enumerate(chosen):
                x = MARGIN + gutter + o * (block + 2 * GAP) + c * (w + GAP)
                sheet.put(enlarge(np.ascontiguousarray(pictures[o, view]), scale, smooth=True), x, y)
                if r == 0:
                    head = "learned from" if c == 0 else "not seen"
                    sheet.text(x + w // 2, MARGIN + _LABEL // 2, head, fill=SOFT, anchor="mm")
    return sheet.save(folder / "images" / "sheet.png")


def turntable_gif(folder: Path, looks: Mapping[str, Method], metrics: Mapping[str, Any]) -> Path | None:
    """`images/turntable.gif`: around the first test object through all of its views, in the order of their azimuth: the
    view learned from, the truth, the learned start as it is, and after its steps beside the standard one's.

    None where there is no truth. Its frames are the object's own views, since of others there is no truth.
    """
    truth = saved_values(folder, "truth")
    if truth is None:
        return None
    views, height, width = truth.shape[1:4]
    orders = sequence(mapping(metrics.get("views")).get("order"))
    order = [int(v) for v in sequence(orders[0])] if orders else list(range(views))
    panels: list[tuple[str, np.ndarray | None]] = [("input", None), ("truth", truth[0])]
    best = "meta" if "meta" in looks else next(iter(looks), "")
    for key in dict.fromkeys((best, "matched", "standard")):
        made = saved_values(folder, key) if key in looks else None
        if made is None:
            continue
        if key == best:
            panels.append((f"{looks[key].name}, before", made[0, 0]))
        panels.append((f"{looks[key].name}, after", made[1, 0]))
    scale = factor(width, 192)
    w, h = width * scale, height * scale
    frames = []
    for view in order:
        sheet = Sheet(2 * MARGIN + len(panels) * (w + GAP) - GAP, 2 * MARGIN + h + _LABEL)
        for c, (label, pictures) in enumerate(panels):
            picture = truth[0, 0] if pictures is None else pictures[view]
            x = MARGIN + c * (w + GAP)
            sheet.put(enlarge(np.ascontiguousarray(picture), scale, smooth=True), x, MARGIN)
            sheet.label(x, MARGIN + h + _LABEL // 2 + 4, w, label)
        frames.append(sheet.image)
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=_FRAME, loop=0, optimize=True)
    target = folder / "images" / "turntable.gif"
    write_atomically(target, buffer.getvalue())
    return target
