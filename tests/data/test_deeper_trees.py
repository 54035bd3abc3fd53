"""Trees of which a part lies a folder deeper: it is found there, or named, and never left out without a word."""

import json
import math
import shutil

import media_trees as make
import numpy as np
import pytest
import torch
from PIL import Image
from posed import posed

from mclnf_fast.cli import main
from mclnf_fast.data import load_audio, load_objects, load_scene, load_videos
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import look_at


def srn(folder):
    """One object of three views."""
    (folder / "rgb").mkdir(parents=True)
    (folder / "pose").mkdir()
    (folder / "intrinsics.txt").write_text("131.25 64. 64. 0.\n0. 0. 0.\n1.\n128 128\n")
    for k in range(3):
        turn = 2 * math.pi * k / 3
        pose = torch.eye(4)
        pose[:3] = look_at(torch.tensor([[1.3 * math.cos(turn), 1.3 * math.sin(turn), 0.5]]), torch.zeros(1, 3))[0]
        pose = pose.numpy() @ np.diag([1.0, -1.0, -1.0, 1.0])
        (folder / f"pose/{k}.txt").write_text(" ".join(str(float(v)) for v in pose.reshape(-1)))
        Image.new("RGB", (8, 8), (10 * k, 0, 0)).save(folder / f"rgb/{k}.png")


def cars(root, deep: str, between: str):
    for split, count in (("cars_train", 3), ("cars_val", 2), ("cars_test", 2)):
        for k in range(count):
            srn(root / split / (between if split == deep else "") / f"{split[5:]}{k}")
    return root


@pytest.mark.parametrize("deep", ["cars_train", "cars_val", "cars_test"])
@pytest.mark.parametrize("between", ["cars", "archive/cars"])
def test_srn_objects_are_found_where_they_lie(tmp_path, deep, between):
    sets = load_objects(cars(tmp_path / "srn_cars", deep, between))
    assert sorted(item.name.split("/")[-1] for item in sets.train) == ["train0", "train1", "train2"]
    assert sorted(item.name.split("/")[-1] for item in sets.test) == ["test0", "test1"]


def test_an_srn_split_without_an_object_is_named(tmp_path, capsys):
    root = cars(tmp_path / "srn_cars", "cars_test", "a/b/c/d")
    with pytest.raises(InputError, match="cars_test: must hold objects"):
        load_objects(root)
    assert main(["run", "single-view", "--data", str(root), "--out", str(tmp_path / "out")]) == 2
    assert "cars_test: must hold objects" in capsys.readouterr().err


def test_objects_beside_a_folder_of_objects_name_it(tmp_path):
    for name in ("a", "b", "more/c"):
        posed(tmp_path / "tree" / name)
    with pytest.raises(InputError, match=r"more: must be an object with transforms\.json .* \(c\)"):
        load_objects(tmp_path / "tree")


def test_a_city_block_one_folder_deeper_is_named(tmp_path):
    root = posed(tmp_path / "city")
    content = json.loads((root / "transforms.json").read_text())
    (root / "transforms.json").unlink()
    for block, up in (("pose/block_1", "../../"), ("pose/block_2/inner", "../../../")):
        frames = [frame | {"file_path": up + frame["file_path"]} for frame in content["frames"]]
        (root / block).mkdir(parents=True)
        (root / block / "transforms_train.json").write_text(json.dumps(content | {"frames": frames}))
    with pytest.raises(InputError, match="block_2: must be a block"):
        load_scene(root)
    shutil.rmtree(root / "pose/block_2")
    assert len(load_scene(root, holdout_every=0).blocks) == 1


def test_a_voxceleb_split_that_lies_deeper_is_named(tmp_path):
    make.voxceleb(tmp_path / "vox", "video")
    assert len(load_videos(tmp_path / "vox", frames=2, size=16).test)
    (tmp_path / "vox/test").rename(tmp_path / "test")
    (tmp_path / "vox/test/a").mkdir(parents=True)
    (tmp_path / "test").rename(tmp_path / "vox/test/a/b")
    with pytest.raises(InputError, match="test: must hold folders idXXXXX"):
        load_videos(tmp_path / "vox", frames=2, size=16)


def test_sound_beside_librispeech_is_noted(tmp_path):
    root = make.librispeech(tmp_path / "speech")
    make.sound(root / "LibriSpeech/other/x.wav", make.tone(0.1, 16000))
    assert any("left out: other" in note for note in load_audio(root, seconds=0.05).notes)
