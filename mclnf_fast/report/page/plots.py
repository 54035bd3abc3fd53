"""The parts that all plots share: the look of axes, an axis of steps, labels at the ends of lines, files and SVG."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import write_atomically
from mclnf_fast.report.page.methods import DASHES, Dash, Look
from mclnf_fast.report.page.style import PNG_LEVEL, missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, NEUTRAL = "#1b1e24", "#6a7080", "#e3e6ea", "#98a0ad"
WIDE, TEXT, FINE, SMALL = 6.2, 11, 10, 8  # inches, and points of type
MOST_TICKS = 7  # of a logarithmic axis, so that their texts do not touch at 6 inches


class LineStyle(TypedDict):
    """The style of a line, as arguments of matplotlib's `plot`."""

    color: str
    linestyle: Dash
    marker: str
    markersize: float
    linewidth: float
    markeredgecolor: str
    markeredgewidth: float
    clip_on: bool


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches. Raises: InputError that names the extra, without matplotlib.

    >>> float(new_figure(6.2, 3.5).get_figwidth())
    6.2
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(missing_extra("matplotlib")) from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # Not pyplot: it keeps every figure until it is closed, and opens a window where there is a display.
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to the file whose suffix names its format, whole or not at all; return the path.

    Raises: ValueError if matplotlib does not know the format.

    >>> import tempfile
    >>> save(new_figure(2.0, 1.0), Path(tempfile.mkdtemp()) / "a.svg").name
    'a.svg'
    """
    target = Path(path)
    buffer = io.BytesIO()
    form = target.suffix.lstrip(".").lower() or "png"
    if form not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"path must end with .png, .svg or .pdf, got {target.name!r}")
    # Tight: labels beside and above the axes belong to the picture, however long a name is.
    write = functools.partial(
        figure.savefig, buffer, format=form, dpi=160, facecolor="white", bbox_inches="tight", pad_inches=0.08
    )
    if form == "png":
        write(pil_kwargs={"compress_level": PNG_LEVEL})
    else:
        write()
    write_atomically(target, buffer.getvalue())
    return target


def svg(figure: Figure, looks: Iterable[Look] = ()) -> str:
    """Return a figure as an `<svg>` element with text as text, no background, the same bytes for the same data.

    Its colors are CSS variables of the page, so that a plot follows light and dark; `looks`: the page's, in order.

    >>> svg(new_figure(2.0, 1.0)).startswith("<svg")
    True
    """
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mclnf_fast"}):
        about = {"Date": None, "Creator": None}
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=about, bbox_inches="tight", pad_inches=0.05
        )  # tight: a name that is longer than the space beside the axes would be cut
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    # White is the edge of markers: on a dark page it must be that of the card below them.
    names = {INK: "ink", SOFT: "soft", GRID: "grid", NEUTRAL: "neutral", "#ffffff": "card"}
    names |= {look.color: f"m{i}" for i, look in enumerate(looks)}
    for value, variable in names.items():
        text = re.sub(rf"(fill|stroke): {value}\b", rf"\1: var(--{variable}, {value})", text)
    return text


def plain_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Give axes the look of every plot: a bottom line, soft horizontal rules, small labels."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(NEUTRAL)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=FINE, length=3, labelcolor=SOFT)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(xlabel, fontsize=FINE, color=SOFT)
    axes.set_ylabel(ylabel, fontsize=FINE, color=SOFT)


def mark_empty(axes: Axes) -> None:
    """Write "nothing measured" into axes without data."""
    axes.text(0.5, 0.5, "nothing measured", transform=axes.transAxes, ha="center", va="center", color=SOFT)
    axes.set_xticks([])
    axes.set_yticks([])


def set_title(axes: Axes, text: str, under: str = "") -> None:
    """Write a title above axes, and in small type a line under it."""
    axes.set_title(text, loc="left", fontsize=TEXT, color=INK, parse_math=False, pad=27 if under else 8)
    if under:
        axes.annotate(
            under, (0, 1), (0, 11), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL + 1,
            color=SOFT, va="bottom", parse_math=False,
        )  # fmt: skip


def line_style(look: Look) -> LineStyle:
    """Return the style of a method's line; an initialization, which has no category, has a solid one.

    >>> from mclnf_fast.report.page.methods import method
    >>> line_style(method("mod"))["marker"]
    'o'
    """
    return {
        "color": look.color, "linestyle": DASHES.get(look.category, "solid"), "marker": look.marker,
        # A star is drawn smaller than a disc of the same size.
        "markersize": 7.5 if look.marker == "*" else 4.5,
        "linewidth": 1.8, "markeredgecolor": "white", "markeredgewidth": 0.5, "clip_on": False,
    }  # fmt: skip


def step_axis(axes: Axes, steps: Sequence[int]) -> None:
    """Make the axis of steps a logarithm to base 2; step 0, which has none, stands at 1/2.

    Not every step has a tick: at most `MOST_TICKS` and the last, none of which touch each other.
    """
    axes.set_xscale("log", base=2)
    shown = shown_ticks(steps)
    axes.set_xticks([place(s) for s in shown], [f"{s:,}" for s in shown])
    axes.minorticks_off()
    axes.set_xlim(place(steps[0]), max(place(steps[-1]), 2 * place(steps[0])))


def shown_ticks(steps: Sequence[int]) -> list[int]:
    """Return the steps that get a tick: the first, the last, and between them those whose texts do not touch.

    >>> shown_ticks([0, 1, 4, 16, 20]), shown_ticks([1, 2, 4, 8])
    ([0, 1, 4, 20], [1, 2, 4, 8])
    """
    # By their distance on the axis and not by their number: 16 and 20 touch even if they are alone.
    least = math.log2(place(steps[-1]) / place(steps[0])) / MOST_TICKS - 1e-9
    shown = [steps[-1]]
    for step in reversed(steps[1:-1]):
        after, before = (math.log2(place(a) / place(b)) for a, b in ((shown[0], step), (step, steps[0])))
        if min(after, before) >= least:
            shown.insert(0, step)
    return [steps[0], *shown] if len(steps) > 1 else shown


def place(step: int) -> float:
    """Return the place of a step on a logarithmic axis: that of 0 is 1/2.

    >>> place(0), place(8)
    (0.5, 8.0)
    """
    return max(float(step), 0.5)


def end_labels(axes: Axes, ends: Mapping[str, float], looks: Mapping[str, Look]) -> None:
    """Write right of the axes, for each line, a piece of it, its name and its last value; texts do not touch."""
    from matplotlib.lines import Line2D

    low, high = axes.get_ylim()
    order = sorted(ends, key=lambda key: ends[key])
    places = below(spread([ends[key] for key in order], 0.062 * (high - low)), high, 0.062 * (high - low))
    beside = axes.get_yaxis_transform()
    for key, y in zip(order, places):
        look, value = looks[key], ends[key]
        axes.add_line(
            Line2D([1.008, 1.03], [value, y], transform=beside, color=look.color, linewidth=0.7, clip_on=False)
        )
        axes.add_line(Line2D([1.035, 1.075, 1.115], [y] * 3, transform=beside, markevery=[1], **line_style(look)))
        text = f"{look.name}\u2002{value:.2f}"
        axes.text(
            1.13, y, text, transform=beside, va="center", fontsize=FINE, color=INK, clip_on=False, parse_math=False
        )
    axes.set_ylim(low, high)


Curves = Mapping[str, Mapping[int, tuple[float, float | None]]]  # key -> step -> mean and standard error in dB


def draw_curves(axes: Axes, curves: Curves, looks: Mapping[str, Look]) -> None:
    """Draw PSNR over steps, a line per key with a band of one standard error, and the labels at their ends."""
    kept = {key: curves[key] for key in looks if curves.get(key)}
    for key, curve in kept.items():
        steps = [place(step) for step in curve]
        means = [mean for mean, _ in curve.values()]
        errors = [error or 0.0 for _, error in curve.values()]
        low, high = ([m + sign * e for m, e in zip(means, errors)] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=looks[key].color, alpha=0.11, linewidth=0)
        style = line_style(looks[key])
        if key == "mod":  # wider, since mim's line often lies on it and would hide it
            style["linewidth"] = 3.4
        axes.plot(steps, means, **style)
    steps_shown = sorted({step for curve in kept.values() for step in curve})
    if not steps_shown:
        mark_empty(axes)
        return
    step_axis(axes, steps_shown)
    end_labels(axes, {key: list(curve.values())[-1][0] for key, curve in kept.items()}, looks)


def spread(values: Sequence[float], least: float) -> list[float]:
    """Return rising places near `values`, at least `least` apart: neighbors that would touch move apart.

    >>> spread([1.0, 1.0, 5.0], 1.0)
    [0.5, 1.5, 5.0]
    """
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _ends(groups[-2], least)[1] + least > _ends(groups[-1], least)[0]:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_ends(group, least)[0] + k * least for group in groups for k in range(len(group))]


def below(places: Sequence[float], top: float, least: float) -> list[float]:
    """Return rising places of which none lies above `top`, those that would moved down with what they would touch.

    >>> below([1.0, 5.0, 6.5], 6.0, 1.0)
    [1.0, 5.0, 6.0]
    """
    moved: list[float] = []
    for value in reversed(places):
        moved.insert(0, min(value, top))
        top = moved[0] - least
    return moved


def _ends(group: Sequence[float], least: float) -> tuple[float, float]:
    """Return the first and the last place of a group, whose middle is the mean of its values."""
    middle, half = math.fsum(group) / len(group), least * (len(group) - 1) / 2
    return middle - half, middle + half


def plain_ticks(axes: Axes) -> None:
    """Show the texts of ticks as they are: names may hold `$`, which matplotlib takes for formulas."""
    for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        tick.set_parse_math(False)
