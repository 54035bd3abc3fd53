"""A call over a bank as the Triton kernels take it: its tensors, its tiles, and the walk through its layers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops.triton import launch, table, tiles
from mclnf_fast.ops.triton.layers import layer_forward, layer_gradient
from mclnf_fast.ops.triton.reduce import reduce_chunks

INTERPRETED_PROGRAMS = 4  # of a persistent grid under the interpreter, which runs them one after another


def layer_options(own: table.Tiles) -> dict[str, Any]:
    """What the kernels that go layer by layer take of a table."""
    return {
        "COLUMNS": own.columns,
        "DEPTH": own.depth,
        "num_warps": own.layer.warps,
        "num_stages": own.layer.stages,
    }


LAYER_OPTIONS = layer_options(table.AMPERE)  # of kernels that `tune` does not time


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: as torch's own matrix products are told to."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


@functools.lru_cache(maxsize=64)
def programs(device: torch.device, warps: int) -> int:
    """Programs that a device works on at once, about."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count) * max(1, 16 // warps)


@dataclasses.dataclass
class Bank:
    """A call's tensors, contiguous, and what every launch over them takes."""

    net: launch.Network
    x: Tensor
    offsets: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        self.x, self.offsets = self.x.contiguous(), launch.inside(self.offsets, self.x.shape[0])
        self.weights = tuple(t.contiguous() for t in self.weights)
        self.biases = tuple(t.contiguous() for t in self.biases)
        self.points, self.modules = self.x.shape[0], self.weights[0].shape[0]
        self.counts = self.offsets.diff()
        self.columns = launch.column_table(self.net, self.x.device)
        self.precision = precision(self.x.dtype)
        self.table = tiles.tiles(self.x.device)
        self.layer_options = layer_options(self.table)
        self.kind = table.product_kind(self.x.dtype, self.precision == "tf32")
        self.shared = {"modules": self.modules, "STEPS": launch.halvings(self.modules), "PRECISION": self.precision}

    def tile(self, shapes: tuple[table.Shape, table.Shape]) -> tuple[table.Shape, int]:
        """The shape for modules of this size, and the most tiles that there are."""
        shape = shapes[launch.small_modules(self.points, self.modules, shapes[0].rows)]
        return shape, launch.most_tiles(self.points, self.modules, shape.rows)

    def grid(self, work: int, shape: table.Shape) -> tuple[int]:
        return launch.grid(work, programs(self.x.device, shape.warps))

    def outer(self) -> tuple[int, dict[str, Any]]:
        """The side of a weight gradient's blocks, and the options of a kernel that sums them."""
        side, depth = self.table.outer[self.kind]
        return side, {**self.layer_options, "ROWS": side, "COLUMNS": side, "DEPTH": depth}

    def pieces(self, values: int) -> list[tuple[slice, Bank]]:
        """The bank over its points, or a share of them at a time where each keeps `values` values; no point, no piece.
        Nothing is read from the device: a module's share of a piece is its offsets cut to the piece."""
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
        return torch.cuda.device(self.x.device) if self.x.device.type == "cuda" else contextlib.nullcontext()


def layer_shape(bank: Bank) -> tuple[table.Shape, int]:
    large = bank.table.layer
    return bank.tile((large, dataclasses.replace(large, rows=table.SMALL_TILE)))


def layer_chunks(bank: Bank) -> tuple[Tensor, int, int]:
    """Where every module's chunks begin, int32 [M + 1], the most chunks that there are, and the points of one."""
    shape, tiles = layer_shape(bank)
    per_chunk = launch.tiles_a_chunk(tiles) * shape.rows
    return launch.starts(bank.counts, per_chunk), launch.most_tiles(bank.points, bank.modules, per_chunk), per_chunk


