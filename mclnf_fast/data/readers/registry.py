"""The registry of readers: one entry per layout of data, and the detection of a folder's layout.

Readers are asked by rank (0: layouts of named data sets, then more general ones), then folder by folder (the one that
was named, then the only folder inside it), then in order of registration. The first one that detects its layout reads
the data. Packages add readers through entry points of the group `mclnf_fast.readers`, each a `Reader` or a list of
them; programs through `register_reader`.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mclnf_fast.data.objects import ObjectSets
from mclnf_fast.data.photos import PhotoSets
from mclnf_fast.data.readers.layouts import bases
from mclnf_fast.data.readers.options import ReadOptions
from mclnf_fast.data.scene import Scene
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError

_log = logging.getLogger("mclnf_fast")
GROUP = "mclnf_fast.readers"
DataKind = Literal["scene", "objects", "photos", "image", "video", "audio"]
RESULTS: dict[DataKind, type] = {
    "scene": Scene, "objects": ObjectSets, "photos": PhotoSets,
    "image": SignalSets, "video": SignalSets, "audio": SignalSets,
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One layout of data and the function that reads it.

    Attributes:
        name: unique among the readers of its kind, such as "celeba".
        kind: kind of the data that it returns: "scene" (`Scene`), "objects" (`ObjectSets`), "photos" (`PhotoSets`),
            "image", "video" or "audio" (`SignalSets`).
        looks_for: the files by which it knows its layout, for messages.
        detects: function of a path that returns the reason why it is this layout, or None. It must be cheap and look at
            names only: errors in the files are for `read` to report.
        read: function of the path that the user named and the options of its kind (`ImageReadOptions`, ...).
        rank: 0 for the layout of a named data set; a reader of a larger rank is asked only when none of a smaller one
            detects anything.
        looks_inside: whether the only folder inside of the named one is looked at too (archives often unpack so).

    Raises:
        InputError: no such kind, or no name.

    >>> reader = Reader("notes", "image", "notes.txt", lambda path: None, lambda path, options: None)
    >>> reader.rank
    0
    """

    name: str
    kind: DataKind
    looks_for: str
    detects: Callable[[Path], str | None]
    read: Callable[[Path, Any], Any]
    rank: int = 0
    looks_inside: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(DataKind):
            raise InputError(f"kind of reader {self.name!r}: must be one of {get_args(DataKind)}, was {self.kind!r}")
        if not self.name:
            raise InputError("name of a reader: must not be empty, was ''")


_BUILT_IN: dict[tuple[DataKind, str], Reader] = {}
_ADDED: dict[tuple[DataKind, str], Reader] = {}
_LOADED: dict[str, list[Reader] | str] = {}  # by plugin: its readers, or the line that reports why it is broken


def add_built_in(readers: Iterable[Reader]) -> None:
    """Register the package's own readers, in the order in which they are asked.

    >>> add_built_in([])
    """
    for reader in readers:
        _BUILT_IN[reader.kind, reader.name] = reader


def register_reader(reader: Reader) -> Reader:
    """Add a reader to those that `load_scene`, `load_objects`, `load_images` and the others choose from.

    Returns:
        The reader.

    Raises:
        InputError: it is no `Reader`, or its kind has a reader of that name already.

    >>> try:
    ...     register_reader(readers("image")[0])
    ... except InputError as error:
    ...     print(error)
    name of reader: must be new among those of kind 'image', 'file' exists already
    """
    if not isinstance(reader, Reader):
        raise InputError(f"reader: must be a Reader, was {type(reader).__name__}")
    key = reader.kind, reader.name
    if key in _BUILT_IN or key in _ADDED:
        raise InputError(
            f"name of reader: must be new among those of kind {reader.kind!r}, {reader.name!r} exists already"
        )
    _ADDED[key] = reader
    return reader


def plugin_readers() -> tuple[list[Reader], list[str]]:
    """Return the readers of installed packages, and one line per plugin that cannot be used.

    A broken plugin is a warning and no error: it must not keep others' data from being read. Its line is repeated when
    no reader detects a folder, since the missing one may be the reason.

    >>> loaded, broken = plugin_readers()
    >>> all(isinstance(reader, Reader) for reader in loaded)
    True
    """
    usable: dict[tuple[DataKind, str], Reader] = {}
    broken = []
    for point in importlib.metadata.entry_points(group=GROUP):
        source = (
            f"reader plugin {point.name} = {point.value} of the package {point.dist.name if point.dist else 'unknown'}"
        )
        if source not in _LOADED:  # a plugin is imported once, but installed packages may change within a process
            _LOADED[source] = _load(point, source)
        loaded = _LOADED[source]
        if isinstance(loaded, str):
            broken.append(loaded)
            continue
        for reader in loaded:
            key = reader.kind, reader.name
            if key in _BUILT_IN or key in _ADDED or key in usable:
                broken.append(f"{source} must take another name, {reader.name!r} of kind {reader.kind!r} is taken")
            else:
                usable[key] = reader
    return list(usable.values()), broken


