"""From an op's arguments to launches: constants of the network, tiles, chunks, grids.

Pure arithmetic: it needs neither Triton nor a GPU, so that tests of it run everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mclnf_fast.ops._constants import saved_constant
from mclnf_fast.packing import EncodingKind, PackedNetwork

CHUNKS = 512  # of all modules together, about: four per multiprocessor
# A sweep layer by layer saves activations of so many points at once: 256 MiB in float32, but not fewer points than keep
# a large GPU busy.
PIECE_VALUES = 1 << 26
PIECE_POINTS = 1 << 15
# Features that the fused kernels multiply at a time. Their product holds them twice beside the originals: 128 would
# fill the registers.
FEATURES_BLOCK = 64


def padded(size: int, least: int = 16) -> int:
    """Return the power of two that a matrix instruction takes `size` values as.

    >>> padded(60), padded(3)
    (64, 16)
    """
    power = least
    while power < size:
        power *= 2
    return power


class NetworkConstants(NamedTuple):
    """A network as the fused kernels take it, one compile-time constant in place of fourteen."""

    coordinates: int
    features: int
    width: int
    outputs: int
    layers: int
    skips: int
    activation: int
    output_activation: int
    w0: float
    coordinates_pad: int
    features_pad: int
    features_block: int
    width_pad: int
    outputs_pad: int
    parameters: int


class LayerConstants(NamedTuple):
    """What a kernel is compiled for that goes layer by layer: the sizes and the activation of one layer, or -1 for each
    that is an argument of the launch (`LayerSizes`).

    Inputs: `above` come from the layer before, `below` are features behind them. multiple: what `above` and `outputs`
    are multiples of, if they are arguments.
    """

    coordinates: int
    features: int
    above: int
    below: int
    outputs: int
    activation: int
    multiple: int


class LayerSizes(NamedTuple):
    """The sizes of a layer as arguments of a launch."""

    coordinates: int
    features: int
    above: int
    below: int
    outputs: int


def multiple(*sizes: int) -> int:
    """Return 8 if all sizes are multiples of that, else 1: rows of so many numbers are loaded 16 bytes at a time.

    >>> multiple(40, 24), multiple(40, 3)
    (8, 1)
    """
    return 8 if all(size % 8 == 0 for size in sizes) else 1


class InputRange(NamedTuple):
    """Some of a layer's inputs: first ... first + size - 1 of `total`."""

    first: int
    size: int
    total: int


class BlockSize(NamedTuple):
    """The block of a matrix product that a program works on; `depth` is what its sum goes by at a time."""

    rows: int
    columns: int
    depth: int


