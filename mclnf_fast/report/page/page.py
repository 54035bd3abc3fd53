"""The one page builder: a page is facts, tiles and sections of blocks; one template writes them as one HTML file.

The file holds its pictures, styles and plots, so that it can be sent around and opens without a network.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import write_atomically
from mclnf_fast.report.page.methods import CATEGORIES, Look
from mclnf_fast.report.page.style import duration, finite, missing_extra
from mclnf_fast.report.page.tables import Table
from mclnf_fast.report.record import Picture, Record

_UNIT = re.compile(r"(\d) (dB|s|min|h)\b")  # a figure and its unit stay on one line
_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


class Block(Protocol):
    """A piece of a section; `block` names its macro in blocks.html."""

    block: ClassVar[str]


@dataclass(frozen=True)
class Tile:
    """A figure at the head of a page: `value` as text, `label`, and whether it is good (None: neither)."""

    value: str
    label: str
    good: bool | None = None


@dataclass(frozen=True)
class TableBlock:
    """A table; with `heading` if there are several in a section, and `made`, the commands of its run and itself."""

    block: ClassVar[str] = "table"

    table: Table
    heading: str = ""
    made: str = ""


@dataclass(frozen=True)
class LegendBlock:
    """The methods of a page, with what each does."""

    block: ClassVar[str] = "legend"

    looks: Sequence[Look]


@dataclass(frozen=True)
class TextBlock:
    """A small paragraph."""

    block: ClassVar[str] = "text"

    text: str


@dataclass(frozen=True)
class ListBlock:
    """A list of sentences."""

    block: ClassVar[str] = "bullets"

    items: Sequence[str]


@dataclass(frozen=True)
class PairsBlock:
    """Names with their values in a card, and a note below; values of `code` are set as commands."""

    block: ClassVar[str] = "pairs"

    pairs: Sequence[tuple[str, str]]
    note: str = ""
    code: bool = False


@dataclass(frozen=True)
class CodeBlock:
    """A command, or a file behind a summary that opens it."""

    block: ClassVar[str] = "code"

    text: str
    summary: str = ""


@dataclass(frozen=True)
class PictureBlock:
    """A picture: `uri` holds its bytes and is empty if the file is missing; `commands` stand below it."""

    block: ClassVar[str] = "picture"

    uri: str
    file: str
    caption: str = ""
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """A plot as an `<svg>` element; a wide one takes the whole row."""

    heading: str
    svg: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class PlotsBlock:
    """Plots side by side."""

    block: ClassVar[str] = "plots"

    plots: Sequence[Plot]


@dataclass(frozen=True)
class HeatCell:
    """A cell of a matrix: its figure, its place in 0..100 on the scale of colors, its change since its own row."""

    text: str = ""
    heat: str | None = None
    change: str = ""
    bad: bool = False


@dataclass(frozen=True)
class HeatPanel:
    """One method's matrix: names of the columns, and rows of (name, cells)."""

    key: str
    name: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell]]]


@dataclass(frozen=True)
class HeatBlock:
    """Matrices side by side, or below each other if they are wide."""

    block: ClassVar[str] = "matrices"

    panels: Sequence[HeatPanel]


@dataclass(frozen=True)
class Check:
    """One figure of a relation: its label, its text, and whether it is as it must be (None: not measured)."""

    label: str
    value: str
    holds: bool | None


