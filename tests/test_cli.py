"""The command line: what unusable input gets is exit code 2 and one clear line, never a traceback."""

from __future__ import annotations

import json
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

import mclnf_fast
from mclnf_fast.cli import main
from mclnf_fast.fields import FieldBank, load_bank, save_bank
from mclnf_fast.render.cameras import look_at
from mclnf_fast.spec import FieldSpec

SMALL = [
    "--init", "random", "--methods", "mod_random", "--steps", "2", "--adapt.batch", "8", "--width", "4",
    "--hidden-layers", "1", "--frequencies", "1", "--samples-per-ray", "2", "--threads", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders without a name land in the test's own folder, and thread counts are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


def posed_folder(root: pathlib.Path, count: int = 6) -> dict[str, Any]:
    """A folder of small posed pictures in nerfstudio's dialect; gives the content of its transforms.json."""
    angle = torch.arange(count) / count * 2 * math.pi
    position = torch.stack([2 * angle.cos(), 2 * angle.sin(), torch.full_like(angle, 1.5)], 1)
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, :3] = look_at(position, position * torch.tensor([0.6, 0.6, 0.0]))
    (root / "images").mkdir(parents=True)
    frames = []
    for k in range(count):
        Image.new("RGB", (16, 12), (40 * k, 100, 200)).save(root / f"images/{k}.png")
        frames.append({"file_path": f"images/{k}.png", "transform_matrix": poses[k].tolist()})
    content = {"fl_x": 14.0, "fl_y": 14.0, "cx": 8.0, "cy": 6.0, "w": 16, "h": 12, "frames": frames}
    write(root, content)
    return content


