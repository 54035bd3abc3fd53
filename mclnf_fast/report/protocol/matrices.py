"""The figure of forgetting: a small matrix per method, PSNR of every task after every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.report.page.canvas import heat
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.plots import FINE, GRID, INK, SMALL, SOFT, TEXT, new_figure
from mclnf_fast.report.protocol.tables import Labelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE, _LEFT, _ABOVE, _GAP, _FOOT, _NAME = 1.62, 0.95, 0.38, 0.32, 0.48, 0.45  # inches
_COLUMNS = 4


def matrices_figure(runs: Sequence[Labelled]) -> Figure:
    """Return R[k, i], PSNR of task i after task k, for each method that learns in sequence; one scale per run.

    Bold: when the task was learned. Above the white stairs: tasks that were not learned yet.
    """
    methods = {r.label: [m for m in r.run.methods if r.run.matrix(m).size] for r in runs}
    columns = min(_COLUMNS, max([1, *(len(ms) for ms in methods.values())]))
    lines = {label: max(1, -(-len(ms) // columns)) for label, ms in methods.items()}
    wide = _LEFT + columns * (_SIDE + _GAP) + 0.72
    high = sum(_NAME + n * (_ABOVE + _SIDE + _FOOT) for n in lines.values()) + 0.1
    figure = new_figure(wide, high)
    top = 0.05  # inches from the top, down
    for r in runs:
        ms = methods[r.label]
        figure.text(
            0.14 / wide, 1 - (top + 0.28) / high, r.label, fontsize=TEXT, color=INK, va="center", parse_math=False
        )
        top += _NAME
        matrices = [r.run.matrix(m) for m in ms]
        known = np.concatenate([m[np.isfinite(m)] for m in matrices]) if matrices else np.zeros(1)
        scale = float(known.min()), float(known.max())
        if not ms:
            middle = 1 - (top + _ABOVE + _SIDE / 2) / high
            figure.text(_LEFT / wide, middle, "no method that learns in sequence", color=SOFT, fontsize=FINE)
        for k, (m, matrix) in enumerate(zip(ms, matrices)):
            x = _LEFT + k % columns * (_SIDE + _GAP)
            y = high - top - k // columns * (_ABOVE + _SIDE + _FOOT) - _ABOVE - _SIDE
            axes = figure.add_axes((x / wide, y / high, _SIDE / wide, _SIDE / high))
            _matrix(axes, matrix, r.run.looks[m], scale, k % columns == 0)
            if k % columns == columns - 1 or k == len(ms) - 1:
                _bar(figure.add_axes(((x + _SIDE + 0.12) / wide, y / high, 0.1 / wide, _SIDE / high)), scale)
        top += lines[r.label] * (_ABOVE + _SIDE + _FOOT)
    return figure


def _bar(axes: Axes, scale: tuple[float, float]) -> None:
    low, high = scale
    axes.imshow(
        heat(np.linspace(1, 0, 128))[:, None], extent=(0, 1, low, high if high > low else low + 1), aspect="auto"
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=SMALL, colors=SOFT, length=2)
    axes.set_title("dB", fontsize=SMALL, color=SOFT, pad=3)
    for edge in axes.spines.values():
        edge.set_visible(False)


def _matrix(axes: Axes, values: np.ndarray, look: Look, scale: tuple[float, float], first: bool) -> None:
    low, high = scale
    count = len(values)
    place = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
    colors = heat(place)
    # As the paper: `heat` gives NaN its lowest color, which would read as the worst PSNR.
    colors[~np.isfinite(values)] = 255
    axes.imshow(colors)
    # Of more tasks the colors alone: the figures would not fit their cells.
    for k in range(count) if count <= 6 else ():
        for i in range(count):
            if not np.isfinite(values[k, i]):
                continue
            light = float(colors[k, i] @ [0.299, 0.587, 0.114])
            # Either color alone would be lost at one end of the map.
            shade = "white" if light < 125 else INK
            size = 9.5 if count <= 4 else 7
            axes.text(
                i, k, f"{values[k, i]:.1f}", ha="center", va="center", fontsize=size if i <= k else size - 1.5,
                color=shade, alpha=1.0 if i <= k else 0.75, fontweight="bold" if i == k else "normal",
            )  # fmt: skip
    stairs = np.arange(count + 1) - 0.5
    axes.step(stairs, stairs, where="pre", color="white", linewidth=1.6)
    axes.set_title(look.name, fontsize=FINE, color=INK, pad=4, parse_math=False)
    # Eight at most, or their numbers would touch.
    ticks = list(range(0, count, -(-count // 8)))
    axes.set_xticks(ticks, [str(t + 1) for t in ticks])
    axes.set_yticks(ticks, [str(t + 1) for t in ticks] if first else [""] * len(ticks))
    axes.set_xlabel("task", fontsize=SMALL + 1, color=SOFT, labelpad=1)
    axes.set_ylabel("after task" if first else "", fontsize=SMALL + 1, color=SOFT)
    axes.tick_params(length=0, labelsize=SMALL + 1, colors=SOFT)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    for edge in axes.spines.values():
        edge.set_color(GRID)
