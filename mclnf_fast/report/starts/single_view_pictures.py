"""The pictures of a run of single-view fields: the starts over steps, a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mclnf_fast.fields.io import load_tensors
from mclnf_fast.report.page.canvas import BODY, GAP, MARGIN, SOFT, Sheet, enlarge, factor, text_width
from mclnf_fast.report.page.methods import Method
from mclnf_fast.report.page.plots import FINE, WIDE, new_figure, plain_axes, save, spread

_OBJECTS, _VIEWS = 2, 4  # of the contact sheet; the first view is the one learned from
_LABEL = 26  # pixels


def saved_values(folder: Path, name: str) -> np.ndarray | None:
    """What `RunFolder.save_values` left of a start, or of the truth; None where it is not there."""
    file = folder / "predictions" / f"{name}.safetensors"
    return load_tensors(file)[0]["values"].numpy() if file.is_file() else None


def steps_plot(
    folder: Path,
    looks: Mapping[str, Method],
    curves: Mapping[str, Mapping[int, tuple[float, float | None]]],
    along: str = "steps",
    value: str = "PSNR on views not learned from (dB)",
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
        if len(shown) > 2 and shown[-1] < 2.5 * shown[-2]:
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


def contact_sheet(folder: Path, looks: Mapping[str, Method]) -> Path | None:
    """`images/sheet.png`: two unseen objects, a view learned from and three others of each; the truth in the first row,
    then each start before and after. None where there is no truth."""
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
