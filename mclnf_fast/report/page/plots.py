"""The plots of a run: PSNR over steps, forgetting, the shared initialisation, where the time went.

Each function writes the file that its path names (`.png`, `.svg` or what else matplotlib knows). A method
has the same colour in every one of them, and lines carry their names where they end.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import write_atomically
from mclnf_fast.report.page.methods import DASHES
from mclnf_fast.report.page.style import (
    JOINT,
    colour,
    duration,
    finite,
    matrix_of,
    missing_extra,
    name,
    ordered,
    steps_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mclnf_fast.report.page.tables import Summary

INK, SOFT, GRID, NEUTRAL = "#1b1e24", "#6a7080", "#e3e6ea", "#98a0ad"
_PANELS = 6  # most blocks that the forgetting plot shows
WIDE, TEXT, FINE = 6.2, 11, 10  # inches, and points of type


def psnr_over_steps(path: str | Path, summary: Summary) -> Path:
    """Held-out PSNR over training steps (log2), one line a method. A method without
    `psnr_at_step` is left out.

    Raises: InputError, naming the extra, if matplotlib is missing; so do the others here.
    """
    return save(steps_figure(summary), path)


def forgetting_plot(path: str | Path, summary: Summary, blocks: Sequence[str]) -> Path:
    """PSNR of each block's held-out views from the moment it was learned on, one line a method.

    Modules stay flat; a network that goes on to learn other blocks falls. The last block, which nothing
    follows, has no panel, and of more than seven blocks the first six are shown.
    """
    return save(forgetting_figure(summary, blocks), path)


def phase_plot(path: str | Path, phases: Mapping[str, float]) -> Path:
    """Seconds of each phase of the run as horizontal bars, in the order given."""
    return save(phase_figure(phases), path)


def meta_curve(path: str | Path, meta: Mapping[str, Any]) -> Path:
    """PSNR after adaptation while the shared start is learned: `meta["curve"]`, [[step, psnr], ...]."""
    return save(meta_figure(meta), path)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to the file that its suffix names, whole or not at all."""
    target = Path(path)
    buffer = io.BytesIO()
    form = target.suffix.lstrip(".").lower() or "png"
    if form not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"path must end with .png, .svg or .pdf, got {target.name!r}")
    figure.savefig(buffer, format=form, dpi=160, facecolor="white")
    write_atomically(target, buffer.getvalue())
    return target


