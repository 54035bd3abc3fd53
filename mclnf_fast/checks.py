"""Checks of arguments that every room uses."""

from __future__ import annotations


def check_positive_int(value: int, name: str) -> int:
    """Return `value` if it is an int of at least 1. Raises: TypeError, ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def check_unit_interval(value: float, name: str) -> float:
    """Return `value` as a float if 0 <= value < 1. Raises: ValueError."""
    if not 0.0 <= float(value) < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
    return float(value)
