"""The figures of the protocol: PSNR over steps, meta-training, and `mim` against `mod`.

Each takes one or more runs, a panel a run, and gives a matplotlib figure. `signed` writes under a figure which
commands made the runs and the figure itself.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mclnf_fast.report.page.methods import DASHES, Method
from mclnf_fast.report.page.plots import FINE, INK, NEUTRAL, SOFT, TEXT, new_figure, plain_axes, say_empty, spread
from mclnf_fast.report.protocol.counts import Protocol, finite, mapping, sequence
from mclnf_fast.report.protocol.reach import SHARE_OF_STEPS, reach
from mclnf_fast.report.protocol.tables import Labelled, sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALL = 8  # points, of the lines that say how a figure was made
STARTS = {  # name: (what is shown, colour, dash); the starts that meta-training gives
    "modules": ("modules (mod, MIM)", "#0072b2", "solid"),
    "joint": ("one network (MAML)", "#1b1e24", (0, (5.0, 2.0))),
    "oml": ("OML", "#7d1d4f", (0, (1.2, 1.6))),
}


def steps_figure(runs: Sequence[Labelled]) -> Figure:
    """PSNR over steps (log2), a line a method with a band of one standard error; labels at the lines' ends."""
    figure, panels = _panels(len(runs), 7.2, 4.3, left=0.65, right=2.15, top=0.7, bottom=0.62)
    for axes, r in zip(panels, runs):
        run = r.run
        curves = {m: run.curve(m) for m in run.methods}
        curves = {m: c for m, c in curves.items() if c}
        for m in curves:
            look, steps = run.looks[m], list(curves[m])
            means = np.array([e.mean for e in curves[m].values()])
            errors = np.array([e.error or 0.0 for e in curves[m].values()])
            axes.fill_between(steps, means - errors, means + errors, color=look.colour, alpha=0.11, linewidth=0)
            # mod is wide: where its line is mim's too, which comes after it, both are seen.
            axes.plot(steps, means, **_line(look) | ({"linewidth": 3.4} if m == "mod" else {}))
        plain_axes(axes, "steps a task (log scale)", "PSNR of the whole signal (dB)")
        _title(axes, r.label, f"mean and standard error; {sizes(run)}")
        if not curves:
            say_empty(axes)
            continue
        _log_steps(axes, run.steps)
        _labels(axes, {m: (max(c), c[max(c)].mean) for m, c in curves.items()}, run)
    return figure


def meta_figure(runs: Sequence[Labelled]) -> Figure | None:
    """PSNR while the starts are meta-trained: on the training signals, and bold on the validation signals.

    None where no run has such a curve.
    """
    if not any(_starts(r.run) for r in runs):
        return None
    figure, panels = _panels(len(runs), 5.6, 3.4, left=0.65, right=0.2, top=0.7, bottom=0.85)
    for axes, r in zip(panels, runs):
        starts = _starts(r.run)
        plain_axes(axes, "outer steps of meta-training", "PSNR after adaptation (dB)")
        _title(axes, r.label, "bold: validation signals; thin: training signals; a line a seed")
        if not starts:
            say_empty(axes)
        for name, curves in starts.items():
            shown, colour, dash = STARTS.get(name, (name, NEUTRAL, "solid"))
            style: dict[str, Any] = {"color": colour, "linestyle": dash}
            for k, curve in enumerate(curves):
                train = [(s, t) for s, t, _ in curve if t is not None]
                check = [(s, v) for s, _, v in curve if v is not None]
                axes.plot(*_xy(train), linewidth=0.9, alpha=0.35, **style)
                axes.plot(*_xy(check), linewidth=2, marker="o", markersize=3.5, **style, label=None if k else shown)
        if starts:
            legend = axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False, fontsize=_SMALL + 1,
                labelcolor=INK, handlelength=2.6, columnspacing=1.4,
            )  # fmt: skip
            for text in legend.get_texts():
                text.set_parse_math(False)
    return figure


