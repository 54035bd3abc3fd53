"""Fetch the public pictures, sounds and clips that results in the documentation are of, each file by its checksum.

`sources.json` holds, per data set, where it lies at one commit of a public repository, under which license, and the
SHA-256 of each file: what comes is what was learned from, or an error.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

from mclnf_fast.errors import InputError

TIMEOUT = 60  # seconds without a byte; a slow line goes on


class SourceFile(NamedTuple):
    """One file of a data set: its name in the folder, its path at the source, its size and its checksum."""

    name: str
    path: str
    bytes: int
    sha256: str


class Source(NamedTuple):
    """A public data set.

    Attributes:
        name: what `download` takes.
        system: the command that learns from it, `image`, `audio` or `video`.
        what: its content in a line.
        license: as the source states it.
        address: of the folder that the files' paths are relative to.
        files: all of them.
    """

    name: str
    system: str
    what: str
    license: str
    address: str
    files: tuple[SourceFile, ...]


@functools.cache
def sources() -> dict[str, Source]:
    """Return the data sets that can be fetched, by name.

    >>> sources()["kodak"].system, len(sources()["kodak"].files)
    ('image', 10)
    """
    table = json.loads((pathlib.Path(__file__).parent / "sources.json").read_text(encoding="utf-8"))
    return {
        name: Source(name, **{**entry, "files": tuple(SourceFile(*file) for file in entry["files"])})
        for name, entry in table.items()
    }


def download(
    name: str, folder: str | pathlib.Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> pathlib.Path:
    """Fetch a data set into a folder and return the folder; files that are there already are checked and kept.

    Args:
        name: one of `sources()`.
        folder: where the files go; made if it is missing.
        progress: called with the number of files that are right and of all, after each.

    Raises:
        InputError: an unknown name, no network (the message has the address, for a machine that has one), a file that
            is not the one that results are of, or a folder that cannot be written.

    Example:
        >>> folder = download("head", "data/head")  # doctest: +SKIP
    """
    if name not in sources():
        raise InputError(f"name must be one of {', '.join(sources())}, got {name!r}")
    source, folder = sources()[name], pathlib.Path(folder)
    for k, file in enumerate(source.files):
        path = folder / file.name
        if not _is_right(path, file):
            _fetch(source, file, path)
        progress(k + 1, len(source.files))
    return folder


def _is_right(path: pathlib.Path, file: SourceFile) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and _sha256(path.read_bytes()) == file.sha256


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fetch(source: Source, file: SourceFile, path: pathlib.Path) -> None:
    """Fetch one file, check it, and put it at its place in one step."""
    address = source.address + urllib.parse.quote(file.path)
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            content = answer.read(file.bytes + 1)  # never more than expected, whatever the other side sends
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{source.name}: cannot fetch {address} ({reason}): without a network here, fetch it elsewhere and put it "
            f"at {path}; files that are there are checked and kept"
        ) from None
    if len(content) != file.bytes or _sha256(content) != file.sha256:
        size = f"more than {file.bytes}" if len(content) > file.bytes else f"{len(content)}"
        raise InputError(
            f"{source.name}: {address} is not the file that results are of: expected {file.bytes} bytes with SHA-256 "
            f"{file.sha256}, got {size} bytes with {_sha256(content)}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(content)
        part.replace(path)  # an interrupted download leaves no file that looks whole
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
