"""Splits files into those to train, to validate and to test on: as the data does, or by seed with speakers whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mclnf_fast.data.readers.layouts import DataFile, Layout
from mclnf_fast.data.readers.options import SplitReadOptions
from mclnf_fast.errors import InputError

VALIDATION = 4  # when no number is asked for, if a quarter of the files to train on allows it


@dataclass(frozen=True)
class FileSplit:
    """The files of each set, sorted by name, and notes on how they were chosen.

    >>> from pathlib import Path
    >>> FileSplit([], [], [DataFile(Path("a.png"), "a.png")], []).test[0].name
    'a.png'
    """

    train: list[DataFile]
    validation: list[DataFile]
    test: list[DataFile]
    notes: list[str]


def check_split(options: SplitReadOptions, validation: int | None) -> None:
    """Raise `InputError` if `test`, `validation`, `limit` or `seed` is out of range, whatever the data.

    >>> check_split(SplitReadOptions(test=0.5), None)
    """
    test, limit, seed = options.test, options.limit, options.seed
    if isinstance(test, bool) or not (0 < test < 1 or (test >= 1 and float(test).is_integer())):
        raise InputError(f"test: must be a share in (0, 1) or a count >= 1, was {test!r}")
    if validation is not None and validation < 0:
        raise InputError(f"validation: must be >= 0, was {validation}")
    if limit is not None and limit < 1:
        raise InputError(f"limit: must be >= 1, was {limit}")
    if seed < 0:
        raise InputError(f"seed: must be >= 0, was {seed}")


def split_files(layout: Layout, options: SplitReadOptions, validation: int | None) -> FileSplit:
    """Split files into sets.

    Args:
        layout: the files. The data's own sets are kept: its validation set stands in for a missing test set, else for a
            missing training set.
        options: `test` is the share of the files to test on (rounded, at least one, and one is left to train when there
            are two), or a count; from the data's own test set a count takes that many, a share all. `limit` is the
            number of files in total. Files are taken by name, shuffled by `seed`, and each set is sorted by name.
        validation: number of files, taken from the data's validation set or else from those to train; None: 4, and at
            most a quarter of those to train.

    Raises:
        InputError: an option out of range, or more files asked for than there are.

    >>> from pathlib import Path
    >>> files = [DataFile(Path(name), name) for name in ("a", "b", "c", "d")]
    >>> split = split_files(Layout("four", {"all": files}), SplitReadOptions(test=1), 1)
    >>> len(split.train), len(split.validation), len(split.test)
    (2, 1, 1)
    """
    check_split(options, validation)
    rng = np.random.default_rng(options.seed)
    pools, notes = _with_substitutes(layout.pools)
    # After empty pools are gone: a list of sets may name one whose files were never unpacked.
    total = sum(map(len, pools.values()))
    most = total if options.limit is None else min(options.limit, total)
    if "train" in pools and "test" in pools:
        tests, rest, between = pools["test"], pools["train"], pools.get("validation")
        count = _own_test_count(options.test, len(tests), most, total)
    else:
        files = [file for pool in pools.values() for file in pool]
        tests, rest, count = _by_seed(files, options.test, most, rng)
        between = None
    chosen_tests = _pick(tests, min(count, len(tests), most), rng)
    left = most - len(chosen_tests)
    wanted = min(VALIDATION, min(left, len(rest)) // 4) if validation is None else validation
    if between:
        wanted = min(wanted, len(between)) if validation is None else wanted
        if wanted > len(between):
            raise InputError(f"validation: must be at most the {len(between)} files of that set, was {wanted}")
        train = _pick(rest, max(0, min(left - wanted, len(rest))), rng)
        return FileSplit(train, _pick(between, wanted, rng), chosen_tests, notes)
    rest = _pick(rest, min(left, len(rest)), rng)
    if wanted and wanted >= len(rest):
        raise InputError(f"validation: must leave one of the {len(rest)} files to train, was {wanted}")
    validated = _pick(rest, wanted, rng)
    # Validation comes out of the files to train on and never out of test, which must stay unseen.
    taken = {file.name for file in validated}
    return FileSplit([file for file in rest if file.name not in taken], validated, chosen_tests, notes)


def _with_substitutes(pools: dict[str, list[DataFile]]) -> tuple[dict[str, list[DataFile]], list[str]]:
    """Return the pools that are not empty, the validation set in place of a missing one, and a note on that."""
    pools = dict(pools)
    notes: list[str] = []
    if "all" not in pools and "test" not in pools and "train" in pools and "validation" in pools:
        pools["test"] = pools.pop("validation")
        notes.append("the data have no test set: their validation set is tested on")
    elif "train" not in pools and "test" in pools and "validation" in pools:
        pools["train"] = pools.pop("validation")
        notes.append("the data have no training set: their validation set is trained on")
    return {name: files for name, files in pools.items() if files}, notes


def _own_test_count(test: float, tests: int, most: int, total: int) -> int:
    """Return how many of the data's own `tests` files to test on, of `most` of its `total` files."""
    if test < 1:
        # All of them, unless a limit leaves only a part of the data: then the share of that part.
        return tests if most == total else min(_share(test, most), tests)
    if int(test) > min(tests, most):
        raise InputError(f"test: must be at most the {min(tests, most)} files of the test set, was {int(test)}")
    return int(test)