def layers(bank: Bank, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of every layer, [N, out] each, and with `keep` the derivatives of its activation."""
    net, x = bank.net, bank.x
    shape, tiles = layer_shape(bank)
    starts = launch.starts(bank.counts, shape.rows)
    outputs: list[Tensor] = []
    slopes: list[Tensor] = []
    for l, (_, out) in enumerate(net.shapes):
        outputs.append(x.new_empty(bank.points, out))
        slopes.append(x.new_empty(bank.points if keep else 0, out))
        layer_forward[bank.grid(tiles * -(-out // bank.table.columns), shape)](
            outputs[l - 1] if l > 0 else x,
            x,
            outputs[l],
            slopes[l],
            bank.offsets,
            starts,
            bank.columns,
            bank.weights[l],
            bank.biases[l],
            IN=net.inputs,
            FEATURES=net.features,
            ABOVE=net.width if l > 0 else 0,
            BELOW=net.below(l),
            OUT=out,
            KIND=net.activation_of(l),
            W0=net.w0,
            KEEP=keep,
            ROWS=shape.rows,
            **bank.shared,
            **bank.layer_options,
        )
    return outputs, slopes


def backward_walk(
    bank: Bank, grad_y: Tensor | Callable[[Tensor], Tensor], features: Tensor | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """From the last layer to the first: its number, what it takes from the layer before (x for the first), [N, width],
    and the gradients d of its sums, [N, out]. grad_y [N, outputs], or what forms it from the outputs. features float32
    [N, features]: receives those of the features."""
    net, x = bank.net, bank.x
    outputs, slopes = layers(bank, keep=True)
    shape, tiles = layer_shape(bank)
    starts = launch.starts(bank.counts, shape.rows)
    d = grad_y if isinstance(grad_y, Tensor) else grad_y(outputs[-1])
    d = d * slopes[-1] if net.output_activation else d

    def inputs_of(l: int, first: int, count: int, to: Tensor, sloped: Tensor | None) -> None:
        rows, out = net.shapes[l]
        layer_gradient[bank.grid(tiles * -(-count // bank.table.columns), shape)](
            d,
            to if sloped is None else sloped,
            to,
            bank.offsets,
            starts,
            bank.weights[l],
            FIRST=first,
            COUNT=count,
            INPUTS=rows,
            OUT=out,
            SLOPED=sloped is not None,
            MORE=sloped is None,  # the features' add up over the layers that take them
            ROWS=shape.rows,
            **bank.shared,
            **bank.layer_options,
        )

    for l in reversed(range(net.layers)):
        yield l, outputs[l - 1] if l > 0 else x, d
        if features is not None and net.below(l):
            inputs_of(l, net.width if l > 0 else 0, net.features, features, None)
        if l > 0:
            g = x.new_empty(bank.points, net.width)
            inputs_of(l, 0, net.width, g, slopes[l - 1])
            d = g


def reduce(
    bank: Bank,
    sums: Tensor,
    chunks: Tensor,
    first: int,
    grad: Tensor,
    factors: Tensor | None = None,
    more: bool = False,
) -> None:
    """grad [M, ...] = the chunks' sums [chunks, parameters] from column `first` on, added up a module, times the
    modules' factors float32 [M]; `more`: added to what is there."""
    size = grad[0].numel()
    block = min(1024, launch.padded(size))
    shape = table.Shape(block, 4)
    reduce_chunks[bank.grid(bank.modules * -(-size // block), shape)](
        sums,
        chunks,
        grad,
        first,
        bank.modules,
        PARAMETERS=sums.shape[1],
        SIZE=size,
        BLOCK=block,
        factors=sums if factors is None else factors,
        SCALED=factors is not None,
        MORE=more,
    )


def totals(grads: list[Tensor], pieces: int) -> list[Tensor]:
    """Where gradients are added up piece by piece: in float32. `finish` rounds them where that is not their type."""
    return [g if pieces == 1 or g.dtype == torch.float32 else torch.empty_like(g, dtype=torch.float32) for g in grads]


def finish(grads: list[Tensor], found: list[Tensor]) -> None:
    for grad, total in zip(grads, found):
        if grad is not total:
            grad.copy_(total)
