"""The results of `sampling_peers` as a page, losers as losers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.sampling.contenders import CONTENDERS
from benchmarks.sampling.measure import paired

OURS = "fisher_even"
AIMS = {"psnr": "equal steps", "psnr_equal": "equal operations"}
INTRODUCTION = """# Which samples a step takes

Uniform and even draws, ours by Fisher scores, and the selectors of the literature, all from the same initialization,
with the same batch of 128 samples per step and module, for 512 steps. Modules of width 32 learn a quarter of each
signal: 2,304 pixels of a face or 4,000 samples of speech. Each sampler has five to seven settings (its own options,
Adam's rate), tried on signals that were neither meta-trained on nor tested on. The best one by PSNR after 512 steps is
in all columns but the last, which has the best one by PSNR at equal operations.

- *Δ*: difference from uniform draws in dB, mean over test signals ± standard error over them (speech: means of two
  seeds).
- *operations*: matrix products of all layers, of the selection too, relative to uniform's. Training takes three for
  each sample, a look at a sample one, a step that also scores by Fisher information five, a scoring of NINT six.
- *Δ at equal operations*: as many operations as 512 uniform steps take, so fewer steps if all samples are looked at.
- *ms*: CPU time of a step of all modules with its selection, on one thread, runs in turn; *s* is steps times ms.
  Both are of before `ops.bank_fit` drew and scored by itself: since then a step of `mim` takes 1.07 to 1.15 times as
  long as one of `mod`, where it took 1.25 to 1.91, and one of `mod_even` as long as one of `mod` (`python -m
  benchmarks.guided_steps --out FILE`: 12 signals of 2,304 and 7,921 points, widths 32 and 64, batches of 128 and 256,
  one core with AVX2; `benchmarks/results/guided_steps_zen4_avx2.json`, and `guided_steps_before_zen4_avx2.json`).

Definitions: soft mining (arXiv 2312.00075), INT (2405.10531), EVOS (2412.10153; its loss on the Laplacian is left out:
all minimize the squared error), NINT (2511.15487) and the selection of GradNCP (2302.00617), from the publications and,
in what those leave open, the authors' programs; `benchmarks/sampling/` describes each. **The literature's shares are
larger**: INT and NINT take 20 % of the samples in a step and EVOS 50 %, so that a look at all of them costs less than a
step; a batch of 128 is 3 to 6 % here, and one look costs as much as 6 to 10 of its steps. GradNCP selects while it
meta-trains; here it selects at test time. *Even, scored by error* and *even, loss weighted by error* need no Fisher
information."""


def markdown(content: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    parts += [(_section if "rows" in entry else _tried)(name, entry) for name, entry in content.items()]
    return "\n\n".join(parts) + "\n"


def _section(name: str, entry: Mapping[str, Any]) -> str:
    signals, made = entry["signals"], entry["made"]
    commands = ", ".join(f"`{made[stage]['command']}`" for stage in ("tune", "compare"))
    last = made["compare"]
    lines = [
        f"## {name} initialization",
        "",
        f"{len(entry['test'])} test signals; {signals['meta-training']} to meta-train, {signals['tuning']} to tune on. "
        f"{commands}, {last['machine']}, torch {last['torch']}, commit {last['commit']}.",
        "",
        "| | steps to 30 dB | 35 dB | PSNR | Δ | operations | ms | s to 30 dB | 35 dB | Δ at equal operations |",
        "|---|" + "---:|" * 9,
    ]
    for contender in CONTENDERS:
        row = entry["rows"][contender.name]
        reached, each = [row["psnr"]["steps"][level] for level in ("30", "35")], row["psnr"]["milliseconds"]
        steps = [str(n) if n else "-" for n in reached]
        seconds = [f"{n * each / 1e3:.2f}" if n else "-" for n in reached]
        cells = [*steps, f"{row['psnr']['psnr']:.2f}", _gain(contender.name, row["psnr"]["difference"])]
        cells += [f"{row['psnr']['operations']:.2f}"]
        cells += [f"{each:.2f}", *seconds]
        cells += [_gain(contender.name, row["psnr_equal"]["difference"])]
        lines.append(f"| {contender.title} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {verdict(entry['rows'], aim)}" for aim in AIMS)])


def _tried(name: str, entry: Mapping[str, Any]) -> str:
    """Return the best of the settings that were tried, where none has been compared on test signals."""
    signals, made = entry["signals"], entry["made"]["tune"]
    lines = [
        f"## {name} initialization, on the signals tuned on",
        "",
        f"Not compared on test signals: the best settings on the {signals['tuning']} signals that chose them, one "
        f"seed, so without an error. `{made['command']}`, {made['machine']}, torch {made['torch']}, the engine at "
        f"commit {made['commit']}.",
        "",
        "| | PSNR at equal steps | at equal operations |",
        "|---|---:|---:|",
    ]
    for contender in CONTENDERS:
        rows = entry["tuned"][contender.name]["tried"]
        best = [max(row[aim] for row in rows) for aim in AIMS]
        lines.append(f"| {contender.title} | " + " | ".join(f"{value:.2f}" for value in best) + " |")
    return "\n".join(lines)


def _gain(name: str, difference: list[float]) -> str:
    return "" if name == "uniform" else f"{difference[0]:+.2f} ± {difference[1]:.2f}"


def verdict(rows: Mapping[str, Any], aim: str) -> str:
    """Return which sampler is best at equal steps or operations, and how far ours is from it, signal by signal."""
    title, values = AIMS[aim], {name: row[aim]["by_signal"] for name, row in rows.items()}
    best = max(values, key=lambda name: sum(values[name]))
    titles = {c.name: c.title.replace("*", "") for c in CONTENDERS}
    if best == OURS:
        ranked = sorted(values, key=lambda name: -sum(values[name]))
        gain, error = paired(values[OURS], values[ranked[1]])
        return (
            f"At {title} the best is {titles[best]}, {gain:.2f} ± {error:.2f} dB above the next, {titles[ranked[1]]}."
        )
    gain, error = paired(values[best], values[OURS])
    return f"At {title} the best is {titles[best]}, {gain:.2f} ± {error:.2f} dB above {titles[OURS]}."
