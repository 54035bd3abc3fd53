"""What a run shows, in sentences and a few figures counted from metrics.json; said as it is, won or lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mclnf_fast.report.page.style import MODULAR, db, finite, matrix_of, name, ordered, steps_of

START_STEP = 16  # the step at which the two initialisations are compared, where it was logged
_NEAR = 0.05  # dB; below it, two methods are said to be level


@dataclass(frozen=True)
class Figure:
    """One figure of the head: `value` as text, what it is, and whether it is good news (None: neither)."""

    value: str
    what: str
    good: bool | None = None


def lost(row: Mapping[str, Any]) -> float | None:
    """dB that the first block lost from when it was learned to the end; exactly 0.0 where nothing changed.

    None for a run of one block, or where the two figures are missing.
    """
    matrix = matrix_of(row)
    if len(matrix) == 1:
        return None
    own, last = finite(row.get("psnr_first_task_after_own")), finite(row.get("psnr_first_task_after_all"))
    if (own is None or last is None) and matrix and matrix[0] and matrix[-1]:
        own, last = matrix[0][0], matrix[-1][0]
    return None if own is None or last is None else own - last


def changed(row: Mapping[str, Any]) -> bool:
    """True where any block's PSNR differs, in any digit, from what it was right after it was learned."""
    matrix = matrix_of(row)
    for i in range(len(matrix)):
        own = matrix[i][i] if i < len(matrix[i]) else None
        if any(i < len(line) and line[i] != own for line in matrix[i:]):
            return True
    return bool(lost(row))


def start_gains(summary: Mapping[str, Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(step, dB by which `mod` leads `mod_random`) at step 16, or the logged one nearest, and at the last."""
    if "mod" not in summary or "mod_random" not in summary:
        return []
    learned, rand = steps_of(summary["mod"]), steps_of(summary["mod_random"])
    common = sorted(set(learned) & set(rand))
    if not common:
        return []
    early = min(common, key=lambda s: (abs(s - START_STEP), s))
    chosen = [early] if early == common[-1] else [early, common[-1]]
    return [(s, learned[s] - rand[s]) for s in chosen]


def figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """The figures of the head of the report; those that cannot be counted are left out."""
    summary = _summary(metrics)
    first = _first(metrics)
    out = []
    modular = [m for m in ordered(summary) if m in MODULAR and lost(summary[m]) is not None]
    if modular:
        worst = max((lost(summary[m]) or 0.0 for m in modular), default=0.0)
        exact = not any(changed(summary[m]) for m in modular)
        what = f"forgotten by the modules{', bit for bit' if exact else ''}"
        out.append(Figure("0 dB" if exact else db(worst, unit=True), what, exact))
    if "finetune" in summary and (fell := lost(summary["finetune"])) is not None:
        word = "lost" if fell >= 0 else "gained"
        what = f"{word} on {first} by the one network that goes on learning"
        out.append(Figure(db(abs(fell), unit=True), what, None))
    gains = start_gains(summary)
    if gains:
        step, gain = gains[0]
        what = f"learned start against random start at step {step}"
        out.append(Figure(db(gain, sign=True, unit=True), what, gain > 0))
    for m in ("mim", "mod"):
        mean = finite(summary.get(m, {}).get("psnr_mean"))
        if mean is not None:
            out.append(Figure(db(mean, unit=True), f"mean PSNR of held-out views, {name(m)}"))
            break
    return out


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What the run shows, one sentence a claim, with its figures."""
    summary = _summary(metrics)
    first = _first(metrics)
    out = []
    count = len(_blocks(metrics)) or max((len(matrix_of(r)) for r in summary.values()), default=0)
    if count == 1:
        out.append("With one block there is nothing that could be forgotten.")
    modular = [m for m in ordered(summary) if m in MODULAR and lost(summary[m]) is not None]
    if modular and not any(changed(summary[m]) for m in modular):
        out.append(
            "The modules forgot exactly 0 dB: every block's PSNR after the last block is, to the last bit, "
            "what it was right after that block was learned."
        )
    else:
        out += [f"{name(m)} {_moved(lost(summary[m]) or 0.0, first)}." for m in modular]
    if "finetune" in summary and (fell := lost(summary["finetune"])) is not None:
        out.append(f"One network that goes on learning, block after block, {_moved(fell, first)}.")
    rivals = [m for m in ("er", "ewc", "maml_cl", "oml") if m in summary]
    moved = [f"{name(m)} {_moved(fell, first)}" for m in rivals if (fell := lost(summary[m])) is not None]
    if moved:
        out.append(f"Of the same size, {_listed(moved)}.")
    offline = [(m, finite(summary[m].get("psnr_mean"))) for m in ("offline", "maml_offline") if m in summary]
    reached = [f"{db(v)} dB ({name(m)})" for m, v in offline if v is not None]
    if reached:
        out.append(f"One network that meets all blocks at once reaches {_listed(reached)} on average.")
    gains = start_gains(summary)
    if gains:
        parts = [f"{db(abs(g))} dB {'above' if g >= 0 else 'below'} at step {s}" for s, g in gains]
        out.append(f"Against the same modules from a random start, the learned start is {' and '.join(parts)}.")
    pair = [finite(summary.get(m, {}).get("psnr_mean")) for m in ("mim", "mod")]
    if pair[0] is not None and pair[1] is not None:
        gap = pair[0] - pair[1]
        verdict = (
            f"level with plain modules ({db(gap, sign=True)} dB)"
            if abs(gap) < _NEAR
            else f"{db(abs(gap))} dB {'above' if gap > 0 else 'below'} plain modules"
        )
        out.append(f"With Fisher information the mean PSNR is {verdict}: {db(pair[0])} against {db(pair[1])} dB.")
    return out


def _listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _moved(fell: float, block: str) -> str:
    if fell == 0:
        return f"kept {block} as it was"
    return f"{'lost' if fell > 0 else 'gained'} {db(abs(fell))} dB on {block}"


def _summary(metrics: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    summary = metrics.get("summary")
    if not isinstance(summary, Mapping):
        return {}
    return {str(m): row for m, row in summary.items() if isinstance(row, Mapping)}


def _first(metrics: Mapping[str, Any]) -> str:
    blocks = _blocks(metrics)
    return str(blocks[0]) if blocks else "the first block"


def _blocks(metrics: Mapping[str, Any]) -> Sequence[Any]:
    blocks = metrics.get("blocks")
    return blocks if isinstance(blocks, list | tuple) else []
