"""The blocks that a page is made of; each has a macro of its name in blocks.html.

A new kind of block is a dataclass here and a macro there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.tables import Table

UNMEASURED = "not measured"


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
    """A table; with `heading` if there are several in a section, and below it `origin`, how it was made."""

    block: ClassVar[str] = "table"

    table: Table
    heading: str = ""
    origin: str = ""


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
class Take:
    """A sound: the key and the name of what it is of, and its bytes as a data URI."""

    key: str
    name: str
    uri: str


@dataclass(frozen=True)
class SoundsBlock:
    """Sounds to listen to: (name of the signal, its takes side by side)."""

    block: ClassVar[str] = "sounds"

    signals: Sequence[tuple[str, Sequence[Take]]]


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
        # One failure settles it, whatever is missing; figures that hold do not, since a missing one might fail.
        if any(c.holds is False for c in self.checks):
            return False
        # `all` of no checks is True: a relation without figures would hold.
        return True if self.checks and all(c.holds for c in self.checks) else None

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `not measured` (`in full`, if some figures are there)."""
        if self.holds is not None:
            return "holds" if self.holds else "does not hold"
        return f"{UNMEASURED} in full" if any(c.value != UNMEASURED for c in self.checks) else UNMEASURED


@dataclass(frozen=True)
class RelationsBlock:
    """Relations with their figures and verdicts."""

    block: ClassVar[str] = "relations"

    relations: Sequence[Relation]
    heading: str = ""
