"""The report of a run of image-start: a table for the terminal, pictures, and the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.report.page.blocks import Tile
from mclnf_fast.report.page.leads import lead_tile, paired
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.style import db, number
from mclnf_fast.report.page.tables import Table, column
from mclnf_fast.report.protocol.qualitative import Labels, qualitative_picture
from mclnf_fast.report.record import InitializationRecord, InitializationResults, Picture
from mclnf_fast.report.starts.columns import (
    TRIVIAL,
    capped,
    care_columns,
    curves_of,
    mean_error,
    milestone_columns,
    time_column,
)
from mclnf_fast.report.starts.initializations import (
    CONSTANT,
    MATCHED,
    MEAN,
    META,
    SHOWN,
    SHUFFLED,
    STANDARD,
    Description,
    results_table,
    saved_values,
    terminal_text,
    write_initialization_report,
    write_sheet_and_curve,
)

if TYPE_CHECKING:
    from PIL import Image as PilImage

_ADAM = (("#0072b2", "#62b5ea", "^"), ("#008f6b", "#3fcaa1", "v"), ("#7a4fd0", "#b79cff", "D"))
_MAML = dataclasses.replace(META, sentence="meta-learned on the training images by MAML; fine-tuned by SGD")
_SGD = dataclasses.replace(STANDARD, sentence="random weights; fine-tuned by SGD")
_OTHERS = {look.key: look for look in (MEAN, _SGD, CONSTANT, SHUFFLED, MATCHED, _MAML)}
INTRO = (
    "An initialization is meta-learned on many images so that a few steps of gradient descent, each on all pixels, fit "
    "one that was never seen. Beside it a random initialization takes the same steps, and Adam goes on from it until "
    "it is as good."
)
NOTE = (
    "PSNR in dB of the network's values, mean ± standard error over the test images. To match: the steps after which "
    "the mean PSNR is that of the meta-learned initialization after its inner steps."
)


def image_looks(record: InitializationRecord) -> dict[str, Look]:
    """Return how the rows of a run are shown, in their order: `adam_0`, `adam_1`, ... are named by their rates.

    >>> adam = InitializationResults(lr=1e-4)
    >>> image_looks(InitializationRecord(system="image-start", initializations={"adam_0": adam}))["adam_0"].name
    'Adam 0.0001'
    """
    looks: dict[str, Look] = {}
    for key, results in record.initializations.items():
        if key.startswith("adam_"):
            # Further rates repeat the colors: their names still tell them apart.
            (color, dark, marker), rate = _ADAM[int(key[5:]) % len(_ADAM)], results.lr or 0.0
            sentence = f"the same random weights as standard; Adam at {number(rate)}"
            looks[key] = Look(key, f"Adam {number(rate)}", "", color, dark, marker, sentence)
        else:
            looks[key] = _OTHERS.get(key, dataclasses.replace(STANDARD, key=key, name=key))
    return looks


def describe(record: InitializationRecord) -> Description:
    """Return what the report of a run of image-start shows and says.

    >>> describe(InitializationRecord(system="image-start")).unit
    'image'
    """
    record, looks = capped(record), image_looks(record)
    note = "PSNR in dB after the last step."
    return Description(looks, table_of(record, looks), tiles(record, looks), "", INTRO, "image", note)


def table_of(record: InitializationRecord, looks: Mapping[str, Look]) -> Table:
    """Return PSNR over steps, and the steps until each initialization matches the meta-learned one."""
    inner = _inner(record)
    columns = milestone_columns(record, looks, more=(inner,))

    def matched(key: str) -> str:
        results = record.initializations[key]
        if key in TRIVIAL:
            return "-"
        if key == "meta":
            return f"{inner:,}"
        # Not `-`: it was measured, and is more than the steps that were taken.
        return f"over {results.steps or 0:,}" if results.reached_mean is None else f"{results.reached_mean:,}"

    columns += [column("steps to match", looks, matched), *care_columns(record, looks), time_column(record, looks)]
    return results_table(record, looks, columns, NOTE)


def tiles(record: InitializationRecord, looks: Mapping[str, Look]) -> list[Tile]:
    """Return the figures of the head: PSNR after the inner steps, its lead, and the steps that Adam needs for it."""
    inner = _inner(record)
    means = {key: mean_error(results.curve.get(inner)) for key, results in record.initializations.items()}
    meta = means.get("meta")
    if meta is None:
        return []
    label = f"PSNR of unseen images, {inner} steps after the meta-learned initialization"
    out = [Tile(db(meta[0], unit=True), label)]
    for key, name in (("standard", "a random"), ("matched", "the matched")):
        other = means.get(key)
        if other is not None:
            label = f"against {name} initialization after {inner} steps"
            pairs = paired(*(record.initializations[k].curve.get(inner) for k in ("meta", key)))
            out.append(lead_tile(*(pairs or (meta[0] - other[0], None)), label))
    out += [_adam(record.initializations[key], look, inner) for key, look in looks.items() if key.startswith("adam_")]
    return out + _at_the_end(record, looks)


def _at_the_end(record: InitializationRecord, looks: Mapping[str, Look]) -> list[Tile]:
    """Return the lead over the best other one at the last step that all have: an early one may be lost by then."""
    curves = {key: curve for key, curve in curves_of(record, looks).items() if key not in TRIVIAL}
    common = set.intersection(*(set(curve) for curve in curves.values())) if len(curves) > 1 else set()
    last = max(common, default=0)
    if last <= _inner(record) or "meta" not in curves:
        return []
    others = {key: curve[last][0] for key, curve in curves.items() if key != "meta"}
    best = max(others, key=lambda key: others[key])
    gap = curves["meta"][last][0] - others[best]
    label = f"against {looks[best].name}, the best other, after {last:,} steps"
    pairs = paired(*(record.initializations[key].curve.get(last) for key in ("meta", best)))
    return [lead_tile(*(pairs or (gap, None)), label)]


def _adam(results: InitializationResults, look: Look, inner: int) -> Tile:
    reached = results.reached_mean
    if reached is None:
        return Tile("no match", f"{look.name}, within {results.steps or 0:,} steps", True)
    label = f"as many steps until {look.name} matches them ({reached:,} against {inner})"
    return Tile(f"{reached / inner:.3g}x", label, reached > inner)


def image_start_table(record: InitializationRecord) -> str:
    """Return the initializations side by side, for a terminal.

    >>> image_start_table(InitializationRecord(system="image-start"))
    'no results yet'
    """
    description = describe(record)
    return terminal_text(record, description, description.tiles)


def write_pictures(folder: str | Path, record: InitializationRecord) -> list[Picture]:
    """Draw the pictures of a run into `images/`; return them, their files relative to the folder.

    Args:
        folder: of the run; `predictions/*.safetensors` are read.
        record: of the run.

    Raises: InputError, if matplotlib is missing or a file of predictions is corrupt.

    >>> import tempfile
    >>> [picture.kind for picture in write_pictures(tempfile.mkdtemp(), InitializationRecord(system="image-start"))]
    ['curve']
    """
    place, looks = Path(folder), image_looks(record)
    captions = (
        "Unseen images: the truth, the meta-learned initialization before and after its steps, and a random one's.",
        "PSNR over steps: mean and standard error over the test images. The meta-learned initialization was trained to "
        f"be best after {_inner(record)}.",
    )
    sheet, axes = partial(_sheet, place, record, looks), ("steps on an image", "PSNR (dB)")
    return write_sheet_and_curve(place, sheet, looks, curves_of(record, looks), axes, captions)


def write_image_start_report(folder: str | Path, record: InitializationRecord) -> Path:
    """Write `report.html` into a run's folder; return its path. Raises: as `write_initialization_report`.

    >>> import tempfile
    >>> write_image_start_report(tempfile.mkdtemp(), InitializationRecord(system="image-start")).name
    'report.html'
    """
    return write_initialization_report(folder, record, describe(record))


def _sheet(place: Path, record: InitializationRecord, looks: Mapping[str, Look], truth: np.ndarray) -> PilImage.Image:
    """Draw the meta-learned one at its kept steps but the last, then the others after as many and after their last."""
    inner = _inner(record)
    columns: dict[str, np.ndarray] = {}
    psnrs: dict[str, list[float | None]] = {}
    heads: dict[str, Look] = {}
    for key, look in looks.items():
        results, values = record.initializations[key], saved_values(place, key)
        kept = results.kept or ()
        # They look as the random one does; a column of each would leave no room for the others.
        if values is None or not kept or key in ("constant", "shuffled"):
            continue
        steps = kept[:-1] if key == "meta" else (inner, kept[-1]) if key == "standard" else kept[-1:]
        for step in steps:
            name = f"{key} {step}"
            columns[name] = values[kept.index(step)][:SHOWN] / 255.0
            psnrs[name] = list(results.curve.get(step, ()))[:SHOWN]
            short = {"meta": "meta", "standard": "standard"}.get(key, look.name)
            group = "meta-learned initialization" if key == "meta" else "random initialization"
            heads[name] = dataclasses.replace(look, key=name, name=f"{short}, step {step:,}", category=group)
    labels = Labels([Path(n).name for n in record.names.test], heads)
    return qualitative_picture("image", truth[:SHOWN] / 255.0, columns, psnrs, labels)


def _inner(record: InitializationRecord) -> int:
    """Return the inner steps of the meta-training; the first releases did not record them, and had 2."""
    return 2 if record.inner_steps is None else record.inner_steps
