"""The loop of multiply-adds that benchmarks stand beside."""

from __future__ import annotations

import math
import os
import pathlib
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_it_counts_multiply_adds_per_second(need) -> None:
    need("bank_mlp", "cpu")
    found = torch.ops.mclnf_fast.cpu_fma_limit(0.02)
    assert math.isfinite(found)
    # From a slow core that is shared by many to a large server; what matters is that the unit is GFLOP/s.
    assert 0.5 < found < 1e5


def test_bf16_is_zero_exactly_where_there_is_no_dot_instruction(need) -> None:
    need("bank_mlp", "cpu")
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("no /proc/cpuinfo to compare with")
    has = "avx512_bf16" in cpuinfo.read_text() and torch.ops.mclnf_fast.cpu_instruction_set() == "avx512"
    assert (torch.ops.mclnf_fast.cpu_fma_limit(0.02, True) > 0) == has


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_duration_that_is_none_is_refused(need, seconds: float) -> None:
    need("bank_mlp", "cpu")
    with pytest.raises(RuntimeError, match="seconds must be above 0 and at most 60"):
        torch.ops.mclnf_fast.cpu_fma_limit(seconds)


def test_it_takes_the_instruction_set_of_the_kernels(need) -> None:
    """The vectors of AVX2 are twice as wide as the portable ones, and multiply and add in one."""
    need("bank_mlp", "cpu")
    if (isa := torch.ops.mclnf_fast.cpu_instruction_set()) in ("portable", "neon"):
        pytest.skip(f"this processor has no AVX2 (its set is {isa})")
    code = (
        "import torch; torch.set_num_threads(1); from mclnf_fast.ops import _library; _library.available()\n"
        "print(max(torch.ops.mclnf_fast.cpu_fma_limit(0.05) for _ in range(5)))"
    )
    found = {}
    for isa in ("portable", "avx2"):
        environment = {**os.environ, "MCLNF_FAST_ISA": isa, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found[isa] = float(done.stdout)
    assert found["avx2"] > 1.3 * found["portable"]
