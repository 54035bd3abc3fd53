"""The kernels of NEON, compiled for aarch64 by a cross compiler and run under emulation (qemu-user), without torch.

Not part of an ordinary run: it compiles some minutes. By hand, on Debian after
`apt-get install g++-aarch64-linux-gnu qemu-user`:

    MCLNF_AARCH64_TESTS=1 pytest tests/ops/test_neon.py

`MCLNF_AARCH64_PYTHON` names a program that runs a Python for aarch64 with torch (docs/testing.md): then the whole
library is compiled, and op tests run in it, an hour and more under emulation.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest
from rebuilt import ROOT, compiled

CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PYTHON = os.environ.get("MCLNF_AARCH64_PYTHON", "")
FILES = (
    "test_instruction_sets", "test_bank_mlp", "test_bank_gradients", "test_bank_accuracy", "test_bank_bf16",
    "test_bank_keep", "test_fisher", "test_bank_mse", "test_bank_ray_mse", "test_bank_step", "test_bank_fit",
    "test_draw_ids", "test_composite", "test_march", "test_traverse", "test_segment_scan", "test_grid", "test_limit",
)  # fmt: skip
pytestmark = [
    pytest.mark.timeout(6 * 3600),
    pytest.mark.skipif(os.environ.get("MCLNF_AARCH64_TESTS", "0") != "1", reason="MCLNF_AARCH64_TESTS is not 1"),
    *(pytest.mark.skipif(shutil.which(x) is None, reason=f"{x} was not found") for x in (CROSS, EMULATOR)),
]


def test_the_kernels_agree_and_the_rest_has_the_bits_of_this_machine(tmp_path: pathlib.Path) -> None:
    tables, kernels = ROOT / "tests" / "ops" / "neon" / "tables.cpp", ROOT / "csrc" / "cpu"
    printed = []
    for compiler, extra, before in ((CROSS, [kernels / "bank_neon.cpp"], [EMULATOR]), ("g++", [], [])):
        objects = compiled(compiler, [*extra, kernels / "bank_portable.cpp", tables], tmp_path)
        program = tmp_path / f"tables.{compiler}"
        subprocess.run([compiler, "-static", *objects, "-o", str(program)], check=True)
        done = subprocess.run([*before, str(program)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout.splitlines())
    assert printed[0][-1] == "neon 16"
    assert printed[0][:-1] == printed[1]


@pytest.mark.skipif(not PYTHON, reason="MCLNF_AARCH64_PYTHON names no Python for aarch64")
def test_the_op_tests_under_emulation(tmp_path: pathlib.Path) -> None:
    objects = compiled(CROSS, [ROOT / "csrc" / "schema.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))], tmp_path)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("mclnf_fast", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    library = tmp_path / "mclnf_fast" / "_C_cpu.so"  # torch's own symbols are found in the torch that loads it
    subprocess.run([CROSS, "-shared", *objects, "-o", str(library)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    files = [f"tests/ops/{name}.py" for name in FILES]
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0", *files]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
