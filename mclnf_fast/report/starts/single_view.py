"""What a run of single-view fields leaves to look at: a table for the terminal, pictures, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mclnf_fast.report.page.claims import Figure
from mclnf_fast.report.page.methods import Method
from mclnf_fast.report.page.style import db, duration
from mclnf_fast.report.protocol.counts import mapping, sequence
from mclnf_fast.report.starts.single_view_orbit import orbit_film, orbit_rows, orbit_strip
from mclnf_fast.report.starts.single_view_pictures import contact_sheet, steps_plot
from mclnf_fast.report.starts.starts import (
    Between,
    Words,
    curve_of,
    estimate,
    mean_error,
    start_looks,
    table_text,
    write_starts_page,
)

COLUMNS = 5  # of the steps, at most, in the table


@dataclass(frozen=True)
class Wording:
    """How a report tells of the starts of one system.

    Attributes:
        ends: what stands beside the steps: head of the column, and key of a start's row in metrics.json.
        scored: what the PSNR of the table's steps is measured on.
        headline: what a start's figure `after` is, `{steps}` and `{start}` in it.
        intro: what was done, a sentence or two.
        one: what a row of the last table is: an object, a photo; and `each`, what its PSNR is measured on.
    """

    ends: tuple[tuple[str, str], ...]
    scored: str
    headline: str
    intro: str
    one: str
    each: str


def wording_of(metrics: Mapping[str, Any]) -> Wording:
    """How a run of single-view fields tells of itself: learned from one view, or from several."""
    objects, views = mapping(metrics.get("objects")), mapping(metrics.get("views"))
    known = [int(k) for k in sequence(views.get("known"))] or [1]
    count = "one view" if set(known) == {1} else f"{known[0]} views" if len(set(known)) == 1 else "some views"
    scored = "and scored on views that were not learned from."
    intro = (
        "A start is learned over many objects of a category. It, and others to compare it with, are continued on "
        f"{count} of an object that was never seen, each with the same steps, rate and rays, {scored}"
    )
    if not objects.get("train") or "meta" not in start_looks(metrics):
        intro = f"Fields of objects are learned from {count} of each, {scored}"
    return Wording(
        (("all other views", "after"), (learned_from(metrics), "input")),
        "views not learned from",
        "PSNR on the other views, {steps:,} steps after the {start} start",
        intro,
        "object",
        "all other views",
    )


def learned_from(metrics: Mapping[str, Any]) -> str:
    """What the views learned from are called."""
    known = sequence(mapping(metrics.get("views")).get("known"))
    return "the view learned from" if all(k == 1 for k in known) else "views learned from"


def start_rows(metrics: Mapping[str, Any], wording: Wording) -> tuple[list[str], list[tuple[Method, list[str]]]]:
    """Heads and, for each start, cells: PSNR along the curve, then the wording's ends that the run has."""
    starts = mapping(metrics.get("starts"))
    looks = start_looks(metrics)
    curves = {key: curve_of(starts[key]) for key in looks}
    steps = sorted({s for c in curves.values() for s in c})
    chosen = steps[:: -(-len(steps) // COLUMNS)] if steps else []
    if steps and steps[-1] not in chosen:
        chosen.append(steps[-1])
    ends = [(head, key) for head, key in wording.ends if any(mapping(starts[k]).get(key) for k in looks)]
    heads = [*(f"step {s:,}" for s in chosen), *(head for head, _ in ends), "time"]
    rows = []
    for key, method in looks.items():
        row = mapping(starts[key])
        cells = [estimate(curves[key].get(s)) for s in chosen]
        cells += [estimate(mean_error(row.get(end))) for _, end in ends]
        rows.append((method, [*cells, duration(row.get("seconds"))]))
    return heads, rows


def start_table(metrics: Mapping[str, Any], wording: Wording | None = None) -> str:
    """The starts side by side, for a terminal.

    Args:
        metrics: the content of metrics.json; any key may be missing.
        wording: None: that of single-view fields.
    """
    wording = wording or wording_of(metrics)
    title = f"{metrics.get('title') or 'Single view'}: PSNR in dB on {wording.scored}, mean ± standard error"
    return table_text(title, *start_rows(metrics, wording), figures(metrics, wording)[1:])


def figures(metrics: Mapping[str, Any], wording: Wording) -> list[Figure]:
    """The figures of the head: the learned start's PSNR at the end, and its lead over each other start."""
    starts = mapping(metrics.get("starts"))
    looks = start_looks(metrics)
    ends = {key: mean_error(mapping(starts[key]).get("after")) for key in looks}
    steps = max([s for s in sequence(metrics.get("steps")) if isinstance(s, int)], default=0)
    own = ends.get("meta")
    if own is None:
        alone = next(iter(looks), None)
        end = None if alone is None or len(looks) > 1 else ends[alone]
        said = wording.headline.format(steps=steps, start=looks[alone].name) if alone else ""
        return [Figure(db(end[0], unit=True), said)] if end is not None else []
    out = [Figure(db(own[0], unit=True), wording.headline.format(steps=steps, start="learned"))]
    for key in ("standard", "matched", "shuffled"):
        other = ends.get(key)
        if other is not None:
            gap = own[0] - other[0]
            out.append(Figure(db(gap, sign=True, unit=True), f"against the {looks[key].name} start", gap > 0))
    return out


def write_pictures(folder: str | Path, metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Draws the pictures of a run into `images/`; the list for `pictures` of metrics.json.

    Args:
        folder: the run's folder; `predictions/truth.safetensors` and `predictions/<start>.safetensors` are read.
        metrics: the content of metrics.json.

    Returns: `{"kind", "file", "caption"}` each, `file` relative to the folder. Raises InputError, if matplotlib is
    missing or a file of predictions is torn.
    """
    place, looks = Path(folder), start_looks(metrics)
    curves = {key: curve_of(mapping(metrics.get("starts"))[key]) for key in looks}
    sheet = contact_sheet(place, looks)
    rows = orbit_rows(place, looks, metrics)
    gif, film = orbit_film(place, rows, metrics) if rows else (None, None)
    strip = orbit_strip(place, rows) if rows else None
    plot = steps_plot(place, looks, curves)
    which = learned_from(metrics)
    which = which if which.startswith("the ") else f"one of the {which}"
    around = "Around one unseen object at constant elevation: "
    rendered = mapping(metrics.get("orbit")).get("rendered") is True
    around += "the truth" if rendered else "of its own views the nearest (it can't be rendered anew)"
    captions = {
        "sheet": f"Unseen objects: the truth, and each start before and after its steps; leftmost {which}.",
        "turntable": f"{around}, and what the starts become; leftmost, standing still, {which}."
        + (f" The same as a film: images/{film.name}." if film else ""),
        "orbit": "The same turn, as stills.",
        "curve": "PSNR on views not learned from over the steps; the mean over the test objects, and in the band its "
        "standard error.",
    }
    found = {"sheet": sheet, "turntable": gif, "orbit": strip, "curve": plot}
    return [
        {"kind": kind, "file": f"images/{file.name}", "caption": captions[kind]}
        for kind, file in found.items()
        if file is not None
    ]


def write_single_view_report(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `report.html` into a run's folder, its pictures inlined; the path.

    Args:
        folder: the run's folder; `config.yaml` is shown where it is there.
        metrics: the content of metrics.json, `pictures` included; what is missing is left out.

    Raises: InputError, if jinja2 is missing, or a picture's file lies outside the folder.
    """
    return write_starts_report(folder, metrics, wording_of(metrics), _tested(mapping(metrics.get("views"))))


def write_starts_report(
    folder: str | Path,
    metrics: Mapping[str, Any],
    wording: Wording,
    tested: str,
    between: Between | None = None,
) -> Path:
    """The same for any system whose starts are continued on rays.

    tested: what the table's columns are over, said below it. between: see `write_starts_page`.
    """
    note = f"PSNR in dB, mean ± standard error over the test {wording.one}s. {tested}".rstrip()
    words = Words(wording.intro, note, wording.one, f"PSNR in dB on {wording.each}.")
    looks = start_looks(metrics)
    return write_starts_page(
        folder, metrics, looks, words, figures(metrics, wording), *start_rows(metrics, wording), between
    )


def _tested(views: Mapping[str, Any]) -> str:
    curve = [len(sequence(v)) for v in sequence(views.get("curve"))]
    tested = [int(v) for v in sequence(views.get("tested"))]
    if not curve or not tested:
        return ""
    return (
        f"The columns of steps and the plot are over {max(curve)} other views of each object, evenly chosen; "
        f'"all other views" are {max(tested)}.'
    )
