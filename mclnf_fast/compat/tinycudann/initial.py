"""Initial parameters: the numbers that tiny-cuda-nn draws for a seed, up to a rounding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MULTIPLIER, _INCREMENT, _MASK = 0x5851F42D4C957F2D, 3, (1 << 64) - 1
_THREADS = 128  # of a block of the kernel that fills a grid
_EACH = 4  # numbers that one of them draws, one after another


class Pcg32:
    """The generator PCG-XSH-RR (O'Neill 2014) on its second stream, from a seed.

    Example:
        >>> Pcg32(42).uniform(2)
        array([0.30447078, 0.89653814], dtype=float32)
    """

    def __init__(self, seed: int) -> None:
        self._state = ((_INCREMENT + seed) * _MULTIPLIER + _INCREMENT) & _MASK

    def uniform(self, count: int) -> npt.NDArray[np.float32]:
        """Return the next `count` numbers of [0, 1), which have 23 bits."""
        states = np.empty(count, np.uint64)
        states[:1] = self._state
        done, multiplier, increment = 1, _MULTIPLIER, _INCREMENT  # of a step of `done` numbers
        while done < count:
            more = min(done, count - done)
            states[done : done + more] = states[:more] * np.uint64(multiplier) + np.uint64(increment)
            increment = increment * (multiplier + 1) & _MASK
            multiplier = multiplier * multiplier & _MASK
            done *= 2
        self.skip(count)
        words = (((states >> np.uint64(18)) ^ states) >> np.uint64(27)).astype(np.uint32)
        turn = (states >> np.uint64(59)).astype(np.uint32)
        bits = words >> turn | words << (-turn & np.uint32(31))
        return (bits >> np.uint32(9)).astype(np.float32) * np.float32(2**-23)

    def skip(self, count: int) -> None:
        """Pass over `count` numbers."""
        state, multiplier, increment = self._state, _MULTIPLIER, _INCREMENT
        while count:
            if count & 1:
                state = (state * multiplier + increment) & _MASK
            increment = increment * (multiplier + 1) & _MASK
            multiplier = multiplier * multiplier & _MASK
            count >>= 1
        self._state = state


def matrix(rng: Pcg32, rows: int, columns: int, activation: str, first: bool) -> npt.NDArray[np.float32]:
    """Return the numbers of a weight [rows, columns], flat: uniform in [-a, a].

    a is sqrt(6 / (rows + columns)) (Glorot and Bengio 2010), or in a network of sines 30 / columns in the first layer
    and sqrt(6 / columns) in the others.
    """
    if activation == "Sine":
        bound = np.float32(30) / np.float32(columns) if first else np.sqrt(np.float32(6) / np.float32(columns))
    else:
        bound = np.sqrt(np.float32(6) / np.float32(rows + columns))
    return rng.uniform(rows * columns) * np.float32(2) * bound - bound


def grid(rng: Pcg32, count: int) -> npt.NDArray[np.float32]:
    """Return the numbers of a grid [count]: uniform in [-1e-4, 1e-4], in the order in which its threads draw them."""
    threads = -(-count // (_THREADS * _EACH)) * _THREADS
    start = Pcg32.__new__(Pcg32)
    start._state = rng._state
    rng.skip(count)
    values = start.uniform(threads * _EACH).reshape(threads, _EACH).T.ravel()[:count]
    bound = np.float32(1e-4)
    return (values * np.float64(bound + bound) - np.float64(bound)).astype(np.float32)
