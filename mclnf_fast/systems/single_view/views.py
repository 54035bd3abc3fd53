"""Which views of an object are learned from, tested on and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.errors import InputError

Inputs = int | Literal["all"]
HELD = 5  # each so-many-th view is tested on where all are asked for and the data keeps none apart


@dataclass(frozen=True)
class Split:
    """The views of one object: the first `known` are learned from, those in `tested` never are."""

    known: int
    tested: tuple[int, ...]

    def some(self, most: int) -> list[int]:
        """At most `most` of the tested views, evenly chosen."""
        return evenly(self.tested, most)

    def shown(self, most: int) -> list[int]:
        """The first view learned from and at most `most - 1` of those tested on, for pictures."""
        return [0, *self.some(most - 1)]


def evenly(views: Sequence[int], most: int) -> list[int]:
    """At most `most` of some views, evenly chosen."""
    count = len(views)
    return [views[(2 * k + 1) * count // (2 * most)] for k in range(most)] if most < count else list(views)


def learned_from(one: ObjectViews, first: int | None) -> ObjectViews:
    """An object to learn a start from: what its data, or a convention (its `first` so many views), gives to learn."""
    count = one.train_views or min(first or len(one), len(one))
    return ObjectViews(one.name, one.images[:count], one.cameras[:count])


def known_views(one: ObjectViews, split: Split) -> ObjectViews:
    """An object to test on with nothing but the views that it may be learned from."""
    return ObjectViews(one.name, one.images[: split.known], one.cameras[: split.known])


def split_views(one: ObjectViews, inputs: Inputs, first: int | None = None) -> tuple[ObjectViews, Split]:
    """How an object to test on is split, and the object with its views in that order.

    Its data's own split is kept: only `train_views` may be learned from, and all others are tested on. Where the data
    has none, `first` (a convention's count, where the object has more views) stands for it; else what is not learned
    from is tested on. `inputs="all"` without either keeps every fifth view to test on (of fewer than five the last).

    Args:
        one: the object.
        inputs: how many views are learned from, the first; "all": every one that may be.
        first: see above.

    Raises:
        InputError: fewer views may be learned from than `inputs`, or none is left to test on.
    """
    count = len(one)
    given = one.train_views if one.train_views is not None else first if first is not None and count > first else None
    if inputs == "all" and given is None and count > 1:
        held = list(range(HELD - 1, count, HELD)) or [count - 1]
        order = torch.tensor([*(k for k in range(count) if k not in held), *held])
        one = replace(one, images=one.images[order], cameras=one.cameras[order])
        given = count - len(held)
    if count < 2 or given == count:
        raise InputError(f"data: {one.name} must have 2 views, one to learn from, one to test on, got none to test on")
    known = given if inputs == "all" and given is not None else int(inputs)
    most = given if given is not None else count - 1
    if known > most:
        raise InputError(f"inputs must be at most {most}, the views of {one.name} to learn from, got {known}")
    return one, Split(known, tuple(range(known if given is None else given, count)))
