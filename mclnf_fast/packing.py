"""The numbers that stand for names where Python hands a network or a grid to compiled kernels.

This is the one table on the Python side: `FieldSpec.packed`, `GridLayout.packed`, the references and the constants of
the Triton kernels are all made from it. The C++ side is `csrc/names.h`; the op `name_table` reports it as text, and
`name_table` here is the same text, so that one comparison, when the library is loaded, covers every number. A number
written twice could differ without a test going red: a `tanh` network would then run as a `sigmoid` one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple


class Activation(enum.IntEnum):
    """The activations of a network, hidden and output alike.

    The order is part of the format: saved graphs hold the numbers, and the kernels ask for "beyond relu" where an
    activation has a second derivative.

    >>> Activation.TANH.value, Activation.TANH.label
    (4, 'tanh')
    """

    NONE = 0
    RELU = 1
    SINE = 2
    SOFTPLUS = 3
    TANH = 4
    SIGMOID = 5
    EXP = 6

    @property
    def label(self) -> str:
        """The name that a `FieldSpec` takes."""
        return self.name.lower()

    @property
    def curved(self) -> bool:
        """Whether the second derivative is not zero everywhere, so that a kernel must save it."""
        return self > Activation.RELU


class EncodingKind(enum.IntEnum):
    """The fixed encodings that are fused in front of the first layer."""

    IDENTITY = 0
    FREQUENCY = 1
    SPHERICAL = 2


class Interpolation(enum.IntEnum):
    """How a level of a grid is read between its nodes."""

    NEAREST = 0
    LINEAR = 1
    SMOOTHSTEP = 2


class GridReduction(enum.IntEnum):
    """How the features of a grid's levels become one vector: side by side, or added up."""

    CONCAT = 0
    SUM = 1


class GridTable(enum.IntEnum):
    """How a node of a grid's level finds its entry: by its position, or by a hash of it."""

    DENSE = 0
    HASHED = 1


class GridPlacement(enum.IntEnum):
    """Where a grid's nodes lie: the outer ones on the box's border, or all of them half a cell off (tiny-cuda-nn)."""

    BORDER = 0
    HALF_CELL = 1


class DrawRule(enum.IntEnum):
    """How the samples of a step are chosen: `ops.draw_ids`, `ops.bank_fit`."""

    UNIFORM = 0
    EVEN = 1
    WHOLE = 2
    GIVEN = 3
    GUIDED = 4


class FitEnd(enum.IntEnum):
    """Why a module of `ops.bank_fit` makes no further step in a call."""

    STEPS = 0
    TARGET = 1
    DIVERGED = 2
    FROZEN = 3


class Precision(enum.IntEnum):
    """The format of the operands of `ops.bank_fit`'s products, but those of the first layer; sums are fp32."""

    FP32 = 0
    TF32 = 1
    BF16 = 2
    FP16 = 3


class NetworkHeader(NamedTuple):
    """The first integers of a packed network; `skips` is a bit mask of layers, `encodings` counts the parts behind."""

    in_dim: int
    out_dim: int
    width: int
    hidden_layers: int
    activation: int
    output_activation: int
    skips: int
    encodings: int

    @classmethod
    def of(cls, ints: Sequence[int]) -> NetworkHeader:
        """Return the header of packed integers.

        >>> NetworkHeader.of([3, 4, 64, 2, 1, 0, 0, 1, 0, 0, 3, 0, 0]).out_dim
        4
        """
        return cls(*ints[: len(cls._fields)])


class EncodingPart(NamedTuple):
    """One fixed encoding of the coordinates start ... start + dims - 1.

    option: of `FREQUENCY` 1 if the coordinates themselves come first, of `SPHERICAL` the degree. In packed integers the
    number of the frequencies stands in their place, and they follow among the floats.
    """

    kind: int
    start: int
    dims: int
    option: int
    frequencies: tuple[float, ...]


