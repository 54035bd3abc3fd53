"""`mclnf_fast.info()` tells the truth, with the compiled library and without it."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import torch

import mclnf_fast as mf
from mclnf_fast.ops import _dispatch, _library

PACKAGE = pathlib.Path(mf.__file__).parent


def test_versions_and_the_backends_of_every_op() -> None:
    found = mf.info()
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["ops"]["cpu"]) >= {
        "bank_mlp",
        "bank_step",
        "fisher_scores",
        "march_rays",
        "composite",
        "grid_encode",
    }
    for op, row in found["ops"]["cpu"].items():
        assert row["backend"] == _dispatch.select(op, "auto", torch.device("cpu"), torch.float32)
        for name, reason in row["passed_over"].items():
            assert reason == _dispatch.passed_over(op, name, torch.device("cpu"), torch.float32)
    if _library.available("cpu"):
        isa = torch.ops.mclnf_fast.cpu_instruction_set()
        assert found["built"]["cpu"] == f"loaded, instruction set {isa}"
    else:
        assert found["built"]["cpu"] == _library.why_not("cpu")
    page = str(found)
    assert all(op in page for op in found["ops"]["cpu"])
    assert torch.__version__ in page


WITHOUT = """
import torch
import mclnf_fast as mf

spec = mf.FieldSpec(3, 2, 8, 1)
bank = mf.FieldBank(spec, 2)
x = torch.rand(2, 4, 3)
y = bank(x)
y.sum().backward()
assert bank.weight[0].grad is not None
assert torch.equal(y, bank(x, backend="reference"))
grad_y = torch.ones(8, 2)
offsets = torch.tensor([0, 4, 8])
arguments = (x.flatten(0, 1), offsets, list(bank.weight), list(bank.bias))
assert mf.ops.fisher_scores(*arguments, grad_y, None, spec).scores.shape == (8,)
for call in (
    lambda: bank(x, backend="cpu"),
    lambda: mf.ops.fisher_scores(*arguments, grad_y, None, spec, backend="cpu"),
):
    try:
        call()
    except mf.BackendError as error:
        assert "REASON" in str(error), error
        assert "Remedy: use backend='auto' or one of: reference" in str(error), error
    else:
        raise SystemExit("a backend that is not there served")
found = mf.info()
assert "REASON" in found["built"]["cpu"], found
for op, row in found["ops"]["cpu"].items():
    assert row["backend"] == "reference", (op, row)
    assert "REASON" in row["passed_over"]["cpu"], (op, row)
"""


def in_a_copy(folder: pathlib.Path, library: bytes | None, reason: str) -> None:
    """Runs the script with a copy of the package whose CPU library is `library`."""
    shutil.copytree(PACKAGE, folder / "mclnf_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if library is not None:
        (folder / "mclnf_fast" / "_C_cpu.so").write_bytes(library)
    environment = {k: v for k, v in os.environ.items() if k != "MCLNF_FAST_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.replace("REASON", reason)],
        env={**environment, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_without_the_library_the_reference_serves(tmp_path: pathlib.Path) -> None:
    in_a_copy(tmp_path, None, "the compiled cpu library is not part of this install (reinstall with")


def test_with_a_library_that_does_not_load_the_reference_serves(tmp_path: pathlib.Path) -> None:
    in_a_copy(tmp_path, b"no library", "the compiled cpu library does not load")
