"""Fields outside of this package: torch.export's programs, and ONNX files in another runtime."""

from __future__ import annotations

import pytest
import torch

import mclnf_fast as mf

SPECS = {
    "relu": mf.FieldSpec(2, 3, 16, 2, encoding=mf.Frequency(4), skips=(1,)),
    "sine": mf.FieldSpec(3, 1, 16, 1, "sine(20)", "tanh"),
    "sphere": mf.FieldSpec(3, 4, 8, 1, "softplus", "sigmoid", encoding=mf.SphericalHarmonics(3)),
}
ANY_NUMBER = {"x": {0: torch.export.Dim.AUTO}}
"""The points are as many as the caller has."""


@pytest.mark.parametrize("spec", [*SPECS.values(), mf.FieldSpec(2, 3, 8, 1, encoding=mf.HashGrid(2))])
def test_a_module_is_exported_for_any_number_of_points(spec: mf.FieldSpec, tmp_path) -> None:
    module = mf.FieldBank(spec, 2, init="independent")[1]
    program = torch.export.export(module, (torch.rand(17, spec.in_dim),), dynamic_shapes=ANY_NUMBER)
    torch.export.save(program, tmp_path / "field.pt2")
    x = torch.rand(33, spec.in_dim)
    torch.testing.assert_close(torch.export.load(tmp_path / "field.pt2").module()(x), module(x))


def test_a_bank_is_exported(tmp_path) -> None:
    bank, x = mf.FieldBank(SPECS["relu"], 3, init="independent"), torch.rand(3, 9, 2)
    torch.export.save(torch.export.export(bank, (x,)), tmp_path / "bank.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "bank.pt2").module()(x), bank(x))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SPECS)
def test_another_runtime_computes_the_same_from_onnx(name: str, tmp_path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    spec = SPECS[name]
    module = mf.FieldBank(spec, 2, init="independent")[1].eval()
    example = (torch.rand(17, spec.in_dim),)
    torch.onnx.export(module, example, tmp_path / "f.onnx", dynamic_shapes=ANY_NUMBER, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "f.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(33, spec.in_dim)
    [y] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), module(x).detach(), rtol=1e-4, atol=1e-5)
