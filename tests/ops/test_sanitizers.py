"""The op tests once more, with the address and undefined-behavior sanitizers in the CPU library.

Not part of an ordinary run: it builds the library anew and takes ten minutes. By hand, with GCC on Linux:

    MCLNF_SANITIZE_TESTS=1 pytest tests/ops/test_sanitizers.py
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = (
    "test_bank_mlp", "test_bank_gradients", "test_bank_opcheck", "test_bank_accuracy", "test_bank_bf16", "test_fisher",
    "test_bank_mse", "test_bank_ray_mse", "test_bank_keep",
    "test_composite", "test_march", "test_bank_step", "test_bank_step_opcheck",
    "test_grid", "test_grid_gradients", "test_grid_opcheck",
)  # fmt: skip
# Not there: a sweep over memory that is large without sanitizers, and a subprocess that has none of this.
WITHOUT = "not stored and not very_first_call and not func"


@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.environ.get("MCLNF_SANITIZE_TESTS", "0") != "1", reason="MCLNF_SANITIZE_TESTS is not 1")
def test_the_op_tests_under_sanitizers(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "MCLNF_SANITIZE": "1", "MCLNF_DEBUG": "1", "MCLNF_NO_CUDA": "1"}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path), "--build-temp"]
    subprocess.run([*build, str(tmp_path / "objects")], cwd=ROOT, env=environment, check=True)
    shutil.copytree(
        ROOT / "mclnf_fast",
        tmp_path / "mclnf_fast",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        dirs_exist_ok=True,
    )
    shutil.copytree(ROOT / "tests", tmp_path / "tests")
    preload = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    environment |= {
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": str(tmp_path),
    }
    tests = [f"tests/ops/{name}.py" for name in FILES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", WITHOUT, *tests],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
