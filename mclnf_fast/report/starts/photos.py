"""The report of photos of a place: a table for the terminal, pictures, and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mclnf_fast.report.page.blocks import PairsBlock
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.page import Section
from mclnf_fast.report.page.style import db
from mclnf_fast.report.record import InitializationRecord, Photos, Picture
from mclnf_fast.report.starts.columns import curves_of, mean_error
from mclnf_fast.report.starts.initializations import (
    Description,
    looks_of,
    steps_plot,
    write_initialization_report,
)
from mclnf_fast.report.starts.photos_pictures import photo_sheet, way_gif, way_strip
from mclnf_fast.report.starts.rays import Wording, describe, ray_table

WORDING = Wording(
    (("left half", "input"), ("whole photo", "whole"), ("from other places", "others")),
    "right halves of photos, learned from their left ones",
    "PSNR on the right half, {steps:,} steps on the left one after the {name} initialization",
    "An initialization is meta-learned on many photos of one place, each under a light of its own. It, and others to "
    "compare it with, are fine-tuned on the left half of photos that were never seen, each with the same steps "
    "and rays, and scored on their right halves; and once more on whole photos, for a field of the place under each "
    "one's light.",
    "photo",
    "its right half",
    "The columns of steps are of the right half, learned from the left one.",
)
_CAPTIONS = {
    "sheet": "Unseen photos; the half that is learned from; the photos as each initialization renders them from that "
    "half, before and after its steps; and the meta-learned one after as many steps on the whole photo.",
    "strip": "From one photo to another: the camera and the weights of the network go the same straight way.",
    "way": "The same, moving.",
    "curve": "PSNR on the right halves over the SGD steps on the left ones: mean and standard error over the test "
    "photos.",
}


def photo_table(record: InitializationRecord) -> str:
    """Return the initializations side by side, for a terminal; below, what lies between two photos' weights.

    >>> photo_table(InitializationRecord(system="photos"))
    'no results yet'
    """
    looks = {key: look for key, look in looks_of(record).items() if key == "meta"}
    lines = [f"{name}: {text}" for name, text in between_rows(record, looks)]
    return "\n".join([ray_table(record, WORDING), *(["", *lines] if lines else [])])


def between_rows(record: InitializationRecord, looks: Mapping[str, Look]) -> list[tuple[str, str]]:
    """Return, for each initialization, the PSNR between two photos by weight, as (name, text).

    Once of the field between the two fields' weights, once of the two fields' pictures faded into each other.
    """
    rows = []
    for key, look in looks.items():
        results = record.initializations[key]
        for points, label in ((results.between, "weights between"), (results.faded, "pictures faded")):
            means = {weight: mean_error(values) for weight, values in (points or {}).items()}
            cells = [f"{float(weight):g}: {db(mean[0])}" for weight, mean in means.items() if mean is not None]
            if cells:
                rows.append((f"{look.name}, {label}", ", ".join(cells) + " dB"))
    return rows


def write_pictures(folder: str | Path, record: InitializationRecord) -> list[Picture]:
    """Draw the pictures of a run into `images/`; return them, their files relative to the folder.

    Args:
        folder: of the run; the files in `predictions/` are read.
        record: of the run.

    Raises: InputError, if matplotlib is missing or a file of predictions is corrupt.

    >>> import tempfile
    >>> [picture.kind for picture in write_pictures(tempfile.mkdtemp(), InitializationRecord(system="photos"))]
    ['curve']
    """
    place, looks = Path(folder), looks_of(record)
    left = (record.photos or Photos()).left
    curves = curves_of(record, looks)
    files = {
        "sheet": photo_sheet(place, looks, left[1] if len(left) == 2 else 0),
        "strip": way_strip(place, looks),
        "way": way_gif(place, looks),
        "curve": steps_plot(place, looks, curves, "SGD steps on the left half", "PSNR on the right half (dB)"),
    }
    return [Picture(kind, f"images/{file.name}", _CAPTIONS[kind]) for kind, file in files.items() if file is not None]


def described(record: InitializationRecord) -> Description:
    """Return what the report of a run of photos shows and says.

    >>> described(InitializationRecord(system="photos")).unit
    'photo'
    """
    wording, others = WORDING, (record.photos or Photos()).others
    if others:
        note = f'"From other places": the field of the whole photo against the truth from {others} other cameras.'
        wording = replace(WORDING, note=f"{WORDING.note} {note}")
    rows = between_rows(record, looks_of(record))
    note = (
        "PSNR against the truth at each weight of the way, both the camera's and the light's; mean over pairs of test "
        "photos."
    )
    return describe(record, wording, Section("Between two photos", [PairsBlock(rows, note)] if rows else []))


def write_photos_report(folder: str | Path, record: InitializationRecord) -> Path:
    """Write `report.html` into a run's folder; return its path. Raises: as `write_initialization_report`.

    >>> import tempfile
    >>> write_photos_report(tempfile.mkdtemp(), InitializationRecord(system="photos")).name
    'report.html'
    """
    return write_initialization_report(folder, record, described(record))
