"""A copy of the package and of these tests with the compiled library built anew, for tests that run the tests in it."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

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
