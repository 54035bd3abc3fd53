"""Which table of tiles a device takes: a tuned file where there is one, else the table that comes with the package."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import logging
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import torch

from mclnf_fast import cache
from mclnf_fast.errors import InputError
from mclnf_fast.ops.triton import table
from mclnf_fast.ops.triton.table import Entry, Limited, Shape, ShapePair, Tiles

VARIABLE = "MCLNF_FAST_TILES"
FORMAT = 1

_log = logging.getLogger("mclnf_fast")
_instead: list[Tiles] = []


def architecture(device: torch.device) -> int:
    """Compute capability times 10; of a CPU, where Triton interprets, that of the oldest table."""
    if device.type != "cuda":
        return min(table.TABLES)
    return _capability(device)


@functools.cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def tiles(device: torch.device) -> Tiles:
    """The table of a device. The environment variable MCLNF_FAST_TILES names a file, or is `off`: the package's own;
    without it the file that `mclnf-fast tune` has left in the cache is taken, where there is one. A file that can't be
    used is told once, in the log, and the package's own table taken."""
    if _instead:
        return _instead[-1]
    return _found(architecture(device), os.environ.get(VARIABLE), os.environ.get(cache.VARIABLE))


@contextlib.contextmanager
def using(instead: Tiles) -> Iterator[None]:
    """Within it every device takes this table."""
    _instead.append(instead)
    try:
        yield
    finally:
        _instead.pop()


@functools.cache
def _found(arch: int, asked: str | None, folder: str | None) -> Tiles:
    path = pathlib.Path(asked).expanduser() if asked else default_path(arch)
    if asked == "off" or (not asked and not path.is_file()):
        return table.built_in(arch)
    try:
        return read(path, arch)
    except InputError as error:
        _log.warning("%s; the tiles that come with the package are taken", error)
        return table.built_in(arch)


def default_path(arch: int) -> pathlib.Path:
    """Where the tiles of an architecture are kept, for this version of the package and of Triton."""
    return cache.folder() / f"tiles_sm{arch}_{_version('mclnf-fast')}_triton{_version('triton')}.json"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write(path: pathlib.Path, found: Tiles, arch: int, device: str) -> None:
    """Keeps a table as JSON, whole or not at all."""
    plain = {
        "format": FORMAT,
        "architecture": arch,
        "device": device,
        "versions": {name: _version(name) for name in ("mclnf-fast", "triton", "torch")},
        "forward": {_name(entry): [_list(shape) for shape in pair] for entry, pair in found.forward.items()},
        "backward": {_name(e): [[*_list(s), most] for s, most in pair] for e, pair in found.backward.items()},
        "layer": _list(found.layer),
        "columns": found.columns,
        "depth": found.depth,
        "outer": {kind: list(sizes) for kind, sizes in found.outer.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    fresh.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def read(path: pathlib.Path, arch: int) -> Tiles:
    """A table that `write` has kept. Raises InputError where it is none, or one of another architecture."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no table of tiles can be read from it ({error})") from None
    own = table.built_in(arch)
    try:
        if plain["format"] != FORMAT or plain["architecture"] != arch:
            raise InputError(
                f"{path}: must be a table of format {FORMAT} for sm_{arch}, is one of format {plain['format']} "
                f"for sm_{plain['architecture']}"
            )
        forward: dict[Entry, ShapePair] = {}
        for entry in _same(plain["forward"], own.forward):
            large, small = plain["forward"][_name(entry)]
            forward[entry] = _shape(large), _shape(small)
        backward: dict[Entry, Limited] = {}
        for entry in _same(plain["backward"], own.backward):
            (*large, most), (*small, more) = plain["backward"][_name(entry)]
            backward[entry] = (_shape(large), _count(most)), (_shape(small), _count(more))
        outer = {}
        for kind in _same(plain["outer"], own.outer):
            side, depth = plain["outer"][kind]
            outer[kind] = _power(side, 16, 256), _power(depth, 16, 256)
        sizes = _power(plain["columns"], 16, 256), _power(plain["depth"], 16, 256)
        return Tiles(forward, backward, _shape(plain["layer"]), *sizes, outer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no table of tiles ({type(error).__name__}: {error})") from None


def _name(entry: Entry) -> str:
    return f"{entry[0]} {entry[1]}"


def _list(shape: Shape) -> list[int]:
    return [shape.rows, shape.warps, shape.stages]


def _same(given: dict[str, Any], own: dict[Any, Any]) -> list[Any]:
    """The entries of our own table, which the given one must have, and no others."""
    names = {key if isinstance(key, str) else _name(key) for key in own}
    if set(given) != names:
        raise ValueError(f"the entries must be {sorted(names)}, are {sorted(given)}")
    return list(own)


def _shape(value: list[int]) -> Shape:
    rows, warps, stages = value
    if _count(stages) > 8:
        raise ValueError(f"stages must be 1 to 8, got {stages}")
    return Shape(_power(rows, table.SMALL_TILE, 512), _power(warps, 1, 16), stages)


def _count(value: int) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"must be an int of at least 1, got {value!r}")
    return value


def _power(value: int, least: int, most: int) -> int:
    if _count(value) & (value - 1) or not least <= value <= most:
        raise ValueError(f"must be a power of two from {least} to {most}, got {value}")
    return value
