"""The bank's AVX-512 kernels, those over bf16 pairs included, on a processor without AVX-512: the same templates with
the instructions that are missing emulated (setup.py, MCLNF_EMULATE).

Not part of an ordinary run: it builds the library anew and takes some minutes. By hand, with GCC on x86-64:

    MCLNF_EMULATE_TESTS=1 pytest tests/ops/test_bank_emulated.py
"""

from __future__ import annotations

import os
import pathlib

import pytest
from rebuilt import rebuilt, run_python

FILES = (
    "test_bank_bf16", "test_bank_mlp", "test_bank_gradients", "test_bank_opcheck", "test_bank_accuracy", "test_fisher",
    "test_bank_mse", "test_bank_ray_mse", "test_bank_keep", "test_mixed_precision",
)  # fmt: skip
SETS = "import torch, mclnf_fast; print(torch.ops.mclnf_fast.cpu_instruction_set(), mclnf_fast.info()['bf16_dot'])"


@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.environ.get("MCLNF_EMULATE_TESTS", "0") != "1", reason="MCLNF_EMULATE_TESTS is not 1")
def test_the_bank_tests_over_emulated_instructions(tmp_path: pathlib.Path) -> None:
    environment = {**rebuilt(tmp_path, MCLNF_EMULATE="1"), "MCLNF_FAST_ISA": "avx512"}
    assert run_python(tmp_path, environment, "-c", SETS).split() == ["avx512", "True"]
    files = [f"tests/ops/{name}.py" for name in FILES]
    run_python(tmp_path, environment, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files)
