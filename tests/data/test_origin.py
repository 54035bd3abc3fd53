"""Positions far from the origin: when a shift is taken off, and when float32 can't hold them."""

from __future__ import annotations

import numpy as np
import pytest

from mclnf_fast.data.readers.origin import check_float32, far_origin
from mclnf_fast.errors import InputError


def corners(at: float, extent: float) -> np.ndarray:
    """Two cameras `extent` apart at a distance `at`, on no number of float32's."""
    return np.array([[at + 0.3, 0.0, 0.0], [at + 0.3 + extent, 1.0, 0.0]])


def test_what_rounding_may_move_is_a_share_of_the_cameras_extent() -> None:
    check_float32(corners(1e5, 1000.0), ["a", "b"])  # by 0.003 at most, of 1000
    with pytest.raises(InputError, match="must stand near the origin"):
        check_float32(corners(1e5, 2.0), ["a", "b"])


def test_a_shift_is_taken_off_the_far_axes_alone() -> None:
    assert far_origin(corners(1e5, 2.0)) == (100001.0, 0.0, 0.0)
    assert far_origin(corners(1e5, 1000.0)) == (0.0, 0.0, 0.0)  # float32 is finer than 1e-5 of the extent
    assert far_origin(corners(1e5, 2.0)[:1]) == (0.0, 0.0, 0.0)
