"""Which files are to train, to validate and to test: by the data's own split, or by seed, speakers kept together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mclnf_fast.data.readers.layouts import Found, Item
from mclnf_fast.errors import InputError

VALIDATION = 4  # where none is asked for, if a quarter of what is to train allows it


@dataclass(frozen=True)
class Plan:
    """The files of each set, by name; notes say how they came to be."""

    train: list[Item]
    validation: list[Item]
    test: list[Item]
    notes: list[str]


def check_split(test: float | int, validation: int | None, limit: int | None, seed: int) -> None:
    """Refuses what no split can follow."""
    if isinstance(test, bool) or not (0 < test < 1 or (test >= 1 and float(test).is_integer())):
        raise InputError(f"test: must be a share in (0, 1) or a count >= 1, was {test!r}")
    if validation is not None and validation < 0:
        raise InputError(f"validation: must be >= 0, was {validation}")
    if limit is not None and limit < 1:
        raise InputError(f"limit: must be >= 1, was {limit}")
    if seed < 0:
        raise InputError(f"seed: must be >= 0, was {seed}")


def plan(found: Found, test: float | int, validation: int | None, limit: int | None, seed: int) -> Plan:
    """Split the files.

    Args:
        found: the files. With the data's own sets those are kept: what they call validation stands in for a missing
            test set, else for a missing training set.
        test: the share of the files that goes to test (rounded, at least one, and one is left to train where there
            are two), or a count. From the data's own test set a count takes that many, a share all.
        validation: how many, taken from the data's validation set or else from what is to train; None: 4, and at most
            a quarter of what is to train.
        limit: at most so many files in all.
        seed: of the choice. Files are taken by name, shuffled by the seed, and each set is in the order of names.

    Raises:
        InputError: more asked for than there is.
    """
    check_split(test, validation, limit, seed)
    rng = np.random.default_rng(seed)
    pools = dict(found.pools)
    notes: list[str] = []
    if "all" not in pools and "test" not in pools and "train" in pools and "validation" in pools:
        pools["test"] = pools.pop("validation")
        notes.append("the data have no test set: their validation set is tested on")
    elif "train" not in pools and "test" in pools and "validation" in pools:
        pools["train"] = pools.pop("validation")
        notes.append("the data have no training set: their validation set is trained on")
    pools = {name: items for name, items in pools.items() if items}
    total = sum(map(len, pools.values()))
    most = total if limit is None else min(limit, total)
    if "train" in pools and "test" in pools:
        tests, rest, between = pools["test"], pools["train"], pools.get("validation")
        count = int(test) if test >= 1 else len(tests) if most == total else _share(test, most)
        count = count if test >= 1 else min(count, len(tests))
        if count > min(len(tests), most):
            raise InputError(f"test: must be at most the {min(len(tests), most)} files of the test set, was {count}")
    else:
        items = [item for pool in pools.values() for item in pool]
        count = int(test) if test >= 1 else _share(test, most)
        if count > most:
            raise InputError(f"test: must be at most the {most} files, was {count}")
        tests, rest = _part(items, count, test, rng)
        if most == total and test < 1:
            count = len(tests)  # whole groups
        if test >= 1 and count > len(tests):
            raise InputError(
                f"test: must be at most {len(tests)} so that a speaker or folder is left to train, was {count}"
            )
        between = None
    chosen_tests = _pick(tests, min(count, len(tests), most), rng)
    left = most - len(chosen_tests)
    wanted = min(VALIDATION, min(left, len(rest)) // 4) if validation is None else validation
    if between:
        wanted = min(wanted, len(between)) if validation is None else wanted
        if wanted > len(between):
            raise InputError(f"validation: must be at most the {len(between)} files of that set, was {wanted}")
        train = _pick(rest, max(0, min(left - wanted, len(rest))), rng)
        return Plan(train, _pick(between, wanted, rng), chosen_tests, notes)
    rest = _pick(rest, min(left, len(rest)), rng)
    if wanted and wanted >= len(rest):
        raise InputError(f"validation: must leave one of the {len(rest)} files to train, was {wanted}")
    between = _pick(rest, wanted, rng)
    taken = {item.name for item in between}
    return Plan([item for item in rest if item.name not in taken], between, chosen_tests, notes)


def _share(test: float, count: int) -> int:
    return max(1, min(math.floor(test * count + 0.5), count - 1))


def _pick(items: list[Item], count: int, rng: np.random.Generator) -> list[Item]:
    """`count` of the items, in their order."""
    if count >= len(items):
        return list(items)
    return [items[k] for k in sorted(rng.permutation(len(items))[:count])]


def _part(items: list[Item], count: int, test: float | int, rng: np.random.Generator) -> tuple[list[Item], list[Item]]:
    """Test and rest; whole groups where the items have several: the share of the groups, or as many as `count` items
    need, one group at least left to train."""
    groups = sorted({item.group for item in items})
    if len(groups) < 2:
        order = rng.permutation(len(items))
        picked = set(order[:count].tolist())
        return [x for k, x in enumerate(items) if k in picked], [x for k, x in enumerate(items) if k not in picked]
    shuffled = [groups[k] for k in rng.permutation(len(groups))]
    want = _share(test, len(groups)) if test < 1 else 1
    least = 0 if test < 1 else count
    chosen: set[str] = set()
    held = 0
    for group in shuffled[: len(groups) - 1]:
        if len(chosen) >= want and held >= least:
            break
        chosen.add(group)
        held += sum(item.group == group for item in items)
    return [item for item in items if item.group in chosen], [item for item in items if item.group not in chosen]
