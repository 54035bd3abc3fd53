"""Plain data that describes a field: its encoding and its network. Imports nothing of ours but the errors."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar

ACTIVATIONS = ("none", "relu", "sine", "softplus", "tanh", "sigmoid", "exp")
"""What an activation can be; the position in this tuple is its number in the compiled kernels."""

_IDENTITY, _FREQUENCY, _SPHERICAL = 0, 1, 2


def _positive_int(where: str, name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where}: {name} must be an int of at least {least}, got {value!r}")


def _finite(where: str, frequencies: Callable[[], tuple[float, ...]]) -> None:
    try:
        largest = max(map(abs, frequencies()))
    except OverflowError:
        largest = math.inf
    if not largest < 3.4e38:
        raise ValueError(f"{where}: frequencies must be finite in float32, got {largest:g}")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Base of the encodings: a fixed map from coordinates to features, fused in front of the first layer."""

    def out_dim(self, in_dim: int) -> int:
        """Number of features for `in_dim` coordinates."""
        raise NotImplementedError

    def parts(self, start: int, in_dim: int) -> tuple[tuple[int, int, int, int, tuple[float, ...]], ...]:
        """The kernels' view: (kind, first coordinate, coordinates, option, frequencies) a part."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Identity(Encoding):
    """The coordinates themselves."""

    def out_dim(self, in_dim: int) -> int:
        return in_dim

    def parts(self, start: int, in_dim: int) -> tuple[tuple[int, int, int, int, tuple[float, ...]], ...]:
        return ((_IDENTITY, start, in_dim, 0, ()),)


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
        _positive_int("Frequency", "n", self.n)
        if not (isinstance(self.scale, (int, float)) and math.isfinite(self.scale) and self.scale != 0):
            raise ValueError(f"Frequency: scale must be a finite number other than 0, got {self.scale!r}")
        _finite("Frequency", lambda: self.frequencies)

    @property
    def frequencies(self) -> tuple[float, ...]:
        return tuple(2.0**k * self.scale for k in range(self.n))

    def out_dim(self, in_dim: int) -> int:
        return in_dim * (2 * self.n + int(self.include_input))

    def parts(self, start: int, in_dim: int) -> tuple[tuple[int, int, int, int, tuple[float, ...]], ...]:
        return ((_FREQUENCY, start, in_dim, int(self.include_input), self.frequencies),)


@dataclasses.dataclass(frozen=True)
class LogFrequency(Encoding):
    """`n` frequencies spaced evenly in the exponent, `2^(max_exp k / (n-1))`, k = 0 ... n-1.

    Of learnit (arXiv 2012.02189); no factor pi and no raw input. Features: for each k `sin(f_k x)` of every
    coordinate, then `cos(f_k x)`. `LogFrequency(20, 8.0)` on 3 coordinates is the 120-feature encoding of
    the single-view NeRF.
    """

    n: int
    max_exp: float = 8.0

    def __post_init__(self) -> None:
        _positive_int("LogFrequency", "n", self.n)
        if not (isinstance(self.max_exp, (int, float)) and math.isfinite(self.max_exp)):
            raise ValueError(f"LogFrequency: max_exp must be a finite number, got {self.max_exp!r}")
        _finite("LogFrequency", lambda: self.frequencies)

    @property
    def frequencies(self) -> tuple[float, ...]:
        return tuple(2.0 ** (self.max_exp * k / max(self.n - 1, 1)) for k in range(self.n))

    def out_dim(self, in_dim: int) -> int:
        return in_dim * 2 * self.n

    def parts(self, start: int, in_dim: int) -> tuple[tuple[int, int, int, int, tuple[float, ...]], ...]:
        return ((_FREQUENCY, start, in_dim, 0, self.frequencies),)


@dataclasses.dataclass(frozen=True)
class SphericalHarmonics(Encoding):
    """Real spherical harmonics of degrees 0 ... degree-1 of a 3-vector: `degree`^2 features, degree 1 to 4.

    The polynomials are those of a unit vector (Condon-Shortley phase included, orthonormal on the sphere)
    and are evaluated as they stand: the caller normalises the direction.
    """

    degree: int

    def __post_init__(self) -> None:
        if isinstance(self.degree, bool) or not isinstance(self.degree, int) or not 1 <= self.degree <= 4:
            raise ValueError(f"SphericalHarmonics: degree must be 1, 2, 3 or 4, got {self.degree!r}")

    def out_dim(self, in_dim: int) -> int:
        if in_dim != 3:
            raise ValueError(f"SphericalHarmonics: needs 3 coordinates (a direction), got {in_dim}")
        return self.degree**2

    def parts(self, start: int, in_dim: int) -> tuple[tuple[int, int, int, int, tuple[float, ...]], ...]:
        return ((_SPHERICAL, start, in_dim, self.degree, ()),)


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
            _positive_int("Composite", "coordinates of an item", item[1])

    def out_dim(self, in_dim: int) -> int:
        total = sum(dims for _, dims in self.items)
        if total != in_dim:
            raise ValueError(f"Composite: items cover {total} coordinates, but the field has in_dim = {in_dim}")
        return sum(encoding.out_dim(dims) for encoding, dims in self.items)

    def parts(self, start: int, in_dim: int) -> tuple[tuple[int, int, int, int, tuple[float, ...]], ...]:
        found: list[tuple[int, int, int, int, tuple[float, ...]]] = []
        for encoding, dims in self.items:
            found.extend(encoding.parts(start, dims))
            start += dims
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """A coordinate network: encoding, `hidden_layers` layers of `width` and a linear output layer.

    Layer `l` computes `a(h W_l + b_l)` with `W_l [in, out]`; there are `hidden_layers + 1` layers.
    `activation` and `output_activation` are one of `ACTIVATIONS`; `sine` is `sin(w0 z)` (SIREN, arXiv
    2006.09661) and may be written `"sine(200)"`. Each layer named in `skips` (1 ... hidden_layers) receives
    the encoded input once more, appended to the activations of the layer before it.

    Raises ValueError where a number or a name is out of range.
    """

    in_dim: int
    out_dim: int
    width: int = 64
    hidden_layers: int = 4
    activation: str = "relu"
    output_activation: str = "none"
    encoding: Encoding = dataclasses.field(default_factory=Identity)
    w0: float = 30.0
    skips: tuple[int, ...] = ()
    _layer_shapes: ClassVar[tuple[tuple[int, int], ...]]
    _packed: ClassVar[tuple[list[int], list[float]]]

    def __post_init__(self) -> None:
        for name in ("in_dim", "out_dim", "width"):
            _positive_int("FieldSpec", name, getattr(self, name))
        _positive_int("FieldSpec", "hidden_layers", self.hidden_layers, least=0)
        if self.hidden_layers > 30:
            raise ValueError(f"FieldSpec: hidden_layers must be at most 30, got {self.hidden_layers}")
        written: list[float] = []
        for name in ("activation", "output_activation"):
            match = re.fullmatch(r"sine\((\d+\.?\d*(?:[eE][+-]?\d+)?)\)", str(getattr(self, name)))
            if match:
                written.append(float(match[1]))
                object.__setattr__(self, name, "sine")
                object.__setattr__(self, "w0", written[-1])
            if getattr(self, name) not in ACTIVATIONS:
                raise ValueError(
                    f"FieldSpec: {name} must be one of {', '.join(ACTIVATIONS)}, got {getattr(self, name)!r}"
                )
        if len(set(written)) > 1:
            raise ValueError(
                f"FieldSpec: activation and output_activation must have the same w0, got {written[0]} and {written[1]}"
            )
        if not (isinstance(self.w0, (int, float)) and math.isfinite(self.w0) and self.w0 > 0):
            raise ValueError(f"FieldSpec: w0 must be a positive number, got {self.w0!r}")
        if not isinstance(self.encoding, Encoding):
            raise TypeError(f"FieldSpec: encoding must be an Encoding, got {self.encoding!r}")
        if not isinstance(self.skips, (tuple, list)):
            raise TypeError(f"FieldSpec: skips must be a tuple of ints, got {self.skips!r}")
        skips = tuple(sorted(set(self.skips)))
        for layer in skips:
            if not 1 <= layer <= self.hidden_layers:
                raise ValueError(f"FieldSpec: skips must name layers 1 ... {self.hidden_layers}, got {self.skips!r}")
        object.__setattr__(self, "skips", skips)
        # Worked out once and here, not in a functools.cached_property: its lock stops torch.compile.
        object.__setattr__(self, "_layer_shapes", self._find_layer_shapes())
        object.__setattr__(self, "_packed", self._pack())

    @property
    def encoded_dim(self) -> int:
        """Number of features that the encoding gives to the first layer."""
        return self.encoding.out_dim(self.in_dim)

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of every layer's weight."""
        return self._layer_shapes

    def _find_layer_shapes(self) -> tuple[tuple[int, int], ...]:
        last = self.hidden_layers
        shapes = []
        for layer in range(last + 1):
            rows = self.encoded_dim if layer == 0 else self.width
            if layer in self.skips:
                rows += self.encoded_dim
            shapes.append((rows, self.out_dim if layer == last else self.width))
        return tuple(shapes)

    @property
    def num_parameters(self) -> int:
        """Parameters of one module."""
        return sum((rows + 1) * columns for rows, columns in self.layer_shapes)

    @property
    def packed(self) -> tuple[list[int], list[float]]:
        """The description that the compiled ops take: integers and floats, as `csrc/net.h` reads them."""
        return self._packed

    def _pack(self) -> tuple[list[int], list[float]]:
        parts = self.encoding.parts(0, self.in_dim)
        mask = sum(1 << layer for layer in self.skips)
        ints = [self.in_dim, self.out_dim, self.width, self.hidden_layers]
        ints += [
            ACTIVATIONS.index(self.activation),
            ACTIVATIONS.index(self.output_activation),
            mask,
            len(parts),
        ]
        floats = [float(self.w0)]
        for kind, start, dims, option, frequencies in parts:
            ints += [kind, start, dims, option, len(frequencies)]
            floats += list(frequencies)
        return ints, floats


def to_dict(spec: FieldSpec) -> dict[str, object]:
    """The spec as plain data (for JSON and YAML); `from_dict` reads it back."""

    def plain(value: object) -> object:
        if isinstance(value, Encoding):
            fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"kind": type(value).__name__, **fields}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return {f.name: plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}


def from_dict(data: dict[str, object]) -> FieldSpec:
    """The spec that `to_dict` described. Raises ValueError or TypeError where the data is no spec."""
    kinds: dict[str, Any] = {c.__name__: c for c in (Identity, Frequency, LogFrequency, SphericalHarmonics, Composite)}

    def read(value: object) -> object:
        if isinstance(value, dict):
            fields = dict(value)
            kind = fields.pop("kind", None)
            if kind not in kinds:
                raise ValueError(f"encoding kind must be one of {', '.join(kinds)}, got {kind!r}")
            return kinds[kind](**{name: read(v) for name, v in fields.items()})
        return tuple(read(v) for v in value) if isinstance(value, (list, tuple)) else value

    if not isinstance(data, dict):
        raise TypeError(f"a spec must be a mapping, got {type(data).__name__}")
    return FieldSpec(**{name: read(value) for name, value in data.items()})  # type: ignore[arg-type]
