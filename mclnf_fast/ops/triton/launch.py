"""From an op's arguments to launches: constants of the network, tiles, chunks, grids. Pure arithmetic; nothing here
needs Triton or a GPU."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops._constants import saved_constant
from mclnf_fast.packing import EncodingKind, PackedNetwork

CHUNKS = 512  # of all modules together, about: four a multiprocessor
# What a sweep layer by layer keeps of its points at once: activations of 256 MiB in float32, but not fewer points than
# keep a large GPU busy.
PIECE_VALUES = 1 << 26
PIECE_POINTS = 1 << 15


def padded(size: int, least: int = 16) -> int:
    """The power of two that a matrix instruction takes `size` values as."""
    found = least
    while found < size:
        found *= 2
    return found


@dataclasses.dataclass(frozen=True)
class Network:
    """What a packed description says (`FieldSpec.packed`), as the kernels' constants take it."""

    inputs: int
    outputs: int
    width: int
    layers: int
    activation: int
    output_activation: int
    skips: int
    w0: float
    columns: tuple[tuple[float, float, float], ...]
    """Of each feature: the coordinate that it reads, its frequency, and 0 for a sine, 0.5 for a cosine, -1 for the
    coordinate itself."""

    @property
    def features(self) -> int:
        return len(self.columns)

    @property
    def widest(self) -> int:
        """The padded width of the widest matrix."""
        return padded(max(self.width, self.features, self.outputs))

    @property
    def held(self) -> int:
        """Padded columns of activations that a backward holds at once: the features, twice where layers skip to them,
        and the hidden layers."""
        return padded(self.features) * (2 if self.skips else 1) + (self.layers - 1) * padded(self.width)

    @property
    def products(self) -> int:
        """Padded columns of all products of a forward, two for a layer that skips to the features."""
        skips = sum(self.skips >> l & 1 for l in range(1, self.layers))
        return (self.layers - 1 + skips) * padded(self.width) + padded(self.outputs)

    def activation_of(self, layer: int) -> int:
        """Return the number of a layer's activation."""
        return self.output_activation if layer == self.layers - 1 else self.activation

    def below(self, layer: int) -> int:
        """Features that a layer takes: all, as its only inputs or behind the layer before's, or none."""
        return self.features if layer == 0 or self.skips >> layer & 1 else 0

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of every layer."""
        found = []
        for l in range(self.layers):
            rows = (self.width if l > 0 else 0) + self.below(l)
            found.append((rows, self.outputs if l == self.layers - 1 else self.width))
        return tuple(found)

    @property
    def parameters(self) -> int:
        """Parameters of one module."""
        return sum((rows + 1) * columns for rows, columns in self.shapes)

    def constants(self) -> dict[str, int | float]:
        """The constants that the fused kernels share."""
        return {
            "IN": self.inputs,
            "OUT": self.outputs,
            "FEATURES": self.features,
            "WIDTH": self.width,
            "LAYERS": self.layers,
            "SKIPS": self.skips,
            "ACTIVATION": self.activation,
            "OUTPUT": self.output_activation,
            "W0": self.w0,
            "FEATURES_PAD": padded(self.features),
            "WIDTH_PAD": padded(self.width),
            "OUT_PAD": padded(self.outputs),
        }


def network(ints: Sequence[int], floats: Sequence[float]) -> Network:
    """Reads a packed description. Raises ValueError for an encoding that has no table of columns."""
    return _network(tuple(ints), tuple(floats))


@functools.lru_cache(maxsize=256)
def _network(ints: tuple[int, ...], floats: tuple[float, ...]) -> Network:
    header, w0, parts = PackedNetwork.unpack(ints, floats)
    columns: list[tuple[float, float, float]] = []
    for kind, start, dims, option, frequencies in parts:
        coordinates = range(start, start + dims)
        if kind == EncodingKind.SPHERICAL:
            raise ValueError("the Triton kernels encode coordinates and waves of them, got another encoding")
        if kind == EncodingKind.IDENTITY or option:
            columns += [(float(d), 0.0, -1.0) for d in coordinates]
        for frequency in frequencies:
            columns += [(float(d), frequency, half) for half in (0.0, 0.5) for d in coordinates]
    return Network(
        inputs=header.in_dim,
        outputs=header.out_dim,
        width=header.width,
        layers=header.hidden_layers + 1,
        activation=header.activation,
        output_activation=header.output_activation,
        skips=header.skips,
        w0=float(w0),
        columns=tuple(columns),
    )


def column_table(net: Network, device: torch.device) -> Tensor:
    """`Network.columns` as the kernels read them, float32 [3, features]; copied to the device once and kept."""
    return saved_constant(tuple(zip(*net.columns)), torch.float32, device)


def inside(offsets: Tensor, points: int) -> Tensor:
    """The offsets [M + 1], such that no module reaches beyond the points: on a GPU their values are not looked at, and
    wrong ones must not lead a kernel out of its arrays. Right ones stay as they are."""
    return offsets.clamp(0, points).cummax(0).values


def halvings(modules: int) -> int:
    """Steps that find one of `modules`."""
    return max(1, (max(modules, 1) - 1).bit_length())


def small_modules(points: int, modules: int, rows: int) -> bool:
    """Whether most of a tile of `rows` would be empty, modules being as small as they are."""
    return 2 * points < rows * modules


def most_tiles(points: int, modules: int, rows: int) -> int:
    """Tiles at most, whatever the modules' shares: each has one that is not full."""
    return points // rows + min(modules, points)


def starts(counts: Tensor, size: int | Tensor) -> Tensor:
    """Where the pieces of each module begin, int32 [M + 1], pieces being ceil(count / size); on the counts' device."""
    pieces = (counts + (size - 1)) // size
    return torch.nn.functional.pad(pieces.cumsum(0), (1, 0)).to(torch.int32)


def tiles_a_chunk(tiles: int) -> int:
    """Tiles whose sums one program keeps; set by the problem alone, so that the bits are."""
    return max(1, -(-tiles // CHUNKS))


def pieces(points: int, values: int) -> list[tuple[int, int]]:
    """Ranges of points that are gone through one after another, where each point keeps so many values. A multiple of
    128 points, so that each piece is as well aligned as the first."""
    most = max(PIECE_POINTS, PIECE_VALUES // max(values, 1))
    size = -(-points // (128 * -(-points // most))) * 128 if points > 0 else 1
    return [(first, min(first + size, points)) for first in range(0, points, size)]


def grid(work: int, programs: int) -> tuple[int]:
    """A persistent grid: no more programs than there is work, and at least one."""
    return (max(1, min(work, programs)),)


def outer_blocks(net: Network, layer: int, size: int) -> int:
    """Blocks of `size` inputs times `size` outputs of a layer's weight gradient, the features apart from the inputs of
    the layer before."""
    above = net.width if layer > 0 else 0
    high = -(-above // size) + -(-net.below(layer) // size)
    return high * -(-net.shapes[layer][1] // size)
