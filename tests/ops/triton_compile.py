"""Compiles the Triton kernels ahead of time, without a GPU, and says what each takes: `python triton_compile.py 90`,
or only the kernels with a word in their names: `python triton_compile.py 90 fisher`. With `--once` behind it each tile
and each choice of constants once, with `--few` one entry of the tables for each kernel and kind of numbers.

Triton is asked which kernel it would launch for a call in which every count (modules, points of a chunk ...) is 1, 16
or 37. One JSON object a line for each kernel that it takes for different ones: kernel, kind, width, the tile, the
counts that it is for, registers, bytes of the stack frame (spills go there), shared memory, programs that a
multiprocessor holds at a time; instructions (of a warp that takes every branch once); how many sines PTX has,
and how many it would have if each feature of a tile were formed once, and for activations; how many of PTX round to
tf32; columns of tensor memory, how many warp-group matrix instructions there are, products that warps repeat, and
whether it only traps.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import MockTensor, create_function_from_signature

import mclnf_fast as mf
from mclnf_fast.ops.bank_mlp.triton import backward, encoding, forward, second_layers, walk
from mclnf_fast.ops.fisher.triton import kernels as fisher
from mclnf_fast.ops.fisher.triton import table as fisher_table
from mclnf_fast.ops.render_rays.triton import kernel as rays
from mclnf_fast.ops.render_rays.triton import table as rays_table
from mclnf_fast.ops.triton import bank, error, launch, layers, reduce, table
from mclnf_fast.packing import Activation

CUOBJDUMP = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
HALF, SINGLE = torch.bfloat16, torch.float32
TYPE = {"half": HALF, "bf16": HALF, "fp16": torch.float16, "tf32": SINGLE, "ieee": SINGLE}
KINDS = ("half", "tf32", "ieee")
# Of the tensors whose type is not the call's.
INDICES = {"starts": torch.int32, "chunks": torch.int32}
INDICES |= dict.fromkeys(("table", "sums", "errors", "factors"), SINGLE)
INDICES |= dict.fromkeys(("x", "along_x", "grad_x", "grad_y", "bias", "along_bias"), SINGLE)
INDICES |= dict.fromkeys(("offsets", "segments", "owned"), torch.int64)
INDICES |= dict.fromkeys(("scores", "squares", "fisher_w", "fisher_b", "scale"), SINGLE)
TUPLES = {"rays": (SINGLE,) * 3, "scene": (SINGLE, torch.uint8, SINGLE), "pixels": (SINGLE,) * 3}
LIMITS = {"limits": (1.0, 2.0, 0.5, 20.0, 30.0), "damping": 0.5, "w0": 30.0}
OPCODE, NOP = 0xFFF, 0x918  # of an instruction
FLOORS = 2  # of a sine of float32; one of a half type is the chip's own
COUNTED = ("modules", "points", "tiles_per_chunk", "points_per_chunk", "samples_per_chunk", "rays_per_chunk")
SIZES = ("first", "parameters", "size", "coordinates", "features", "above", "inputs", "below", "outputs", "first_input")
COUNTED += (*SIZES, "activation", "h_stride", "d_stride", "IN", "FEATURES")
COUNTS = (1, 16, 37)  # what Triton tells apart: one, a multiple of 16, another number
HEADS = {"density": Activation.EXP.value, "color": Activation.SIGMOID.value}
PLAIN = rays_table.SceneConstants(bins=64, levels=1, x=0, y=0, z=0, background=1, last=False, **HEADS)
RICH = rays_table.SceneConstants(bins=0, levels=4, x=128, y=128, z=128, background=0, last=True, **HEADS)
SHARED = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}  # of a multiprocessor
ACTIVATIONS = {"layer": 2, "second tangents": 3}  # sines of a kernel for any activation, and its derivatives
ANY = launch.LayerConstants(-1, -1, -1, -1, -1, -1, 8)
Entry = tuple[str, str, launch.Network, table.Shape, Any, dict[str, Any]]
UNSET = dict.fromkeys(("LOSS", "WEIGHTED", "MORE"), False)  # flags with a default


def network(width: int, hidden: int = 4, skip: bool = False, features: int = 60) -> launch.Network:
    """A network of this padded width on 3 coordinates, in 60 features as NeRF's or 120 as the single-view NeRF's."""
    encoding = mf.Frequency(10) if features == 60 else mf.LogFrequency(20, 8.0)
    spec = mf.FieldSpec(3, 4, width, hidden, encoding=encoding, skips=(2,) if skip else ())
    return launch.network(*spec.packed)


def entries(arch: int) -> Iterator[Entry]:
    """Every kernel with every entry of a table: name, kind, network, shape, kernel, constants.

    The networks are the largest that an entry is for, with and without a skip.
    """
    own = table.TABLES[arch]
    for (kind, width), shapes in own.forward.items():
        nets = [network(width), network(width, 4, True, 60 if width == 64 else 120)]
        # Beside five layers, the most that Blackwell's tensor memory holds.
        most = max(hidden for hidden in range(1, 8) if network(width, hidden).products <= table.TENSOR_COLUMNS)
        for net in nets if arch < 100 else [*nets, network(width, most), network(width, 8)]:
            for shape in dict.fromkeys(table.in_tensor_memory(shapes, net.products, arch) or ()):
                yield "forward", kind, net, shape, forward.fused_forward, {"y": SINGLE}
    for (kind, width), pair in own.backward.items():
        for shape, most in dict.fromkeys(pair):
            for skip in (False, True):
                net = network(width, (most - (192 if skip else 64)) // width, skip)
                assert most - width < net.saved <= most
                yield "backward", kind, net, shape, backward.fused_backward, {"NEED_PARAMETERS": True}
    for kind, width, again in table.WALK:
        net = network(width, 4, True, 120) if again else network(width, 4, width == 64)
        inner = (TYPE[kind],) * (net.layers - 1)
        more = {"WIDTH_STRIDE": width, "OUT_STRIDE": 8, "saved": inner, "derivatives": inner}
        more |= {"gradients": (SINGLE, *inner[1:], SINGLE)}
        for shape in dict.fromkeys(table.walk_shapes(kind, net, arch) or ()):
            yield "walk", kind, net, shape, walk.fused_walk, more
            loss = {**more, "LOSS": True, "WEIGHTED": True, "weight": SINGLE, "OUT_STRIDE": 4}
            yield "walk of the error", kind, net, shape, walk.fused_walk, loss
    for (kind, width), (_, oldest) in rays_table.RENDER.items():
        for plain in (True, False):
            net = network(width, 4, not plain and arch >= oldest, 60 if width == 64 else 120)
            shape = rays_table.render_shape(kind, width, net.skips != 0, arch)
            assert shape is not None
            # With as few of the renderer's branches as can be, or the most, and a direction behind the position.
            yield "render", kind, net, shape, rays.render, {"SCENE": PLAIN if plain else RICH, "rays_behind": not plain}
    net = network(128)
    for kind in KINDS:
        for known in (True, False):
            yield from layer_entries(kind, net, own, known)
        shape = dataclasses.replace(table.LAYER, stages=1)
        flags: dict[str, Any] = {"weighted": 1, "gradient": 1, "tangent": 1}
        flags |= dict.fromkeys(("y", "yt", "target", "weight", "d", "e"), SINGLE)
        flags["BLOCK"] = launch.BlockSize(shape.rows, error.OUTPUT_COLUMNS, 0)
        yield "squared error", kind, net, shape, error.squared_error, flags
        through = {"ALONG_X": True, "g": SINGLE, "gt": SINGLE}
        through["BLOCK"] = launch.BlockSize(shape.rows, 64, table.LAYER_DEPTH)
        yield "features", kind, net, shape, encoding.features_gradient, through
    tensors: dict[str, Any] = {"TENSORS": bank.TENSORS, "BLOCK": 1024, "columns": torch.int32}
    more = {**tensors, **dict.fromkeys(("sums", "grads"), (SINGLE,) * bank.TENSORS), "scaled": 1, "more": 1}
    yield "reduce", "ieee", net, table.Shape(1024, 4), reduce.reduce_chunks, more
    more = {**tensors, **dict.fromkeys(("gradients", "scaled"), (SINGLE,) * bank.TENSORS)}
    yield "scale", "ieee", net, table.Shape(1024, 4), reduce.scale_gradients, more
    yield from fisher_entries(arch)


def layer_entries(kind: str, net: launch.Network, own: table.Tiles, known: bool) -> Iterator[Entry]:
    """The kernels that go layer by layer, those for a width of 256 or those for any multiple of 8."""
    inputs: dict[str, Any] = {"INPUTS": launch.InputRange(-1, -1, -1), "OUTPUTS": -1, "MULTIPLE": 8}
    layer = curved = ANY
    tanh = linear = -1
    if known:
        inputs = {"INPUTS": launch.InputRange(0, 256, 256), "OUTPUTS": 256, "MULTIPLE": 1}
        layer = launch.LayerConstants(3, 60, 256, 60, 256, Activation.RELU.value, 1)
        tanh, linear = Activation.TANH.value, Activation.NONE.value
        curved = layer._replace(activation=tanh)
    more: dict[str, Any]
    for rows in (table.SMALL_TILE, own.layer.rows):
        shape = table.Shape(rows, own.layer.warps, own.layer.stages)
        block = launch.BlockSize(rows, own.columns, own.depth)
        more = {"LAYER": layer, "SAVE": True, "BLOCK": block}
        yield "layer", kind, net, shape, layers.layer_forward, more
        more = {**inputs, "ACTIVATED": True, "MORE": True, "BLOCK": block}
        yield "layer gradient", kind, net, shape, layers.layer_gradient, more
    side, depth = own.weight_gradient[kind]
    square = {"LAYER": layer, "BLOCK": launch.BlockSize(side, side, depth)}
    yield "layer outer", kind, net, own.layer, layers.layer_weight_gradient, square
    if known:
        yield (
            "layer outer",
            kind,
            net,
            own.layer,
            layers.layer_weight_gradient,
            {**square, **first_layer(layer), "d": SINGLE},
        )
        if kind == "half":  # the first layer has another type than the others
            more = {**first_layer(layer), "SAVE": True, "BLOCK": block}
            yield "layer", kind, net, shape, layers.layer_forward, more
    large, depth = table.SECOND[kind]
    for rows in (table.SMALL_TILE, large):
        shape = table.Shape(rows, table.LAYER.warps, table.LAYER.stages)
        block = launch.BlockSize(rows, own.columns, depth)
        saved = {"derivatives": SINGLE, "curvatures": SINGLE}
        more = {"LAYER": curved, "ALONG": True, "ALONG_X": True, "BLOCK": block, **saved}
        yield "second tangents", kind, net, shape, second_layers.layer_tangents, more
        more = {**inputs, "ALONG": True, "BLOCK": block}
        yield "second gradients", kind, net, shape, second_layers.layer_gradients, {**more, **saved, "ACTIVATION": tanh}
        more |= {"ACTIVATION": linear, "MORE": True, "g": SINGLE, "gt": SINGLE}
        yield "second gradients", kind, net, shape, second_layers.layer_gradients, more
    square["ALONG_X"] = True
    yield "second outer", kind, net, table.LAYER, second_layers.layer_weight_gradients, square
    if known:
        square |= {**first_layer(layer), "d": SINGLE, "e": SINGLE}
        yield "second outer", kind, net, table.LAYER, second_layers.layer_weight_gradients, square
        if kind == "half":
            more = {"ALONG": True, "ALONG_X": True, "BLOCK": block, **saved, "along": SINGLE, **first_layer(curved)}
            yield "second tangents", kind, net, shape, second_layers.layer_tangents, more


def first_layer(layer: launch.LayerConstants) -> dict[str, Any]:
    """What a launch for the first layer has for itself: it takes features alone, and its weights are float32."""
    return {"LAYER": layer._replace(above=0), "weight": SINGLE}


def fisher_entries(arch: int) -> Iterator[Entry]:
    """The same of the Fisher kernels, whose kinds of sums tell the half types apart."""
    net = network(128)
    for points, blocks in ((True, fisher_table.POINTS), (False, fisher_table.SAMPLES)):
        for kind, block in blocks.items():
            shape = table.Shape(block.side, block.warps, block.stages)
            sizes: dict[str, Any] = {"STRIDES": (256, 256), "POINTS": points, "SCORED": True, "SUMS": True}
            for below in (0, 60):
                sizes["BLOCK"] = launch.BlockSize(block.side, block.side, block.depth_of(below > 0))
                layer = launch.LayerConstants(3, 60, 256, below, 256, -1, 1)
                yield "fisher sums", kind, net, shape, fisher.sample_sums, {**sizes, "LAYER": layer}
            first = {"w": SINGLE, "d": SINGLE, "LAYER": layer._replace(above=0)}
            yield "fisher sums", kind, net, shape, fisher.sample_sums, {**sizes, **first}
            sizes |= {"LAYER": ANY, "STRIDES": (-1, -1)}
            sizes["BLOCK"] = launch.BlockSize(block.side, block.side, block.depth_of(True))
            yield "fisher sums", kind, net, shape, fisher.sample_sums, sizes
    more = {"scaled": 1}
    more |= {"CHUNKS": fisher_table.REDUCED_CHUNKS, "BLOCK": fisher_table.REDUCED}
    yield "fisher reduce", "ieee", net, table.Shape(fisher_table.REDUCED, 4), fisher.reduce_samples, more


def source(
    kind: str, net: launch.Network, shape: table.Shape, kernel: Any, constants: dict[str, Any], arch: int, count: int
) -> tuple[ASTSource, dict[str, Any]]:
    """What Triton compiles for a launch of the kernel in which every count is this, and its options: decided by the
    code that decides it at a launch."""
    behind = {"coordinates": 6} if constants.get("rays_behind") else {}
    known: dict[str, Any] = {**UNSET, **LIMITS, "NET": net.constants()._replace(**behind), "ROWS": shape.rows}
    known |= {"PRECISION": "ieee" if kind == "ieee" else "tf32"}
    parameters = {"weights": (SINGLE, *(TYPE[kind],) * (net.layers - 1)), "biases": (SINGLE,) * net.layers}
    known |= {**TUPLES, **parameters, **INDICES, **constants}

    def argument(parameter: Any) -> Any:
        value = known.get(parameter.name, TYPE[kind])
        if parameter.is_constexpr:
            return value
        if parameter.name in counts_of(kernel):
            return count
        if isinstance(value, tuple):
            return tuple(MockTensor(v) if isinstance(v, torch.dtype) else v for v in value)
        return MockTensor(value) if isinstance(value, torch.dtype) else value

    backend = make_backend(GPUTarget("cuda", arch, 32))
    options = {"num_warps": shape.warps, "num_stages": shape.stages}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, kinds, _ = bind(**{p.name: argument(p) for p in kernel.params}, **options)
    parsed, signature, constexprs, attributes = kernel._pack_args(backend, options, bound, kinds, options)
    return ASTSource(kernel, signature, constexprs, attributes), parsed.__dict__


def counts_of(kernel: Any) -> list[str]:
    """The numbers that a launch of the kernel is told; not tensors, not constants, not real numbers."""
    return [p.name for p in kernel.params if not p.is_constexpr and p.name in COUNTED]


def code_of(cubin: bytes) -> tuple[int, int, int]:
    """Registers, bytes of the stack frame and the number of instructions of the one kernel in a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        pathlib.Path(path).write_bytes(cubin)
        usage = subprocess.run([CUOBJDUMP, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    return int(found[1]), int(found[2]), sum(word & OPCODE != NOP for word in words_of(cubin))


def words_of(cubin: bytes) -> Iterator[int]:
    """The first half of each instruction of a kernel, which has 16 bytes: read from the ELF file, since a disassembler
    takes a third as long as the whole compilation."""
    (sections,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, sections + i * size) for i in range(count)]
    for name, _, _, _, begin, length in headers:
        if cubin.startswith(b".text.", headers[names][4] + name):
            yield from (first for first, _ in struct.iter_unpack("<QQ", cubin[begin : begin + length]))


def sines_of(ptx: str) -> int:
    """Sines in the code: of float32 each rounds down to an integer, some twice. The assembler repeats none."""
    return len(re.findall(r"cvt\.r[a-z]i\.(?:ftz\.)?f\d\d\.f\d\d", ptx)) // FLOORS + ptx.count("sin.approx")


def programs(registers: int, shared: int, warps: int, arch: int) -> int:
    """How many programs a multiprocessor holds at a time: by registers, which go by 8 a thread, shared memory, of which
    each program takes a KiB more, and 64 warps."""
    by_registers = (65536 // (32 * -(-registers // 8) * 8)) // warps
    return min(by_registers, SHARED[arch] // (shared + 1024), 64 // warps, 32)


def repeated(ttgir: str) -> int:
    """Matrix products whose tile has fewer rows than their warps have together, which then compute the same ones."""
    layout = r"(#mma\d*) = #ttg.nvidia_mma<{versionMajor = 2, .*?warpsPerCTA = \[(\d+), "
    rows = {name: 16 * int(warps) for name, warps in re.findall(layout, ttgir)}
    tiles = re.findall(r"tt\.dot .*-> tensor<(\d+)x\d+xf32, (#\w+)>", ttgir)
    return sum(rows.get(name, 0) > int(height) for height, name in tiles)


def features_of(net: launch.Network, shape: table.Shape, block: launch.BlockSize | None) -> int:
    """How many features a program forms at a time."""
    return shape.rows * launch.padded(net.features) if block is None else block.rows * block.depth


def few(every: Iterator[Entry]) -> Iterator[Entry]:
    """The first entry for each kernel and kind of numbers."""
    seen: set[tuple[str, str]] = set()
    for entry in every:
        if entry[:2] not in seen:
            seen.add(entry[:2])
            yield entry


def once(every: Iterator[Entry]) -> Iterator[Entry]:
    """Entries with each tile of each kernel and kind of numbers, and each choice of constants of each kernel.

    From the last on: of those for a tile that is the one with most to do (a skip, the error too, any width).
    """
    tiles, choices = set(), set()
    copies = [(*entry[:-1], {**entry[-1]}) for entry in every]  # the next one may be made of the same constants
    for entry in reversed(copies):
        _, kind, net, shape, kernel, constants = entry
        tile = (kernel.fn.__name__, kind, net.width, shape, constants.get("BLOCK"), constants.get("POINTS"))
        chosen = {k: v for k, v in constants.items() if isinstance(v, int) or hasattr(v, "_fields")}  # no types
        chosen |= {"BLOCK": None, "skip": net.skips != 0, "features": net.features}
        choice = (kernel.fn.__name__, frozenset(chosen.items()), frozenset(constants))
        if tile not in tiles or choice not in choices:
            yield entry
        tiles.add(tile)
        choices.add(choice)


def main(arch: int, wanted: str = "", some: Callable[[Iterator[Entry]], Iterator[Entry]] = iter) -> None:
    for name, kind, net, shape, kernel, constants in some(entries(arch)):
        if wanted not in name:
            continue
        kernels: dict[str, list[int]] = {}
        sources = {}
        for count in COUNTS:
            made, options = source(kind, net, shape, kernel, constants, arch, count)
            sources[made.hash()] = made
            kernels.setdefault(made.hash(), []).append(count)
        for key, counts in kernels.items():
            result = triton.compile(sources[key], target=GPUTarget("cuda", arch, 32), options=options)
            registers, stack, instructions = code_of(result.asm["cubin"])
            row: dict[str, Any] = {"kernel": name, "kind": kind, "width": net.width, "held": net.saved}
            if constants.get("LAYER") == ANY or constants.get("OUTPUTS") == -1:
                row["width"] = "any"
            row |= {"features": net.features, "skips": net.skips, "rows": shape.rows, "warps": shape.warps}
            row |= {"counts": counts, "hopper": kind != "ieee" and shape.warp_group}
            row |= {"registers": registers, "stack": stack, "shared": result.metadata.shared}
            row |= {"programs": programs(registers, result.metadata.shared, shape.warps, arch)}
            row |= {"instructions": instructions, "sines": sines_of(result.asm["ptx"])}
            block = constants.get("BLOCK")
            values = (
                block.rows * block.depth
                if isinstance(block, launch.BlockSize)
                else shape.rows * launch.padded(net.features)
            )
            row |= {"features_once": values // (32 * shape.warps)}
            waves = ACTIVATIONS.get(name, 0) if constants.get("LAYER") == ANY else 0
            row |= {"activations": waves * block.rows * block.columns // (32 * shape.warps) if waves else 0}
            row |= {"to_tf32": result.asm["ptx"].count("cvt.rna.tf32")}
            row |= {
                "tensor_memory": getattr(result.metadata, "tmem_size", 0) or 0,
                "traps": "trap;" in result.asm["ptx"],
            }
            row |= {"warp_group": result.asm["ptx"].count("wgmma.mma_async"), "repeated": repeated(result.asm["ttgir"])}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    main(int(words[0]), *words[1:], some={"--few": few, "--once": once}.get(sys.argv[-1], iter))
