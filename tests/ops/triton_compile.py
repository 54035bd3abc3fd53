"""Compiles the Triton kernels ahead of time, without a GPU, and says what each takes: `python triton_compile.py 90`,
or only the kernels with a word in their names: `python triton_compile.py 90 fisher`, or with `--few` one entry of the
tables for each kernel and kind of numbers.

One JSON object a line: kernel, kind, width, the tile, registers, bytes of the stack frame (spills go there), shared
memory, columns of tensor memory, how many warp-group matrix instructions there are, products that warps repeat, and
whether it only traps.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import mclnf_fast as mf
from mclnf_fast.ops.bank_mlp.triton import backward, encoding, forward, second_layers
from mclnf_fast.ops.fisher.triton import kernels as fisher
from mclnf_fast.ops.fisher.triton import sweep
from mclnf_fast.ops.fisher.triton import table as fisher_table
from mclnf_fast.ops.render_rays.triton import kernel as rays
from mclnf_fast.ops.render_rays.triton import table as rays_table
from mclnf_fast.ops.triton import error, launch, layers, reduce, table
from mclnf_fast.packing import Activation

CUOBJDUMP = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTER = {"half": "*bf16", "tf32": "*fp32", "ieee": "*fp32"}
FISHER_POINTER = {"bf16": "*bf16", "fp16": "*fp16", "tf32": "*fp32", "ieee": "*fp32"}
INDICES = {"starts": "*i32", "chunks": "*i32", "table": "*fp32"}
INDICES |= dict.fromkeys(("sums", "errors", "factors"), "*fp32")
INDICES |= dict.fromkeys(("offsets", "segments", "owned"), "*i64")
INDICES |= dict.fromkeys(("scores", "squares", "fisher_w", "fisher_b", "scale"), "*fp32")
# Arguments that are tuples: pointers, and numbers.
TUPLES = {"rays": ("*fp32",) * 3, "scene": ("*fp32", "*u8", "*fp32"), "pixels": ("*fp32",) * 3, "limits": ("fp32",) * 5}
NUMBERS = {"damping": "fp32"}
NUMBERS |= dict.fromkeys(
    ("modules", "points", "tiles_per_chunk", "points_per_chunk", "samples_per_chunk", "rays_per_chunk", "first"), "i32"
)
STEPS = 10
HEADS = {"density": Activation.EXP.value, "color": Activation.SIGMOID.value}
PLAIN = rays_table.SceneConstants(bins=64, levels=1, x=0, y=0, z=0, background=1, last=False, **HEADS)
RICH = rays_table.SceneConstants(bins=0, levels=4, x=128, y=128, z=128, background=0, last=True, **HEADS)
UNSET = dict.fromkeys(("LOSS", "WEIGHTED", "SCALED", "MORE"), False)  # flags with a default


def network(width: int, hidden: int = 4, skip: bool = False, features: int = 60) -> launch.Network:
    """A network of this padded width on 3 coordinates, in 60 features as NeRF's or 120 as the single-view NeRF's."""
    encoding = mf.Frequency(10) if features == 60 else mf.LogFrequency(20, 8.0)
    spec = mf.FieldSpec(3, 4, width, hidden, encoding=encoding, skips=(2,) if skip else ())
    return launch.network(*spec.packed)


def entries(arch: int) -> Iterator[tuple[str, str, launch.Network, table.Shape, Any, dict[str, Any]]]:
    """Every kernel with every entry of a table: name, kind, network, shape, kernel, constants.

    The networks are the largest that an entry is for, with and without a skip.
    """
    own = table.TABLES[arch]
    for (kind, width), shapes in own.forward.items():
        # Beside five layers, the most that Blackwell's tensor memory holds.
        nets = [network(width), network(width, 4, True, 60 if width == 64 else 120)]
        for net in nets if arch < 100 else [*nets, network(width, 448 // width), network(width, 8)]:
            for shape in dict.fromkeys(table.in_tensor_memory(shapes, net.products, arch) or ()):
                yield "forward", kind, net, shape, forward.fused_forward, {}
    for (kind, width), pair in own.backward.items():
        for shape, most in dict.fromkeys(pair):
            for skip in (False, True):
                net = network(width, (most - (128 if skip else 64)) // width, skip)
                assert most - width < net.saved <= most
                more = {"NEED_X": True, "NEED_PARAMETERS": True}
                yield "backward", kind, net, shape, backward.fused_backward, more
                more |= {"NEED_X": False, "LOSS": True, "WEIGHTED": True}
                yield "backward of the error", kind, net, shape, backward.fused_backward, more
    for (kind, width), (_, oldest) in rays_table.RENDER.items():
        for plain in (True, False):
            net = network(width, 4, not plain and arch >= oldest, 60 if width == 64 else 120)
            shape = rays_table.render_shape(kind, width, net.skips != 0, arch)
            assert shape is not None
            # With as few of the renderer's branches as can be, or the most, and a direction behind the position.
            yield "render", kind, net, shape, rays.render, {"SCENE": PLAIN if plain else RICH, "rays_behind": not plain}
    net = network(128)
    layer = launch.LayerConstants(3, 60, 256, 60, 256, Activation.RELU.value, 30.0)
    curved = layer._replace(activation=Activation.TANH.value, w0=1.0)
    inputs = launch.InputRange(0, 256, 256)
    for kind in POINTER:
        more: dict[str, Any]
        for rows in (table.SMALL_TILE, own.layer.rows):
            shape = table.Shape(rows, own.layer.warps, own.layer.stages)
            block = launch.BlockSize(rows, own.columns, own.depth)
            more = {"LAYER": layer, "SAVE": True, "BLOCK": block}
            yield "layer", kind, net, shape, layers.layer_forward, more
            more = {"INPUTS": inputs, "OUT": 256, "ACTIVATED": True, "MORE": True, "BLOCK": block}
            yield "layer gradient", kind, net, shape, layers.layer_gradient, more
        side, depth = own.weight_gradient[kind]
        square = {"LAYER": layer, "BLOCK": launch.BlockSize(side, side, depth)}
        yield "layer outer", kind, net, own.layer, layers.layer_weight_gradient, square
        large, depth = table.SECOND[kind]
        for rows in (table.SMALL_TILE, large):
            shape = table.Shape(rows, table.LAYER.warps, table.LAYER.stages)
            block = launch.BlockSize(rows, own.columns, depth)
            more = {"LAYER": curved, "ALONG": True, "ALONG_X": True, "BLOCK": block}
            yield "second tangents", kind, net, shape, second_layers.layer_tangents, more
            more = {"INPUTS": inputs, "OUT": 256, "ALONG": True, "BLOCK": block}
            yield "second gradients", kind, net, shape, second_layers.layer_gradients, {**more, "KIND": 4}
            more |= {"KIND": 0, "MORE": True, "g": "*fp32", "gt": "*fp32"}
            yield "second gradients", kind, net, shape, second_layers.layer_gradients, more
        square["ALONG_X"] = True
        yield "second outer", kind, net, table.LAYER, second_layers.layer_weight_gradients, square
        shape = dataclasses.replace(table.LAYER, stages=1)
        flags: dict[str, Any] = {"WEIGHTED": True, "GRADIENT": True, "TANGENT": True, "OUT": 140}
        flags["BLOCK"] = launch.BlockSize(shape.rows, table.LAYER_COLUMNS, 0)
        yield "squared error", kind, net, shape, error.squared_error, flags
        through = {"IN": 3, "FEATURES": 60, "ALONG_X": True, "g": "*fp32", "gt": "*fp32"}
        through["BLOCK"] = launch.BlockSize(shape.rows, 64, table.LAYER_DEPTH)
        yield "features", kind, net, shape, encoding.features_gradient, through
    for scaled in (False, True):
        more = {"PARAMETERS": net.parameters, "SIZE": 4096, "BLOCK": 1024, "SCALED": scaled, "MORE": scaled}
        yield "reduce", "ieee", net, table.Shape(1024, 4), reduce.reduce_chunks, more
    yield from fisher_entries(arch)


def fisher_entries(arch: int) -> Iterator[tuple[str, str, launch.Network, table.Shape, Any, dict[str, Any]]]:
    """The same of the Fisher kernels, whose kinds of sums tell the half types apart."""
    for kind, width, again in fisher_table.SWEEP:
        net = network(width, 4, True, 120) if again else network(width, 4, width == 64)
        more: dict[str, Any] = {"WIDTH_STRIDE": width, "OUT_STRIDE": 8}
        inner = ((POINTER | FISHER_POINTER)[kind],) * net.layers
        more |= {"saved": inner[1:], "derivatives": inner[1:], "gradients": inner}
        shapes = fisher_table.sweep_shapes(kind, net, arch >= 100)
        for shape in dict.fromkeys(shapes or ()):
            yield "fisher walk", kind, net, shape, sweep.fused_sweep, more
    net = network(128)
    for points, blocks in ((True, fisher_table.POINTS), (False, fisher_table.SAMPLES)):
        for kind, block in blocks.items():
            shape = table.Shape(block.side, block.warps, block.stages)
            sizes: dict[str, Any] = {"H_STRIDE": 256, "D_STRIDE": 256, "POINTS": points, "SCORED": True, "SUMS": True}
            sizes["BLOCK"] = launch.BlockSize(block.side, block.side, block.depth)
            for below in (0, 60):
                layer = launch.LayerConstants(3, 60, 256, below, 256, Activation.RELU.value, 30.0)
                yield "fisher sums", kind, net, shape, fisher.sample_sums, {**sizes, "LAYER": layer}
    more = {"SIZE": 4096, "OUT": 64, "SCALED": True}
    more |= {"CHUNKS": fisher_table.REDUCED_CHUNKS, "BLOCK": fisher_table.REDUCED}
    yield "fisher reduce", "ieee", net, table.Shape(fisher_table.REDUCED, 4), fisher.reduce_samples, more


def compiled(
    kind: str, net: launch.Network, shape: table.Shape, kernel: Any, constants: dict[str, Any], arch: int
) -> Any:
    """The kernel as Triton compiles it for compute capability arch / 10."""
    behind = {"coordinates": 6} if constants.get("rays_behind") else {}
    known = {**UNSET, **TUPLES, "NET": net.constants()._replace(**behind), "STEPS": STEPS, "ROWS": shape.rows}
    known |= {"PRECISION": "tf32" if kind == "tf32" else "ieee"}
    known |= {"SQUARES": "tf32" if kind in ("tf32", "fp16") else "ieee", **constants}
    pointer = (POINTER | FISHER_POINTER)[kind]
    known |= {name: (pointer,) * net.layers for name in ("weights", "biases") if name in kernel.arg_names}
    signature: dict[str, Any] = {}
    hints = {}
    for place, name in enumerate(kernel.arg_names):
        if str(known.get(name)).startswith("*"):  # not the type that it has elsewhere
            signature[name] = known[name]
            hints[place,] = [["tt.divisibility", 16]]
        elif isinstance(known.get(name), tuple) and isinstance(known[name][0], str):  # of pointers, one per layer say
            signature[name] = known[name]
            pointers = [k for k, kind_of in enumerate(known[name]) if kind_of.startswith("*")]
            hints |= {(place, k): [["tt.divisibility", 16]] for k in pointers}
        elif name in known:
            signature[name] = "constexpr"
        elif name in NUMBERS:
            signature[name] = NUMBERS[name]
        else:
            signature[name] = INDICES.get(name, pointer)
            hints[place,] = [["tt.divisibility", 16]]
    own = {name: value for name, value in known.items() if signature.get(name) == "constexpr"}
    options = {"num_warps": shape.warps, "num_stages": shape.stages}
    return triton.compile(ASTSource(kernel, signature, own, hints), target=GPUTarget("cuda", arch, 32), options=options)


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of the stack frame of the one kernel in a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        pathlib.Path(path).write_bytes(cubin)
        said = subprocess.run([CUOBJDUMP, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def repeated(ttgir: str) -> int:
    """Matrix products whose tile has fewer rows than their warps have together, which then compute the same ones."""
    layout = r"(#mma\d*) = #ttg.nvidia_mma<{versionMajor = 2, .*?warpsPerCTA = \[(\d+), "
    rows = {name: 16 * int(warps) for name, warps in re.findall(layout, ttgir)}
    tiles = re.findall(r"tt\.dot .*-> tensor<(\d+)x\d+xf32, (#\w+)>", ttgir)
    return sum(rows.get(name, 0) > int(height) for height, name in tiles)


def main(arch: int, wanted: str = "", few: bool = False) -> None:
    seen: set[tuple[str, str]] = set()
    for name, kind, net, shape, kernel, constants in entries(arch):
        if wanted not in name or (few and (name, kind) in seen):
            continue
        seen.add((name, kind))
        result = compiled(kind, net, shape, kernel, constants, arch)
        registers, stack = usage(result.asm["cubin"])
        row: dict[str, Any] = {"kernel": name, "kind": kind, "width": net.width, "held": net.saved}
        row |= {"rows": shape.rows, "warps": shape.warps, "hopper": kind != "ieee" and shape.warp_group}
        row |= {"registers": registers, "stack": stack, "shared": result.metadata.shared}
        row |= {"tensor_memory": getattr(result.metadata, "tmem_size", 0) or 0, "traps": "trap;" in result.asm["ptx"]}
        row |= {"warp_group": result.asm["ptx"].count("wgmma.mma_async"), "repeated": repeated(result.asm["ttgir"])}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--few"]
    main(int(words[0]), *words[1:], few="--few" in sys.argv)
