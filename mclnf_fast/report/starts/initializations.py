"""What the reports of initializations share: how they are shown, their tables of PSNR over steps, and their page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.fields.io import load_tensors
from mclnf_fast.report.page.blocks import Block, LegendBlock, PairsBlock, TableBlock, Tile
from mclnf_fast.report.page.canvas import save_image
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.page import Page, Section, closing_sections, made_on, picture_block, write_page
from mclnf_fast.report.page.plots import WIDE, Curves, draw_curves, new_figure, plain_axes, save
from mclnf_fast.report.page.style import db, duration
from mclnf_fast.report.page.tables import Cell, Column, Row, Table, build, terminal, terminal_width
from mclnf_fast.report.record import InitializationRecord, Picture
from mclnf_fast.report.starts.columns import care_note, mean_error

if TYPE_CHECKING:
    from PIL import Image as PilImage

STANDARD = Look("standard", "standard", "", "#6b7280", "#a6adbb", "s", "random weights")
SHUFFLED = Look(
    "shuffled", "shuffled", "", "#7a4fd0", "#b79cff", "^", "the meta-learned weights, permuted within each tensor"
)
CONSTANT = Look(
    "constant", "constant", "", "#5c3a21", "#c79b78", "<",
    "other random weights, distilled to the mean output of the meta-learned one"
)  # fmt: skip
MATCHED = Look(
    "matched", "matched", "", "#008f6b", "#3fcaa1", "v",
    "other random weights, distilled to the outputs of the meta-learned one: the same function"
)  # fmt: skip
META = Look("meta", "meta-learned", "", "#c44e00", "#ff9a57", "o", "meta-learned on the training objects by Reptile")
LOOKS = (STANDARD, CONSTANT, SHUFFLED, MATCHED, META)
WHITE = Look("white", "white page", "", "#0072b2", "#62b5ea", "D", "white everywhere: nothing is learned")
MEAN = Look(
    "mean",
    "mean picture",
    "",
    "#b98a00",
    "#e0bd4a",
    "X",
    "the mean of the pictures to learn from, whatever is known of this one",
)
NOT_CLAIMED = (
    "The method is that of Learned Initializations (arXiv 2012.02189). No figure of any paper is reproduced or claimed "
    "here: all figures were measured in the run whose command stands below."
)
SHOWN = 4  # the most test pictures in a sheet


EXACT = "Exact: the error is below what the levels of the file leave open; in means a task then counts with that PSNR."


@dataclass(frozen=True)
class Description:
    """What the report of one system shows and says.

    Attributes:
        looks: the initializations, in their order.
        table: the results; `tiles`: the figures at the head.
        scored: what the PSNR of the table is measured on, for the title in a terminal.
        intro: what was done, in a sentence or two.
        unit: what a test task is, such as "object"; `unit_note`: what its PSNR is measured on.
        between: what lies between the weights of two fine-tuned networks, as a section; None without.
    """

    looks: Mapping[str, Look]
    table: Table
    tiles: Sequence[Tile]
    scored: str
    intro: str
    unit: str
    unit_note: str
    between: Section | None = None


def looks_of(record: InitializationRecord, looks: Iterable[Look] = LOOKS) -> dict[str, Look]:
    """Return how the initializations of a run are shown, in the order of `looks`; unknown ones are left out.

    >>> list(looks_of(InitializationRecord(system="ct")))
    []
    """
    return {look.key: look for look in looks if look.key in record.initializations}


def results_table(
    record: InitializationRecord, looks: Mapping[str, Look], columns: Sequence[Column], note: str
) -> Table:
    """Return the table of a run from its columns, with a note below, and one on what each row was given."""
    exact = EXACT if any(cell.text.startswith("exact") for c in columns for cell in c.cells.values()) else ""
    notes = tuple(text for text in (note, care_note(record), exact) if text)
    return build(record.title, looks, columns, first="initialization", notes=notes)


def terminal_text(record: InitializationRecord, description: Description, tiles: Sequence[Tile]) -> str:
    """Return the table of a run for a terminal, and below it some figures, a line each."""
    if not description.looks:
        return "no results yet"
    title = f"{record.title}: PSNR in dB{description.scored}, mean ± standard error"
    care = care_note(record)
    lines = [title, "", terminal(description.table), *textwrap.wrap(care, terminal_width()), ""]
    lines += [f"{tile.label}: {tile.value}" for tile in tiles]
    return "\n".join(lines)


def saved_values(folder: Path, name: str) -> np.ndarray | None:
    """Return the pictures that a run kept of an initialization, or of the truth; None if there are none.

    Raises: InputError that names the file, if it is corrupt.

    >>> saved_values(Path("no_such_run"), "truth") is None
    True
    """
    file = folder / "predictions" / f"{name}.safetensors"
    if not file.is_file():
        return None
    values: np.ndarray = load_tensors(file)[0]["values"].numpy()
    return values


def write_sheet_and_curve(
    folder: Path,
    sheet: Callable[[np.ndarray], PilImage.Image],
    looks: Mapping[str, Look],
    curves: Curves,
    axes: tuple[str, str],
    captions: tuple[str, str],
) -> list[Picture]:
    """Draw the pictures of a run of images: a sheet of the test pictures, if the run kept them, and PSNR over steps.

    Args:
        folder: of the run.
        sheet: draws the sheet from the truth [T, H, W, C].
        looks, curves, axes: see `steps_plot`, whose labels the last are.
        captions: of the sheet and of the curve.
    """
    pictures = []
    truth = saved_values(folder, "truth")
    if truth is not None:
        save_image(folder / "images" / "sheet.png", sheet(truth))
        pictures.append(Picture("sheet", "images/sheet.png", captions[0]))
    plot = steps_plot(folder, looks, curves, *axes)
    return [*pictures, Picture("curve", f"images/{plot.name}", captions[1])]


def steps_plot(folder: Path, looks: Mapping[str, Look], curves: Curves, xlabel: str, ylabel: str) -> Path:
    """Write `images/curve.png`, PSNR over steps with step 0 at the left, a line per initialization; return its path."""
    figure = new_figure(WIDE + 0.8, 3.6)
    axes = figure.add_axes((0.095, 0.15, 0.615, 0.81))
    plain_axes(axes, f"{xlabel} (log scale)", ylabel)
    draw_curves(axes, curves, looks)
    return save(figure, folder / "images" / "curve.png")


def write_initialization_report(folder: str | Path, record: InitializationRecord, description: Description) -> Path:
    """Write `report.html` into a run's folder, its pictures inlined; return its path.

    Args:
        folder: of the run; `config.yaml` is shown if it is there, pictures are read from it.
        record: of the run; fields at their default are left out.
        description: what the page shows and says.

    Raises: InputError, if jinja2 is missing, or a picture's file lies outside the folder.
    """
    place, unit = Path(folder), description.unit
    shown = list(description.looks.values())
    results: list[Block] = [TableBlock(description.table), LegendBlock(shown)] if shown else []
    results += [picture_block(place, picture) for picture in record.pictures]
    units = unit_table(record, description)
    counts = [(f"{use} {unit}s", f"{len(names)}") for use, names in record.names.by_use.items()]
    page = Page(
        record.title or "Initializations",
        description.looks,
        [
            Section("Results", results),
            Section(f"{unit.capitalize()} by {unit}", [TableBlock(units)] if units.rows else []),
            *([description.between] if description.between is not None else []),
            Section("The meta-learned initialization" if record.meta.curve else "The network", _meta(record)),
            *closing_sections(place, record, [NOT_CLAIMED], counts),
        ],
        _facts(record, unit),
        description.tiles,
        description.intro,
    )
    return write_page(place / "report.html", page)


def lead(record: InitializationRecord, key: str, other: str, step: int | None = None) -> float | None:
    """Return by how many dB one initialization is better than another; None if one of them was not measured.

    Args:
        record: of the run.
        key, other: the two initializations.
        step: at which they are compared; None: after the last.

    >>> empty = InitializationRecord(system="ct")
    >>> lead(empty, "meta", "standard") is None
    True
    """
    means = []
    for name in (key, other):
        results = record.initializations.get(name)
        if results is None:
            return None
        means.append(mean_error(results.after if step is None else results.curve.get(step)))
    return None if means[0] is None or means[1] is None else means[0][0] - means[1][0]


def psnr_of(record: InitializationRecord, k: int, value: float | None) -> str:
    """Return the PSNR of test task k as text: `exact` above what its file can hold.

    >>> psnr_of(InitializationRecord(system="ct", exact_from=(58.92,)), 0, 64.0)
    'exact'
    """
    ceiling = record.exact_from[k] if k < len(record.exact_from) else None
    return "exact" if value is not None and ceiling is not None and value >= ceiling else db(value)


def unit_table(record: InitializationRecord, description: Description) -> Table:
    """Return the PSNR of each test task after the last step, a column per initialization."""
    looks = description.looks
    columns = [record.initializations[key].after for key in looks]
    rows = tuple(
        Row("", "", name, tuple(Cell(psnr_of(record, i, c[i]) if i < len(c) else "-") for c in columns))
        for i, name in enumerate(record.names.test if looks else ())
    )
    heads = tuple(look.name for look in looks.values())
    return Table("", heads, rows, (description.unit_note,), first=description.unit)


def _facts(record: InitializationRecord, unit: str) -> list[str]:
    train, test = len(record.names.train), len(record.names.test)
    facts = [f"{train} training {unit}s"] if train else []
    facts += [f"{test} test {unit}{'s' * (test != 1)}"] if test else []
    if len(record.size) == 2:
        facts.append(f"{record.size[1]} x {record.size[0]} pixels")
    return facts + made_on(record)


def _meta(record: InitializationRecord) -> list[Block]:
    meta = record.meta
    pairs = [("parameters", f"{meta.parameters:,}")] if meta.parameters is not None else []
    curve = [(row[0], row[1]) for row in meta.curve if len(row) == 2 and row[0] is not None]
    checks = [(row[0], row[1]) for row in meta.checks if len(row) == 2 and row[0] is not None]
    if curve:
        ends = f"{db(curve[0][1])} to {db(curve[-1][1], unit=True)}"
        pairs += [("outer steps", f"{curve[-1][0]:,.0f}"), ("loss after the inner steps as PSNR, first to last", ends)]
        pairs.append(("time", duration(meta.seconds)))
    if checks:
        pairs.append(("checks, after outer step", ", ".join(f"{s:,.0f}: {db(v, unit=True)}" for s, v in checks)))
    return [PairsBlock(pairs)] if pairs else []
