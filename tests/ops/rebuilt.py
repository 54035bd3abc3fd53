"""A copy of the package and of these tests with the compiled library built anew, for tests that run the tests in it."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

import emulated_cuda

ROOT = pathlib.Path(__file__).resolve().parents[2]


def rebuilt(folder: pathlib.Path, **switches: str) -> dict[str, str]:
    """Build the CPU library with `switches` of setup.py into `folder`; return the environment that imports it."""
    environment = {**os.environ, **switches, "MCLNF_NO_CUDA": "1"}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp"]
    subprocess.run([*build, str(folder / "objects")], cwd=ROOT, env=environment, check=True)
    # Without the libraries that are there already: they would replace the one just built.
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "mclnf_fast", folder / "mclnf_fast", ignore=ignored, dirs_exist_ok=True)
    shutil.copytree(ROOT / "tests", folder / "tests")
    return {**environment, "PYTHONPATH": str(folder)}


def run_python(folder: pathlib.Path, environment: dict[str, str], *arguments: str) -> str:
    """Run Python in `folder`; return its output, or fail with the end of its output."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def compiled(compiler: str, sources: list[pathlib.Path], folder: pathlib.Path) -> list[str]:
    """Compile with the flags of setup.py, every warning an error; return the objects."""
    from torch.utils import cpp_extension

    flags, _ = emulated_cuda.build_script().cpu_arguments()
    system = [word for path in cpp_extension.include_paths() for word in ("-isystem", path)]
    include = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'cpu'}", *system]

    def one(source: pathlib.Path) -> str:
        target = folder / f"{source.stem}.{compiler}.o"
        command = [compiler, *flags, "-Werror", "-fPIC", *include, "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]
        return str(target)

    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
        return list(pool.map(one, sources))
