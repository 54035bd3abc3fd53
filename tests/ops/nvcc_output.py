"""Compiles files of csrc/cuda with nvcc as a build does, for tests of what it makes of them.

What was compiled before from the same text, here or in another copy of the tree, is taken from the temporary folder;
processes that run side by side wait for the first.
"""

from __future__ import annotations

import fcntl
import functools
import gzip
import hashlib
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import emulated_cuda
import torch


class Output(NamedTuple):
    file: pathlib.Path
    report: str  # of the assembler
    ptx: str


@functools.cache
def nvcc() -> str | None:
    return emulated_cuda.build_script().find_nvcc()


@functools.cache
def ask(question: str) -> str:
    return subprocess.run([str(nvcc()), question], capture_output=True, text=True, check=True).stdout


def compiled(source: pathlib.Path, what: str, targets: Sequence[str], extra: Sequence[str] = ()) -> Output:
    """What `nvcc -c`, `-cubin` or `-ptx` (`what`) makes of a source for the architectures that `targets` name."""
    from torch.utils import cpp_extension

    root = emulated_cuda.ROOT
    flags = [what, *targets, *emulated_cuda.build_script().NVCC_FLAGS, "-Xptxas", "-v", *extra]
    digest = hashlib.sha256("\n".join([ask("--version"), torch.__version__, source.name, *flags]).encode())
    for path in (source, *sorted((root / "csrc").rglob("*.h"))):
        digest.update(path.read_bytes())
    target = emulated_cuda.kept("nvcc") / f"{source.stem}_{digest.hexdigest()[:20]}.o"
    report, ptx = (target.with_suffix(suffix) for suffix in (".log", ".ptx.gz"))
    include = [f"-I{path}" for path in (root / "csrc", *cpp_extension.include_paths())]
    with target.with_suffix(".lock").open("w") as lock, tempfile.TemporaryDirectory() as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():  # it is written last
            command = [str(nvcc()), str(source), "-o", str(target), *flags, *include, "--keep", "--keep-dir", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-5000:]
            text = target if what == "-ptx" else pathlib.Path(folder) / f"{source.stem}.ptx"
            ptx.write_bytes(gzip.compress(text.read_bytes()))
            pathlib.Path(f"{report}.part").write_text(done.stderr)
            pathlib.Path(f"{report}.part").replace(report)
    return Output(target, report.read_text(), gzip.decompress(ptx.read_bytes()).decode())
