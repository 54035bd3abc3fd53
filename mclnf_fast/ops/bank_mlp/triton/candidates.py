"""The entries of a table of tiles, and the options that `tune` tries for each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mclnf_fast.ops.triton.table import SMALL_TILE, Shape, Tiles


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the table: its options, how a table is made with one, and the problem that it is timed on."""

    name: str
    kind: str
    width: int
    backward: bool
    small: bool
    options: Sequence[Any]
    placed: Callable[[Tiles, Any], Tiles]
    chosen: Callable[[Tiles], Any]


def entries(tiles: Tiles) -> Iterator[Entry]:
    """Yield the entries of a table, in the order in which they are settled."""
    for kind, width in tiles.forward:
        for place, size in enumerate(("large", "small")):
            yield Entry(
                f"forward {kind} {width} {size}", kind, width, False, bool(place), _shapes(bool(place)),
                *_place("forward", (kind, width), place, None),
            )  # fmt: skip
    for (kind, width), limits in tiles.backward.items():
        for place, size in enumerate(("large", "small")):
            yield Entry(
                f"backward {kind} {width} {size}", kind, width, True, bool(place), _shapes(bool(place)),
                *_place("backward", (kind, width), place, limits[place][1]),
            )  # fmt: skip
    blocks = [
        (Shape(rows, warps, stages), columns, depth)
        for rows, warps, stages in itertools.product((32, 64, 128), (4, 8), (2, 3, 4))
        for columns, depth in ((64, 32), (128, 32), (64, 64))
    ]
    yield Entry(
        "layer", "half", 256, True, False, blocks,
        lambda t, v: dataclasses.replace(t, layer=v[0], columns=v[1], depth=v[2]),
        lambda t: (t.layer, t.columns, t.depth),
    )  # fmt: skip
    for kind in tiles.weight_gradient:
        sizes = list(itertools.product((32, 64, 128), (16, 32, 64)))
        yield Entry(f"outer {kind}", kind, 256, True, False, sizes, *_weight_gradient(kind))


def _weight_gradient(kind: str) -> tuple[Any, Any]:
    def placed(tiles: Tiles, sizes: tuple[int, int]) -> Tiles:
        return dataclasses.replace(tiles, weight_gradient={**tiles.weight_gradient, kind: sizes})

    return placed, lambda tiles: tiles.weight_gradient[kind]


def _shapes(small: bool) -> list[Shape]:
    rows = (SMALL_TILE,) if small else (SMALL_TILE, 32, 64, 128)
    return [Shape(r, warps) for r in rows for warps in (4, 8)]


def _place(field: str, key: tuple[str, int], place: int, limit: int | None) -> tuple[Any, Any]:
    """Return how the shape at a place of an entry's pair is set and read."""

    def placed(tiles: Tiles, shape: Shape) -> Tiles:
        pair = list(getattr(tiles, field)[key])
        pair[place] = shape if limit is None else (shape, limit)
        return _with(tiles, field, {**getattr(tiles, field), key: tuple(pair)})

    def chosen(tiles: Tiles) -> Shape:
        shape = getattr(tiles, field)[key][place]
        return shape if limit is None else shape[0]

    return placed, chosen


def alone(entry: Entry, tiles: Tiles, option: Any) -> Tiles:
    """Return the table with the option for large modules and small ones, so that it is taken whatever the sizes."""
    changed = entry.placed(tiles, option)
    field, kind, *_ = entry.name.split()
    if field in ("forward", "backward"):
        shapes = dict(getattr(changed, field))
        pair = shapes[kind, entry.width]
        shapes[kind, entry.width] = (pair[entry.small],) * 2
        changed = _with(changed, field, shapes)
    return changed


def _with(tiles: Tiles, field: str, value: Any) -> Tiles:
    changed: dict[str, Any] = {field: value}
    return dataclasses.replace(tiles, **changed)
