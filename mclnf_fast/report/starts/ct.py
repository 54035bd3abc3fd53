"""The report of a run of ct: a table for the terminal, pictures, and the page."""

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
from mclnf_fast.report.record import InitializationRecord, Picture
from mclnf_fast.report.starts.columns import capped, care_columns, curves_of, mean_error, milestone_columns, time_column
from mclnf_fast.report.starts.initializations import (
    LOOKS,
    SHOWN,
    Description,
    lead,
    looks_of,
    results_table,
    saved_values,
    terminal_text,
    write_initialization_report,
    write_sheet_and_curve,
)

if TYPE_CHECKING:
    from PIL import Image as PilImage

FBP = Look("fbp", "back-projection", "", "#0072b2", "#62b5ea", "D", "filtered back-projection, with the ramp filter")
HANN = Look(
    "hann", "Hann filter", "", "#3c6e71", "#86c5c9", "H", "scikit-image's back-projection, Hann window on the ramp"
)
SART = Look("sart", "SART", "", "#b3261e", "#ff8f85", "p", "scikit-image's SART, best relaxation and sweeps")
MEAN = Look("mean", "mean slice", "", "#b98a00", "#e0bd4a", "X", "the mean of the training slices, no projection used")
LINEAR = Look(
    "linear",
    "linear estimate",
    "",
    "#5b5f97",
    "#a9adf0",
    "v",
    "the best linear estimate, fitted to the training slices",
)
CLASSICAL = (FBP, HANN, SART, LINEAR, MEAN)  # they take no steps: their PSNR is shown at the last step alone


def describe(record: InitializationRecord) -> Description:
    """Return what the report of a run of ct shows and says.

    >>> describe(InitializationRecord(system="ct")).unit
    'slice'
    """
    record, looks = capped(record), looks_of(record, (*CLASSICAL, *LOOKS))
    intro = (
        "An initialization is meta-learned on slices of which many projections are known. It, and others to compare it "
        f"with, are fine-tuned on {record.projections} parallel projections of a slice that was never seen, each at "
        "its best rate of those tried on validation slices; the loss is between projections, the PSNR between slices."
    )
    return Description(
        looks, table_of(record, looks), tiles(record, looks), "", intro, "slice", "PSNR in dB after the last step."
    )


def table_of(record: InitializationRecord, looks: Mapping[str, Look]) -> Table:
    """Return PSNR over steps, the loss between projections, the rate and the time, a row per initialization."""
    columns = milestone_columns(record, looks, [look.key for look in CLASSICAL])

    def loss(key: str) -> str:
        losses = record.initializations[key].fit or {}
        mean = mean_error(losses[max(losses)]) if losses else None
        return "-" if mean is None else number(mean[0], 2)

    columns.append(column("projection loss", looks, loss))
    columns += care_columns(record, looks)
    note = (
        "PSNR in dB of the slices, mean ± standard error over the test slices. Projection loss: the mean squared error "
        "of the projections at the last step, of means along rays. Rate of SART: its relaxation."
    )
    return results_table(record, looks, [*columns, time_column(record, looks)], note)


def tiles(record: InitializationRecord, looks: Mapping[str, Look]) -> list[Tile]:
    """Return the figures of the head: the meta-learned initialization's PSNR and its lead over everything else."""
    meta = mean_error(record.initializations["meta"].after) if "meta" in looks else None
    if meta is None:
        return []
    steps = max(record.steps, default=0)
    label = f"PSNR of unseen slices, {steps:,} steps after the meta-learned initialization"
    out = [Tile(db(meta[0], unit=True), label)]
    for key, look in looks.items():
        gap = lead(record, "meta", key) if key != "meta" else None
        if gap is not None:
            name = look.name if look in CLASSICAL else f"{look.name} initialization"
            pairs = paired(record.initializations["meta"].after, record.initializations[key].after)
            out.append(lead_tile(*(pairs or (gap, None)), f"against the {name}"))
    return out


def ct_table(record: InitializationRecord) -> str:
    """Return the initializations side by side, for a terminal.

    >>> ct_table(InitializationRecord(system="ct"))
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
    >>> [picture.kind for picture in write_pictures(tempfile.mkdtemp(), InitializationRecord(system="ct"))]
    ['curve']
    """
    place, looks = Path(folder), looks_of(record, (*CLASSICAL, *LOOKS))
    captions = (
        f"Unseen slices from {record.projections} projections: the truth, classical reconstructions, and each "
        "initialization before and after its steps.",
        "PSNR of slices over steps on their projections: mean and standard error over the test slices.",
    )
    axes = ("steps on the projections", "PSNR of slices (dB)")
    curves = curves_of(record, looks)
    return write_sheet_and_curve(place, partial(_sheet, place, record, looks), looks, curves, axes, captions)


def write_ct_report(folder: str | Path, record: InitializationRecord) -> Path:
    """Write `report.html` into a run's folder; return its path. Raises: as `write_initialization_report`.

    >>> import tempfile
    >>> write_ct_report(tempfile.mkdtemp(), InitializationRecord(system="ct")).name
    'report.html'
    """
    return write_initialization_report(folder, record, describe(record))


def _sheet(place: Path, record: InitializationRecord, looks: Mapping[str, Look], truth: np.ndarray) -> PilImage.Image:
    columns: dict[str, np.ndarray] = {}
    psnrs: dict[str, list[float | None]] = {}
    heads: dict[str, Look] = {}
    for key, look in looks.items():
        values, results = saved_values(place, key), record.initializations[key]
        # The mean slice is the same for every test slice: a column of it would show nothing.
        if values is None or look is MEAN:
            continue
        steps = results.kept or (0,)
        for k, step in enumerate(steps):
            name = f"{key} {step}"
            label = look.name if len(steps) == 1 else f"{look.key}, {'before' if k == 0 else 'after'}"
            group = "classical" if look in CLASSICAL else "fields, before and after their steps"
            heads[name] = dataclasses.replace(look, key=name, name=label, category=group)
            columns[name] = values[k][:SHOWN] / 255.0
            psnrs[name] = list(results.curve.get(step, ()))[:SHOWN]
    labels = Labels([Path(n).name for n in record.names.test], heads)
    return qualitative_picture("image", truth[:SHOWN] / 255.0, columns, psnrs, labels, detail=False)
