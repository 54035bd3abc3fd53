"""Plain data that describes a field: its encoding and its network."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, ClassVar

from mclnf_fast.encodings import (
    Composite,
    Encoding,
    Frequency,
    Identity,
    LogFrequency,
    SphericalHarmonics,
    check_size,
)
from mclnf_fast.grids import Grid, GridPart, HashGrid, TriPlane, grids_of, without_grids
from mclnf_fast.packing import LIMITS, Activation, NetworkHeader, PackedNetwork

__all__ = [
    "ACTIVATIONS",
    "Composite",
    "Encoding",
    "FieldSpec",
    "Frequency",
    "Grid",
    "HashGrid",
    "Identity",
    "LogFrequency",
    "SphericalHarmonics",
    "TriPlane",
    "from_dict",
    "to_dict",
]

ACTIVATIONS = tuple(activation.label for activation in Activation)
"""The names of the activations; the position in this tuple is the number in the compiled kernels."""


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """A coordinate network: encoding, `hidden_layers` layers of `width` and a linear output layer.

    Layer `l` computes `a(h W_l + b_l)` with `W_l [in, out]`; there are `hidden_layers + 1` layers.

    Args:
        in_dim: coordinates of a point.
        out_dim: values of a point.
        width: outputs of a hidden layer.
        hidden_layers: 0 to 30.
        activation: of the hidden layers, one of `ACTIVATIONS`; `sine` is `sin(w0 z)` (SIREN, arXiv 2006.09661) and may
            be written `"sine(200)"`.
        output_activation: of the output layer, one of `ACTIVATIONS`.
        encoding: the map in front of the first layer.
        w0: the frequency of `sine`.
        skips: layers (1 ... hidden_layers) that receive the encoded input once more, behind the activations of the
            layer before them.

    Raises:
        ValueError: a number or a name is out of range.
        TypeError: an argument of a wrong type.

    Example:
        >>> spec = FieldSpec(3, 4, width=64, hidden_layers=4, encoding=Frequency(10))
        >>> spec.encoded_dim, spec.layer_shapes[0], spec.num_parameters
        (60, (60, 64), 16644)
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
    _packed: ClassVar[tuple[list[int], list[float]] | None]
    _grids: ClassVar[tuple[GridPart, ...]]
    _mlp: ClassVar[FieldSpec]

    def __post_init__(self) -> None:
        for name in ("in_dim", "out_dim", "width"):
            check_size("FieldSpec", name, getattr(self, name))
        check_size("FieldSpec", "hidden_layers", self.hidden_layers, least=0)
        if self.hidden_layers > LIMITS["hidden_layers"]:
            raise ValueError(
                f"FieldSpec: hidden_layers must be at most {LIMITS['hidden_layers']}, got {self.hidden_layers}"
            )
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
        # Computed once and here, not in a functools.cached_property: its lock stops torch.compile.
        object.__setattr__(self, "_layer_shapes", self._find_layer_shapes())
        object.__setattr__(self, "_grids", grids_of(self.encoding, self.in_dim))
        object.__setattr__(self, "_mlp", self._without_grids())
        object.__setattr__(self, "_packed", None if self._grids else self._pack())

    @property
    def encoded_dim(self) -> int:
        """Number of features that the first layer receives from the encoding."""
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
        """Parameters of one module, the tables of its grids included."""
        return sum((rows + 1) * columns for rows, columns in self.layer_shapes) + sum(
            entries * features for entries, features in self.grid_shapes
        )

    @property
    def grids(self) -> tuple[GridPart, ...]:
        """The learned grids of the encoding, in the order of their coordinates; usually none."""
        return self._grids

    @property
    def grid_shapes(self) -> tuple[tuple[int, int], ...]:
        """(entries, features) of every grid's table."""
        return tuple((part.encoding.layout(part.dims).entries, part.encoding.features) for part in self._grids)

    @property
    def mlp(self) -> FieldSpec:
        """The network behind the grids: it takes their features in place of the coordinates that they read.

        It is the spec itself if there is no grid; the layers are the same.
        """
        return self._mlp

    def _without_grids(self) -> FieldSpec:
        if not self._grids:
            return self
        encoding, in_dim = without_grids(self.encoding, self.in_dim)
        return dataclasses.replace(self, encoding=encoding, in_dim=in_dim)

    @property
    def packed(self) -> tuple[list[int], list[float]]:
        """The description that the compiled ops take: integers and floats (`mclnf_fast.packing.PackedNetwork`).

        Raises ValueError if the encoding holds a grid, which is no part of the fused network (see `mlp`).
        """
        if self._packed is None:
            raise ValueError(
                "a spec with a grid has no packed description, got one: use FieldSpec.mlp behind the grids"
            )
        return self._packed

    def _pack(self) -> tuple[list[int], list[float]]:
        parts = self.encoding.parts(0, self.in_dim)
        header = NetworkHeader(
            in_dim=self.in_dim,
            out_dim=self.out_dim,
            width=self.width,
            hidden_layers=self.hidden_layers,
            activation=ACTIVATIONS.index(self.activation),
            output_activation=ACTIVATIONS.index(self.output_activation),
            skips=sum(1 << layer for layer in self.skips),
            encodings=len(parts),
        )
        return PackedNetwork(header, self.w0, parts).pack()


def to_dict(spec: FieldSpec) -> dict[str, object]:
    """Return the spec as plain data (for JSON and YAML); `from_dict` reads it back.

    >>> to_dict(FieldSpec(2, 1, encoding=Frequency(3)))["encoding"]["kind"]
    'Frequency'
    """

    def plain(value: object) -> object:
        if isinstance(value, Encoding):
            fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"kind": type(value).__name__, **fields}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return {f.name: plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}


def from_dict(data: dict[str, object]) -> FieldSpec:
    """Return the spec that `to_dict` described. Raises ValueError or TypeError if the data is no spec.

    >>> spec = FieldSpec(2, 1, encoding=Frequency(3))
    >>> from_dict(to_dict(spec)) == spec
    True
    """
    known = (Identity, Frequency, LogFrequency, SphericalHarmonics, HashGrid, TriPlane, Composite)
    kinds: dict[str, Any] = {c.__name__: c for c in known}

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
