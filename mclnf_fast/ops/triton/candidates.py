"""The entries of a table of tiles, and what `tune` tries for each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mclnf_fast.ops.triton.table import SMALL_TILE, Shape, Tiles


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the table: what it may be, how a table is made with that, and what it is timed on."""

    name: str
    kind: str
    width: int
    backward: bool
    small: bool
    options: Sequence[Any]
    placed: Callable[[Tiles, Any], Tiles]
    chosen: Callable[[Tiles], Any]


def entries(own: Tiles) -> Iterator[Entry]:
    """The entries of a table, in the order in which they are settled."""
    for kind, width in own.forward:
        for place, size in enumerate(("large", "small")):
            yield Entry(
                f"forward {kind} {width} {size}", kind, width, False, bool(place), _shapes(bool(place)),
                *_place("forward", (kind, width), place, None),
            )  # fmt: skip
    for (kind, width), limits in own.backward.items():
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
    for kind in own.outer:
        sizes = list(itertools.product((32, 64, 128), (16, 32, 64)))
        yield Entry(f"outer {kind}", kind, 256, True, False, sizes, *_outer(kind))


def _outer(kind: str) -> tuple[Any, Any]:
    return lambda t, v: dataclasses.replace(t, outer={**t.outer, kind: v}), lambda t: t.outer[kind]


def _shapes(small: bool) -> list[Shape]:
    rows = (SMALL_TILE,) if small else (SMALL_TILE, 32, 64, 128)
    return [Shape(r, warps) for r in rows for warps in (4, 8)]


def _place(part: str, key: tuple[str, int], place: int, limit: int | None) -> tuple[Any, Any]:
    """How the shape at a place of an entry's pair is set and read."""

    def placed(own: Tiles, shape: Shape) -> Tiles:
        pair = list(getattr(own, part)[key])
        pair[place] = shape if limit is None else (shape, limit)
        return _with(own, part, {**getattr(own, part), key: tuple(pair)})

    def chosen(own: Tiles) -> Shape:
        found = getattr(own, part)[key][place]
        return found if limit is None else found[0]

    return placed, chosen


def alone(entry: Entry, own: Tiles, option: Any) -> Tiles:
    """The table with the option for large modules and small ones, so that it is taken whatever the sizes."""
    made = entry.placed(own, option)
    part, kind, *_ = entry.name.split()
    if part in ("forward", "backward"):
        shapes = dict(getattr(made, part))
        pair = shapes[kind, entry.width]
        shapes[kind, entry.width] = (pair[entry.small],) * 2
        made = _with(made, part, shapes)
    return made


def _with(own: Tiles, part: str, value: Any) -> Tiles:
    changed: dict[str, Any] = {part: value}
    return dataclasses.replace(own, **changed)
