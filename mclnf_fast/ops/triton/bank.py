"""A call over a bank as the Triton kernels take it: its tensors, its tiles, and the sweeps through its layers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mclnf_fast.ops._constants import following, saved_constant
from mclnf_fast.ops.triton import launch, table, tiles
from mclnf_fast.ops.triton.layers import layer_forward, layer_gradient
from mclnf_fast.ops.triton.precision import precision
from mclnf_fast.ops.triton.reduce import ColumnRange, reduce_chunks, scale_gradients

T = TypeVar("T")
SUMS_BYTES = 1 << 28  # of the chunks' sums of all layers at once
# Tensors of a launch: always as many, with nothing to do for those that are missing, so that no number of layers is
# compiled anew.
TENSORS = 16
INTERPRETED_PROGRAMS = 4  # of a persistent grid under the interpreter, which runs them one after another


@functools.lru_cache(maxsize=64)
def programs(device: torch.device, warps: int) -> int:
    """Return about how many programs a device works on at once."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count) * max(1, 16 // warps)


@dataclasses.dataclass
class Bank:
    """A call's tensors, contiguous, and the arguments that every launch over them shares.

    x and what is given with it, outputs and their gradients, biases, the first layer's weights and the gradients of its
    pre-activations are float32; the other weights and what hidden layers pass on may be of a half type, `dtype`.
    """

    net: launch.Network
    x: Tensor
    offsets: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        self.x, self.given = self.x.contiguous(), self.offsets
        self.points = self.x.shape[0]
        self.offsets = self.following("inside", lambda: launch.inside(self.given, self.points))
        self.weights = tuple(t.contiguous() for t in self.weights)
        self.biases = tuple(t.contiguous() for t in self.biases)
        self.modules = self.weights[0].shape[0]
        self.columns = launch.column_table(self.net, self.x.device)
        self.dtype = self.weights[-1].dtype
        self.precision = precision(self.dtype)
        self.table = tiles.tiles(self.x.device)
        self.kind = table.product_kind(self.dtype, self.precision == "tf32")
        self.shared = {"modules": self.modules, "PRECISION": self.precision}

    def following(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return what follows from the offsets and the number of points; computed once for offsets that stay."""
        return following(self.given, (key, self.points), make)

    @property
    def counts(self) -> Tensor:
        """Points of each module, int64 [M]."""
        return self.following("counts", self.offsets.diff)

    def starts(self, size: int) -> Tensor:
        """Return the first piece of each module, int32 [M + 1], with ceil(points / size) pieces each."""
        return self.following(("starts", size), lambda: launch.starts(self.counts, size))

    def saved(self, points: int, layer: int) -> Tensor:
        """Return an empty tensor [points, out] for what a layer makes: in the weights' type, the last's in that of the
        points."""
        last = layer == self.net.layers - 1
        return self.x.new_empty(points, self.net.shapes[layer][1], dtype=self.x.dtype if last else self.dtype)

    def saved_gradient(self, points: int, layer: int) -> Tensor:
        """Return an empty tensor [points, out] for the gradients of a hidden layer's pre-activations, which a product
        with half weights takes in their type."""
        return self.x.new_empty(points, self.net.width, dtype=self.dtype if layer > 0 else self.x.dtype)

    def tile(self, shapes: table.ShapePair) -> tuple[table.Shape, int]:
        """Return the shape for modules of this size, and an upper bound of the tiles."""
        shape = shapes[launch.small_modules(self.points, self.modules, shapes[0].rows)]
        return shape, launch.most_tiles(self.points, self.modules, shape.rows)

    def grid(self, work: int, shape: table.Shape) -> tuple[int]:
        """Return the grid of a launch whose programs share `work` pieces of work."""
        return launch.grid(work, programs(self.x.device, shape.warps))

    def layer_block(self, shape: table.Shape) -> launch.BlockSize:
        """Return the block of the kernels that go layer by layer."""
        return launch.BlockSize(shape.rows, self.table.columns, self.table.depth)

    @property
    def layer_options(self) -> dict[str, int]:
        """The compiler's options of these kernels."""
        return {"num_warps": self.table.layer.warps, "num_stages": self.table.layer.stages}

    def weight_gradient_block(self) -> launch.BlockSize:
        """Return the block of the kernels that sum a weight gradient; it is square."""
        side, depth = self.table.weight_gradient[self.kind]
        return launch.BlockSize(side, side, depth)

    def pieces(self, values: int) -> list[tuple[slice, Bank]]:
        """Return the bank over its points, or over a share of them at a time if each saves `values` values; none
        without a point. Nothing is read from the device: a module's share of a piece is its offsets cut to the
        piece."""
        ranges = launch.pieces(self.points, values)
        if len(ranges) == 1:
            return [(slice(0, self.points), self)]
        return [
            (
                slice(first, last),
                dataclasses.replace(self, x=self.x[first:last], offsets=(self.offsets - first).clamp(0, last - first)),
            )
            for first, last in ranges
        ]

    def on_device(self) -> contextlib.AbstractContextManager[Any]:
        return on_device(self.x.device)


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which launches go to a device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def layer_shape(bank: Bank) -> tuple[table.Shape, int]:
    """Return the tile of the kernels that go layer by layer, and an upper bound of the tiles."""
    large = bank.table.layer
    return bank.tile((large, dataclasses.replace(large, rows=table.SMALL_TILE)))


def layer_chunks(bank: Bank) -> tuple[Tensor, int, int]:
    """Return the first chunk of every module, int32 [M + 1], an upper bound of the chunks, and the points of one."""
    shape, tiles = layer_shape(bank)
    per_chunk = launch.tiles_per_chunk(tiles) * shape.rows
    return bank.starts(per_chunk), launch.most_tiles(bank.points, bank.modules, per_chunk), per_chunk


def layers(bank: Bank, save: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs of every layer, [N, out] each, and with `save` the derivatives of its activation."""
    net, x = bank.net, bank.x
    shape, tiles = layer_shape(bank)
    starts = bank.starts(shape.rows)
    outputs: list[Tensor] = []
    derivatives: list[Tensor] = []
    for l, (_, out) in enumerate(net.shapes):
        outputs.append(bank.saved(bank.points, l))
        derivatives.append(bank.saved(bank.points if save else 0, l))
        layer_forward[bank.grid(tiles * -(-out // bank.table.columns), shape)](
            outputs[l - 1] if l > 0 else bank.weights[-1],  # in their type, and not read
            x,
            outputs[l],
            derivatives[l],
            bank.offsets,
            starts,
            bank.columns,
            bank.weights[l],
            bank.biases[l],
            **net.sizes(l)._asdict(),
            activation=net.activation_of(l),
            w0=net.w0,
            LAYER=net.layer(l),
            SAVE=save,
            BLOCK=bank.layer_block(shape),
            **bank.shared,
            **bank.layer_options,
        )
    return outputs, derivatives


def backward_sweep(
    bank: Bank, grad_y: Tensor | Callable[[Tensor], Tensor], features: Tensor | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield, from the last layer to the first, its number, its inputs from the layer before (x for the first),
    [N, width], and the gradients d of its pre-activations, [N, out].

    grad_y: [N, outputs], or a function that forms it from the outputs. features: float32 [N, features], receives the
    gradients of the features.
    """
    net, x = bank.net, bank.x
    outputs, derivatives = layers(bank, save=True)
    shape, tiles = layer_shape(bank)
    starts = bank.starts(shape.rows)
    d = grad_y if isinstance(grad_y, Tensor) else grad_y(outputs[-1])
    d = d * derivatives[-1] if net.output_activation else d

    def inputs_gradient(l: int, inputs: launch.InputRange, to: Tensor, derivative: Tensor | None) -> None:
        layer_gradient[bank.grid(tiles * -(-inputs.size // bank.table.columns), shape)](
            d,
            to if derivative is None else derivative,
            to,
            bank.offsets,
            starts,
            bank.weights[l],
            **net.inputs_gradient(inputs, net.shapes[l][1]),
            ACTIVATED=derivative is not None,
            MORE=derivative is None,  # the features' add up over the layers that take them
            BLOCK=bank.layer_block(shape),
            **bank.shared,
            **bank.layer_options,
        )

    for l in reversed(range(net.layers)):
        yield l, outputs[l - 1] if l > 0 else x, d
        if features is not None and net.below(l):
            inputs_gradient(l, net.inputs_below(l), features, None)
        if l > 0:
            g = bank.saved_gradient(bank.points, l - 1)
            inputs_gradient(l, net.inputs_above(l), g, derivatives[l - 1])
            d = g


class Sums(NamedTuple):
    """What a tensor [M, ...] receives: the chunks' sums [chunks, total] from column `first` on, added up per module."""

    sums: Tensor
    first: int
    to: Tensor


def reduce(
    bank: Bank, parts: Sequence[Sums], chunks: Tensor, factors: Tensor | None = None, more: bool = False
) -> None:
    """Add up the chunks' sums of several tensors in one launch, times the modules' factors float32 [M]; `more`: added
    to what is there."""
    for places in _launches(parts, [part.to.dtype for part in parts]):
        columns = tuple(
            ColumnRange(part.first, part.to[0].numel(), part.sums.shape[1]) if taken else ColumnRange(0, 0, 0)
            for part, taken in places
        )
        block = launch.reduced_block(max(c.size for c in columns), 1024)
        blocks = sum(-(-c.size // block) for c in columns)
        reduce_chunks[bank.grid(bank.modules * blocks, table.Shape(block, 4))](
            tuple(part.sums for part, _ in places),
            chunks,
            tuple(part.to for part, _ in places),
            saved_constant(columns, torch.int32, bank.x.device),
            parts[0].sums if factors is None else factors,
            bank.modules,
            scaled=int(factors is not None),
            more=int(more),
            TENSORS=TENSORS,
            BLOCK=block,
        )


def _launches(parts: Sequence[T], dtypes: Sequence[torch.dtype]) -> Iterator[list[tuple[T, bool]]]:
    """Yield, for one launch after another, a part for each of its places, and whether it is taken: others are not read.

    Parts of one dtype have the same places whatever the number of layers, which so is not compiled anew. A half bank of
    8 layers has 7 tensors of a half type and 9 of float32.
    """
    wide = [part for part, dtype in zip(parts, dtypes) if dtype == torch.float32]
    half = [part for part, dtype in zip(parts, dtypes) if dtype != torch.float32]
    shares = [(wide, TENSORS // 2 + 1), (half, TENSORS // 2 - 1)] if wide and half else [(wide or half, TENSORS)]
    for launched in range(max(-(-len(group) // size) for group, size in shares)):
        places: list[tuple[T, bool]] = []
        for group, size in shares:
            some = group[launched * size : (launched + 1) * size]
            places += [(part, True) for part in some] + (size - len(some)) * [(group[0], False)]
        yield places


class LayerSums:
    """The chunks' sums of one layer's weight gradient after another, added up in one launch if all of them fit a bound
    of memory, else layer by layer."""

    def __init__(self, bank: Bank, chunks: Tensor, most: int, factors: Tensor | None, more: bool) -> None:
        self.bank, self.chunks, self.most, self.factors, self.more = bank, chunks, most, factors, more
        self.together = 4 * most * bank.net.parameters <= SUMS_BYTES
        self.parts: list[Sums] = []

    def of_layer(self, l: int) -> Tensor:
        """Return unset sums of a layer, float32 [chunks, (in + 1) out]: of its weights, then of its biases."""
        rows, out = self.bank.net.shapes[l]
        return torch.empty(self.most, (rows + 1) * out, dtype=torch.float32, device=self.bank.x.device)

    def add(self, sums: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Add up a layer's sums, now or in `finish`."""
        self.parts += [Sums(sums, 0, weight), Sums(sums, weight[0].numel(), bias)]
        if not self.together:
            self.finish()

    def finish(self) -> None:
        """Add up what is left."""
        reduce(self.bank, self.parts, self.chunks, self.factors, self.more)
        self.parts = []


def scaled(gradients: Sequence[Tensor], factors: Tensor, dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """Return gradients [M, ...] times their module's factor [M], of these types, in one launch."""
    gradients = [g.contiguous() for g in gradients]
    to = [torch.empty_like(g, dtype=dtype) for g, dtype in zip(gradients, dtypes)]
    modules, factors = len(factors), factors.contiguous()
    with on_device(factors.device):
        for places in _launches(list(zip(gradients, to)), dtypes):
            sizes = tuple(g[0].numel() if taken else 0 for (g, _), taken in places)
            work = launch.grid(-(-modules * max(sizes) // 1024), programs(factors.device, 4))
            scale_gradients[work](
                tuple(g for (g, _), _ in places),
                factors,
                tuple(t for (_, t), _ in places),
                saved_constant(sizes, torch.int32, factors.device),
                modules,
                TENSORS=TENSORS,
                BLOCK=1024,
            )
    return to


def totals(grads: list[Tensor], pieces: int) -> list[Tensor]:
    """Return the tensors that gradients are added up in, float32 if there are several pieces: `finish` rounds them
    once, where a sum in a half type would lose what each piece adds."""
    return [g if pieces == 1 or g.dtype == torch.float32 else torch.empty_like(g, dtype=torch.float32) for g in grads]


def finish(grads: list[Tensor], sums: list[Tensor]) -> None:
    """Round the sums of `totals` into the gradients."""
    for grad, total in zip(grads, sums):
        if grad is not total:
            grad.copy_(total)