def _by_seed(
    files: list[DataFile], test: float, most: int, rng: np.random.Generator
) -> tuple[list[DataFile], list[DataFile], int]:
    """Return files that may be tested on, those that may not, and how many of the former to take."""
    count = int(test) if test >= 1 else _share(test, most)
    if count > most:
        raise InputError(f"test: must be at most the {most} files, was {count}")
    tests, rest = _part(files, count, test, rng)
    if most == len(files) and test < 1:
        count = len(tests)  # whole groups
    if test >= 1 and count > len(tests):
        raise InputError(
            f"test: must be at most {len(tests)} so that a speaker or folder is left to train, was {count}"
        )
    return tests, rest, count


def _share(test: float, count: int) -> int:
    # Half up, and not to the even number as round() does: 0.25 of 10 and of 14 should not go different ways.
    return max(1, min(math.floor(test * count + 0.5), count - 1))


def _pick(files: list[DataFile], count: int, rng: np.random.Generator) -> list[DataFile]:
    """Return `count` of the files, chosen at random and in their order."""
    if count >= len(files):
        return list(files)
    return [files[k] for k in sorted(rng.permutation(len(files))[:count])]


def _part(
    files: list[DataFile], count: int, test: float, rng: np.random.Generator
) -> tuple[list[DataFile], list[DataFile]]:
    """Return the files to test on and the rest.

    When the files have several groups, whole groups go to test: the share `test` of the groups, or as many as `count`
    files need, one group at least left to train. A speaker on both sides would make the test an easier one.
    """
    groups = sorted({file.group for file in files})
    if len(groups) < 2:
        # Indices and not names are shuffled, so each set keeps the order of names.
        order = rng.permutation(len(files))
        chosen_ids = set(order[:count].tolist())
        tests = [file for k, file in enumerate(files) if k in chosen_ids]
        return tests, [file for k, file in enumerate(files) if k not in chosen_ids]
    shuffled = [groups[k] for k in rng.permutation(len(groups))]
    wanted_groups = _share(test, len(groups)) if test < 1 else 1
    wanted_files = 0 if test < 1 else count
    chosen: set[str] = set()
    taken = 0
    for group in shuffled[: len(groups) - 1]:
        if len(chosen) >= wanted_groups and taken >= wanted_files:
            break
        chosen.add(group)
        taken += sum(file.group == group for file in files)
    return [file for file in files if file.group in chosen], [file for file in files if file.group not in chosen]