@dataclasses.dataclass(frozen=True)
class Network:
    """A packed description (`FieldSpec.packed`) as the launches take it."""

    inputs: int
    outputs: int
    width: int
    layers: int
    activation: int
    output_activation: int
    skips: int
    w0: float
    columns: tuple[tuple[float, float, float], ...]
    """For each feature: the coordinate that it reads, its frequency, and 0 for a sine, 0.5 for a cosine, -1 for the
    coordinate itself."""

    @property
    def features(self) -> int:
        return len(self.columns)

    @property
    def widest(self) -> int:
        """Padded width of the widest matrix."""
        return padded(max(self.width, self.features, self.outputs))

    @property
    def saved(self) -> int:
        """Padded columns of activations that a backward holds in registers at once: the features (if layers skip to
        them once more, and in the float32 of the first layer's gradients) and the hidden layers."""
        return padded(self.features) * (3 if self.skips else 1) + (self.layers - 1) * padded(self.width)

    @property
    def products(self) -> int:
        """Padded columns of all products of a forward. The features are multiplied in two parts, and in blocks."""
        takers = sum(self.below(l) > 0 for l in range(self.layers))
        of_features = 2 * -(-padded(self.features) // FEATURES_BLOCK) * takers
        return (self.layers - 2 + of_features) * padded(self.width) + padded(self.outputs)

    def activation_of(self, layer: int) -> int:
        """Return the number of a layer's activation."""
        return self.output_activation if layer == self.layers - 1 else self.activation

    def below(self, layer: int) -> int:
        """Return the features that a layer takes: all, as its only inputs or behind the layer before's, or none."""
        return self.features if layer == 0 or self.skips >> layer & 1 else 0

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of every layer."""
        shapes = []
        for l in range(self.layers):
            rows = (self.width if l > 0 else 0) + self.below(l)
            shapes.append((rows, self.outputs if l == self.layers - 1 else self.width))
        return tuple(shapes)

    @property
    def parameters(self) -> int:
        """Parameters of one module."""
        return sum((rows + 1) * columns for rows, columns in self.shapes)

    def constants(self) -> NetworkConstants:
        """Return the constants that the fused kernels share."""
        return NetworkConstants(
            coordinates=self.inputs,
            features=self.features,
            width=self.width,
            outputs=self.outputs,
            layers=self.layers,
            skips=self.skips,
            activation=self.activation,
            output_activation=self.output_activation,
            w0=self.w0,
            coordinates_pad=padded(self.inputs),
            features_pad=padded(self.features),
            features_block=min(padded(self.features), FEATURES_BLOCK),
            width_pad=padded(self.width),
            outputs_pad=padded(self.outputs),
            parameters=self.parameters,
        )

    @property
    def known(self) -> bool:
        """Whether the kernels that go layer by layer are compiled for this network's sizes: widths that are multiples
        of 64. Those of any other width, in which a stride is a number of the launch, take up to 80 registers more."""
        return self.width % 64 == 0

    def sizes(self, layer: int) -> LayerSizes:
        """Return the sizes of one layer."""
        above = self.width if layer > 0 else 0
        return LayerSizes(self.inputs, self.features, above, self.below(layer), self.shapes[layer][1])

    def layer(self, layer: int, activated: bool = True) -> LayerConstants:
        """Return the constants of one layer; `activated`: for a kernel that applies its activation."""
        sizes = self.sizes(layer)
        if self.known:
            return LayerConstants(*sizes, self.activation_of(layer) if activated else -1, 1)
        return LayerConstants(-1, -1, -1, -1, -1, -1, multiple(sizes.above, sizes.outputs))

    def inputs_gradient(self, inputs: InputRange, outputs: int) -> dict[str, Any]:
        """Return the arguments of a kernel that forms the gradients of some of a layer's inputs."""
        sizes = {"first_input": inputs.first, "size": inputs.size, "inputs": inputs.total, "outputs": outputs}
        if self.known:
            return {**sizes, "INPUTS": inputs, "OUTPUTS": outputs, "MULTIPLE": 1}
        unknown = InputRange(-1, -1, -1)
        return {**sizes, "INPUTS": unknown, "OUTPUTS": -1, "MULTIPLE": multiple(inputs.size, outputs)}

    def inputs_above(self, layer: int) -> InputRange:
        """Return the inputs of a layer that come from the layer before."""
        return InputRange(0, self.width, self.shapes[layer][0])

    def inputs_below(self, layer: int) -> InputRange:
        """Return the inputs of a layer that are features."""
        return InputRange(self.width if layer > 0 else 0, self.features, self.shapes[layer][0])


def network(ints: Sequence[int], floats: Sequence[float]) -> Network:
    """Return the network of a packed description. Raises ValueError for an encoding that has no table of columns."""
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
    """Return `Network.columns` as the kernels read them, float32 [3, features]; copied to the device once for good."""
    return saved_constant(tuple(zip(*net.columns)), torch.float32, device)


def inside(offsets: Tensor, points: int) -> Tensor:
    """Return the offsets [M + 1] such that no module reaches beyond the points.

    On a GPU their values are not read, which would wait for the device, and wrong ones must not lead a kernel out of
    its arrays. Right ones stay as they are.
    """
    return offsets.clamp(0, points).cummax(0).values


def small_modules(points: int, modules: int, rows: int) -> bool:
    """Return whether most of a tile of `rows` would be empty, because the modules are so small."""
    return 2 * points < rows * modules


def most_tiles(points: int, modules: int, rows: int) -> int:
    """Return an upper bound of the tiles, whatever the modules' shares: each has at most one that is not full."""
    return points // rows + min(modules, points)


def starts(counts: Tensor, size: int | Tensor) -> Tensor:
    """Return the first piece of each module, int32 [M + 1], with ceil(count / size) pieces each; on the counts'
    device."""
    pieces = (counts + (size - 1)) // size
    return torch.nn.functional.pad(pieces.cumsum(0), (1, 0)).to(torch.int32)


def tiles_per_chunk(tiles: int) -> int:
    """Return the tiles whose sums one program adds up; set by the problem alone, so that the bits are."""
    return max(1, -(-tiles // CHUNKS))


def pieces(points: int, values: int) -> list[tuple[int, int]]:
    """Return ranges of points to be worked on one after another, if each point saves so many values.

    Each has a multiple of 128 points, so that every piece is as well aligned as the first.
    """
    most = max(PIECE_POINTS, PIECE_VALUES // max(values, 1))
    size = -(-points // (128 * -(-points // most))) * 128 if points > 0 else 1
    return [(first, min(first + size, points)) for first in range(0, points, size)]


def grid(work: int, programs: int) -> tuple[int]:
    """Return a persistent grid: no more programs than there is work, and at least one."""
    return (max(1, min(work, programs)),)


def columns(size: int) -> int:
    """Return the columns that a kernel takes at a time of `size` coordinates: 16 or 64, since each number is compiled
    apart.

    >>> columns(3), columns(60)
    (16, 64)
    """
    return 16 if size <= 16 else 64


def reduced_block(size: int, most: int) -> int:
    """Return the sums that a reduction of `size` takes at a time: one per thread of four warps, or `most`. No other,
    since each is compiled apart.

    >>> reduced_block(3, 1024), reduced_block(4096, 1024)
    (128, 1024)
    """
    return 128 if size <= 128 else most


def weight_gradient_blocks(net: Network, layer: int, size: int) -> int:
    """Return the number of blocks of `size` inputs times `size` outputs of a layer's weight gradient, the features
    apart from the inputs of the layer before."""
    above = net.width if layer > 0 else 0
    high = -(-above // size) + -(-net.below(layer) // size)
    return high * -(-net.shapes[layer][1] // size)
