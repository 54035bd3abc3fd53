"""The one page builder: a page is facts, tiles and sections of blocks; one template writes them as one HTML file.

The file holds its pictures, styles and plots, so that it can be sent around and opens without a network.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import write_atomically
from mclnf_fast.report.page.blocks import Block, CodeBlock, ListBlock, PairsBlock, PictureBlock, Tile
from mclnf_fast.report.page.methods import CATEGORIES, Look
from mclnf_fast.report.page.style import duration, missing_extra, number
from mclnf_fast.report.record import Picture, Record

_UNIT = re.compile(r"(\d) (dB|s|min|h)\b")  # a figure and its unit stay on one line
_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


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

    >>> import tempfile
    >>> write_page(Path(tempfile.mkdtemp()) / "page.html", Page("A page", {}, [])).name
    'page.html'
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


def grouped_pictures(folder: Path, record: Record, kinds: Iterable[str]) -> dict[str, list[PictureBlock]]:
    """Return kind -> the pictures of a run, in the order of `kinds`, unknown kinds last. Raises: as `inline`."""
    groups: dict[str, list[PictureBlock]] = {kind: [] for kind in kinds}
    for picture in record.pictures:
        groups.setdefault(picture.kind, []).append(picture_block(folder, picture))
    return {kind: pictures for kind, pictures in groups.items() if pictures}


def inline(folder: Path, file: str) -> str:
    """Return a picture as a data URI, "" if the file is missing or no picture.

    Raises: InputError if the file lies outside the folder: a record must not put other files into a page.

    >>> inline(Path("."), "no_such_picture.png")
    ''
    """
    root = folder.resolve()
    # Resolved: a link inside the folder may lead to a file outside it.
    path = (root / file).resolve()
    if not path.is_relative_to(root):
        raise InputError(f"pictures: file must lie inside the run folder, was {file!r}")
    kind = _TYPES.get(path.suffix.lower())
    if kind is None or not path.is_file():
        return ""
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def closing_sections(
    folder: Path, record: Record, notes: Sequence[str], pairs: Sequence[tuple[str, str]] = ()
) -> list[Section]:
    """Return the last sections of the page of every run: notes, and how it was made.

    Args:
        folder: of the run; `config.yaml` is shown if it is there.
        record: of the run; its notes come before `notes`.
        pairs: further facts on the data.
    """
    facts = [("machine", record.machine)] * bool(record.machine) + list(pairs)
    facts += named_texts(record.versions)
    facts += [("backends", _text(record.backends))] * bool(record.backends)
    run = record.config.get("run")
    precision = run.get("precision", "fp32") if isinstance(run, Mapping) else "fp32"
    facts += [("precision of training", str(precision))] * (precision != "fp32")
    spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in record.phases.items())
    facts += [("time of each phase", spent)] * bool(spent)
    config = folder / "config.yaml"
    blocks: list[Block] = [CodeBlock(record.command)] if record.command else []
    blocks += [PairsBlock(facts)] if facts else []
    if config.is_file():
        # A byte that is not UTF-8 is replaced: the results must not fail for a file that is only shown.
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
    """Return `12.3 s in all` for the facts of a page, nothing if the time is unknown.

    >>> from mclnf_fast.report.record import CityRecord
    >>> time_fact(CityRecord(system="city", seconds_total=12.34))
    ['12.3 s in all']
    """
    return [] if record.seconds_total is None else [f"{duration(record.seconds_total)} in all"]


def made_on(record: Record) -> list[str]:
    """Return the time of a run and the machine that took it, those that are known.

    >>> from mclnf_fast.report.record import CityRecord
    >>> made_on(CityRecord(system="city", seconds_total=12.34, machine="a processor"))
    ['12.3 s in all', 'a processor']
    """
    return time_fact(record) + [record.machine] * bool(record.machine)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