@dataclass(frozen=True)
class Relation:
    """A relation that must hold between methods, with its figures."""

    key: str
    statement: str
    checks: tuple[Check, ...]
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """False if any figure fails, else None if any is missing, else True."""
        if any(c.holds is False for c in self.checks):
            return False
        return True if self.checks and all(c.holds for c in self.checks) else None

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `not measured` (`in full`, if some figures are there)."""
        if self.holds is not None:
            return "holds" if self.holds else "does not hold"
        return f"{UNMEASURED} in full" if any(c.value != UNMEASURED for c in self.checks) else UNMEASURED


UNMEASURED = "not measured"


@dataclass(frozen=True)
class RelationsBlock:
    """Relations with their figures and verdicts."""

    block: ClassVar[str] = "relations"

    relations: Sequence[Relation]
    heading: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and its blocks; a section without blocks is left out."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title, facts: at the head; `tiles`, `intro`, `claims`, `lead`: below it, `lead` being blocks without a heading.
        looks: the methods that the page shows, which give it its colors.
        sections: the rest.
    """

    title: str
    looks: Mapping[str, Look]
    sections: Sequence[Section]
    facts: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    intro: str = ""
    claims: Sequence[str] = ()
    lead: Sequence[Block] = field(default=())


def write_page(target: Path, page: Page) -> Path:
    """Write a page, whole or not at all; return its path.

    Raises: InputError that names the extra to install, if jinja2 is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise InputError(missing_extra("jinja2")) from None
    loader = PackageLoader("mclnf_fast.report.page", ".")
    # StrictUndefined: a misspelled field fails in the tests, instead of leaving a hole in a page.
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["units"] = lambda text: _UNIT.sub("\\1\u00a0\\2", str(text))
    jinja.filters["markup"] = Markup
    # CSS classes are numbered, since the name of a method from outside may hold any character.
    numbers = {key: i for i, key in enumerate(page.looks)}
    text = jinja.get_template("page.html").render(page=page, order=numbers, categories=CATEGORIES)
    write_atomically(target, text.encode("utf-8"))
    return target


def picture_block(folder: Path, picture: Picture) -> PictureBlock:
    """Return a picture of a run with its bytes. Raises: as `inline`."""
    return PictureBlock(inline(folder, picture.file), picture.file, picture.caption)


def inline(folder: Path, file: str) -> str:
    """Return a picture as a data URI, "" if the file is missing or no picture.

    Raises: InputError if the file lies outside the folder: a record must not put other files into a page.
    """
    root = folder.resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root):
        raise InputError(f"pictures: file must lie inside the run folder, was {file!r}")
    kind = _TYPES.get(path.suffix.lower())
    if kind is None or not path.is_file():
        return ""
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def closing_sections(folder: Path, record: Record, notes: Sequence[str], pairs: Sequence[tuple[str, str]] = ()) -> \
        list[Section]:  # fmt: skip
    """Return the last sections of the page of every run: notes, and how it was made.

    Args:
        folder: of the run; `config.yaml` is shown if it is there.
        record: of the run; its notes come before `notes`.
        pairs: further facts on the data.
    """
    facts = [("machine", record.machine)] * bool(record.machine) + list(pairs)
    facts += named_texts(record.versions) if isinstance(record.versions, Mapping) else []
    facts += [("backends", _text(record.backends))] * bool(record.backends)
    facts += [("phases", _text(record.phases))] * bool(record.phases)
    config = folder / "config.yaml"
    blocks: list[Block] = [CodeBlock(record.command)] if record.command else []
    blocks += [PairsBlock(facts)] if facts else []
    if config.is_file():
        blocks.append(CodeBlock(config.read_text(encoding="utf-8", errors="replace"), "config.yaml"))
    every = [*record.notes, *notes]
    return [Section("Notes", [ListBlock(every)] if every else []), Section("How it was made", blocks)]


def named_texts(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return a mapping as (name, text), for a `PairsBlock`.

    >>> named_texts({"a": 1.5, "b": {"c": None}})
    [('a', '1.5'), ('b', 'c -')]
    """
    return [(str(key), _text(value)) for key, value in values.items()]


def time_fact(record: Record) -> list[str]:
    """Return `12.3 s in all` for the facts of a page, nothing if the time is unknown."""
    return [] if record.seconds_total is None else [f"{duration(record.seconds_total)} in all"]


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, float):
        return "-" if finite(value) is None else f"{value:.4g}"
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
