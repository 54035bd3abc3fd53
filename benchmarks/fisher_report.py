"""The results of `fisher_sweep`, as a table in Markdown and as one picture with a panel per modality."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.fisher_variants import FACTORS
from benchmarks.plot import INK, OURS, PALE

Sweep = Mapping[str, Any]
NEUTRAL, WORSE, BETTER, EARLY = "#6b7280", "#0072b2", OURS, "#b4bac4"
LINEAR = 1.0  # dB around 0 that are drawn to scale; beyond, the axis is logarithmic
KEY = (
    "Each variant on the same signals, tasks and seeds as plain modules (`mod`: uniform draws, MSE), from the same "
    "start unless it says otherwise. Mean ± standard error over pairs of signal and seed; differences are taken "
    "pair by pair. *steps*: share of `mod`'s steps after which its last PSNR is reached (median; `never` where most "
    "pairs don't); *≤ 75 %*: share of pairs that need at most three quarters of the steps, and behind the stroke of "
    "those that are no later in wall-clock either; *time*: seconds of a step over those of `mod`, in turn."
)


def verdict(row: Mapping[str, Any]) -> str:
    """`better`, `worse` or `even`: the last difference against two of its standard errors."""
    mean, error = row["difference"][_last(row)]
    if row["pairs"] < 2 or abs(mean) <= 2 * error or mean == 0:
        return "even"
    return "better" if mean > 0 else "worse"


def _last(row: Mapping[str, Any]) -> str:
    return max(row["difference"], key=int)


def markdown(sweeps: Sequence[Sweep]) -> str:
    """Return the table of each modality, losers as losers."""
    parts = ["# Which uses of Fisher information help", KEY]
    parts += [_section(sweep) for sweep in sweeps]
    return "\n\n".join(parts) + "\n"


def _section(sweep: Sweep) -> str:
    rows = [row for row in sweep["rows"] if row["factor"]]
    plain = next(row for row in sweep["rows"] if not row["factor"])
    marks = list(plain["psnr"])
    last = marks[-1]
    once = {repr({**row, "factor": "", "label": ""}): row for row in rows}.values()  # the default stands in many rows
    count = {name: sum(verdict(row) == name for row in once) for name in ("better", "even", "worse")}
    lines = [
        f"## {sweep['modality']}: {sweep['title']}",
        "",
        f"{sweep['about']} `{sweep['command']}`, {sweep['machine']}, torch {sweep['torch']}.",
        "",
        f"By more than two standard errors at step {last}: {count['better']} of {len(once)} variants above what they "
        f"are held against, {count['worse']} below, {count['even']} neither.",
        "",
        "| | " + " | ".join([f"PSNR {m}" for m in marks] + [f"Δ {m}" for m in marks]) + " | steps | ≤ 75 % | time |",
        "|---|" + "---:|" * (2 * len(marks) + 3),
        _line("**mod**", plain, marks),
    ]
    for factor in dict.fromkeys(row["factor"] for row in rows):
        lines.append(f"| *{FACTORS.get(factor, factor)}* |" + " |" * (2 * len(marks) + 3))
        lines += [_line(row["label"], row, marks) for row in rows if row["factor"] == factor]
    return "\n".join(lines)


def _line(name: str, row: Mapping[str, Any], marks: Sequence[str]) -> str:
    cells = [f"{row['psnr'][m][0]:.2f}" for m in marks]
    if row["factor"]:
        cells += [_gain(*row["difference"][m]) for m in marks]
        share = row["share_of_steps"]
        cells += ["never" if share is None else f"{100 * share:.0f} %"]
        cells += [f"{100 * row['within']:.0f} / {100 * row['within_time']:.0f} %", f"{row['seconds']:.2f}"]
        bold = {"better": "**", "worse": "", "even": ""}[verdict(row)]
        cells[2 * len(marks) - 1] = f"{bold}{cells[2 * len(marks) - 1]}{bold}"
    else:
        cells += [""] * (len(marks) + 3)
    return f"| {name} | " + " | ".join(cells) + " |"


def _gain(mean: float, error: float) -> str:
    return f"{mean:+.2f} ± {error:.2f}".replace("-0.00 ±", "+0.00 ±").replace("-", "−")


def draw(sweeps: Sequence[Sweep], path: pathlib.Path) -> None:
    """Write the PNG: difference to mod at the last step with its standard error, and small and pale at an earlier one;
    on the right the figures and the time of a step. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    lines: list[tuple[str, str]] = []  # of all panels: a factor's title ("", factor) and its rows (factor, label)
    every = [(row["factor"], row["label"]) for sweep in sweeps for row in sweep["rows"] if row["factor"]]
    order = [*FACTORS, *(f for f, _ in every if f not in FACTORS)]
    for factor in dict.fromkeys(f for f in order if f in {f for f, _ in every}):
        lines += [("", factor), *dict.fromkeys(pair for pair in every if pair[0] == factor)]
    side, top, bottom, each = 3.15, 1.1, 0.75, 0.225
    height = top + bottom + each * len(lines)
    figure = Figure(figsize=(side + 4.6 * len(sweeps), height))
    grid: Any = figure.subplots(1, len(sweeps), sharey=True, squeeze=False)
    wide = figure.get_figwidth()
    figure.subplots_adjust(side / wide, bottom / height, 1 - 1.45 / wide, 1 - top / height, wspace=1.55 / 3.0)
    for ax, sweep in zip(grid[0], sweeps):
        _panel(ax, sweep, lines)
    ax = grid[0][0]
    for y, (factor, label) in enumerate(lines):
        place = {"transform": ax.get_yaxis_transform(), "clip_on": False, "va": "center", "color": INK}
        if factor:
            ax.text(-0.03, y, label, ha="right", fontsize=8.5, **place)
        else:
            title = FACTORS.get(label, label).split(" (start")[0]
            ax.text(
                -(side - 0.12) / (ax.get_position().width * wide), y + 0.1, title, fontsize=8.5, weight="bold", **place
            )
    head: dict[str, Any] = {"va": "top", "fontsize": 9.5, "color": INK}
    left, y = 0.12 / wide, 1 - 0.12 / height
    figure.text(left, y, "What Fisher information brings: PSNR above plain modules", **{**head, "fontsize": 12})
    for k, (name, color) in enumerate((("better", BETTER), ("worse", WORSE), ("neither", NEUTRAL))):
        figure.text(left + (0.75 * k) / wide, y - 0.27 / height, f"● {name}", **{**head, "color": color})
    figure.text(left + 2.15 / wide, y - 0.27 / height, "by more than two standard errors", **head)
    figure.savefig(path, dpi=130, facecolor="white")


