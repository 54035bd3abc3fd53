"""The kernels of every instruction set, each in its own process, against the reference."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECK = """
import torch
import mclnf_fast as mf
from bank_cases import assert_no_worse, make
from test_bank_accuracy import BOUNDS, worst_ulps
from test_bank_gradients import agree
from test_bank_keep import SPECS, backward
from test_bank_mse import everything, problem
from test_bank_ray_mse import SHADINGS, everything as all_of_rays, problem as rays_problem

print(torch.ops.mclnf_fast.cpu_instruction_set())
encoding = mf.Composite(((mf.Frequency(3, True, scale=1.0), 3), (mf.SphericalHarmonics(4), 3)))
for activation in ("relu", "sine", "softplus", "tanh", "sigmoid", "exp"):
    spec = mf.FieldSpec(6, 5, 37, 2, activation, "sigmoid", encoding, w0=2.0, skips=(1,))
    case = make(spec, [65, 0, 17, 1])
    truth = case.to(torch.float64).run("reference")
    assert_no_worse(case.run("cpu"), case.run("reference"), truth, activation)
    agree(case, False, "cpu")
    agree(make(spec, [17, 0, 6]), True, "cpu")
    double = make(spec, [65, 0, 17, 1], torch.float64)
    torch.testing.assert_close(double.run("cpu"), double.run("reference"), rtol=1e-12, atol=1e-12)
for activation, bound in BOUNDS.items():
    assert worst_ulps(activation, torch.linspace(-110, 95, 100_001)) <= bound, activation
case, grad_y = make(mf.FieldSpec(3, 4, 37, 2, "tanh"), [70, 0, 9]), torch.randn(79, 4)
for ids in (None, torch.arange(79) % 11):
    found = {}
    for backend in ("cpu", "reference"):
        result = mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, grad_y, None, case.spec, ids, backend=backend
        )
        found[backend] = [result.scores, *(t for pair in result[1:] for ts in pair for t in ts)]
    for f, r in zip(found["cpu"], found["reference"]):
        torch.testing.assert_close(f, r, rtol=1e-4, atol=1e-4 * float(r.abs().max()))
for spec in SPECS.values():
    case = make(spec, [600, 0, 130])
    for f, r in zip(backward(case, 10**5), backward(case, None), strict=True):
        assert torch.equal(f, r)
    case, target, weight = problem(spec, [600, 0, 130], torch.float32)
    exact = case.to(torch.float64).require(x=False)
    found = everything(case.require(x=False), target, weight, "mean", "cpu")
    same = everything(case, target, weight, "mean", "reference")
    truth = everything(exact, target.double(), weight.double(), "mean", "reference")
    for f, s, t in zip(found, same, truth, strict=True):
        assert_no_worse(f, s, t, "squared error", terms=600)
for shading in SHADINGS:
    p = rays_problem("relu", shading, torch.float32)
    exact = p.to(torch.float64)
    found, same = (all_of_rays(p, p.loss(backend)) for backend in ("cpu", "reference"))
    for f, s, t in zip(found, same, all_of_rays(exact, exact.loss("reference")), strict=True):
        assert_no_worse(f, s, t, "squared error of rays", terms=600)
"""


def run(isa: str, code: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "ops")])
    environment = {**os.environ, "MCLNF_FAST_ISA": isa, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon", "portable"])
def test_every_instruction_set_agrees_with_the_reference(need, isa: str) -> None:
    need("bank_mlp", "cpu")
    done = run(isa, CHECK)
    if "this processor" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


def test_an_unknown_set_is_refused_and_named(need) -> None:
    need("bank_mlp", "cpu")
    done = run("sse9", "import torch, mclnf_fast; torch.ops.mclnf_fast.cpu_instruction_set()")
    assert done.returncode != 0
    assert "MCLNF_FAST_ISA must be avx512, avx2, neon or portable, got sse9" in done.stderr


def test_the_fastest_set_is_taken(need) -> None:
    need("bank_mlp", "cpu")
    taken = torch.ops.mclnf_fast.cpu_instruction_set()
    without = "neon" if platform.machine() in ("aarch64", "arm64") else "portable"
    want = {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), without)
    assert taken == os.environ.get("MCLNF_FAST_ISA", want)
