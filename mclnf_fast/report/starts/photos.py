"""What a run of photos of a place leaves to look at: a table for the terminal, pictures, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mclnf_fast.report.page.methods import Method
from mclnf_fast.report.page.style import db
from mclnf_fast.report.protocol.counts import mapping, sequence
from mclnf_fast.report.starts.photos_pictures import photo_sheet, way_gif, way_strip
from mclnf_fast.report.starts.single_view import Wording, start_table, write_starts_report
from mclnf_fast.report.starts.single_view_pictures import steps_plot
from mclnf_fast.report.starts.starts import Between, curve_of, mean_error, start_looks

WORDING = Wording(
    (("left half", "input"), ("whole photo", "whole"), ("from other places", "others")),
    "right halves of photos, learned from their left ones",
    "PSNR on the right half, {steps:,} steps on the left one after the {start} start",
    "A start is learned over many photos of one place, each under a light of its own. It, and others to compare it "
    "with, are continued on the left half of photos that were never seen, each with the same steps, rate and rays, and "
    "scored on their right halves; and once more on whole photos, for a field of the place under each one's light.",
    "photo",
    "its right half",
)
_CAPTIONS = {
    "sheet": "Unseen photos; the half that is learned from; what the starts make of the photo from that half, before "
    "and after their steps; and the learned start after as many steps on the whole photo.",
    "strip": "From one photo to another: the camera and the weights of the network go the same straight way.",
    "way": "The same, moving.",
    "curve": "PSNR on the right halves over the SGD steps on the left ones; the mean over the test photos, and in the "
    "band its standard error.",
}


def photo_table(metrics: Mapping[str, Any]) -> str:
    """The starts side by side, for a terminal; below, what lies between two photos' weights,
    learned.

    Args:
        metrics: the content of metrics.json; any key may be missing.
    """
    shown = {key: method for key, method in start_looks(metrics).items() if key == "meta"}
    said = [f"{name}: {text}" for name, text in between_rows(metrics, shown)]
    return "\n".join([start_table(metrics, WORDING), *(["", *said] if said else [])])


def between_rows(metrics: Mapping[str, Any], looks: Mapping[str, Method]) -> list[tuple[str, str]]:
    """Of each start, the PSNR between two photos against the truth there, by weight; and that of fading their two
    fields' pictures into each other."""
    out = []
    for key, method in looks.items():
        row = mapping(mapping(metrics.get("starts"))[key])
        for of, what in (("between", "weights between"), ("faded", "pictures faded")):
            points = {w: mean_error(v) for w, v in mapping(row.get(of)).items()}
            cells = [f"{float(w):g}: {db(m[0])}" for w, m in points.items() if m is not None]
            if cells:
                out.append((f"{method.name}, {what}", ", ".join(cells) + " dB"))
    return out


def write_pictures(folder: str | Path, metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Draws the pictures of a run into `images/`; the list for `pictures` of metrics.json.

    Args:
        folder: the run's folder; what the run has left in `predictions/` is read.
        metrics: the content of metrics.json.

    Returns: `{"kind", "file", "caption"}` each, `file` relative to the folder. Raises InputError, if matplotlib is
    missing or a file of predictions is torn.
    """
    place, looks = Path(folder), start_looks(metrics)
    curves = {key: curve_of(mapping(metrics.get("starts"))[key]) for key in looks}
    left = sequence(mapping(metrics.get("photos")).get("left"))
    found = {
        "sheet": photo_sheet(place, looks, int(left[1]) if len(left) == 2 else 0),
        "strip": way_strip(place, looks),
        "way": way_gif(place, looks),
        "curve": steps_plot(place, looks, curves, "SGD steps on the left half", "PSNR on the right half (dB)"),
    }
    return [
        {"kind": kind, "file": f"images/{file.name}", "caption": _CAPTIONS[kind]}
        for kind, file in found.items()
        if file is not None
    ]


def write_photos_report(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `report.html` into a run's folder, its pictures inlined; the path.

    Args:
        folder: the run's folder; `config.yaml` is shown where it is there.
        metrics: the content of metrics.json, `pictures` included; what is missing is left out.

    Raises: InputError, if jinja2 is missing, or a picture's file lies outside the folder.
    """
    photos = mapping(metrics.get("photos"))
    tested = "The columns of steps are of the right half, learned from the left one."
    if photos.get("others"):
        tested += (
            f' "From other places": the field of the whole photo against the truth from {photos["others"]} other '
            "cameras."
        )
    between = Between(
        "Between two photos",
        between_rows(metrics, start_looks(metrics)),
        "PSNR against the truth at each weight of the way, both the camera's and the light's; mean over pairs of test "
        "photos.",
    )
    return write_starts_report(folder, metrics, WORDING, tested, between)
