"""The Triton kernels compile for every architecture that we name, within what its registers and its shared memory hold.

No GPU is needed: Triton's package brings the assembler. In a process of its own, since Triton either interprets or
compiles.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

SCRIPT = pathlib.Path(__file__).parent / "triton_compile.py"
# Bytes of a thread's stack frame at most: forty of 255 values that did not fit the registers. Triton 3.6, which comes
# with torch 2.11, keeps less in them for sm_80.
STACK = 160 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7) else 512
BINS = 4
ALL = 90  # of whose tables every tile is compiled each time; of the others one entry for each kernel
SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}


@functools.cache
def compiled(arch: int) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    some = [] if os.environ.get("MCLNF_COMPILE_ALL", "0") == "1" else ["--once" if arch == ALL else "--few"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(arch), *some], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def sines(row: dict[str, Any], arch: int) -> int:
    """How many sines of a feature stand in a kernel at most, beside the renderer's roundings of its bins."""
    # A pipelined loop over points has its first turn in front of it on sm_100: the code is there twice, and runs once.
    turns = 2 if arch == 100 and row["kernel"] in ("layer outer", "second outer", "fisher sums") else 1
    if row["kernel"] in ("second tangents", "second outer", "features"):  # features and their derivatives
        return 2 * turns
    # Where more than registers hold come in again behind a hidden layer, they are formed again; of a half type, whose
    # sines are cheap, so are all that do, and by a backward those of each weight gradient.
    half = row["kind"] == "half"
    skips = 1 if row["skips"] and (half or (row["features"] > 64 and row["kernel"] == "forward")) else 0
    if row["kernel"] == "backward":
        return 3 + 2 * skips if half else 2
    return 1 + skips if row["kernel"] in ("forward", "render", "walk", "walk of the error") else turns


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHARED)
def test_every_entry_of_the_tables_fits(arch: int) -> None:
    rows = compiled(arch)
    assert {row["kernel"] for row in rows} == {
        "forward", "backward", "layer", "layer gradient", "layer outer", "reduce", "scale", "render",
        "walk", "walk of the error", "second tangents", "second gradients", "second outer", "squared error", "features",
        "fisher sums", "fisher reduce",
    }  # fmt: skip
    more = [row for row in rows if row["counts"] != [1, 16, 37]]
    assert not more, f"another kernel for some counts of modules, points or tiles: {more}"
    spilling = [row for row in rows if row["stack"] > STACK]
    assert not spilling, f"more than {STACK} bytes of spills on sm_{arch}: {spilling}"
    large = [row for row in rows if row["shared"] > SHARED[arch]]
    assert not large, f"more shared memory than sm_{arch} has: {large}"
    # One that wants more columns of tensor memory than the 512 that there are is compiled to a trap.
    dead = [row for row in rows if row["tensor_memory"] > 512 or row["traps"]]
    assert not dead, f"kernels that only trap on sm_{arch}: {dead}"
    # The last layer of a forward may: its tile is narrower than the warps of the others. So do the products of points'
    # sums where there are no warp-group instructions: with four warps they spill 370 bytes.
    most = {"forward": 1, "fisher sums": 3 if arch == 80 else 0}
    double = [row for row in rows if row["repeated"] > most.get(row["kernel"], 0)]
    assert not double, f"products that several warps repeat on sm_{arch}: {double}"
    again = [row for row in rows if row["sines"] > sines(row, arch) * row["features_once"] + row["activations"] + BINS]
    assert not again, f"features that are formed more than once on sm_{arch}: {again}"
    others = ("reduce", "scale", "fisher reduce", "squared error", "features")  # no products of rounded numbers
    # Beside half types the first layer's weights are tf32.
    first = ("forward", "backward", "walk", "walk of the error", "render")
    tf32 = [
        row
        for row in rows
        if row["kernel"] not in others and (row["kind"] == "tf32" or (row["kind"] == "half" and row["kernel"] in first))
    ]
    cut = [row for row in tf32 if row["to_tf32"] == 0]
    assert tf32, "no kernel multiplies tf32"
    assert not cut, f"operands that the matrix instructions cut off to tf32 on sm_{arch}: {cut}"
    # The squares of float16 points are float32 that is multiplied as tf32.
    assert any(row["kind"] == "fp16" and row["to_tf32"] > 0 for row in rows)
    if arch == 90:
        slow = [row for row in rows if row["hopper"] and row["warp_group"] == 0 and row["kernel"] not in others]
        assert not slow, f"no warp-group matrix instructions: {slow}"
        assert any(row["hopper"] for row in rows)