def svg(figure: Figure) -> str:
    """A figure as an `<svg>` element with text as text, no background, the same bytes for the same data."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mclnf_fast"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    return text[text.index("<svg") :]


def steps_figure(summary: Summary) -> Figure:
    """See `psnr_over_steps`."""
    figure = new_figure(WIDE, 3.5)
    axes = figure.add_axes((0.105, 0.155, 0.505, 0.805))
    curves = {m: steps_of(summary[m]) for m in ordered(summary)}
    curves = {m: {s: v for s, v in c.items() if s > 0} for m, c in curves.items()}
    curves = {m: c for m, c in curves.items() if c}
    steps = sorted({s for c in curves.values() for s in c})
    for m in reversed(list(curves)):
        xs, ys = list(curves[m]), list(curves[m].values())
        dash: Any = DASHES["OL"] if m in JOINT else "solid"
        axes.plot(xs, ys, color=colour(m), linewidth=2, linestyle=dash, marker="o", markersize=4, clip_on=False)
    plain_axes(axes, "training steps on a block (log scale)", "held-out PSNR (dB)")
    if steps:
        axes.set_xscale("log", base=2)
        shown = steps[:: -(-len(steps) // 12)]
        axes.set_xticks(shown, [f"{s:,}" for s in shown])
        axes.minorticks_off()
        axes.set_xlim(steps[0], max(steps[-1], steps[0] * 2))
        last = {m: c[max(c)] for m, c in curves.items()}
        _end_labels(axes, {m: (max(curves[m]), v) for m, v in last.items()})
    else:
        say_empty(axes)
    return figure


def forgetting_figure(summary: Summary, blocks: Sequence[str]) -> Figure:
    """See `forgetting_plot`."""
    matrices = {m: matrix_of(summary[m]) for m in ordered(summary)}
    matrices = {m: r for m, r in matrices.items() if r}
    count = max((len(r) for r in matrices.values()), default=0)
    names = [str(blocks[i]) if i < len(blocks) else f"block {i + 1}" for i in range(count)]
    panels = max(1, min(count - 1, _PANELS))
    legend = 0.21 * max(2, -(-len(matrices) // 2))  # inches
    height = 3.08 + legend
    figure = new_figure(WIDE if panels <= 3 else 1.0 + 1.75 * panels, height)
    grid: Any = figure.subplots(1, panels, sharey=True, squeeze=False)
    left, top = 0.65 / figure.get_figwidth(), 1 - (legend + 0.49) / height
    figure.subplots_adjust(left=left, right=0.985, top=top, bottom=0.56 / height, wspace=0.10)
    for i, axes in enumerate(grid[0]):
        for m in reversed(list(matrices)):
            rows = matrices[m]
            points = [(k + 1, rows[k][i]) for k in range(i, len(rows)) if i < len(rows[k])]
            known = [(k, v) for k, v in points if v is not None]
            style: dict[str, Any] = {"linewidth": 2, "marker": "o", "markersize": 4.5, "clip_on": False}
            axes.plot([k for k, _ in known], [v for _, v in known], color=colour(m), label=name(m), **style)
        plain_axes(
            axes,
            "blocks learned" if panels > 2 else "blocks learned so far",
            "held-out PSNR (dB)" if i == 0 else "",
        )
        axes.set_xticks(range(i + 1, max(count, i + 1) + 1))
        axes.set_xlim(i + 0.85, max(count, i + 1) + 0.15)
        if i < len(names):
            axes.set_title(names[i], loc="left", fontsize=TEXT, color=INK, parse_math=False, pad=6)
    if not matrices:
        say_empty(grid[0][0])
        return figure
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="upper left",
        bbox_to_anchor=(0.52 / figure.get_figwidth(), 1.0),
        ncols=2,
        frameon=False,
        fontsize=FINE,
        labelcolor=INK,
        handlelength=1.4,
        columnspacing=1.6,
    )
    return figure


def phase_figure(phases: Mapping[str, float]) -> Figure:
    """See `phase_plot`."""
    known = [(str(k), finite(v)) for k, v in phases.items()]
    bars = [(k, v) for k, v in known if v is not None and v >= 0]
    figure = new_figure(WIDE, 0.4 + 0.34 * max(1, len(bars)))
    axes = figure.add_axes((0.315, 0.04, 0.455, 0.92))
    if not bars:
        plain_axes(axes, "", "")
        say_empty(axes)
        return figure
    total = sum(v for _, v in bars) or 1.0
    places = list(range(len(bars)))
    shades = [colour(k) if name(k) != k else NEUTRAL for k, _ in bars]
    axes.barh(places, [v for _, v in bars], color=shades, height=0.66)
    top = max(v for _, v in bars) or 1.0
    for place, (_, v) in zip(places, bars):
        axes.text(
            v + 0.012 * top,
            place,
            f"{duration(v)}  ({v / total:.0%})",
            va="center",
            fontsize=FINE,
            color=SOFT,
        )
    axes.set_yticks(places, [name(k) for k, _ in bars], fontsize=FINE, color=INK)
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, top)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def meta_figure(meta: Mapping[str, Any]) -> Figure:
    """See `meta_curve`."""
    figure = new_figure(WIDE, 2.7)
    axes = figure.add_axes((0.115, 0.20, 0.865, 0.74))
    curve = meta.get("curve")
    curve = curve if isinstance(curve, list | tuple) else []
    points = [(finite(p[0]), finite(p[1])) for p in curve if isinstance(p, list | tuple) and len(p) == 2]
    known = [(s, v) for s, v in points if s is not None and v is not None]
    axes.plot([s for s, _ in known], [v for _, v in known], color=SOFT, linewidth=2)
    plain_axes(axes, "meta-learning steps", "adapted PSNR (dB)")
    if not known:
        say_empty(axes)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, which no window knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(missing_extra("matplotlib")) from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """The look of every plot: a bottom line, soft horizontal rules, small labels."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(NEUTRAL)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=FINE, length=3, labelcolor=SOFT)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(xlabel, fontsize=FINE, color=SOFT)
    axes.set_ylabel(ylabel, fontsize=FINE, color=SOFT)


def say_empty(axes: Axes) -> None:
    """Axes that have nothing to show say so."""
    axes.text(0.5, 0.5, "nothing measured", transform=axes.transAxes, ha="center", va="center", color=SOFT)
    axes.set_xticks([])
    axes.set_yticks([])


def _end_labels(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """The names of the lines to the right of the axes, moved apart where they would touch."""
    low, high = axes.get_ylim()
    order = sorted(ends, key=lambda m: ends[m][1])
    wanted = [ends[m][1] for m in order]
    places = spread(wanted, 0.07 * (high - low))
    for k, m in enumerate(order):
        text = f"{name(m)}\u2002{wanted[k]:.2f}"
        axes.annotate(
            text,
            xy=(1.0, places[k]),
            xycoords=axes.get_yaxis_transform(),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=FINE,
            color=colour(m),
            annotation_clip=False,
            parse_math=False,
        )


def spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Rising places at least `apart` from each other: neighbours that would touch move apart."""
    groups: list[list[float]] = []
    for value in wanted:
        groups.append([value])
        while len(groups) > 1 and _ends(groups[-2], apart)[1] + apart > _ends(groups[-1], apart)[0]:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_ends(g, apart)[0] + k * apart for g in groups for k in range(len(g))]


def _ends(group: Sequence[float], apart: float) -> tuple[float, float]:
    middle, half = sum(group) / len(group), apart * (len(group) - 1) / 2
    return middle - half, middle + half
