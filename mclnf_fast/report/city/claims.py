"""The findings of a city run, in sentences and a few figures; they are stated as they are, good or bad."""

from __future__ import annotations

from mclnf_fast.report.page.blocks import Tile
from mclnf_fast.report.page.leads import lead_tile, paired
from mclnf_fast.report.page.methods import JOINT, in_order, method
from mclnf_fast.report.page.style import db, listed
from mclnf_fast.report.record import CityRecord, CityResults

EARLY_STEP = 16  # the step at which two initializations are compared, or the logged one nearest to it
MODULAR = ("mim", "mod", "mod_random", "mod_even")  # methods whose modules are frozen once their block is learned
_LEVEL = 0.05  # dB; two methods that are closer are called level: a sentence must not make a win of it


def lost(results: CityResults) -> float | None:
    """Return by how many dB the first block fell from when it was learned to the end; 0.0 only if nothing changed.

    None for a run of one block, or if the two figures are missing.

    >>> lost(CityResults(matrix=((20.0, None), (18.5, 21.0))))
    1.5
    """
    matrix = results.matrix
    # Nothing follows a single block: 0.0 would claim that it was kept.
    if len(matrix) == 1:
        return None
    first, last = results.psnr_first_task_after_own, results.psnr_first_task_after_all
    if (first is None or last is None) and matrix and matrix[0] and matrix[-1]:
        first, last = matrix[0][0], matrix[-1][0]
    return None if first is None or last is None else first - last


def changed(results: CityResults) -> bool:
    """Return whether any block's PSNR differs, in any digit, from its value right after the block was learned.

    >>> changed(CityResults(matrix=((20.0, None), (20.0, 21.0))))
    False
    """
    matrix = results.matrix
    for i in range(len(matrix)):
        # Compared as they are, not as they are shown: a claim of "bit for bit" must not rest on two decimals.
        first = matrix[i][i] if i < len(matrix[i]) else None
        if any(i < len(row) and row[i] != first for row in matrix[i:]):
            return True
    return bool(lost(results))


def curve(results: CityResults) -> dict[int, float]:
    """Return PSNR by step on a block, in the order of the steps.

    >>> curve(CityResults(psnr_at_step={4: 12.0, 1: 10.0}))
    {1: 10.0, 4: 12.0}
    """
    return {step: value for step, value in sorted(results.psnr_at_step.items()) if value is not None}


def initialization_gains(record: CityRecord) -> list[tuple[int, float]]:
    """Return (step, dB by which `mod` leads `mod_random`) at step 16, or the logged one nearest, and at the last.

    >>> rows = {"mod": CityResults(psnr_at_step={16: 18.0}), "mod_random": CityResults(psnr_at_step={16: 17.0})}
    >>> initialization_gains(CityRecord(system="city", methods=rows))
    [(16, 1.0)]
    """
    if not {"mod", "mod_random"} <= set(record.methods):
        return []
    learned, random = (curve(record.methods[m]) for m in ("mod", "mod_random"))
    # Steps of both: a lead taken at different steps would measure the steps.
    common = sorted(set(learned) & set(random))
    if not common:
        return []
    early = min(common, key=lambda step: (abs(step - EARLY_STEP), step))
    chosen = [early] if early == common[-1] else [early, common[-1]]
    return [(step, learned[step] - random[step]) for step in chosen]


def first_block(record: CityRecord) -> str:
    """Return the name of the block that was learned first.

    >>> first_block(CityRecord(system="city", tasks=("north", "south")))
    'north'
    """
    return record.tasks[0] if record.tasks else "the first block"


def _modular(record: CityRecord) -> list[str]:
    return [m for m in in_order(record.methods) if m in MODULAR and lost(record.methods[m]) is not None]


