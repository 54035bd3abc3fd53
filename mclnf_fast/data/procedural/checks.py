"""Checks of arguments that every generator has."""

from __future__ import annotations

from mclnf_fast.errors import InputError


def check_count_and_seed(count: int, seed: int) -> None:
    """Raise `InputError` unless `count` >= 1 and `seed` >= 0.

    >>> check_count_and_seed(1, 0)
    """
    if count < 1:
        raise InputError(f"count: must be >= 1, was {count}")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Raise `InputError` unless `seed` >= 0: NumPy's generators take no other.

    >>> check_seed(0)
    """
    if seed < 0:
        raise InputError(f"seed: must be >= 0, was {seed}")


def check_seed_and_index(seed: int, index: int) -> None:
    """Raise `InputError` unless both are >= 0.

    >>> check_seed_and_index(0, 3)
    """
    if seed < 0 or index < 0:
        raise InputError(f"seed, index: must be >= 0, were {seed} and {index}")


def check_size(size: int, least: int, most: int) -> None:
    """Raise `InputError` unless `size` is from `least` to `most` pixels.

    >>> check_size(64, 16, 2048)
    """
    if not least <= size <= most:
        raise InputError(f"size: must be from {least} to {most} pixels, was {size}")
