"""The op tests once more, with the address and undefined-behavior sanitizers in the CPU library.

Not part of an ordinary run: it builds the library anew and takes ten minutes. By hand, with GCC on Linux:

    MCLNF_SANITIZE_TESTS=1 pytest tests/ops/test_sanitizers.py
"""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest
from rebuilt import rebuilt, run_python

FILES = (
    "test_bank_mlp", "test_bank_gradients", "test_bank_opcheck", "test_bank_accuracy", "test_bank_bf16", "test_fisher",
    "test_bank_mse", "test_bank_ray_mse", "test_bank_keep",
    "test_composite", "test_march", "test_traverse", "test_segment_scan", "test_bank_step", "test_bank_step_opcheck",
    "test_grid", "test_grid_gradients", "test_grid_opcheck",
)  # fmt: skip
# Not there: a sweep over memory that is large without sanitizers, and a subprocess that has none of this.
WITHOUT = "not stored and not very_first_call and not func"


@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.environ.get("MCLNF_SANITIZE_TESTS", "0") != "1", reason="MCLNF_SANITIZE_TESTS is not 1")
def test_the_op_tests_under_sanitizers(tmp_path: pathlib.Path) -> None:
    environment = rebuilt(tmp_path, MCLNF_SANITIZE="1", MCLNF_DEBUG="1")
    preload = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    environment |= {
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    files = [f"tests/ops/{name}.py" for name in FILES]
    run_python(tmp_path, environment, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", WITHOUT, *files)