def reach_figure(runs: Sequence[Labelled], one: str = "mim") -> Figure | None:
    """Bars: the step at which `mim` reaches `mod`'s final PSNR, in percent of `mod`'s steps, a bar a test signal.

    The bar is the median of the seeds, a dot is a seed; None where no run has both.
    """
    found = [(r, reach(r.run, one)) for r in runs]
    if not any(c for _, c in found):
        return None
    figure, panels = _panels(len(runs), 6.6, 3.5, left=0.7, right=1.25, top=0.75, bottom=0.95)
    for axes, (r, c) in zip(panels, found):
        plain_axes(axes, "", "step, % of the steps of mod")
        if c is None:
            _title(axes, r.label)
            say_empty(axes)
            continue
        look, cap = r.run.looks[one], 112.0
        percent = 100.0 * c.steps / max(1, c.last)
        places = np.arange(percent.shape[1])
        for x in places:
            known = percent[:, x][~np.isnan(percent[:, x])]
            if not known.size:
                continue
            middle = float(np.sort(known)[len(known) // 2])
            if math.isfinite(middle):
                axes.bar(x, middle, width=0.66, color=look.colour, alpha=0.55, linewidth=0)
            else:
                axes.bar(x, cap, width=0.66, facecolor="none", edgecolor=look.colour, hatch="////", linewidth=0.8)
            offsets = np.linspace(-0.16, 0.16, len(known)) if len(known) > 1 else np.zeros(1)
            met = np.isfinite(known)
            axes.plot(
                x + offsets[met], known[met], "o", color=look.colour, markersize=4, markeredgecolor="white", mew=0.6
            )
            axes.plot(
                x + offsets[~met], np.full((~met).sum(), cap), "x", color=look.colour, markersize=4.5, clip_on=False
            )
        for level, what in ((100.0 * SHARE_OF_STEPS, "75 %"), (100.0, "all of mod's")):
            axes.axhline(level, color=INK, linewidth=1, linestyle=(0, (4, 2)))
            axes.text(
                1.01, level, what, transform=axes.get_yaxis_transform(), va="center", fontsize=_SMALL + 1, color=INK
            )
        axes.text(
            1.01,
            cap,
            "× not reached",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=_SMALL + 1,
            color=SOFT,
        )
        axes.set_ylim(0, cap)
        axes.set_xlim(-0.6, max(6, len(places)) - 0.4)
        names = [n if len(n) <= 16 else n[:15] + "…" for n in r.run.signals]
        axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor", fontsize=_SMALL)
        _plain_ticks(axes)
        said = f"within 75 % of the steps: {100 * c.share:.0f} % of {c.pairs} pairs of signal and seed"
        if c.timed:
            said += f"; also within mod's time: {100 * c.share_in_time:.0f} %"
        _title(axes, r.label, said)
    return figure


def signed(figure: Figure, commands: Sequence[str], made: str = "") -> Figure:
    """Writes under a figure, which grows by the lines, the commands that made its runs and itself."""
    lines = [f"run: {c}" for c in commands if c] + ([f"figure: {made}"] if made else [])
    wide, high = (float(v) for v in figure.get_size_inches())
    room = int(wide * 14.5)
    wrapped = [part for line in lines for part in textwrap.wrap(line, room, subsequent_indent="    ")]
    extra = 0.145 * len(wrapped) + 0.1 if wrapped else 0.0
    new = high + extra
    figure.set_size_inches(wide, new)
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
    count: int, width: float, height: float, *, left: float, right: float, top: float, bottom: float
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a run, two side by side; sizes and margins of a panel in inches."""
    columns = 1 if count == 1 else 2
    rows = max(1, -(-count // columns))
    figure = new_figure(columns * width, rows * height)
    panels = []
    for k in range(count):
        x, y = k % columns * width + left, (rows - 1 - k // columns) * height + bottom
        box = (x / columns / width, y / rows / height)
        size = ((width - left - right) / columns / width, (height - top - bottom) / rows / height)
        panels.append(figure.add_axes((*box, *size)))
    return figure, panels


def _line(look: Method) -> dict[str, Any]:
    size = 7.5 if look.marker == "*" else 4.5
    return {
        "color": look.colour, "linestyle": DASHES[look.category], "marker": look.marker, "markersize": size,
        "linewidth": 1.8, "markeredgecolor": "white", "markeredgewidth": 0.5, "clip_on": False,
    }  # fmt: skip


def _labels(axes: Axes, ends: dict[str, tuple[int, float]], run: Protocol) -> None:
    """Right of the axes, moved apart where they would touch: a piece of each line, its name and its last value."""
    from matplotlib.lines import Line2D

    low, high = axes.get_ylim()
    order = sorted(ends, key=lambda m: ends[m][1])
    places = spread([ends[m][1] for m in order], 0.062 * (high - low))
    beside = axes.get_yaxis_transform()
    for m, place in zip(order, places):
        look, value = run.looks[m], ends[m][1]
        axes.add_line(
            Line2D([1.008, 1.03], [value, place], transform=beside, color=look.colour, linewidth=0.7, clip_on=False)
        )
        axes.add_line(Line2D([1.035, 1.075, 1.115], [place] * 3, transform=beside, markevery=[1], **_line(look)))
        text = f"{look.name}\u2002{value:.2f}"
        axes.text(
            1.13, place, text, transform=beside, va="center", fontsize=FINE, color=INK, clip_on=False, parse_math=False
        )
    axes.set_ylim(low, high)


def _log_steps(axes: Axes, steps: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    shown = list(steps[:: -(-len(steps) // 7)])
    if shown[-1] != steps[-1]:
        shown = [s for s in shown if s * 2 <= steps[-1]] + [steps[-1]]
    axes.set_xticks(shown, [f"{s:,}" for s in shown])
    axes.minorticks_off()
    axes.set_xlim(steps[0], max(steps[-1], steps[0] * 2))


def _starts(run: Protocol) -> dict[str, list[list[tuple[float, float | None, float | None]]]]:
    """The meta-training curves by start, one a seed: [(outer step, training PSNR, validation PSNR), ...]."""
    out: dict[str, list[list[tuple[float, float | None, float | None]]]] = {}
    for content in run.seeds.values():
        for name, start in mapping(content.get("starts")).items():
            rows = [p for p in sequence(mapping(start).get("curve")) if isinstance(p, list | tuple) and len(p) >= 2]
            curve = [
                (s, finite(p[1]), finite(p[2]) if len(p) > 2 else None) for p in rows if (s := finite(p[0])) is not None
            ]
            if curve:
                out.setdefault(str(name), []).append(curve)
    return out


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _title(axes: Axes, text: str, under: str = "") -> None:
    axes.set_title(text, loc="left", fontsize=TEXT, color=INK, parse_math=False, pad=27 if under else 8)
    if under:
        axes.annotate(
            under, (0, 1), (0, 11), xycoords="axes fraction", textcoords="offset points", fontsize=_SMALL + 1,
            color=SOFT, va="bottom", parse_math=False,
        )  # fmt: skip


def _plain_ticks(axes: Axes) -> None:
    for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        tick.set_parse_math(False)
