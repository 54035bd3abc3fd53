"""The initializations that come with the package: what the files say, and that every door takes them."""

from __future__ import annotations

import pathlib
import shutil

import pytest
import torch
from tiny_runs import metrics_of, run_system

import mclnf_fast as mf
from mclnf_fast.cli import main
from mclnf_fast.data.procedural.phantoms import procedural_phantoms
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.metrics import psnr
from mclnf_fast.render.parallel_beam import back_project, even_angles, project
from mclnf_fast.systems.common.pretrained import FOLDER, pretrained_names
from mclnf_fast.systems.ct.options import defaults_of as ct_defaults
from mclnf_fast.systems.image_start.options import defaults_of as image_start_defaults
from mclnf_fast.systems.signals.options import CONFIGS

NAMES = ("face_patches", "faces", "phantoms", "speech")
SHORT_IMAGE_START = [
    "--count", "5", "--test", "2", "--size", "16", "--steps", "2", "--adam-steps", "2", "--match-steps", "2",
    "--initializations", "standard", "meta", "--threads", "1",
]  # fmt: skip
SHORT_CT = [
    "--count", "5", "--test", "2", "--size", "16", "--steps", "2", "--match-steps", "2", "--rates", "0.001",
    "--initializations", "standard", "meta", "--width", "8", "--frequencies", "8", "--threads", "1",
]  # fmt: skip


def test_they_are_small_and_say_where_they_are_from():
    assert pretrained_names() == NAMES
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 500_000
    for name in NAMES:
        about = mf.pretrained(name).about
        assert {"data", "license", "command", "commit", "signals", "versions"} <= set(about), name
        assert str(about["command"]).startswith(f"mclnf-fast run {mf.pretrained(name).system} ")
        assert "/" not in str(about["command"])  # no machine's folders
        assert about["signals"]
    assert "public domain" in mf.pretrained("faces").about["license"]
    assert "CC BY 4.0" in mf.pretrained("speech").about["license"]


def test_they_are_networks_of_the_defaults():
    image, audio = (CONFIGS[kind]() for kind in ("image", "audio"))
    assert mf.pretrained("faces").bank.spec == image_start_defaults("image-start", []).field.spec
    assert mf.pretrained("phantoms").bank.spec == ct_defaults("ct", []).field.spec
    assert mf.pretrained("face_patches").bank.spec == image.spec(3, 4, modular=True)
    assert mf.pretrained("speech").bank.spec == audio.spec(1, 4, modular=True)


def test_one_is_worth_more_than_a_random_one():
    rows = torch.linspace(0, 1, 32)
    picture = (rows[:, None, None] * rows[None, :, None]).expand(32, 32, 3).contiguous()  # no face at all
    faces = mf.pretrained("faces")
    random = mf.pretrained("faces")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for p, q in zip(random.bank.shared, initial_parameters(faces.bank.spec, 1, generator=generator)):
            p.copy_(q)
    errors = [(r.adapt(picture).picture(32)[0] - picture).square().mean() for r in (faces, random)]
    assert errors[0] < 0.5 * errors[1]


def test_that_of_slices_is_far_above_back_projection():
    phantoms = mf.pretrained("phantoms")
    truth = procedural_phantoms(8, 64, seed=9, test=1, validation=0, jitter=1.0).test.values[..., 0]
    angles = even_angles(6)
    sinogram = project(truth, angles)[0]
    made = phantoms.adapt(sinogram, angles, steps=64).picture(64)[..., 0]
    assert (
        float(psnr(made, truth)) > float(psnr(phantoms.adapt(sinogram, angles, steps=0).picture(64)[..., 0], truth)) + 3
    )
    assert float(psnr(made, truth)) > float(psnr(back_project(sinogram[None], angles).clamp(0, 1), truth)) + 5


def test_a_run_takes_one_by_its_name(tmp_path):
    metrics = run_system("image-start", SHORT_IMAGE_START, tmp_path / "faces", "--init-from", "faces")
    assert metrics["meta"]["source"] == "faces"
    loaded, shipped = mf.load(tmp_path / "faces"), mf.pretrained("faces")
    assert all(torch.equal(p, q) for p, q in zip(loaded.bank.shared, shipped.bank.shared))


def test_a_run_takes_that_of_a_former_run(tmp_path):
    words = ["--meta.steps", "2", "--meta.tasks", "2"]
    before = run_system("ct", [*SHORT_CT, *words], tmp_path / "first", "--seed", "5")
    again = run_system("ct", SHORT_CT, tmp_path / "again", "--seed", "5", "--init-from", tmp_path / "first")
    rows = [m["initializations"]["meta"]["curve"] for m in (before, again)]
    assert rows[0] == rows[1]
    other = run_system("ct", SHORT_CT, tmp_path / "other", "--seed", "3", "--init-from", tmp_path / "first")
    # The frequencies too: with those of another seed the same weights are noise.
    assert torch.equal(mf.load(tmp_path / "other").frequencies, mf.load(tmp_path / "first").frequencies)
    assert other["meta"]["source"] == str(tmp_path / "first")


@pytest.mark.parametrize(("kind", "name"), [("audio", "speech"), ("image", "face_patches")])
def test_a_run_of_signals_takes_one_by_its_name(kind, name, tmp_path):
    words = ["--quick", "--width", "64", "--limit", "5", "--steps", "1", "--methods", "mod", "--init-from", name]
    run_system(kind, [*words, "--threads", "1"], tmp_path / name)
    metrics = metrics_of(tmp_path / name)
    assert metrics["seeds"]["0"]["initializations"]["modules"]["source"] == name


def test_meta_training_has_no_effect_then(tmp_path, capsys):
    run_system("image-start", SHORT_IMAGE_START, tmp_path / "out", "--init-from", "faces", "--meta.outer-lr", "1")
    assert "meta.outer-lr has no effect with init-from, got 1" in capsys.readouterr().out


def test_a_folder_comes_before_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("faces").mkdir()
    assert main(["run", "image-start", *SHORT_IMAGE_START, "--init-from", "faces"]) == 2
    assert "bank.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["image-start", "--init-from", "nobody"], ["init-from: nobody", *NAMES]),
        (["image-start", "--init-from", "speech"], ["a result of image-start", "got one of audio"]),
        (["image-start", "--init-from", "faces", "--width", "8"], ["init-from: faces", "width=8", "width=64"]),
        (["audio", "--quick", "--init-from", "speech", "--methods", "mod"], ["init-from: speech", "width=64"]),
        (["audio", "--quick", "--init-from", "speech", "--methods", "oml"], ["modules, but not oml"]),
        (["audio", "--quick", "--init-from", "nobody", "--methods", "mod"], ["init-from: nobody", *NAMES]),
    ],
)
def test_one_that_does_not_fit_is_refused_by_name(words, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    options = SHORT_IMAGE_START if words[0] == "image-start" else []
    assert main(["run", words[0], *options, *words[1:]]) == 2
    line = capsys.readouterr().err
    assert all(part in line for part in parts), line


def test_an_unknown_name_is_told_the_others():
    with pytest.raises(InputError, match=f"name must be one of {', '.join(NAMES)}, got 'nobody'"):
        mf.pretrained("nobody")


def test_a_corrupt_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mclnf_fast.systems.common.pretrained.FOLDER", tmp_path)
    shutil.copy(FOLDER / "faces.safetensors", tmp_path)
    content = bytearray((tmp_path / "faces.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "faces.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        mf.pretrained("faces")
