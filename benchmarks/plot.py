"""One picture of a result: shares of the limit, the time of every peer over ours, and the sweeps."""

from __future__ import annotations

import pathlib
from typing import Any

from benchmarks import table

OURS = "#c44e00"
# Okabe and Ito's color-blind-safe set, and a shape for each, so that color alone never tells.
PEERS = {
    "loop": ("#0072b2", "s"),
    "bmm": ("#008f6b", "D"),
    "compile": ("#a8558a", "^"),
    "func": ("#5b5bd6", "v"),
    "jax": ("#7a6a00", "P"),
    "formula": ("#6b7280", "X"),
    "backpack": ("#3c6e71", "<"),
    "opacus": ("#8c4a2f", ">"),
    "torchopt": ("#0072b2", "h"),
    "reference": ("#6b7280", "o"),
    "adam fused": ("#008f6b", "p"),
    "adam foreach": ("#0072b2", "*"),
    "ops": ("#5b5bd6", "d"),
    "tinycudann": ("#3c6e71", ">"),
    "nerfacc": ("#8c4a2f", "<"),
}
INK, PALE = "#333333", "#dddddd"


def draw(data: dict[str, Any], path: pathlib.Path) -> None:
    """Write the PNG. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    single = [r for r in data["cases"] if r["status"] == "ok" and not table.ours_of(r)[0]["variant"]]
    single = [r for r in single if "seconds" in table.ours_of(r)[0]]
    sweeps = [r for r in data["cases"] if r["status"] == "ok" and _axis(r) is not None]
    rows = max(len(single), 1)
    heights = [1.7 + 0.34 * rows, 2.7 * -(-len(sweeps) // 2) or 0.01]
    figure = Figure(figsize=(11, sum(heights) + 0.9), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    upper, lower = parts
    figure.suptitle(
        f"{table.where(data)}, torch {data['versions']['torch']}, {data['date']}",
        fontsize=11,
        color=INK,
    )
    left, right = upper.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [2, 3]})
    _shares(left, single, "matrix product" if data["device"] == "cuda" else "multiply-add limit")
    _ratios(right, single)
    if sweeps:
        grid = lower.subplots(-(-len(sweeps) // 2), 2, squeeze=False)
        for ax in grid.flat[len(sweeps) :]:
            ax.axis("off")
        for ax, result in zip(grid.flat, sweeps):
            _sweep(ax, result)
    figure.savefig(path, dpi=130)


def _rows(ax: Any, results: list[dict[str, Any]]) -> None:
    ax.set_yticks(range(len(results)), [r["title"] or r["id"] for r in results], fontsize=8.5)
    ax.set_ylim(len(results) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    for k in range(0, len(results), 2):
        ax.axhspan(k - 0.5, k + 0.5, color="#f6f6f6", zorder=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _shares(ax: Any, results: list[dict[str, Any]], limit: str) -> None:
    """Share of the limit, ours and what must be reached."""
    _rows(ax, results)
    for k, result in enumerate(results):
        if result["limit"] not in ("fma", "matmul"):
            ax.text(2, k, "no operations counted" if result["limit"] is None else "limited by memory", fontsize=7,
                    color="#888888", va="center")  # fmt: skip
            continue
        own = table.ours_of(result)[0]
        if own["limit_share"] is None:
            continue
        share = 100 * own["limit_share"]
        ax.barh(k, share, height=0.55, color=OURS, alpha=0.85, zorder=2)
        ax.text(1.5, k, f"{share:.0f}", va="center", fontsize=8.5, color="white", fontweight="bold", zorder=4)
        for bar in result["bars"]:
            if bar["what"] == "limit_share":
                for which, style in (("must", "-"), ("aim", ":")):
                    if bar[which] is not None:
                        ax.plot([100 * bar[which]] * 2, [k - 0.4, k + 0.4], color=INK, ls=style, lw=1.6, zorder=3)
    ax.set_xlim(0, 110)
    ax.set_xlabel(f"ours, % of the {limit}\n(line: must reach; dotted: aim)", fontsize=8.5)
    ax.tick_params(axis="x", labelsize=8)


def _ratios(ax: Any, results: list[dict[str, Any]]) -> None:
    """Time of every peer over ours on a log axis; left of 1 we lose."""
    _rows(ax, results)
    ax.tick_params(axis="y", labelleft=False)
    shown: dict[str, Any] = {}
    largest, smallest = 2.0, 0.8
    for k, result in enumerate(results):
        for row in table.peers_of(result, table.ours_of(result)[0]):
            color, marker = PEERS.get(row["peer"], ("#6b7280", "o"))
            ratio = row["times_ours"]
            largest, smallest = max(largest, ratio), min(smallest, ratio)
            dot = ax.plot(
                ratio,
                k,
                ls="",
                marker=marker,
                ms=10 if marker == "*" else 7,
                color=color,
                mec="white",
                mew=0.6,
                zorder=3,
            )
            shown.setdefault(row["peer"], dot[0])
        for bar in result["bars"]:
            if bar["what"] == "speedup" and not bar["void"]:
                for which, style in (("must", "-"), ("aim", ":")):
                    if bar[which] is not None:
                        ax.plot([bar[which]] * 2, [k - 0.4, k + 0.4], color=INK, ls=style, lw=1.6, zorder=2)
    ax.set_xscale("log")
    ax.set_xlim(smallest * 0.8, largest * 1.3)
    ax.axvline(1, color=OURS, lw=1.5, zorder=1)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if smallest * 0.8 <= t <= largest * 1.3]
    ax.set_xticks(ticks, [f"{t:g}x" for t in ticks], fontsize=8)
    ax.minorticks_off()
    ax.set_xlabel("time of a peer over ours (left of the line at 1x we lose)", fontsize=8.5)
    if shown:
        columns = -(-len(shown) // 2)
        ax.figure.legend(
            shown.values(), shown.keys(), fontsize=8, ncols=columns, frameon=False, loc="outside lower right"
        )


def _axis(result: dict[str, Any]) -> list[float] | None:
    """Return the numbers of a sweep's variants (`M=16` -> 16); None if the variants are no numbers or have no rate."""
    values = []
    for own in table.ours_of(result):
        text = own["variant"].partition("=")[2]
        if not text.isdigit() or own.get("rate") is None:
            return None
        values.append(float(text))
    return values or None


