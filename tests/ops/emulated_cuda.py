"""Builds csrc/cuda/*.cu with an ordinary C++ compiler, over the emulation of CUDA's blocks in cuda_emulation.

The library registers every op as `torch.ops.mclnf_fast_emulated.<op>`, which takes CPU tensors.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import functools
import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import types

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMULATION = pathlib.Path(__file__).resolve().parent / "cuda_emulation"
FLAGS = [
    "-std=c++17",
    "-O1",
    "-ffp-contract=off",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
]
SANITIZE = ("-fsanitize=address", "-fno-omit-frame-pointer", "-g1")


@functools.cache
def build_script() -> types.ModuleType:
    """setup.py as a module: the flags are there."""
    spec = importlib.util.spec_from_file_location("mclnf_fast_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiler() -> str | None:
    """GCC: clang's sanitizer and sections differ."""
    return shutil.which("g++")


def sources() -> list[pathlib.Path]:
    own = [
        EMULATION / name
        for name in ("emulator.cpp", "switching.cpp", "runtime.cpp", "faults.cu", "plans.cu", "products.cu")
    ]
    return [*sorted((ROOT / "csrc" / "cuda").glob("*.cu")), ROOT / "csrc" / "schema.cpp", *own]


def kept(what: str) -> pathlib.Path:
    """The folder of what tests have compiled."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"mclnf_fast_{what}_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} belongs to someone else"
    return folder


def build(sanitize: bool = False) -> pathlib.Path:
    """The library's path. What was compiled before from the same text, here or in another copy of the tree, is taken
    from the temporary folder; processes that run side by side wait for the first."""
    from torch.utils import cpp_extension

    extra = SANITIZE if sanitize else ()
    include = [f"-I{path}" for path in (EMULATION, ROOT / "csrc", *cpp_extension.include_paths())]
    flags = [*FLAGS, *extra, build_script().TARGET, "-DMCLNF_LIBRARY=mclnf_fast_emulated"]
    headers = sorted([*(ROOT / "csrc").rglob("*.h"), *EMULATION.glob("*.h")])
    common = hashlib.sha256("\n".join([compiler() or "", torch.__version__, *flags]).encode())
    for header in headers:
        common.update(header.read_bytes())
    folder = kept("emulated")

    def compiled(source: pathlib.Path) -> pathlib.Path:
        digest = common.copy()
        digest.update(str(source.relative_to(ROOT)).encode() + source.read_bytes())
        target = folder / f"{source.stem}_{digest.hexdigest()[:20]}.o"
        if not target.exists():
            run("-x", "c++", *flags, *include, "-c", str(source), "-o", f"{target}.part")
            pathlib.Path(f"{target}.part").replace(target)
        return target

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [str(path) for path in pool.map(compiled, sources())]
        library = folder / f"emulated_{hashlib.sha256(''.join(objects).encode()).hexdigest()[:20]}.so"
        if not library.exists():
            torch_libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
            run("-shared", *extra, *objects, *torch_libraries, "-ltorch_cpu", "-lc10", "-o", f"{library}.part")
            pathlib.Path(f"{library}.part").replace(library)
    return library


def run(*arguments: str) -> None:
    done = subprocess.run([str(compiler()), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"g++ {' '.join(arguments)}\n{done.stderr[-5000:]}")


@functools.cache
def why_not() -> str | None:
    """Why there is no emulation here; None where there is."""
    if sys.platform != "linux":
        return "the emulation of CUDA is written for Linux"
    return None if compiler() else "the emulation of CUDA is compiled with g++, which was not found"


@functools.cache
def load() -> object:
    """The namespace of the ops."""
    torch.ops.load_library(str(build(os.environ.get("MCLNF_EMULATION_SANITIZE", "0") == "1")))
    return torch.ops.mclnf_fast_emulated
