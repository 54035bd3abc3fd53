"""The fixed encodings of a field as plain data: maps from coordinates to features. The learned ones are in grids.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from mclnf_fast.packing import LIMITS, EncodingKind, EncodingPart


def check_size(owner: str, name: str, value: object, least: int = 1) -> None:
    """Raise ValueError if a size of an encoding or a spec is no int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{owner}: {name} must be an int of at least {least}, got {value!r}")


def _check_finite(owner: str, frequencies: Callable[[], tuple[float, ...]]) -> None:
    try:
        largest = max(map(abs, frequencies()))
    except OverflowError:
        largest = math.inf
    if not largest < 3.4e38:
        raise ValueError(f"{owner}: frequencies must be finite in float32, got {largest:g}")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Base of the encodings: a map from coordinates to features. Fixed ones are fused in front of the first layer.

    Example:
        >>> Composite(((Frequency(10), 3), (SphericalHarmonics(4), 3))).out_dim(6)
        76
    """

    def out_dim(self, in_dim: int) -> int:
        """Return the number of features for `in_dim` coordinates."""
        raise NotImplementedError

    def parts(self, start: int, in_dim: int) -> tuple[EncodingPart, ...]:
        """Return the parts that the kernels compute, for the coordinates start ... start + in_dim - 1."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Identity(Encoding):
    """The coordinates themselves."""

    def out_dim(self, in_dim: int) -> int:
        return in_dim

    def parts(self, start: int, in_dim: int) -> tuple[EncodingPart, ...]:
        return (EncodingPart(EncodingKind.IDENTITY, start, in_dim, 0, ()),)


@dataclasses.dataclass(frozen=True)
class Frequency(Encoding):
    """Positional encoding of NeRF (arXiv 2003.08934, eq. 4), `n` octaves.

    Features, in order: the input (if `include_input`), then for k = 0 ... n-1 `sin(2^k scale x)` of every
    coordinate followed by `cos(2^k scale x)` of every coordinate. `scale` is pi as in the paper; use 1.0 for
    the convention of the code bases that leave pi out.
    """

    n: int
    include_input: bool = False
    scale: float = math.pi

    def __post_init__(self) -> None:
        check_size("Frequency", "n", self.n)
        if not (isinstance(self.scale, (int, float)) and math.isfinite(self.scale) and self.scale != 0):
            raise ValueError(f"Frequency: scale must be a finite number other than 0, got {self.scale!r}")
        _check_finite("Frequency", lambda: self.frequencies)

    @property
    def frequencies(self) -> tuple[float, ...]:
        return tuple(2.0**k * self.scale for k in range(self.n))

    def out_dim(self, in_dim: int) -> int:
        return in_dim * (2 * self.n + int(self.include_input))

    def parts(self, start: int, in_dim: int) -> tuple[EncodingPart, ...]:
        return (EncodingPart(EncodingKind.FREQUENCY, start, in_dim, int(self.include_input), self.frequencies),)


@dataclasses.dataclass(frozen=True)
class LogFrequency(Encoding):
    """`n` frequencies spaced evenly in the exponent, `2^(max_exp k / (n-1))`, k = 0 ... n-1.

    As in learnit (arXiv 2012.02189), without a factor pi or the raw input. Features: for each k `sin(f_k x)` of every
    coordinate, then `cos(f_k x)`. `LogFrequency(20, 8.0)` on 3 coordinates is the 120-feature encoding of the
    single-view NeRF.
    """

    n: int
    max_exp: float = 8.0

    def __post_init__(self) -> None:
        check_size("LogFrequency", "n", self.n)
        if not (isinstance(self.max_exp, (int, float)) and math.isfinite(self.max_exp)):
            raise ValueError(f"LogFrequency: max_exp must be a finite number, got {self.max_exp!r}")
        _check_finite("LogFrequency", lambda: self.frequencies)

    @property
    def frequencies(self) -> tuple[float, ...]:
        return tuple(2.0 ** (self.max_exp * k / max(self.n - 1, 1)) for k in range(self.n))

    def out_dim(self, in_dim: int) -> int:
        return in_dim * 2 * self.n

    def parts(self, start: int, in_dim: int) -> tuple[EncodingPart, ...]:
        return (EncodingPart(EncodingKind.FREQUENCY, start, in_dim, 0, self.frequencies),)


@dataclasses.dataclass(frozen=True)
class SphericalHarmonics(Encoding):
    """Real spherical harmonics of degrees 0 ... degree-1 of a 3-vector: `degree`^2 features, degree 1 to 4.

    The polynomials are those of a unit vector (Condon-Shortley phase included, orthonormal on the sphere)
    and are evaluated for any vector: the caller normalizes the direction.
    """

    degree: int

    def __post_init__(self) -> None:
        if (
            isinstance(self.degree, bool)
            or not isinstance(self.degree, int)
            or not 1 <= self.degree <= LIMITS["spherical_degree"]
        ):
            raise ValueError(f"SphericalHarmonics: degree must be 1, 2, 3 or 4, got {self.degree!r}")

    def out_dim(self, in_dim: int) -> int:
        if in_dim != 3:
            raise ValueError(f"SphericalHarmonics: needs 3 coordinates (a direction), got {in_dim}")
        return self.degree**2

    def parts(self, start: int, in_dim: int) -> tuple[EncodingPart, ...]:
        return (EncodingPart(EncodingKind.SPHERICAL, start, in_dim, self.degree, ()),)


@dataclasses.dataclass(frozen=True)
class Composite(Encoding):
    """Several encodings side by side, each on its own slice of the coordinates, in order.

    `Composite(((Frequency(10), 3), (SphericalHarmonics(4), 3)))` encodes a position and a direction.
    """

    items: tuple[tuple[Encoding, int], ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError("Composite: items must hold at least one (encoding, coordinates) pair, got none")
        for item in self.items:
            if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Encoding)):
                raise TypeError(f"Composite: each item must be a pair (Encoding, int), got {item!r}")
            check_size("Composite", "coordinates of an item", item[1])

    def out_dim(self, in_dim: int) -> int:
        total = sum(dims for _, dims in self.items)
        if total != in_dim:
            raise ValueError(f"Composite: items cover {total} coordinates, but the field has in_dim = {in_dim}")
        return sum(encoding.out_dim(dims) for encoding, dims in self.items)

    def parts(self, start: int, in_dim: int) -> tuple[EncodingPart, ...]:
        parts: list[EncodingPart] = []
        for encoding, dims in self.items:
            parts.extend(encoding.parts(start, dims))
            start += dims
        return tuple(parts)
