"""nvcc compiles every file of csrc/cuda for each architecture that we name, and the kernels fit the registers. No GPU
is needed, and no CUDA build of torch."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import re
import subprocess
from typing import NamedTuple

import emulated_cuda
import pytest
from nvcc_output import Output, ask, compiled, nvcc

ROOT = emulated_cuda.ROOT
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = (80, 90, 100)
SPILL = 64  # bytes of a thread that may be written to memory for lack of registers: sixteen numbers
SHARED = 48 << 10  # bytes of static shared memory that any block may have
FITS = {
    "bank_fit": 6,
    "bank_guided_fit": 3,
    "bank_ray_fit": 6,
    "bank_fit_tf32": 8,
    "bank_fit_bf16": 5,
    "bank_fit_fp16": 5,
}
"""Kernels of fits in each file: of a block alone, and of those that share a module."""


class Kernel(NamedTuple):
    name: str
    spill: int
    registers: int
    shared: int


def kernels(report: str, arch: int) -> list[Kernel]:
    """What ptxas says of each kernel (-Xptxas -v)."""
    found = []
    for part in report.split("Compiling entry function '")[1:]:
        if f"' for 'sm_{arch}'" not in part:
            continue
        spill = re.search(r"(\d+) bytes spill stores", part)
        used = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        assert spill is not None, part
        assert used is not None, part
        size = int(shared[1]) if shared else 0
        found.append(Kernel(part.split("'", 1)[0], int(spill[1]), int(used[1]), size))
    return found


def rare(source: pathlib.Path) -> bool:
    return source.name in emulated_cuda.build_script().JIT_SOURCES


def output(source: pathlib.Path, arch: int) -> Output:
    """What a build makes of a source for an architecture: for all before 10.0 at once, with the host's half."""
    old = arch < 100
    names = [str(a) for a in ARCHITECTURES if a < 100] if old else [str(arch)]
    if unknown := [name for name in names if f"compute_{name}" not in ask("--list-gpu-arch")]:
        pytest.skip(f"this nvcc does not know sm_{unknown[0]}")
    # Without the intermediate code for later ones, which stands behind them.
    flags = emulated_cuda.build_script().target_flags("any other.cu", names)[: 2 * len(names)]
    return compiled(source, "-c" if old else "-cubin", flags)


def sources(arch: int) -> list[pathlib.Path]:
    """What is compiled each time: all but some fits, which take nearly all of the time. Those in 16 bits differ from
    that in tf32 by two instructions; a test below compiles them as far as a build does. For 10.0, whose front end is
    another, only those of points in float32 and float64."""
    if os.environ.get("MCLNF_COMPILE_ALL") == "1":
        return SOURCES
    return [s for s in SOURCES if not rare(s) and (arch < 100 or s.stem not in FITS or s.stem == "bank_fit")]


def test_rare_formats_are_intermediate_code_that_every_listed_device_takes() -> None:
    build = emulated_cuda.build_script()
    for name in build.JIT_SOURCES:
        assert (ROOT / "csrc" / "cuda" / name).is_file()
        assert build.target_flags(f"csrc/cuda/{name}", ["90a", "100"]) == [
            "-gencode",
            "arch=compute_90,code=compute_90",
        ]


