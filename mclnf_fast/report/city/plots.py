"""The plots of a city run: PSNR over steps, forgetting, meta-training, and the seconds of each phase.

Each raises InputError that names the extra to install, if matplotlib is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mclnf_fast.learn.methods import METHODS
from mclnf_fast.report.city.claims import curve
from mclnf_fast.report.city.tables import Methods, city_looks
from mclnf_fast.report.page.methods import method
from mclnf_fast.report.page.plots import (
    FINE,
    INK,
    NEUTRAL,
    SOFT,
    WIDE,
    draw_curves,
    line_style,
    mark_empty,
    new_figure,
    plain_axes,
    plain_ticks,
    set_title,
)
from mclnf_fast.report.page.style import duration, finite
from mclnf_fast.report.record import MetaTraining

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = 6  # the most blocks that the plot of forgetting shows: more would not fit on a page


def steps_figure(methods: Methods) -> Figure:
    """Return held-out PSNR over training steps, a line per method; step 0, the initialization, is left out.

    >>> len(steps_figure({}).axes)
    1
    """
    figure = new_figure(WIDE + 1.0, 3.8)
    axes = figure.add_axes((0.09, 0.145, 0.60, 0.82))
    plain_axes(axes, "training steps on a block (log scale)", "held-out PSNR (dB)")
    curves = {key: {s: (v, None) for s, v in curve(results).items() if s > 0} for key, results in methods.items()}
    draw_curves(axes, curves, city_looks(methods))
    return figure


def forgetting_figure(methods: Methods, blocks: Sequence[str]) -> Figure:
    """Return PSNR of each block's held-out views from when it was learned on, a line per method.

    Modules stay level; a network that goes on to other blocks falls. The last block, which no other follows, has no
    panel, and of more than seven blocks the first six are shown.

    >>> len(forgetting_figure({}, ["north", "south"]).axes)
    1
    """
    looks = {key: look for key, look in city_looks(methods).items() if methods[key].matrix}
    count = max((len(methods[key].matrix) for key in looks), default=0)
    names = [blocks[i] if i < len(blocks) else f"block {i + 1}" for i in range(count)]
    panels = max(1, min(count - 1, _PANELS))
    legend = 0.21 * max(2, -(-len(looks) // 2))  # inches
    height = 3.08 + legend
    figure = new_figure(WIDE if panels <= 3 else 1.0 + 1.75 * panels, height)
    grid = figure.subplots(1, panels, sharey=True, squeeze=False)
    left, top = 0.65 / figure.get_figwidth(), 1 - (legend + 0.49) / height
    figure.subplots_adjust(left=left, right=0.985, top=top, bottom=0.56 / height, wspace=0.10)
    for i, axes in enumerate(grid[0]):
        for key, look in looks.items():
            rows = methods[key].matrix
            points = [(k + 1, rows[k][i]) for k in range(i, len(rows)) if i < len(rows[k])]
            known = [(k, v) for k, v in points if v is not None]
            axes.plot([k for k, _ in known], [v for _, v in known], label=look.name, **line_style(look))
        xlabel = "blocks learned" if panels > 2 else "blocks learned so far"
        plain_axes(axes, xlabel, "held-out PSNR (dB)" if i == 0 else "")
        axes.set_xticks(range(i + 1, max(count, i + 1) + 1))
        axes.set_xlim(i + 0.85, max(count, i + 1) + 0.15)
        if i < len(names):
            set_title(axes, names[i])
    if not looks:
        mark_empty(grid[0][0])
        return figure
    handles, labels = grid[0][0].get_legend_handles_labels()
    box = (0.52 / figure.get_figwidth(), 1.0)
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=box, ncols=2, frameon=False, fontsize=FINE, labelcolor=INK,
        handlelength=2.4, columnspacing=1.6,
    )  # fmt: skip
    return figure


def phase_figure(phases: Mapping[str, float]) -> Figure:
    """Return the seconds of each phase of a run as horizontal bars, in their order.

    >>> len(phase_figure({"data": 1.0}).axes)
    1
    """
    bars = [(name, seconds) for name, v in phases.items() if (seconds := finite(v)) is not None and seconds >= 0]
    figure = new_figure(WIDE, 0.4 + 0.34 * max(1, len(bars)))
    axes = figure.add_axes((0.315, 0.04, 0.455, 0.92))
    if not bars:
        plain_axes(axes, "", "")
        mark_empty(axes)
        return figure
    total = sum(seconds for _, seconds in bars) or 1.0
    longest = max(seconds for _, seconds in bars) or 1.0
    places = list(range(len(bars)))
    colors = [method(name).color if name in METHODS else NEUTRAL for name, _ in bars]
    axes.barh(places, [seconds for _, seconds in bars], color=colors, height=0.66)
    for place, (_, seconds) in zip(places, bars):
        text = f"{duration(seconds)}  ({seconds / total:.0%})"
        axes.text(seconds + 0.012 * longest, place, text, va="center", fontsize=FINE, color=SOFT)
    axes.set_yticks(places, [method(name).name if name in METHODS else name for name, _ in bars])
    axes.tick_params(length=0, labelsize=FINE, labelcolor=INK)
    plain_ticks(axes)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, longest)
    axes.set_xticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def meta_figure(meta: MetaTraining) -> Figure:
    """Return PSNR after adaptation while an initialization is meta-learned.

    >>> len(meta_figure(MetaTraining()).axes)
    1
    """
    figure = new_figure(WIDE, 2.7)
    axes = figure.add_axes((0.115, 0.20, 0.865, 0.74))
    points = [(row[0], row[1]) for row in meta.curve if len(row) >= 2]
    known = [(step, value) for step, value in points if step is not None and value is not None]
    axes.plot([step for step, _ in known], [value for _, value in known], color=SOFT, linewidth=2)
    plain_axes(axes, "meta-learning steps", "adapted PSNR (dB)")
    if not known:
        mark_empty(axes)
    return figure
