"""The ops that launch the Triton kernels, `mclnf_fast_triton::bank_mlp_fwd` and `bank_mlp_bwd`: on CUDA tensors, and on
CPU tensors where Triton interprets (TRITON_INTERPRET=1)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops.bank_mlp import reference
from mclnf_fast.ops.bank_mlp.triton import launch, plain, table
from mclnf_fast.ops.bank_mlp.triton.backward import fused_backward, reduce_chunks
from mclnf_fast.ops.bank_mlp.triton.forward import fused_forward
from mclnf_fast.ops.bank_mlp.triton.layers import layer_forward, layer_gradient, layer_outer
from mclnf_fast.spec import FieldSpec, Identity

INTERPRETED_PROGRAMS = 4  # of a persistent grid under the interpreter, which runs them one after another


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
        self.x, self.offsets = self.x.contiguous(), self.offsets.contiguous()
        self.weights = tuple(t.contiguous() for t in self.weights)
        self.biases = tuple(t.contiguous() for t in self.biases)
        self.points, self.modules = self.x.shape[0], self.weights[0].shape[0]
        self.counts = self.offsets.diff()
        self.columns = launch.column_table(self.net, self.x.device)
        self.precision = precision(self.x.dtype)
        self.kind = table.product_kind(self.x.dtype, self.precision == "tf32")
        self.shared = {"modules": self.modules, "STEPS": launch.halvings(self.modules), "PRECISION": self.precision}

    def tile(self, shapes: tuple[table.Shape, table.Shape]) -> tuple[table.Shape, int]:
        """The shape for modules of this size, and the most tiles that there are."""
        shape = shapes[launch.small_modules(self.points, self.modules, shapes[0].rows)]
        return shape, launch.most_tiles(self.points, self.modules, shape.rows)

    def grid(self, work: int, shape: table.Shape) -> tuple[int]:
        return launch.grid(work, programs(self.x.device, shape.warps))

    def on_device(self) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.device(self.x.device) if self.x.device.type == "cuda" else contextlib.nullcontext()


def forward(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    ints: list[int],
    floats: list[float],
) -> Tensor:
    """y [N, out_dim]; arguments as `bank_mlp_fwd`."""
    net = launch.network(ints, floats)
    if x.shape[0] == 0:
        return x.new_empty(0, net.outputs)
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    with bank.on_device():
        shapes = table.forward_shapes(bank.kind, net.widest)
        if shapes is None:
            return _layers(bank, keep=False)[0][-1]
        y = x.new_empty(bank.points, net.outputs)
        shape, tiles = bank.tile(shapes)
        fused_forward[bank.grid(tiles, shape)](
            bank.x,
            y,
            bank.offsets,
            launch.starts(bank.counts, shape.rows),
            bank.columns,
            bank.weights,
            bank.biases,
            ROWS=shape.rows,
            **bank.shared,
            **net.constants(),
            num_warps=shape.warps,
            num_stages=shape.stages,
        )
        return y


def _layer_shape(bank: Bank) -> tuple[table.Shape, int]:
    return bank.tile((table.LAYER, dataclasses.replace(table.LAYER, rows=table.SMALL_TILE)))


def _layers(bank: Bank, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of every layer, [N, out] each, and with `keep` the derivatives of its activation."""
    net, x = bank.net, bank.x
    shape, tiles = _layer_shape(bank)
    starts = launch.starts(bank.counts, shape.rows)
    outputs: list[Tensor] = []
    slopes: list[Tensor] = []
    for l, (_, out) in enumerate(net.shapes):
        outputs.append(x.new_empty(bank.points, out))
        slopes.append(x.new_empty(bank.points if keep else 0, out))
        layer_forward[bank.grid(tiles * -(-out // table.LAYER_COLUMNS), shape)](
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
            KIND=net.output_activation if l == net.layers - 1 else net.activation,
            W0=net.w0,
            KEEP=keep,
            ROWS=shape.rows,
            COLUMNS=table.LAYER_COLUMNS,
            DEPTH=table.LAYER_DEPTH,
            **bank.shared,
            num_warps=shape.warps,
            num_stages=shape.stages,
        )
    return outputs, slopes


Gradients = tuple[Tensor, list[Tensor], list[Tensor]]


def backward(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    grad_y: Tensor,
    ints: list[int],
    floats: list[float],
    need_x: bool,
    need_params: bool,
) -> Gradients:
    """Gradients of <grad_y, y>: of x, [0, in_dim] unless asked for, of the weights and of the biases."""
    net = launch.network(ints, floats)
    grad_x = x.new_empty(x.shape[0] if need_x else 0, net.inputs)
    grad_w = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (weights if need_params else ())]
    grad_b = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (biases if need_params else ())]
    if x.shape[0] == 0 or not (need_x or need_params):
        return grad_x, [t.zero_() for t in grad_w], [t.zero_() for t in grad_b]
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    with bank.on_device():
        shapes = table.backward_shapes(bank.kind, net.widest, net.held)
        if shapes is None:
            _layers_backward(bank, grad_y.contiguous(), grad_x if need_x else None, grad_w, grad_b)
        else:
            _fused_backward(bank, shapes, grad_y.contiguous(), grad_x if need_x else None, grad_w, grad_b)
    return grad_x, grad_w, grad_b


