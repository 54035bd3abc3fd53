"""The refinement strips of a city run, signed with the commands that made them, for a table of several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mclnf_fast.errors import InputError
from mclnf_fast.report.page.canvas import MARGIN, Sheet, small_print
from mclnf_fast.report.protocol.run_pictures import Drawing
from mclnf_fast.report.record import CityRecord

if TYPE_CHECKING:
    from PIL import Image as PilImage

_LINE = 18  # pixels


def city_strips(folder: Path, label: str, record: CityRecord, command: str) -> list[Drawing]:
    """Return the refinement strips in a run's folder as they are, over the commands of the run and of the table.

    A strip whose file is missing, or lies outside the folder, is left out.
    """
    drawings: list[Drawing] = []
    for picture in record.pictures:
        file = (folder / picture.file).resolve()
        # Inside the folder only: the file is named by a record, which may come from elsewhere.
        if picture.kind == "strip" and file.is_relative_to(folder.resolve()) and file.is_file():
            with _opened(file) as image:
                stem = "strip" if not drawings else f"strip_{len(drawings) + 1}"
                caption = f"{label}. {picture.caption or 'A view while it is learned.'}"
                lines = [f"run: {record.command}"] * bool(record.command) + [f"figure: {command}"]
                drawings.append(Drawing("strip", stem, caption, _signed(image.convert("RGB"), lines)))
    return drawings


@contextmanager
def _opened(file: Path) -> Iterator[PilImage.Image]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: must be a whole picture, but: {error}") from None


def _signed(picture: PilImage.Image, lines: Sequence[str]) -> PilImage.Image:
    """Return a picture with lines of small type below it."""
    sheet = Sheet(picture.width, picture.height + _LINE * len(lines) + 8)
    sheet.put(picture, 0, 0)
    for k, line in enumerate(lines):
        small_print(sheet, MARGIN, picture.height + 8 + _LINE * k, line)
    return sheet.image
