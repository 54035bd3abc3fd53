"""nvcc compiles every file of csrc/cuda for each architecture that we name, and the kernels fit the registers. No GPU
is needed, and no CUDA build of torch."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pathlib
import re
import subprocess
from typing import NamedTuple

import emulated_cuda
import pytest

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


def kernels(report: str) -> list[Kernel]:
    """What ptxas says of each kernel (-Xptxas -v)."""
    found = []
    for part in report.split("Compiling entry function '")[1:]:
        spill = re.search(r"(\d+) bytes spill stores", part)
        used = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        assert spill is not None, part
        assert used is not None, part
        size = int(shared[1]) if shared else 0
        found.append(Kernel(part.split("'", 1)[0], int(spill[1]), int(used[1]), size))
    return found


@functools.cache
def nvcc() -> str | None:
    return emulated_cuda.build_script().find_nvcc()


def command(what: str, source: pathlib.Path, target: pathlib.Path, gencode: str) -> list[str]:
    from torch.utils import cpp_extension

    include = [f"-I{path}" for path in (ROOT / "csrc", *cpp_extension.include_paths())]
    flags = emulated_cuda.build_script().NVCC_FLAGS
    return [str(nvcc()), what, str(source), "-o", str(target), f"-gencode={gencode}", *flags, *include]


def compiled(source: pathlib.Path, arch: int, folder: pathlib.Path, extra: tuple[str, ...] = ()) -> list[Kernel]:
    """One architecture; the host's half of the file with the first one alone."""
    if f"compute_{arch}" not in subprocess.run([str(nvcc()), "--list-gpu-arch"], capture_output=True, text=True).stdout:
        pytest.skip(f"this nvcc does not know sm_{arch}")
    what = "-c" if arch == ARCHITECTURES[0] else "-cubin"
    call = command(what, source, folder / f"{source.stem}_{arch}.o", f"arch=compute_{arch},code=sm_{arch}")
    done = subprocess.run([*call, "-Xptxas", "-v", *extra], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return kernels(done.stderr)


def test_rare_formats_are_intermediate_code_that_every_listed_device_takes() -> None:
    build = emulated_cuda.build_script()
    for name in build.JIT_SOURCES:
        assert (ROOT / "csrc" / "cuda" / name).is_file()
        assert build.target_flags(f"csrc/cuda/{name}", ["90a", "100"]) == [
            "-gencode",
            "arch=compute_90,code=compute_90",
        ]
    flags = build.target_flags("csrc/cuda/bank_fit.cu", ["80", "90a"])
    assert flags[1::2] == [
        "arch=compute_80,code=sm_80",
        "arch=compute_90a,code=sm_90a",
        "arch=compute_90a,code=compute_90a",
    ]
    assert build.target_flags("csrc/cuda/bank_fit.cu", []) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(nvcc() is None, reason="nvcc was not found")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_kernel_compiles_and_fits_the_registers(arch: int, tmp_path: pathlib.Path) -> None:
    # The fits in 16 bits differ from that in tf32 by two instructions, and take a minute and more each; a test below
    # compiles them as far as a build does.
    every = os.environ.get("MCLNF_COMPILE_ALL") == "1"
    sources = [s for s in SOURCES if every or s.name not in emulated_cuda.build_script().JIT_SOURCES]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda source: compiled(source, arch, tmp_path), sources))
    for source, report in zip(sources, found):
        assert report, f"{source.name} has no kernel for sm_{arch}"
        spilling = [kernel for kernel in report if kernel.spill > SPILL]
        assert not spilling, f"{source.name} spills more than {SPILL} bytes on sm_{arch}: {spilling}"
        fits = [kernel for kernel in report if "fit_kernel" in kernel.name]
        assert len(fits) == FITS.get(source.stem, 0), source.name
        # A block of 256 threads has a multiprocessor, and two of 128 share one, by 64 Ki registers.
        assert all(-(-kernel.registers // 8) * 8 * 256 <= 1 << 16 for kernel in fits), fits
        large = [kernel for kernel in report if kernel.shared > SHARED]
        assert not large, f"{source.name} asks for more shared memory than sm_{arch} gives: {large}"
    if objects := sorted(tmp_path.glob("*.o")) if arch == ARCHITECTURES[0] else []:
        # A name that two files define is seen here alone: beside a torch without CUDA the library is not built.
        link = [str(nvcc()), "-shared", "-o", str(tmp_path / "library.so"), *map(str, objects), "-cudart", "static"]
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
    (kernel,) = compiled(source, 90, tmp_path)
    assert "wide" in kernel.name
    assert kernel.spill > SPILL
    assert kernel.registers <= 32
    assert kernel.shared == 8 << 10


@pytest.mark.slow
@pytest.mark.skipif(nvcc() is None, reason="nvcc was not found")
@pytest.mark.parametrize("name", FITS)
def test_the_near_kernels_of_a_fit_read_shared_memory_as_such(tmp_path: pathlib.Path, name: str) -> None:
    """What their products read: by instructions for shared memory, 16 bytes at once, and what the tensor cores take. A
    pointer that may lead elsewhere would be read by slower ones, and no other test would tell."""
    target = tmp_path / "fit.ptx"
    call = command("-ptx", ROOT / "csrc" / "cuda" / f"{name}.cu", target, "arch=compute_90,code=compute_90")
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    bodies = {part.split("(", 1)[0]: part for part in target.read_text().split("\n.entry ")[1:]}
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
