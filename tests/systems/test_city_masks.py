"""A city of masked pictures: what stands under a mask changes nothing, neither what is learned nor what is scored."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from posed_trees import SIZE, looking_down, write_posed
from tiny_city import OPTIONS, results

from mclnf_fast.cli import main
from mclnf_fast.fields import load_bank

PLACES = [(0.2 * k - 1, 0.3 * (k % 3)) for k in range(10)]


def folder(root: pathlib.Path, under: int, masks: bool = True) -> pathlib.Path:
    """Pictures whose masked part has the value `under`."""
    write_posed(root, *looking_down(PLACES), color=(90, 160, 30))
    content = json.loads((root / "transforms.json").read_text())
    (root / "masks").mkdir()
    rng = np.random.default_rng(1)
    for k, frame in enumerate(content["frames"]):
        path = root / frame["file_path"]
        pixels, mask = np.array(Image.open(path)), np.full(SIZE[::-1], 255, np.uint8)
        pixels[..., 0] = rng.integers(0, 256, pixels.shape[:2])
        mask[2:5, 3:9] = 0
        pixels[mask == 0] = under
        Image.fromarray(pixels).save(path)
        if masks:
            Image.fromarray(mask).save(root / f"masks/{k}.png")
            frame["mask_path"] = f"masks/{k}.png"
    (root / "transforms.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("methods", [("mod_random", "finetune", "offline"), ("mim", "er", "ewc")])
def test_what_is_masked_changes_nothing(tmp_path, monkeypatch, capsys, methods):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    found, banks = [], []
    for name, under, masks in (("black", 0, True), ("white", 255, True), ("plain", 255, False)):
        data = folder(tmp_path / name / "photos", under, masks)
        run = tmp_path / name / "run"
        words = ["--data", str(data), "--blocks", "2", "1", "--init", "random", *OPTIONS, "--out", str(run)]
        assert main(["run", "city", *words, "--methods", *methods]) == 0
        metrics = results(run)
        for key in ("config", "pictures"):
            metrics.pop(key, None)
        found.append(json.dumps(metrics, sort_keys=True))
        banks.append(load_bank(run / "bank.safetensors").state_dict())
    out = capsys.readouterr().out
    assert "Masks are obeyed: 18.8% of the pixels carry no loss and are not scored." in out
    assert all(torch.equal(tensor, banks[1][key]) for key, tensor in banks[0].items())
    assert found[0] == found[1]
    assert found[0] != found[2]
