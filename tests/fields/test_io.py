"""Banks on disk: what was saved comes back bit for bit, and nothing else comes back at all."""

from __future__ import annotations

import os
import pathlib

import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.errors import InputError
from mclnf_fast.fields import load_tensors, save_tensors

SPECS = [
    mf.FieldSpec(3, 4, 8, 2, "sine(200)", skips=(1,)),
    mf.FieldSpec(6, 1, 8, 0, encoding=mf.Composite(((mf.Frequency(3, True), 3), (mf.SphericalHarmonics(2), 3)))),
    mf.FieldSpec(2, 1, 8, 1, "tanh", "sigmoid", mf.LogFrequency(4, 2.5)),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("modules", "dtype"), [(0, torch.float32), (3, torch.float64), (2, torch.bfloat16)])
def test_round_trip(tmp_path: pathlib.Path, spec: mf.FieldSpec, modules: int, dtype: torch.dtype) -> None:
    bank = mf.FieldBank(spec, modules, dtype)
    with torch.no_grad():
        for p in bank.parameters():
            p += torch.randn_like(p)
    mf.save_bank(tmp_path / "a" / "bank.safetensors", bank, step=7)
    again = mf.load_bank(tmp_path / "a" / "bank.safetensors", spec)
    assert again.spec == spec
    assert len(again) == modules
    for name, tensor in bank.state_dict().items():
        found = again.state_dict()[name]
        assert found.dtype == dtype
        assert torch.equal(found, tensor), name
    assert load_tensors(tmp_path / "a" / "bank.safetensors")[1]["step"] == 7
    assert '"modules"' in (tmp_path / "a" / "bank.safetensors.json").read_text()


def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "bank.safetensors"
    mf.save_bank(path, mf.FieldBank(SPECS[0], 2))
    return path


@pytest.mark.parametrize("place", [0.0, 0.005, 0.02, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("bit", [1, 128])
def test_a_flipped_bit_anywhere_is_found(tmp_path: pathlib.Path, place: float, bit: int) -> None:
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= bit
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"checkpoint .*bank.safetensors: must"):
        mf.load_bank(path)


def test_every_flipped_byte_of_the_header_is_found_or_harmless(tmp_path: pathlib.Path) -> None:
    """It holds names, shapes, the spec and the checksum; padding may change without changing the bank."""
    path = saved(tmp_path)
    data, want = path.read_bytes(), mf.load_bank(path)
    header = 8 + int.from_bytes(data[:8], "little")
    found = 0
    for at in range(0, header, 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            bank = mf.load_bank(path)
        except InputError:
            found += 1
            continue
        assert bank.spec == want.spec
        assert all(map(torch.equal, bank.state_dict().values(), want.state_dict().values()))
    assert found > 0.8 * header / 7


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_a_truncated_file(tmp_path: pathlib.Path, keep: int) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="must be a whole safetensors file"):
        mf.load_bank(path)


def test_files_that_are_no_checkpoint(tmp_path: pathlib.Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="must be a file, but there is none"):
        mf.load_bank(tmp_path / "missing")
    with pytest.raises(InputError, match="must be a file, but there is none"):
        mf.load_bank(tmp_path)
    (tmp_path / "text").write_text("hello, this is no checkpoint at all")
    with pytest.raises(InputError, match="must be a whole safetensors file"):
        mf.load_bank(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(
        InputError, match="must have format mclnf_fast/1, as save_bank writes it, or be read with a spec"
    ):
        mf.load_bank(tmp_path / "foreign")
    save_tensors(tmp_path / "tensors", {"a": torch.zeros(2)}, {"note": "no bank"})
    with pytest.raises(InputError, match="must hold a bank with its spec"):
        mf.load_bank(tmp_path / "tensors")
    meta = {"spec": mf.spec.to_dict(SPECS[0]), "modules": 2}
    save_tensors(tmp_path / "short", {"a": torch.zeros(2)}, meta)
    with pytest.raises(InputError, match="its tensors do not fit its spec"):
        mf.load_bank(tmp_path / "short")


def test_another_architecture(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"must have the architecture FieldSpec\(.*got FieldSpec\("):
        mf.load_bank(saved(tmp_path), mf.FieldSpec(3, 4, 16, 2))


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_save_that_dies_leaves_the_old_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, killed)
    with pytest.raises(KeyboardInterrupt):
        mf.save_bank(path, mf.FieldBank(SPECS[0], 5))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert len(mf.load_bank(path)) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]  # no litter
    mf.save_bank(path, mf.FieldBank(SPECS[0], 5))
    assert len(mf.load_bank(path)) == 5
