"""The figures of the protocol: PSNR over steps, meta-training, and `mim` against `mod`.

Each takes one or more runs, a panel per run, and returns a matplotlib figure. `signed` writes under a figure the
commands that made the runs and the figure itself.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.report.page.methods import Dash, Look
from mclnf_fast.report.page.plots import (
    INK,
    NEUTRAL,
    SMALL,
    SOFT,
    draw_curves,
    mark_empty,
    new_figure,
    plain_axes,
    plain_ticks,
    set_title,
)
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.protocol.reach import SHARE_OF_STEPS, Reach, reach
from mclnf_fast.report.protocol.tables import Labelled, sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INITIALIZATIONS: dict[str, tuple[str, str, Dash]] = {  # name: (label, color, dash)
    "modules": ("modules (mod, MIM)", "#0072b2", "solid"),
    "joint": ("one network (MAML)", "#1b1e24", (0, (5.0, 2.0))),
    "oml": ("OML", "#7d1d4f", (0, (1.2, 1.6))),
}
_CAP = 112.0  # percent of the steps: the end of the axis, where bars that never reach it stop
Point = tuple[float, float | None, float | None]  # outer step, PSNR on training and on validation signals


def steps_figure(runs: Sequence[Labelled]) -> Figure:
    """Return PSNR over steps (log2), a line per method with a band of one standard error."""
    figure, panels = _panels(len(runs), (7.2, 4.3), (0.65, 2.15, 0.7, 0.62))
    for axes, r in zip(panels, runs):
        run = r.run
        curves = {m: {step: (e.level, e.error) for step, e in run.curve(m).items()} for m in run.methods}
        plain_axes(axes, "steps per task (log scale)", "PSNR of the whole signal (dB)")
        set_title(axes, r.label, f"mean and standard error; {sizes(run)}")
        draw_curves(axes, curves, run.looks)
    return figure


def meta_figure(runs: Sequence[Labelled]) -> Figure | None:
    """Return PSNR while the initializations are meta-learned: on training signals, and bold on validation signals.

    None if no run has such a curve.
    """
    if not any(_meta_curves(r.run) for r in runs):
        return None
    figure, panels = _panels(len(runs), (5.6, 3.4), (0.65, 0.2, 0.7, 0.85))
    for axes, r in zip(panels, runs):
        initializations = _meta_curves(r.run)
        plain_axes(axes, "outer steps of meta-training", "PSNR after adaptation (dB)")
        set_title(axes, r.label, "bold: validation signals; thin: training signals; a line per seed")
        if not initializations:
            mark_empty(axes)
        for name, curves in initializations.items():
            label, color, dash = INITIALIZATIONS.get(name, (name, NEUTRAL, "solid"))
            for k, curve in enumerate(curves):
                train = [(step, value) for step, value, _ in curve if value is not None]
                check = [(step, value) for step, _, value in curve if value is not None]
                axes.plot(*_xy(train), linewidth=0.9, alpha=0.35, color=color, linestyle=dash)
                axes.plot(
                    *_xy(check), linewidth=2, marker="o", markersize=3.5, color=color, linestyle=dash,
                    label=None if k else label,
                )  # fmt: skip
        if initializations:
            legend = axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False, fontsize=SMALL + 1,
                labelcolor=INK, handlelength=2.6, columnspacing=1.4,
            )  # fmt: skip
            for text in legend.get_texts():
                text.set_parse_math(False)
    return figure


def reach_figure(runs: Sequence[Labelled], key: str = "mim") -> Figure | None:
    """Return bars: the step at which `key` reaches `mod`'s final PSNR, in percent of `mod`'s steps, per test signal.

    A bar is the median of the seeds, a dot is a seed; None if no run has both methods.
    """
    races = [(r, reach(r.run, key)) for r in runs]
    if not any(race for _, race in races):
        return None
    figure, panels = _panels(len(runs), (6.6, 3.5), (0.7, 1.25, 0.75, 0.95))
    for axes, (r, race) in zip(panels, races):
        plain_axes(axes, "", "step, % of the steps of mod")
        if race is None:
            set_title(axes, r.label)
            mark_empty(axes)
            continue
        _bars(axes, race, r.run.looks[key])
        _levels(axes)
        # Room for six bars at least, since one or two would fill the panel.
        axes.set_xlim(-0.6, max(6, race.steps.shape[1]) - 0.4)
        names = [name if len(name) <= 16 else name[:15] + "…" for name in r.run.signals]
        places = np.arange(race.steps.shape[1])
        axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor", fontsize=SMALL)
        plain_ticks(axes)
        text = f"within 75 % of the steps: {100 * race.share:.0f} % of {race.pairs} pairs of signal and seed"
        if race.timed:
            text += f"; also within mod's time: {100 * race.share_in_time:.0f} %"
        set_title(axes, r.label, text)
    return figure


def _bars(axes: Axes, race: Reach, look: Look) -> None:
    """Draw a bar per signal, and a dot per seed; hatched and crossed if it was never reached."""
    percent = 100.0 * race.steps / max(1, race.last)
    for x in range(percent.shape[1]):
        known = percent[:, x][~np.isnan(percent[:, x])]
        if not known.size:
            continue
        # As `Reach.median`: if one of two seeds never reaches it, the mean of both would be no step.
        middle = float(np.sort(known)[len(known) // 2])
        if math.isfinite(middle):
            axes.bar(x, middle, width=0.66, color=look.color, alpha=0.55, linewidth=0)
        else:
            axes.bar(x, _CAP, width=0.66, facecolor="none", edgecolor=look.color, hatch="////", linewidth=0.8)
        offsets = x + (np.linspace(-0.16, 0.16, len(known)) if len(known) > 1 else np.zeros(1))
        met = np.isfinite(known)
        axes.plot(offsets[met], known[met], "o", color=look.color, markersize=4, markeredgecolor="white", mew=0.6)
        caps = np.full((~met).sum(), _CAP)
        axes.plot(offsets[~met], caps, "x", color=look.color, markersize=4.5, clip_on=False)


def _levels(axes: Axes) -> None:
    """Draw the levels of 75 % and of all steps, named at the right."""
    beside = axes.get_yaxis_transform()
    for level, label in ((100.0 * SHARE_OF_STEPS, "75 %"), (100.0, "all of mod's")):
        axes.axhline(level, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        axes.text(1.01, level, label, transform=beside, va="center", fontsize=SMALL + 1, color=INK)
    axes.text(1.01, _CAP, "× not reached", transform=beside, va="center", fontsize=SMALL + 1, color=SOFT)
    axes.set_ylim(0, _CAP)


def signed(figure: Figure, commands: Sequence[str], command: str = "") -> Figure:
    """Write under a figure, which grows by the lines, the commands that made its runs and the figure itself."""
    lines = [f"run: {c}" for c in commands if c] + ([f"figure: {command}"] if command else [])
    wide, high = (float(v) for v in figure.get_size_inches())
    room = int(wide * 14.5)  # characters of the typeface below per line
    wrapped = [part for line in lines for part in textwrap.wrap(line, room, subsequent_indent="    ")]
    extra = 0.145 * len(wrapped) + 0.1 if wrapped else 0.0
    new = high + extra
    figure.set_size_inches(wide, new)
    # Places are shares of the height, which has grown: in inches everything stays where it was.
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0, (box.y0 * high + extra) / new, box.width, box.height * high / new))
    for label in figure.texts:
        x, y = label.get_position()
        label.set_position((x, (y * high + extra) / new))
    for k, line in enumerate(wrapped):
        y = (extra - 0.05 - 0.145 * k) / new
        figure.text(0.1 / wide, y, line, fontsize=7, color=SOFT, va="top", family="monospace", parse_math=False)
    return figure


def _panels(
    count: int, size: tuple[float, float], margins: tuple[float, float, float, float]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel per run, two side by side.

    Args:
        count: of the runs.
        size: width and height of a panel, margins included, in inches.
        margins: left, right, top, bottom in inches.
    """
    (width, height), (left, right, top, bottom) = size, margins
    columns = 1 if count == 1 else 2
    rows = max(1, -(-count // columns))
    figure = new_figure(columns * width, rows * height)
    panels = []
    for k in range(count):
        x, y = k % columns * width + left, (rows - 1 - k // columns) * height + bottom
        corner = (x / columns / width, y / rows / height)
        sides = ((width - left - right) / columns / width, (height - top - bottom) / rows / height)
        panels.append(figure.add_axes((*corner, *sides)))
    return figure, panels


def _meta_curves(run: Statistics) -> dict[str, list[list[Point]]]:
    """Return the meta-training curves by initialization, one per seed."""
    curves: dict[str, list[list[Point]]] = {}
    for content in run.seeds.values():
        for name, meta in content.initializations.items():
            curve = [
                (row[0], row[1], row[2] if len(row) > 2 else None)
                for row in meta.curve
                if len(row) >= 2 and row[0] is not None
            ]
            if curve:
                curves.setdefault(name, []).append(curve)
    return curves


def _xy(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    pairs = list(points)
    return [x for x, _ in pairs], [y for _, y in pairs]