def _load(point: importlib.metadata.EntryPoint, source: str) -> list[Reader] | str:
    """Return the readers of a plugin, or the line that reports why it is broken."""
    try:
        value = point.load()
    except Exception as error:  # whatever a plugin does while it is imported
        line = f"{source} is broken: {error!r}"
    else:
        loaded = list(value) if isinstance(value, (list, tuple)) else [value]
        if all(isinstance(reader, Reader) for reader in loaded):
            return loaded
        line = f"{source} must be a mclnf_fast.data.Reader or a list of them, was {type(value).__name__}"
    _log.warning("%s", line)
    return line


def readers(kind: DataKind | None = None) -> list[Reader]:
    """Return the readers of a kind of data (None: of every kind), those of the package first.

    >>> [reader.name for reader in readers("scene")][:3]
    ['matrixcity', 'nerfstudio', 'blender']
    """
    plugins, _ = plugin_readers()
    return [r for r in (*_BUILT_IN.values(), *_ADDED.values(), *plugins) if kind is None or r.kind == kind]


def choose(kind: DataKind, path: Path, name: str | None = None) -> Reader | None:
    """Return the reader called `name`, or else the one that detects the layout of `path`; None when none does.

    Raises:
        InputError: no reader has that name, or readers from outside and others detect the folder with equal right.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "transforms.json").touch()
    ...     print(choose("scene", Path(folder)).name)
    nerfstudio
    """
    candidates = readers(kind)
    if name is not None:
        for reader in candidates:
            if reader.name == name:
                return reader
        raise InputError(f"reader: must be one of {', '.join(r.name for r in candidates)}, was {name!r}{_broken()}")
    # Rank before folder: CelebA in an inner folder wins over the tree of all pictures that the outer one is.
    for rank in sorted({reader.rank for reader in candidates}):
        for base in bases(path):
            asked = [r for r in candidates if r.rank == rank and (r.looks_inside or base == path)]
            reasons = _reasons(asked, base)
            # Between our own readers the order decides, as documented. With one from outside it would be chance
            # which data the user gets, so that has to be asked.
            if len(reasons) > 1 and any((r.kind, r.name) not in _BUILT_IN for r, _ in reasons):
                listed = "; ".join(f"{reader.name!r}: {reason}" for reader, reason in reasons)
                raise InputError(f"{path}: must have one layout, has several ({listed}): name one with reader=...")
            if reasons:
                return reasons[0][0]
    return None


def _reasons(asked: list[Reader], base: Path) -> list[tuple[Reader, str]]:
    """Return the readers that detect `base`, each with its reason; of our own ones only the first."""
    reasons: list[tuple[Reader, str]] = []
    for reader in asked:
        if reasons and (reader.kind, reader.name) in _BUILT_IN:
            continue  # it has lost already, and to look at a large folder takes time
        reason = reader.detects(base)
        if reason is not None:
            reasons.append((reader, reason))
    return reasons


def unknown_layout(kind: DataKind, path: Path, wanted: str = "") -> InputError:
    """Return the error for a folder that no reader detects; it lists everything that was looked for.

    Args:
        wanted: the content in general, such as "images (.png)", when the layouts alone do not name it.

    >>> print(unknown_layout("photos", Path("data")))
    data: must hold transforms.json (nerfstudio), transforms_train.json (NeRF-synthetic) or sparse/0/cameras.bin ...
    """
    layouts = [reader.looks_for for reader in readers(kind)]
    listed = ", ".join(layouts[:-1]) + (" or " if len(layouts) > 1 else "") + layouts[-1]
    if wanted:
        return InputError(f"{path}: must hold {wanted}, has none (looked for {listed}){_broken()}")
    return InputError(f"{path}: must hold {listed}, has none of them{_broken()}")


def _broken() -> str:
    return "".join(f"; {line}" for line in plugin_readers()[1])


def read_with(reader: Reader, path: Path, options: ReadOptions) -> Any:
    """Return the data of `path`, read by `reader`.

    Raises:
        InputError: as the reader does, or it returned data of another type than its kind's.

    >>> import torch
    >>> from mclnf_fast.data import Signals
    >>> def read(path, options):
    ...     one = Signals("image", ("a",), torch.zeros(1, 2, 2, 3))
    ...     return SignalSets(path.name, one.subset([]), one.subset([]), one)
    >>> read_with(Reader("mine", "image", "a.npy", lambda path: None, read), Path("data"), ReadOptions()).title
    'data'
    """
    result = reader.read(path, options)
    # Checked here, since a wrong type would fail far from the plugin that returned it.
    if not isinstance(result, RESULTS[reader.kind]):
        raise InputError(
            f"reader {reader.name!r}: must return {RESULTS[reader.kind].__name__} for kind {reader.kind!r}, returned "
            f"{type(result).__name__}"
        )
    return result
