"""The table of tiles of a device: that of a tuned file if there is one, else the table that comes with the package."""

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
from mclnf_fast.ops.triton.table import Limited, Shape, ShapePair, TileKey, Tiles

VARIABLE = "MCLNF_FAST_TILES"
FORMAT = 1

_log = logging.getLogger("mclnf_fast")
_override: list[Tiles] = []


def architecture(device: torch.device) -> int:
    """Return the compute capability times 10; of a CPU, where Triton interprets, that of the oldest table."""
    if device.type != "cuda":
        return min(table.TABLES)
    return _capability(device)


@functools.cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def tiles(device: torch.device) -> Tiles:
    """Return the table of a device.

    The environment variable MCLNF_FAST_TILES names a file, or is `off`: the package's own; without it the file that
    `mclnf-fast tune` has left in the cache is taken, if there is one. A file that can't be used is reported once, in
    the log, and the package's own table taken.
    """
    if _override:
        return _override[-1]
    return _saved_tiles(architecture(device), os.environ.get(VARIABLE), os.environ.get(cache.VARIABLE))


@contextlib.contextmanager
def using(tiles: Tiles) -> Iterator[None]:
    """Make every device take this table within the context."""
    _override.append(tiles)
    try:
        yield
    finally:
        _override.pop()


@functools.cache
def _saved_tiles(arch: int, setting: str | None, folder: str | None) -> Tiles:
    path = pathlib.Path(setting).expanduser() if setting else default_path(arch)
    if setting == "off" or (not setting and not path.is_file()):
        return table.built_in(arch)
    try:
        return read(path, arch)
    except InputError as error:
        _log.warning("%s; the tiles that come with the package are taken", error)
        return table.built_in(arch)


def default_path(arch: int) -> pathlib.Path:
    """Return the file of the tiles of an architecture, for this version of the package and of Triton."""
    return cache.folder() / f"tiles_sm{arch}_{_version('mclnf-fast')}_triton{_version('triton')}.json"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write(path: pathlib.Path, tiles: Tiles, arch: int, device: str) -> None:
    """Write a table as JSON, whole or not at all."""
    plain = {
        "format": FORMAT,
        "architecture": arch,
        "device": device,
        "versions": {name: _version(name) for name in ("mclnf-fast", "triton", "torch")},
        "forward": {_name(entry): [_list(shape) for shape in pair] for entry, pair in tiles.forward.items()},
        "backward": {_name(e): [[*_list(s), most] for s, most in pair] for e, pair in tiles.backward.items()},
        "layer": _list(tiles.layer),
        "columns": tiles.columns,
        "depth": tiles.depth,
        "outer": {kind: list(sizes) for kind, sizes in tiles.weight_gradient.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    fresh.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def read(path: pathlib.Path, arch: int) -> Tiles:
    """Read a table that `write` has written. Raises InputError if it is none, or one of another architecture."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no table of tiles can be read from it ({error})") from None
    built_in = table.built_in(arch)
    try:
        if plain["format"] != FORMAT or plain["architecture"] != arch:
            raise InputError(
                f"{path}: must be a table of format {FORMAT} for sm_{arch}, is one of format {plain['format']} "
                f"for sm_{plain['architecture']}"
            )
        forward: dict[TileKey, ShapePair] = {}
        for entry in _same(plain["forward"], built_in.forward):
            large, small = plain["forward"][_name(entry)]
            forward[entry] = _shape(large), _shape(small)
        backward: dict[TileKey, Limited] = {}
        for entry in _same(plain["backward"], built_in.backward):
            (*large, most), (*small, more) = plain["backward"][_name(entry)]
            backward[entry] = (_shape(large), _count(most)), (_shape(small), _count(more))
        weight_gradient = {}
        for kind in _same(plain["outer"], built_in.weight_gradient):
            side, depth = plain["outer"][kind]
            weight_gradient[kind] = _power(side, 16, 256), _power(depth, 16, 256)
        sizes = _power(plain["columns"], 16, 256), _power(plain["depth"], 16, 256)
        return Tiles(forward, backward, _shape(plain["layer"]), *sizes, weight_gradient)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no table of tiles ({type(error).__name__}: {error})") from None


def _name(entry: TileKey) -> str:
    return f"{entry[0]} {entry[1]}"


def _list(shape: Shape) -> list[int]:
    return [shape.rows, shape.warps, shape.stages]


def _same(entries: dict[str, Any], built_in: dict[Any, Any]) -> list[Any]:
    """Return the entries of the built-in table, which the other must have, and no others."""
    names = {key if isinstance(key, str) else _name(key) for key in built_in}
    if set(entries) != names:
        raise ValueError(f"the entries must be {sorted(names)}, are {sorted(entries)}")
    return list(built_in)


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