def tiles(record: CityRecord) -> list[Tile]:
    """Return the figures of the head of the report; those that cannot be computed are left out.

    >>> tiles(CityRecord(system="city", methods={"mod": CityResults(psnr_mean=20.0)}))[0].value
    '20.00 dB'
    """
    results, out = record.methods, []
    modular = _modular(record)
    if modular:
        worst = max(lost(results[m]) or 0.0 for m in modular)
        exact = not any(changed(results[m]) for m in modular)
        label = f"forgotten by the modules{', bit for bit' if exact else ''}"
        out.append(Tile("0 dB" if exact else db(worst, unit=True), label, exact))
    if "finetune" in results and (fall := lost(results["finetune"])) is not None:
        verb = "lost" if fall >= 0 else "gained"
        out.append(Tile(db(abs(fall), unit=True), f"{verb} on {first_block(record)} by the fine-tuned network"))
    gains = initialization_gains(record)
    if gains:
        # At the end: a lead at step 16 may be lost by then.
        step, gain = gains[-1]
        label = f"meta-learned against random initialization at the last step, {step:,}"
        if len(gains) > 1:
            label += f" ({db(gains[0][1], sign=True, unit=True)} at step {gains[0][0]:,})"
        learned, random = ([row.get(step) for row in results[m].psnr_at_step_by_task] for m in ("mod", "mod_random"))
        pairs = paired(learned, random)
        out.append(lead_tile(gain, None if pairs is None else pairs[1], label))
    for m in ("mim", "mod"):
        mean = results[m].psnr_mean if m in results else None
        if mean is not None:
            out.append(Tile(db(mean, unit=True), f"mean PSNR of held-out views, {method(m).name}"))
            break
    return out


def sentences(record: CityRecord) -> list[str]:
    """Return the findings of the run, a sentence each, with their figures.

    >>> sentences(CityRecord(system="city", tasks=("north",)))
    ['With one block, nothing can be forgotten.']
    """
    out = []
    count = len(record.tasks) or max((len(r.matrix) for r in record.methods.values()), default=0)
    if count == 1:
        out.append("With one block, nothing can be forgotten.")
    out += _modules(record)
    out += _rivals(record)
    gains = initialization_gains(record)
    if gains:
        parts = [f"{db(abs(g))} dB {'above' if g >= 0 else 'below'} at step {s}" for s, g in gains]
        out.append(
            f"Compared with the same modules from a random initialization, the meta-learned one is {listed(parts)}."
        )
    return out + _fisher(record)


def _modules(record: CityRecord) -> list[str]:
    modular = _modular(record)
    if modular and not any(changed(record.methods[m]) for m in modular):
        return [
            "The modules forgot exactly 0 dB: every block's PSNR after the last block is, to the last bit, "
            "its PSNR right after the block was learned."
        ]
    block = first_block(record)
    return [f"{method(m).name} {_moved(lost(record.methods[m]) or 0.0, block)}." for m in modular]


def _rivals(record: CityRecord) -> list[str]:
    out, block = [], first_block(record)
    falls = {m: fall for m in in_order(record.methods) if (fall := lost(record.methods[m])) is not None}
    if "finetune" in falls:
        out.append(f"One network that is trained on block after block {_moved(falls['finetune'], block)}.")
    joint = {m for m in record.methods if method(m, record.methods[m].category).category in JOINT}
    moved = [
        f"{method(m).name} {_moved(fall, block)}"
        for m, fall in falls.items()
        if m not in (*MODULAR, "finetune") and m not in joint
    ]
    if moved:
        out.append(f"Of the same size, {listed(moved)}.")
    reached = [
        f"{db(mean)} dB ({method(m).name})"
        for m in in_order(joint)
        if (mean := record.methods[m].psnr_mean) is not None
    ]
    if reached:
        out.append(f"One network that is trained on all blocks at once reaches {listed(reached)} on average.")
    return out


def _fisher(record: CityRecord) -> list[str]:
    mim, mod = (record.methods[m].psnr_mean if m in record.methods else None for m in ("mim", "mod"))
    if mim is None or mod is None:
        return []
    gap = mim - mod
    pairs = paired(*(record.methods[m].matrix[-1] if record.methods[m].matrix else () for m in ("mim", "mod")))
    error = 0.0 if pairs is None or pairs[1] is None else pairs[1]
    within = f", within the error over the blocks, {db(error)}" if abs(gap) <= error else ""
    verdict = (
        f"level with plain modules ({db(gap, sign=True)} dB{within})"
        if within or abs(gap) < _LEVEL
        else f"{db(abs(gap))} dB {'above' if gap > 0 else 'below'} plain modules"
    )
    return [f"With Fisher information the mean PSNR is {verdict}: {db(mim)} against {db(mod)} dB."]


def _moved(fall: float, block: str) -> str:
    if fall == 0:
        return f"kept {block} as it was"
    return f"{'lost' if fall > 0 else 'gained'} {db(abs(fall))} dB on {block}"
