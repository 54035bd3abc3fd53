"""Moves scenes that lie far from the origin, as those in coordinates of a map do, so that float32 can hold them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from mclnf_fast.errors import InputError

_log = logging.getLogger("mclnf_fast")
RESOLUTION = 1e-5  # of the cameras' extent; where float32 is coarser, a shift is taken off first
TOLERANCE = 1e-4  # of the cameras' extent, by which a position may move when it is rounded to float32


def far_origin(centers: np.ndarray) -> tuple[float, float, float]:
    """Return the shift to take off positions, whole scene units; 0 on each axis on which float32 holds them.

    Args:
        centers: float64 [V, 3], positions of the cameras.

    >>> far_origin(np.array([[500000.3, 1.0, 0.0], [500004.3, 2.0, 0.0]]))
    (500002.0, 0.0, 0.0)
    """
    if not len(centers):
        return 0.0, 0.0, 0.0
    extent = float(np.ptp(centers, axis=0).max())
    coarse = np.spacing(np.abs(centers).max(0).astype(np.float32)).astype(np.float64) > RESOLUTION * extent
    # One camera, or several at one place, have no extent that a shift could save.
    shift = np.where(coarse & (extent > 0), np.round(centers.mean(0)), 0.0)
    return float(shift[0]), float(shift[1]), float(shift[2])


def warn_of_origin(name: str, origin: tuple[float, float, float]) -> None:
    """Log that the coordinates of the scene `name` are relative to `origin`, if that is not 0.

    >>> warn_of_origin("square", (0.0, 0.0, 0.0))
    """
    if any(origin):
        _log.warning("%s: lies far from the origin, its coordinates are taken relative to %s", name, origin)


def check_float32(centers: np.ndarray, sources: Sequence[object]) -> None:
    """Raise `InputError` if rounding positions to float32 moves them against each other.

    Args:
        centers: float64 [V, 3].
        sources: the file that each stands in, for the message.

    >>> check_float32(np.eye(3), ["a.json"] * 3)
    """
    if len(centers) < 2:
        return
    moved = np.abs(centers.astype(np.float32).astype(np.float64) - centers).max(1)
    extent = float(np.ptp(centers, axis=0).max())
    worst = int(moved.argmax())
    if extent > 0 and moved[worst] > TOLERANCE * extent:
        raise InputError(
            f"{sources[worst]}: cameras must stand near the origin, so that float32 can hold them, one is at "
            f"{centers[worst].tolist()}: subtract a shift from all positions"
        )