class PackedNetwork(NamedTuple):
    """A network as the compiled ops take it, between `FieldSpec` and the lists of numbers that cross the boundary."""

    header: NetworkHeader
    w0: float
    parts: tuple[EncodingPart, ...]

    def pack(self) -> tuple[list[int], list[float]]:
        """Return the integers and the floats that the ops take.

        >>> part = EncodingPart(EncodingKind.FREQUENCY, 0, 2, 1, (1.0, 2.0))
        >>> PackedNetwork(NetworkHeader(2, 3, 16, 1, 1, 0, 0, 1), 30.0, (part,)).pack()
        ([2, 3, 16, 1, 1, 0, 0, 1, 1, 0, 2, 1, 2], [30.0, 1.0, 2.0])
        """
        # Plain ints: the schemas' `int[]` takes no enumeration while torch.compile traces.
        ints, floats = [int(value) for value in self.header], [float(self.w0)]
        for part in self.parts:
            ints += [int(part.kind), part.start, part.dims, part.option, len(part.frequencies)]
            floats += part.frequencies
        return ints, floats

    @classmethod
    def unpack(cls, ints: Sequence[int], floats: Sequence[float]) -> PackedNetwork:
        """Return the network that `pack` gave the lists of.

        >>> PackedNetwork.unpack([2, 3, 16, 1, 1, 0, 0, 1, 1, 0, 2, 1, 2], [30.0, 1.0, 2.0]).parts[0].frequencies
        (1.0, 2.0)
        """
        header = NetworkHeader.of(ints)
        size, parts, read = len(EncodingPart._fields), [], 1
        for first in range(len(header), len(header) + size * header.encodings, size):
            kind, start, dims, option, count = ints[first : first + size]
            parts.append(EncodingPart(kind, start, dims, option, tuple(floats[read : read + count])))
            read += count
        return cls(header, floats[0], tuple(parts))


class GridHeader(NamedTuple):
    """The first integers of a packed grid: coordinates, coordinates that a level reads, features of a level, and names.

    Of half cells, a level's scale stands among the floats, behind the box.
    """

    dims: int
    axes: int
    features: int
    interpolation: int
    reduction: int
    levels: int
    placement: int

    @classmethod
    def of(cls, ints: Sequence[int]) -> GridHeader:
        """Return the header of packed integers.

        >>> GridHeader.of([3, 2, 8, 1, 1, 3, 0]).outputs
        8
        """
        return cls(*ints[: len(cls._fields)])

    @property
    def outputs(self) -> int:
        """Features of a point."""
        return int(self.features) * (1 if self.reduction == GridReduction.SUM else int(self.levels))


class GridLevelHeader(NamedTuple):
    """The integers of one level of a packed grid; the coordinates that it reads follow."""

    cells: int
    entries: int
    table: int


LIMITS = {
    "hidden_layers": 30,  # `skips` is read as the bits of a 32-bit int
    "spherical_degree": 4,
    "grid_axes": 4,
    "grid_levels": 64,
    "grid_features": 4096,
}
"""The largest values that both sides accept."""


def name_table() -> str:
    """Return every name with its number, in the words of the compiled library's op of the same name.

    >>> name_table().split(";")[:2]
    ['activation.none=0', 'activation.relu=1']
    """
    enumerations = {
        "activation": Activation,
        "encoding": EncodingKind,
        "interpolation": Interpolation,
        "grid_reduction": GridReduction,
        "grid_table": GridTable,
        "grid_placement": GridPlacement,
        "draw_rule": DrawRule,
        "fit_end": FitEnd,
        "precision": Precision,
    }
    records = {
        "net_field": NetworkHeader._fields,
        "encoding_field": EncodingPart._fields,
        "grid_field": GridHeader._fields,
        "grid_level_field": GridLevelHeader._fields,
    }
    groups = {group: {member.name.lower(): member.value for member in kind} for group, kind in enumerations.items()}
    groups |= {group: {name: k for k, name in enumerate(fields)} for group, fields in records.items()}
    groups["limit"] = LIMITS
    return ";".join(f"{group}.{name}={number}" for group, names in groups.items() for name, number in names.items())
