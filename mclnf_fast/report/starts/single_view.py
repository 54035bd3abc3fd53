"""The report of single-view fields: a table for the terminal, pictures, and the page."""

from __future__ import annotations

from pathlib import Path

from mclnf_fast.report.record import InitializationRecord, Picture, Views
from mclnf_fast.report.starts.columns import curves_of
from mclnf_fast.report.starts.initializations import (
    Description,
    looks_of,
    steps_plot,
    write_initialization_report,
)
from mclnf_fast.report.starts.rays import Wording, describe, ray_table
from mclnf_fast.report.starts.single_view_orbit import orbit_film, orbit_rows, orbit_strip
from mclnf_fast.report.starts.single_view_pictures import contact_sheet


def wording_of(record: InitializationRecord) -> Wording:
    """Return the words for a run of single-view fields, which are learned from one view or from several.

    >>> wording_of(InitializationRecord(system="single-view")).unit
    'object'
    """
    known = _views(record).known or (1,)
    count = "one view" if set(known) == {1} else f"{known[0]} views" if len(set(known)) == 1 else "some views"
    scored = "and scored on views that were not learned from."
    intro = (
        "An initialization is meta-learned on many objects of a category. It, and others to compare it with, are "
        f"fine-tuned on {count} of an object that was never seen, each with the same steps and rays, {scored}"
    )
    if not record.names.train or "meta" not in record.initializations:
        intro = f"Fields of objects are learned from {count} of each, {scored}"
    return Wording(
        (("all other views", "after"), (learned_from(record), "input")),
        "views not learned from",
        "PSNR on the other views, {steps:,} steps after the {name} initialization",
        intro,
        "object",
        "all other views",
        _tested(_views(record)),
    )


def learned_from(record: InitializationRecord) -> str:
    """Return the name of the views that were learned from.

    >>> learned_from(InitializationRecord(system="single-view", views=Views(known=(3,))))
    'views learned from'
    """
    return "the view learned from" if all(k == 1 for k in _views(record).known) else "views learned from"


def single_view_table(record: InitializationRecord) -> str:
    """Return the initializations side by side, for a terminal.

    >>> single_view_table(InitializationRecord(system="single-view"))
    'no results yet'
    """
    return ray_table(record, wording_of(record))


def write_pictures(folder: str | Path, record: InitializationRecord) -> list[Picture]:
    """Draw the pictures of a run into `images/`; return them, their files relative to the folder.

    Args:
        folder: of the run; `predictions/truth.safetensors` and `predictions/<initialization>.safetensors` are read.
        record: of the run.

    Raises: InputError, if matplotlib is missing or a file of predictions is corrupt.

    >>> import tempfile
    >>> [picture.kind for picture in write_pictures(tempfile.mkdtemp(), InitializationRecord(system="single-view"))]
    ['curve']
    """
    place, looks = Path(folder), looks_of(record)
    pictures: list[Picture] = []
    which = learned_from(record)
    which = which if which.startswith("the ") else f"one of the {which}"
    sheet = contact_sheet(place, looks)
    if sheet is not None:
        caption = f"Unseen objects: the truth, and each initialization before and after its steps; leftmost {which}."
        pictures.append(Picture("sheet", f"images/{sheet.name}", caption))
    rows = orbit_rows(place, looks, record)
    if rows:
        gif, film = orbit_film(place, rows, record)
        truth = (
            "the truth"
            if record.orbit is not None and record.orbit.rendered
            else "the nearest of its own views (it can't be rendered anew)"
        )
        caption = (
            f"Around one unseen object at constant elevation: {truth}, and the fields of the initializations; "
            f"leftmost, standing still, {which}." + (f" The same as a film: images/{film.name}." if film else "")
        )
        pictures.append(Picture("turntable", f"images/{gif.name}", caption))
        strip = orbit_strip(place, rows)
        pictures.append(Picture("orbit", f"images/{strip.name}", "The same turn, as stills."))
    plot = steps_plot(place, looks, curves_of(record, looks), "steps", "PSNR on views not learned from (dB)")
    caption = "PSNR on views not learned from over the steps: mean and standard error over the test objects."
    return [*pictures, Picture("curve", f"images/{plot.name}", caption)]


def described(record: InitializationRecord) -> Description:
    """Return what the report of a run of single-view shows and says.

    >>> described(InitializationRecord(system="single-view")).unit
    'object'
    """
    return describe(record, wording_of(record))


def write_single_view_report(folder: str | Path, record: InitializationRecord) -> Path:
    """Write `report.html` into a run's folder; return its path. Raises: as `write_initialization_report`.

    >>> import tempfile
    >>> write_single_view_report(tempfile.mkdtemp(), InitializationRecord(system="single-view")).name
    'report.html'
    """
    return write_initialization_report(folder, record, described(record))


def _views(record: InitializationRecord) -> Views:
    return record.views or Views()


def _tested(views: Views) -> str:
    if not views.curve or not views.tested:
        return ""
    return (
        f"The columns of steps and the plot are over {max(map(len, views.curve))} other views of each object, evenly "
        f'chosen; "all other views" are {max(views.tested)}.'
    )