def _sweep(ax: Any, result: dict[str, Any]) -> None:
    """Share of the limit, or GFLOP/s where that is unknown, over the swept size: ours and the peers'."""
    values, owns = _axis(result) or [], table.ours_of(result)
    key, scale = ("limit_share", 100) if owns[0]["limit_share"] is not None else ("rate", 1)
    ax.plot(values, [scale * own[key] for own in owns], color=OURS, marker="o", lw=2, label="ours", zorder=3)
    for peer in dict.fromkeys(row["peer"] for row in result["contenders"] if row["peer"]):
        points = [
            (v, scale * row[key])
            for v, own in zip(values, owns)
            for row in table.peers_of(result, own)
            if row["peer"] == peer
        ]
        color, marker = PEERS.get(peer, ("#6b7280", "o"))
        ax.plot(*zip(*points), color=color, marker=marker, ms=5, lw=1.2, label=peer)
    ax.set_xscale("log", base=2)
    ax.set_xticks(values, [f"{v:g}" for v in values], fontsize=8)
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.tick_params(axis="y", labelsize=8)
    ax.set_title(result["title"] or result["id"], fontsize=8.5)
    names = {"M": "modules", "W": "width", "N": "points", "R": "rays"}
    ax.set_xlabel(names.get(owns[0]["variant"].partition("=")[0], ""), fontsize=8.5)
    ax.grid(axis="y", color=PALE, lw=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_ylabel("% of the limit" if key == "limit_share" else "GFLOP/s", fontsize=8.5)
    ax.legend(fontsize=7.5, frameon=False)
