"""Decide which views of an object are learned from, tested on and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.errors import InputError

Inputs = int | Literal["all"]
TEST_EVERY = 5  # if all views are asked for and the data keep none apart, every fifth is tested on


@dataclass(frozen=True)
class Split:
    """The views of one object: the first `known` are learned from, those in `tested` never are."""

    known: int
    tested: tuple[int, ...]

    def some(self, most: int) -> list[int]:
        """Return at most `most` of the tested views, evenly chosen."""
        return evenly(self.tested, most)

    def shown(self, most: int) -> list[int]:
        """Return the first view learned from and at most `most - 1` of those tested on, for pictures."""
        return [0, *self.some(most - 1)]


def evenly(views: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of some views, evenly chosen.

    >>> evenly(range(10), 3)
    [1, 5, 8]
    """
    count = len(views)
    return [views[(2 * k + 1) * count // (2 * most)] for k in range(most)] if most < count else list(views)


def learned_from(views: ObjectViews, first: int | None) -> ObjectViews:
    """Return an object with the views to meta-train on: those of its data, or the `first` so many of a convention."""
    count = views.train_views or min(first or len(views), len(views))
    return ObjectViews(views.name, views.images[:count], views.cameras[:count])


def known_views(views: ObjectViews, split: Split) -> ObjectViews:
    """Return an object to test on with the known views alone: nothing that uses it can see another."""
    return ObjectViews(views.name, views.images[: split.known], views.cameras[: split.known])


def split_views(views: ObjectViews, inputs: Inputs, first: int | None = None) -> tuple[ObjectViews, Split]:
    """Return an object to test on with its views in the order of its split, and the split.

    The split of the data is kept: only `train_views` may be learned from, and all others are tested on. If the data
    have none, `first` (the count of a convention, if the object has more views) stands for it; otherwise the views that
    are not learned from are tested on. `inputs="all"` without either keeps every fifth view to test on (of fewer than
    five the last).

    Args:
        views: those of the object.
        inputs: how many views are learned from, the first; "all": every one that may be.
        first: see above.

    Raises:
        InputError: fewer views may be learned from than `inputs`, or none is left to test on.
    """
    count = len(views)
    offered = views.train_views
    if offered is None and first is not None and count > first:
        offered = first
    if inputs == "all" and offered is None and count > 1:
        tested = list(range(TEST_EVERY - 1, count, TEST_EVERY)) or [count - 1]
        order = torch.tensor([*(k for k in range(count) if k not in tested), *tested])
        views = replace(views, images=views.images[order], cameras=views.cameras[order])
        offered = count - len(tested)
    if count < 2 or offered == count:
        raise InputError(
            f"data: {views.name} must have 2 views, one to learn from, one to test on, got none to test on"
        )
    known = offered if inputs == "all" and offered is not None else int(inputs)
    most = offered if offered is not None else count - 1
    if known > most:
        raise InputError(f"inputs must be at most {most}, the views of {views.name} to learn from, got {known}")
    return views, Split(known, tuple(range(known if offered is None else offered, count)))