def write(root: pathlib.Path, content: object) -> None:
    (root / "transforms.json").write_text(content if isinstance(content, str) else json.dumps(content))


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Runs a command that must be refused; gives its one line on stderr."""
    capsys.readouterr()
    assert main([str(w) for w in words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("mclnf-fast: ")
    assert "Traceback" not in lines[0]
    return lines[0]


def nan_pose(content: dict[str, Any]) -> None:
    content["frames"][2]["transform_matrix"][0][3] = float("nan")


def flat_pose(content: dict[str, Any]) -> None:
    content["frames"][2]["transform_matrix"] = content["frames"][2]["transform_matrix"][:3]


def escape(content: dict[str, Any]) -> None:
    content["frames"][2]["file_path"] = "../outside.png"


def missing_picture(content: dict[str, Any]) -> None:
    content["frames"][2]["file_path"] = "images/none.png"


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def drop(content: dict[str, Any]) -> None:
        for key in keys:
            content.pop(key, None)
            for frame in content.get("frames", []):
                frame.pop(key, None)

    return drop


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (nan_pose, ["frames[2] transform_matrix", "must be finite", "NaN"]),
        (flat_pose, ["frames[2] transform_matrix", "must be a 4x4 matrix", "(3, 4)"]),
        (escape, ["file_path", "must stay inside the data folder", "'../outside.png'"]),
        (missing_picture, ["none.png", "must be an image", "was not there"]),
        (without("frames"), ["key 'frames'", "must be a list", "was missing"]),
        (without("file_path"), ["key 'file_path'", "must be a file name", "was missing"]),
        (without("transform_matrix"), ["transform_matrix", "must be a 4x4 matrix", "was missing"]),
        (without("fl_x", "fl_y"), ["transforms.json", "must have 'fl_x' or 'camera_angle_x'", "has none"]),
    ],
)
def test_unusable_transforms_files(tmp_path, capsys, spoil, parts):
    content = posed_folder(tmp_path / "data")
    Image.new("RGB", (16, 12)).save(tmp_path / "outside.png")
    spoil(content)
    write(tmp_path / "data", content)
    words = ["run", "city", "--data", tmp_path / "data", "--out", tmp_path / "run", *SMALL]
    line = refusal(capsys, *words)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("content", "part"), [("{not json", "must be readable JSON"), ("[1, 2]", "must hold a JSON object, was list")]
)
def test_a_transforms_file_that_is_not_json(tmp_path, capsys, content, part):
    posed_folder(tmp_path / "data")
    write(tmp_path / "data", content)
    line = refusal(capsys, "run", "city", "--data", tmp_path / "data", *SMALL)
    assert "transforms.json" in line
    assert part in line


def test_a_corrupt_picture(tmp_path, capsys):
    posed_folder(tmp_path / "data")
    file = tmp_path / "data/images/3.png"
    file.write_bytes(file.read_bytes()[:-20])
    line = refusal(capsys, "run", "city", "--data", tmp_path / "data", *SMALL)
    assert f"{file}: must be a whole readable image" in line


def test_pictures_of_different_sizes(tmp_path, capsys):
    content = posed_folder(tmp_path / "data")
    for key in ("w", "h"):
        del content[key]
    write(tmp_path / "data", content)
    Image.new("RGB", (18, 12)).save(tmp_path / "data/images/3.png")
    assert main([str(w) for w in ("run", "city", "--data", tmp_path / "data", *SMALL)]) == 0
    note = "note: Pictures have several sizes: each lies in the upper left of 18x12, the rest is masked."
    assert note in capsys.readouterr().out.splitlines()


def test_no_folder_a_file_and_an_empty_folder(tmp_path, capsys):
    line = refusal(capsys, "run", "city", "--data", tmp_path / "nowhere", *SMALL)
    assert f"{tmp_path / 'nowhere'}: must be a folder, was not there" in line
    (tmp_path / "file").write_text("")
    line = refusal(capsys, "run", "city", "--data", tmp_path / "file", "--out", tmp_path / "b", *SMALL)
    assert "must be a folder, was a file" in line
    (tmp_path / "empty").mkdir()
    line = refusal(capsys, "run", "city", "--data", tmp_path / "empty", "--out", tmp_path / "c", *SMALL)
    assert "transforms.json (nerfstudio)" in line
    assert "has none of them" in line


def test_a_command_that_was_refused_for_its_data_can_be_mended(tmp_path, capsys):
    words = ["--out", tmp_path / "run", "--resume", tmp_path / "run"]
    line = refusal(capsys, "run", "city", "--data", tmp_path / "nowhere", *words[:2], *SMALL)
    assert "must be a folder, was not there" in line
    assert not (tmp_path / "run").exists()
    # A folder that is a run already stays: its data may be back tomorrow.
    posed_folder(tmp_path / "data")
    assert main([str(w) for w in ["run", "city", "--data", tmp_path / "data", *words[:2], *SMALL]]) == 0
    (tmp_path / "data").rename(tmp_path / "away")
    refusal(capsys, "run", "city", *words[2:])
    assert (tmp_path / "run" / "config.yaml").exists()
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_block_without_a_test_view_is_merged_with_its_neighbor(tmp_path, capsys):
    content = posed_folder(tmp_path / "data")
    content["test_filenames"] = ["images/0.png"]
    write(tmp_path / "data", content)
    run = tmp_path / "run"
    words = ["run", "city", "--data", tmp_path / "data", "--blocks", "2", "1", *SMALL, "--out", run]
    assert main([str(word) for word in words]) == 0
    note = "block_1 has 2 views, none to test on: merged with block_2."
    assert note in capsys.readouterr().out
    assert note in json.loads((run / "metrics.json").read_text())["notes"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fly"], ["the command must be one of run, fit, table", "'fly'"]),
        (["run"], ["must be followed by the name of a system", "got nothing"]),
        (
            ["run", "village"],
            ["of a system (city, image, video, audio, single-view, photos, image-start, ct)", "village"],
        ),
        (["info", "more"], ["info: unknown argument more"]),
        (["run", "cty"], ["got cty; did you mean city?"]),
        (["tabel", "x"], ["got 'tabel'; did you mean table?"]),
        (["run", "city", "--blocks", "0", "2"], ["blocks must be", "(0, 2)"]),
        (["run", "city", "--steps", "0"], ["steps must be at least 1", "got 0"]),
        (["run", "city", "--hidden-layers", "31"], ["hidden-layers must lie in 0 ... 30", "got 31"]),
        (["run", "city", "--adapt.lr", "nan"], ["adapt.lr must be above 0", "nan"]),
        (["run", "city", "--adapt.lr-end", "inf"], ["adapt.lr_end must be above 0 and finite", "inf"]),
        (["run", "city", "--fim.lam", "-1"], ["lam must be a finite number of at least 0", "-1"]),
        (["run", "city", "--fim.mix", "1"], ["mix must be at least 0 and below 1", "1.0"]),
        (["run", "city", "--margin", "0.5"], ["margin must be at least 1", "0.5"]),
        (["run", "city", "--seed", "-1"], ["seed must lie in", "-1"]),
        (["run", "city", "--threads", "0"], ["threads must be at least 1", "got 0"]),
        (["run", "city", "--meta.batch", "0"], ["meta.batch must be at least 1", "got 0"]),
        (["run", "city", "--meta.inner-lr", "0"], ["meta.inner_lr must be above 0", "0.0"]),
        (["run", "city", "--resume"], ["resume: outputs/city must hold a run", "none"]),
        (["run", "city", "--resume", "nowhere"], ["resume: nowhere must be the folder of a run", "is not"]),
        (["run", "city", "--resume", "--out", "nowhere"], ["resume: nowhere must be the folder of a run"]),
    ],
)
def test_commands_and_options_out_of_range(tmp_path, capsys, words, parts):
    line = refusal(capsys, *words)
    for part in parts:
        assert part in line
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--steps", "many"], "run city: Error parsing --steps: invalid literal for int() with base 10: 'many'"),
        (["--fim.use", "magic"], "--fim.use: invalid choice 'magic'"),
        (["--blocks", "2"], "Error parsing --blocks"),
    ],
)
def test_refusals_of_the_option_parser(capsys, words, part):
    line = refusal(capsys, "run", "city", *words)
    assert words[0] in line
    assert "{None}" not in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["city", "--no-such-option"], "run city has no option --no-such-option (see"),
        (["city", "--stepz=3"], "run city has no option --stepz; it has --steps"),
        (["image", "--fim", "sample"], "run image has no option --fim; it has --fim.use, "),
    ],
)
def test_an_unknown_option_is_refused_in_one_line(capsys, words, line):
    assert main(["run", *words]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert line in errors


def test_a_configuration_that_is_none(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for content, part in (
        ("a: [", "must be YAML"),
        ("- 1", "must hold a mapping, got list"),
        ("steps: 3", "config.yaml must be that of a run of city"),
    ):
        (run / "config.yaml").write_text(content)
        assert part in refusal(capsys, "run", "city", "--resume", run)


def test_a_configuration_out_of_range_is_refused_when_it_is_resumed(tmp_path, capsys):
    import yaml

    from mclnf_fast.systems.city.options import CityConfig
    from mclnf_fast.systems.common.folder import plain

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({**plain(CityConfig()), "steps": 0}))
    assert "steps must be at least 1, got 0" in refusal(capsys, "run", "city", "--resume", run)


def test_an_unknown_backend_in_the_environment(tmp_path, capsys, monkeypatch):
    posed_folder(tmp_path / "data")
    monkeypatch.setenv("MCLNF_FAST_BACKEND", "quantum")
    line = refusal(capsys, "run", "city", "--data", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    for part in ("MCLNF_FAST_BACKEND", "must be one of auto, reference, cpu, triton, cuda", "'quantum'"):
        assert part in line
    assert not (tmp_path / "run").exists()


def test_a_backend_that_cannot_serve(tmp_path, capsys, monkeypatch):
    posed_folder(tmp_path / "data")
    monkeypatch.setenv("MCLNF_FAST_BACKEND", "cuda")
    line = refusal(capsys, "run", "city", "--data", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    assert "can't serve" in line
    assert "Remedy: " in line


def test_a_bank_with_flipped_bytes(tmp_path):
    file = tmp_path / "bank.safetensors"
    save_bank(file, FieldBank(FieldSpec(2, 1, 4, 1), 3))
    good = file.read_bytes()
    assert len(load_bank(file)) == 3
    for place in (3, 40, len(good) // 2, len(good) - 1):
        spoiled = bytearray(good)
        spoiled[place] ^= 0x04
        file.write_bytes(bytes(spoiled))
        with pytest.raises(mclnf_fast.errors.InputError, match=r"checkpoint .*bank\.safetensors: must"):
            load_bank(file)


def test_the_same_bank_gives_the_same_bytes(tmp_path):
    bank = FieldBank(FieldSpec(2, 1, 4, 1), 3)
    for k in range(6):
        save_bank(tmp_path / f"{k}", bank, note="x", other=[1.5])
    assert len({(tmp_path / f"{k}").read_bytes() for k in range(6)}) == 1


def test_help_version_and_info(capsys):
    assert main(["--help"]) == 0
    assert "run city" in capsys.readouterr().out
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(mclnf_fast.__version__)
    assert main(["info"]) == 0
    assert "bank_mlp" in capsys.readouterr().out


def test_an_interrupted_run_reports_how_to_resume(tmp_path, capsys, monkeypatch):
    from mclnf_fast.systems.city import job

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "load", interrupt)
    assert main(["run", "city", "--out", str(tmp_path / "run"), *SMALL]) == 130
    assert capsys.readouterr().err.splitlines() == ["mclnf-fast: interrupted; --resume continues the run"]


def test_as_a_program():
    """Through the interpreter, where nothing catches what the function would let through."""
    root = str(pathlib.Path(mclnf_fast.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mclnf_fast.cli", "run", "city", "--data", "no such folder"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0] == "mclnf-fast: no such folder: must be a folder, was not there"