def _reduce(bank: Bank, sums: Tensor, chunks: Tensor, first: int, grad: Tensor) -> None:
    size = grad[0].numel()
    block = min(1024, launch.padded(size))
    shape = table.Shape(block, 4)
    reduce_chunks[bank.grid(bank.modules * -(-size // block), shape)](
        sums, chunks, grad, first, bank.modules, PARAMETERS=sums.shape[1], SIZE=size, BLOCK=block
    )


def _fused_backward(
    bank: Bank,
    shapes: tuple[table.Shape, table.Shape],
    grad_y: Tensor,
    grad_x: Tensor | None,
    grad_w: list[Tensor],
    grad_b: list[Tensor],
) -> None:
    net = bank.net
    shape, tiles = bank.tile(shapes)
    per_chunk = launch.tiles_a_chunk(tiles)
    most = launch.most_tiles(bank.points, bank.modules, shape.rows * per_chunk)
    chunks = launch.starts(bank.counts, shape.rows * per_chunk)
    sums = torch.empty(most if grad_w else 0, net.parameters, dtype=torch.float32, device=bank.x.device)
    fused_backward[bank.grid(most, shape)](
        bank.x,
        grad_y,
        bank.x if grad_x is None else grad_x,
        sums,
        bank.offsets,
        launch.starts(bank.counts, shape.rows),
        chunks,
        bank.columns,
        bank.weights,
        bank.biases,
        tiles_a_chunk=per_chunk,
        IN_PAD=launch.padded(net.inputs),
        PARAMETERS=net.parameters,
        NEED_X=grad_x is not None,
        NEED_PARAMETERS=bool(grad_w),
        ROWS=shape.rows,
        **bank.shared,
        **net.constants(),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    at = 0
    for grads in zip(grad_w, grad_b):
        for grad in grads:
            _reduce(bank, sums, chunks, at, grad)
            at += grad[0].numel()


def _layers_backward(
    bank: Bank, grad_y: Tensor, grad_x: Tensor | None, grad_w: list[Tensor], grad_b: list[Tensor]
) -> None:
    net, x = bank.net, bank.x
    outputs, slopes = _layers(bank, keep=True)
    shape, tiles = _layer_shape(bank)
    starts = launch.starts(bank.counts, shape.rows)
    per_chunk = launch.tiles_a_chunk(tiles) * shape.rows
    most = launch.most_tiles(bank.points, bank.modules, per_chunk)
    chunks = launch.starts(bank.counts, per_chunk)
    blocks = {"COLUMNS": table.LAYER_COLUMNS, "DEPTH": table.LAYER_DEPTH}
    warps = {"num_warps": shape.warps, "num_stages": shape.stages}
    features = x.new_zeros(x.shape[0], net.features, dtype=torch.float32) if grad_x is not None else None
    d = grad_y * slopes[-1] if net.output_activation else grad_y

    def inputs_of(l: int, first: int, count: int, to: Tensor, sloped: Tensor | None, more: bool) -> None:
        rows, out = net.shapes[l]
        layer_gradient[bank.grid(tiles * -(-count // table.LAYER_COLUMNS), shape)](
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
            MORE=more,
            ROWS=shape.rows,
            **blocks,
            **bank.shared,
            **warps,
        )

    for l in reversed(range(net.layers)):
        rows, out = net.shapes[l]
        above = net.width if l > 0 else 0
        if grad_w:
            sums = torch.empty(most, (rows + 1) * out, dtype=torch.float32, device=x.device)
            high = -(-above // table.LAYER_COLUMNS) + -(-net.below(l) // table.LAYER_COLUMNS)
            layer_outer[bank.grid(most * high * -(-out // table.LAYER_COLUMNS), shape)](
                outputs[l - 1] if l > 0 else x,
                x,
                d,
                sums,
                bank.offsets,
                chunks,
                bank.columns,
                points_a_chunk=per_chunk,
                IN=net.inputs,
                FEATURES=net.features,
                ABOVE=above,
                BELOW=net.below(l),
                OUT=out,
                ROWS=table.LAYER_COLUMNS,
                **blocks,
                **bank.shared,
                **warps,
            )
            _reduce(bank, sums, chunks, 0, grad_w[l])
            _reduce(bank, sums, chunks, rows * out, grad_b[l])
        if features is not None and net.below(l):
            inputs_of(l, above, net.features, features, None, more=True)
        if l > 0:
            g = x.new_empty(x.shape[0], net.width)
            inputs_of(l, 0, net.width, g, slopes[l - 1], more=False)
            d = g
    if grad_x is not None and features is not None:
        grad_x.copy_(plain.encode_backward(net, x, features))


def _forward_op(
    x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], ints: list[int], floats: list[float]
) -> Tensor:
    return forward(x, offsets, weights, biases, ints, floats)


def _backward_op(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    ints: list[int],
    floats: list[float],
    need_x: bool,
    need_params: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return backward(x, offsets, weights, biases, grad_y, ints, floats, need_x, need_params)


_forward = torch.library.custom_op("mclnf_fast_triton::bank_mlp_fwd", _forward_op, mutates_args=())
_backward = torch.library.custom_op("mclnf_fast_triton::bank_mlp_bwd", _backward_op, mutates_args=())


@_forward.register_fake
def _(x: Tensor, offsets: Tensor, weights: Any, biases: Any, ints: Any, floats: Any) -> Tensor:
    return x.new_empty(x.shape[0], ints[1])


@_backward.register_fake
def _(
    x: Tensor,
    offsets: Tensor,
    weights: Any,
    biases: Any,
    grad_y: Tensor,
    ints: Any,
    floats: Any,
    need_x: bool,
    need_params: bool,
) -> Gradients:
    def like(tensors: Any) -> list[Tensor]:
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors] if need_params else []

    return x.new_empty(x.shape[0] if need_x else 0, ints[0]), like(weights), like(biases)


def _save(ctx: Any, x: Tensor, offsets: Tensor, weights: Any, biases: Any, *more: Tensor) -> None:
    ctx.layers = len(weights)
    ctx.save_for_backward(x, offsets, *more, *weights, *biases)


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *bank, ctx.ints, ctx.floats = inputs
    _save(ctx, *bank)
    ctx.need_params = any(t.requires_grad for t in (*bank[2], *bank[3]))


def _forward_backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    x, offsets, *rest = ctx.saved_tensors
    need_x, need_params = ctx.needs_input_grad[0], ctx.need_params
    weights, biases = rest[: ctx.layers], rest[ctx.layers :]
    found = _backward(x, offsets, weights, biases, grad_y, ctx.ints, ctx.floats, need_x, need_params)
    none = [None] * ctx.layers
    return found[0] if need_x else None, None, found[1] or none, found[2] or none, None, None


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, offsets, weights, biases, grad_y, ctx.ints, ctx.floats, ctx.need_x, ctx.need_params = inputs
    _save(ctx, x, offsets, weights, biases, grad_y)


def _backward_backward(ctx: Any, cot_x: Tensor, cot_w: Any, cot_b: Any) -> tuple[Any, ...]:
    """By PyTorch's operators: the kernels have no second derivative of their own yet."""
    x, offsets, grad_y, *rest = ctx.saved_tensors
    net = launch.network(ctx.ints, ctx.floats)
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, grad_y, *rest)]
        x, grad_y, *rest = leaves
        y = plain.evaluate(net, x, offsets, rest[: ctx.layers], rest[ctx.layers :])
        wanted = ([x] if ctx.need_x else []) + (rest if ctx.need_params else [])
        first = torch.autograd.grad(y, wanted, grad_y, create_graph=True)
        along = ([cot_x] if ctx.need_x else []) + ([*cot_w, *cot_b] if ctx.need_params else [])
        product = sum((f * c).sum() for f, c in zip(first, along))
        found = torch.autograd.grad(product, leaves, materialize_grads=True)
    return (
        found[0],
        None,
        list(found[2 : 2 + ctx.layers]),
        list(found[2 + ctx.layers :]),
        found[1],
        None,
        None,
        None,
        None,
    )


_forward.register_autograd(_forward_backward, setup_context=_forward_setup)
_backward.register_autograd(_backward_backward, setup_context=_backward_setup)


def bank_mlp(x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], spec: FieldSpec) -> Tensor:
    """`mf.ops.bank_mlp` by the Triton kernels; spherical harmonics, which those do not form, by PyTorch before them."""
    if any(kind == launch.SPHERICAL for kind, *_ in spec.encoding.parts(0, spec.in_dim)):
        x = reference.encode(spec.encoding, x)
        spec = dataclasses.replace(spec, in_dim=spec.encoded_dim, encoding=Identity())
    return torch.ops.mclnf_fast_triton.bank_mlp_fwd(x, offsets, weights, biases, *spec.packed)
