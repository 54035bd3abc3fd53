"""Banks on disk as data sets, and joined without being read into memory."""

from __future__ import annotations

import gc
import itertools
import json
import pathlib
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

import mclnf_fast as mf
from mclnf_fast.fields import join_banks, load_tensors, save_bank, save_tensors

SPEC = mf.FieldSpec(2, 3, width=8, hidden_layers=1)
NAMES = ["train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/dog/d.png", "cat/e.png"]


def random_bank(modules: int, spec: mf.FieldSpec = SPEC, seed: int = 0, dtype=torch.float32) -> mf.FieldBank:
    generator = torch.Generator().manual_seed(seed)
    bank = mf.FieldBank(spec, modules, dtype, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        for p in bank.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return bank


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> tuple[pathlib.Path, mf.FieldBank]:
    bank = random_bank(5)
    save_bank(tmp_path / "bank", bank, names=NAMES, psnr=[30.0, 31.0, None, 33.0, 34.0])
    return tmp_path / "bank", bank


def test_items_are_the_modules(saved) -> None:
    path, bank = saved
    flat, layers = mf.FieldDataset(path), mf.FieldDataset(path, "layers")
    assert len(flat) == 5
    for i in range(5):
        vector, about = flat[i]
        assert torch.equal(vector, torch.cat([p[i].flatten() for p in bank.stacked]))
        tensors, _ = layers[i]
        assert all(torch.equal(t, p[i]) for t, p in zip(tensors, bank.stacked, strict=True))
        assert about["name"] == NAMES[i]
    assert flat.classes == ["cat", "dog"]
    assert flat.labels == [0, 1, 0, 1, 0]
    assert flat[2][1]["psnr"] != flat[2][1]["psnr"]
    assert flat[-1][1]["index"] == 4
    with pytest.raises(IndexError):
        flat[5]
    assert len(list(flat)) == 5  # a loop over it ends


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_loader(saved, workers: int) -> None:
    path, bank = saved
    fields = mf.FieldDataset(path)
    fields[0]  # the file is open when workers begin
    # A forked worker that collects a frame of a video, left by another test, would wait for its scaler's threads, which
    # are not there.
    gc.collect()
    vectors, abouts = zip(*DataLoader(fields, batch_size=2, num_workers=workers))
    assert torch.equal(torch.cat(vectors), torch.cat([p.flatten(1) for p in bank.stacked], 1))
    assert torch.cat([about["label"] for about in abouts]).tolist() == [0, 1, 0, 1, 0]
    assert [name for about in abouts for name in about["name"]] == NAMES


def test_a_copy_without_the_open_file_can_be_sent(saved) -> None:
    path, _ = saved
    fields = mf.FieldDataset(path)
    first = fields[0][0]
    assert torch.equal(pickle.loads(pickle.dumps(fields))[0][0], first)


def test_some_modules_as_a_bank(saved) -> None:
    path, bank = saved
    some = mf.FieldDataset(path).bank([3, 0])
    assert all(torch.equal(p, q[[3, 0]]) for p, q in zip(some.stacked, bank.stacked, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(some.shared, bank.shared, strict=True))
    assert len(mf.FieldDataset(path).bank([])) == 0


def test_classes_by_a_function_or_none(saved, tmp_path: pathlib.Path) -> None:
    path, bank = saved
    assert mf.FieldDataset(path, label=lambda name: name[-5]).classes == ["a", "b", "c", "d", "e"]
    save_bank(tmp_path / "plain", bank)
    plain = mf.FieldDataset(tmp_path / "plain")
    assert (plain.classes, plain.labels, plain.names[1]) == ([], [-1] * 5, "1")
    save_bank(tmp_path / "mixed", bank, names=["cat/a", "b", "c", "d", "e"])
    assert mf.FieldDataset(tmp_path / "mixed").classes == []


def test_a_bank_with_a_grid(tmp_path: pathlib.Path) -> None:
    spec = mf.FieldSpec(3, 1, 8, 1, encoding=mf.TriPlane(features=2, resolution=4))
    bank = random_bank(2, spec)
    save_bank(tmp_path / "bank", bank)
    tensors, _ = mf.FieldDataset(tmp_path / "bank", "layers")[1]
    assert all(torch.equal(t, p[1]) for t, p in zip(tensors, bank.stacked, strict=True))


def test_refuses_what_is_no_bank(tmp_path: pathlib.Path, saved) -> None:
    path, bank = saved
    with pytest.raises(mf.InputError, match="there is none"):
        mf.FieldDataset(tmp_path / "nowhere")
    save_tensors(tmp_path / "other", {"x": torch.zeros(2)}, {})
    with pytest.raises(mf.InputError, match="must hold a bank"):
        mf.FieldDataset(tmp_path / "other")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(mf.InputError, match="whole safetensors file"):
        mf.FieldDataset(path)
    save_bank(path, bank, names=["a"])
    with pytest.raises(mf.InputError, match="must have 5 names"):
        mf.FieldDataset(path)
    with pytest.raises(ValueError, match="form must be flat or layers"):
        mf.FieldDataset(path, "columns")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_joined_byte_for_byte(tmp_path: pathlib.Path, dtype: torch.dtype) -> None:
    bank = random_bank(7, dtype=dtype)
    parts, cuts = [], [0, 3, 3, 7]
    for k, (begin, end) in enumerate(itertools.pairwise(cuts)):
        part = mf.FieldBank(SPEC, end - begin, dtype, init=bank.shared)
        with torch.no_grad():
            for p, q in zip(part.stacked, bank.stacked, strict=True):
                p.copy_(q[begin:end])
        parts.append(tmp_path / str(k))
        save_bank(parts[-1], part)
    join_banks(tmp_path / "all", parts, names=list("abcdefg"))
    save_bank(tmp_path / "whole", bank, names=list("abcdefg"))
    assert (tmp_path / "all").read_bytes() == (tmp_path / "whole").read_bytes()
    described = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("all", "whole")]
    assert described[0] == described[1]
    load_tensors(tmp_path / "all")  # its checksum


def test_corrupt_and_foreign_parts_are_not_joined(tmp_path: pathlib.Path) -> None:
    save_bank(tmp_path / "a", random_bank(2))
    save_bank(tmp_path / "b", random_bank(2, mf.FieldSpec(2, 3, width=9, hidden_layers=1)))
    with pytest.raises(mf.InputError, match=r"b: must be a bank of the same architecture and dtype as .*a"):
        join_banks(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    content = bytearray((tmp_path / "a").read_bytes())
    content[-3] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(mf.InputError, match="must match its checksum"):
        join_banks(tmp_path / "all", [tmp_path / "a"])
    with pytest.raises(mf.InputError, match="at least one bank"):
        join_banks(tmp_path / "all", [])
    assert not (tmp_path / "all").exists()
