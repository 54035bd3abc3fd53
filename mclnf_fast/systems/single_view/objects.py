"""Read the objects to learn from and those to test on: of one folder, of two, or procedural ones."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mclnf_fast import data
from mclnf_fast.data.objects import ObjectSets, ObjectViews
from mclnf_fast.errors import InputError
from mclnf_fast.systems.single_view.options import INPUT_VIEWS, SingleViewConfig

Advance = Callable[[int, int], None]


def load(config: SingleViewConfig, advance: Advance | None = None) -> ObjectSets:
    """Return the objects of a folder, or procedural ones; those to test on from a folder of their own if there is one.

    advance: called with (objects done, in all), of each folder.

    Raises InputError if a folder is unusable, or the folder to test on does not fit the one to learn from.
    """
    options = config.data
    if options.test_data is None:
        return _procedural(config, advance) if options.path is None else _folder(config, options.path, advance)
    if options.path is not None and options.test_data.resolve() == options.path.resolve():
        raise InputError(f"test-data must be another folder than data, got {options.test_data} for both")
    if options.path is None:
        learned = _procedural(config, advance)
        # Nothing is tested on that is procedural: all of it is learned from.
        train = (*learned.train, *learned.test)
    else:
        # A folder without a split of its own keeps one object back, the fewest that its reader can keep.
        learned = _folder(config, options.path, advance, test=1)
        train = learned.train
    tested = _folder(config, options.test_data, advance)
    check_fit(learned, tested, config)
    return ObjectSets(
        f"{learned.title}, tested on {tested.title}",
        train,
        _renamed(_tests(tested, options.test), {views.name for views in train}, options.test_data),
        learned.near,
        learned.far,
        (*learned.notes, *tested.notes),
    )


def check_fit(learned: ObjectSets, tested: ObjectSets, config: SingleViewConfig) -> None:
    """Raise InputError if an initialization that is learned from one set of objects can't serve the other.

    Pictures must have one size, since the mini-batches of all initializations do; the rays must be sampled between the
    same distances, since the network takes positions as they are and knows objects of one scale only.
    """
    sizes = [(views.cameras.width, views.cameras.height) for views in (learned.test[0], tested.test[0])]
    if sizes[0] != sizes[1]:
        (width, height), (other_width, other_height) = sizes
        raise InputError(
            f"test-data must have pictures of {width} x {height} pixels as data has, got {other_width} x "
            f"{other_height}: set --size"
        )
    bounds = [(sets.near, sets.far) for sets in (learned, tested)]
    if bounds[0] != bounds[1] and (config.field.near is None or config.field.far is None):
        raise InputError(
            f"test-data must be of the scale of data, whose rays run from {learned.near:g} to {learned.far:g}, got "
            f"{tested.near:g} to {tested.far:g}: if both are of one scale, set --near and --far"
        )


def _tests(sets: ObjectSets, count: int | None) -> tuple[ObjectViews, ...]:
    """Return the objects of a folder that is tested on: all, since none was learned from, or `count`."""
    return sets.test if count is not None and len(sets.test) == count else (*sets.test, *sets.train)


def _renamed(tests: tuple[ObjectViews, ...], taken: set[str], folder: pathlib.Path) -> tuple[ObjectViews, ...]:
    """Return objects under names that are not `taken`: folders of one layout number their objects alike."""
    if not taken & {views.name for views in tests}:
        return tests
    return tuple(replace(views, name=f"{folder.resolve().name}/{views.name}") for views in tests)


def _procedural(config: SingleViewConfig, advance: Advance | None) -> ObjectSets:
    options = config.data
    views = options.views or (2 * INPUT_VIEWS if config.convention == "learnit" else INPUT_VIEWS)
    count = min(options.objects, options.limit or options.objects)
    test = min(options.tests, max(1, count - 1))
    return data.procedural_cars(count, test, views=views, size=options.size or 128, seed=config.seed, progress=advance)


def _folder(
    config: SingleViewConfig, folder: pathlib.Path, advance: Advance | None, test: int | None = None
) -> ObjectSets:
    options = config.data
    more: dict[str, Any] = {} if test is None else {"test": test}
    if test is None and options.test is not None:
        more["test"] = options.test
    if folder == options.path:
        more["limit"] = options.limit
    more |= {"views": options.views, "seed": config.seed, "progress": advance, "strict": options.strict}
    try:
        return data.load_objects(folder, size=options.size, **more)
    except InputError:
        # `--quick` asks for 3 objects to test on: of a folder that has fewer, it takes as many as its layout says.
        if not config.run.quick or more.pop("test", None) != config.quick_values["test"]:
            raise
    return data.load_objects(folder, size=options.size, **more)