def _panel(ax: Any, sweep: Sweep, lines: Sequence[tuple[str, str]]) -> None:
    rows = {(row["factor"], row["label"]): row for row in sweep["rows"]}
    plain = next(row for row in sweep["rows"] if not row["factor"])
    marks = list(plain["psnr"])
    last, early = marks[-1], marks[-2] if len(marks) > 1 else None
    values = []
    width = ax.get_position().width * ax.figure.get_figwidth()
    for y, key in enumerate(lines):
        row = rows.get(key)
        if row is None:
            continue
        mean, error = row["difference"][last]
        color = {"better": BETTER, "worse": WORSE, "even": NEUTRAL}[verdict(row)]
        values += [mean - error, mean + error]
        if early is not None:
            values.append(row["difference"][early][0])
            ax.plot(values[-1], y, "D", color=EARLY, markersize=3.5, zorder=2)
        ax.errorbar(mean, y, xerr=error, fmt="o", color=color, markersize=5, elinewidth=1.4, capsize=2.5, zorder=3)
        text = {"transform": ax.get_yaxis_transform(), "va": "center", "ha": "right", "fontsize": 8, "clip_on": False}
        ax.text(1 + 0.92 / width, y, _gain(mean, error), color=color, **text)
        ax.text(1 + 1.36 / width, y, f"{row['seconds']:.2f}×", color=INK, **text)
    low, high = min([*values, -0.3]), max([*values, 0.3])
    ax.set_xscale("symlog", linthresh=LINEAR, linscale=1.2)
    ax.set_xlim(low * 1.25, high * 1.25)
    ticks = [t for t in (-30, -10, -3, -1, -0.5, 0, 0.5, 1, 3, 10, 30) if low * 1.25 <= t <= high * 1.25]
    ax.set_xticks(ticks, [f"{t:+g}".replace("-", "−") if t else "0" for t in ticks], fontsize=8.5)
    ax.minorticks_off()
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    ax.grid(axis="x", color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_ylim(len(lines) - 0.4, -0.7)
    ax.set_yticks([])
    for y, (factor, _) in enumerate(lines):
        if not factor and y:
            ax.axhline(y - 0.45, color=PALE, linewidth=0.8, zorder=0)
    for name in ("top", "right", "left"):
        ax.spines[name].set_visible(False)
    title = f"{sweep['modality']}: {sweep['title']}\nmod {plain['psnr'][last][0]:.2f} dB at step {last}"
    ax.set_title(title, fontsize=9.5, color=INK, loc="left")
    shown = f"dB above mod: ● step {last}" + (f", ◆ step {early}" if early else "")
    ax.set_xlabel(
        f"{shown}\n± standard error of {plain['pairs']} pairs of signal and seed; axis logarithmic beyond ±1 dB",
        fontsize=8.5,
    )