def test_the_front_end_runs_once_for_what_it_makes_the_same() -> None:
    build = emulated_cuda.build_script()
    flags = build.target_flags("csrc/cuda/bank_fit.cu", ["80", "90", "90a", "100", "120"])
    assert flags[1::2] == [
        "arch=compute_80,code=sm_80",
        "arch=compute_80,code=sm_90",
        "arch=compute_90a,code=sm_90a",
        "arch=compute_100,code=sm_100",
        "arch=compute_120,code=sm_120",
        "arch=compute_120,code=compute_120",
    ]
    assert build.target_flags("csrc/cuda/bank_fit.cu", []) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(nvcc() is None, reason="nvcc was not found")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_kernel_compiles_and_fits_the_registers(arch: int, tmp_path: pathlib.Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outputs = dict(zip(sources(arch), pool.map(lambda source: output(source, arch), sources(arch))))
    for source, made in outputs.items():
        report = kernels(made.report, arch)
        assert report, f"{source.name} has no kernel for sm_{arch}"
        spilling = [kernel for kernel in report if kernel.spill > SPILL]
        assert not spilling, f"{source.name} spills more than {SPILL} bytes on sm_{arch}: {spilling}"
        fits = [kernel for kernel in report if "fit_kernel" in kernel.name]
        assert len(fits) == FITS.get(source.stem, 0), source.name
        # A block of 256 threads has a multiprocessor, and two of 128 share one, by 64 Ki registers.
        assert all(-(-kernel.registers // 8) * 8 * 256 <= 1 << 16 for kernel in fits), fits
        large = [kernel for kernel in report if kernel.shared > SHARED]
        assert not large, f"{source.name} asks for more shared memory than sm_{arch} gives: {large}"
    if arch == ARCHITECTURES[0]:
        # A name that two files define is seen here alone: beside a torch without CUDA the library is not built.
        objects = [str(made.file) for made in outputs.values()]
        link = [str(nvcc()), "-shared", "-o", str(tmp_path / "library.so"), *objects, "-cudart", "static"]
        done = subprocess.run(link, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]


@pytest.mark.slow
@pytest.mark.skipif(nvcc() is None, reason="nvcc was not found")
def test_spills_are_seen(tmp_path: pathlib.Path) -> None:
    """96 numbers in 32 registers, and 8 KiB of shared memory."""
    source = tmp_path / "wide.cu"
    source.write_text("""
        __global__ void __launch_bounds__(1024, 2) wide(float* p) {
            __shared__ float mean[2048];
            float own[96];
            #pragma unroll
            for (int i = 0; i < 96; ++i) own[i] = p[1024 * i + threadIdx.x];
            mean[threadIdx.x] = mean[2047 - threadIdx.x] = own[0];
            __syncthreads();
            #pragma unroll
            for (int i = 0; i < 96; ++i) p[1024 * i + threadIdx.x] = own[i] * own[(i + 7) % 96] + mean[i];
        }""")
    (kernel,) = kernels(output(source, 90).report, 90)
    assert "wide" in kernel.name
    assert kernel.spill > SPILL
    assert kernel.registers <= 32
    assert kernel.shared == 8 << 10


@pytest.mark.slow
@pytest.mark.skipif(nvcc() is None, reason="nvcc was not found")
@pytest.mark.parametrize("name", FITS)
def test_the_near_kernels_of_a_fit_read_shared_memory_as_such(name: str) -> None:
    """What their products read: by instructions for shared memory, 16 bytes at once, and what the tensor cores take. A
    pointer that may lead elsewhere would be read by slower ones, and no other test would tell."""
    source = ROOT / "csrc" / "cuda" / f"{name}.cu"
    if rare(source):
        flags = emulated_cuda.build_script().target_flags(source.name, ["80"])
        # Those in fp16 are those in bf16, but for the instruction: each time nvcc reads them, and optimizes nothing.
        reads = name == "bank_fit_fp16" and os.environ.get("MCLNF_COMPILE_ALL") != "1"
        ptx = compiled(source, "-ptx", flags, ["-Xcicc", "-O0"] if reads else []).ptx
        if reads:
            assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" in ptx
            return
    else:
        ptx = output(source, 90).ptx
    bodies = {part.split("(", 1)[0]: part for part in ptx.split("\n.entry ")[1:]}
    near = [body for entry, body in bodies.items() if "fit_kernelIfLb1E" in entry]
    far = [body for entry, body in bodies.items() if "fit_kernelIfLb0E" in entry]
    assert len(near) == {"bank_fit_tf32": 4, "bank_fit": 2, "bank_ray_fit": 2}.get(name, 1)
    assert len(far) == {"bank_fit": 2, "bank_ray_fit": 2, "bank_guided_fit": 1}.get(name, 4)
    for body in near:
        assert body.count("ld.shared.v4.f32") > 30
        assert body.count("ld.v4.f32") == 0
        assert body.count("ld.v2.f32") == 0
    for body in far:
        assert body.count("ld.v4.f32") > 30
    products = {
        "tf32": "mma.sync.aligned.m16n8k8",
        "bf16": "mma.sync.aligned.m16n8k16",
        "fp16": "mma.sync.aligned.m16n8k16",
    }
    kind = name.rpartition("_")[2]
    for body in (*near, *far):
        assert (body.count(products[kind]) > 20) if kind in products else ("mma.sync" not in body)
