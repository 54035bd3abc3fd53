"""`mclnf_fast.fit` and `mclnf-fast fit` on folders: pictures, sounds and clips into one bank, and back."""

from __future__ import annotations

import errno
import math
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mclnf_fast as mf
from mclnf_fast.cli import main
from mclnf_fast.data import FileReadOptions, SignalFiles
from mclnf_fast.fields import load_bank, save_bank
from mclnf_fast.learn.fit import FitProgress, FitSummary, Skipped
from mclnf_fast.learn.fit import run as loop
from mclnf_fast.learn.fit import store as stores
from mclnf_fast.systems.common.result import PICTURE, Result
from mclnf_fast.systems.fit.api import default_spec
from mclnf_fast.systems.fit.decode import decode_bank
from mclnf_fast.systems.fit.places import Places
from mclnf_fast.systems.fit.show import histogram, report, shown_progress

SMALL = ["--steps", "120", "--width", "16", "--hidden-layers", "2", "--batch", "64", "--lr", "5e-3"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


def ramp(high: int, wide: int, turn: int = 0) -> Image.Image:
    """A smooth picture, which a small field learns in a few steps."""
    rows, columns = np.mgrid[0:high, 0:wide]
    values = np.stack([rows / high, columns / wide, 0.5 + 0 * rows], -1)[..., np.roll([0, 1, 2], turn)]
    return Image.fromarray((255 * values).astype(np.uint8))


@pytest.fixture
def pictures(tmp_path: pathlib.Path) -> pathlib.Path:
    """Five pictures of several sizes in two classes, one of them corrupt."""
    folder = tmp_path / "data"
    for k, (high, wide) in enumerate([(12, 10), (12, 10), (7, 16), (5, 5), (12, 10)]):
        path = folder / ("cat" if k % 2 else "dog") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp(high, wide, k).save(path)
    content = (folder / "dog" / "4.png").read_bytes()
    (folder / "dog" / "4.png").write_bytes(content[: len(content) // 2])
    return folder


def run(*words: object) -> int:
    return main(["fit", *map(str, words)])


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert run(*words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_folder_becomes_a_bank_and_files_again(pictures, tmp_path, capsys) -> None:
    assert run(pictures, "--out", "bank", *SMALL, "--decode", "back") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "4 fields in bank" in out
    assert "fields/s" in out
    assert "skipped dog/4.png" in out
    assert "dB |#" in out
    bank, fields = load_bank("bank"), mf.FieldDataset("bank")
    assert (len(bank), fields.classes) == (4, ["cat", "dog"])
    assert not pathlib.Path("bank.parts").exists()
    for name, psnr in zip(fields.names, fields.meta["psnr"]):
        before, after = (np.asarray(Image.open(pathlib.Path(place) / name)) for place in (pictures, "back"))
        assert before.shape == after.shape
        error = np.square(before / 255.0 - after / 255.0).mean()
        assert -10 * math.log10(error + 1e-9) > psnr - 1  # clamped, and rounded to 8 bits
        assert psnr > 20


def test_the_bank_of_the_command_is_that_of_python(pictures) -> None:
    assert run(pictures, "--out", "bank", *SMALL) == 0
    spec = mf.FieldSpec(2, 3, 16, 2, activation="sine")
    bank, summary = mf.fit(spec, pictures, steps=120, batch=64, lr=5e-3)
    assert all(torch.equal(p, q) for p, q in zip(bank.stacked, load_bank("bank").stacked, strict=True))
    assert [skipped.name for skipped in summary.skipped] == ["dog/4.png"]
    assert summary.about[2]["size"] == [12, 10]


def test_resumed_to_the_same_bits(pictures, capsys, monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHUNK_BYTES", 2000)
    assert run(pictures, "--out", "whole", *SMALL) == 0
    with monkeypatch.context() as patch:
        fit = stores.FileStore.add

        def stop(store: Any, *rest: Any) -> None:
            fit(store, *rest)
            if store.count >= 2:
                raise KeyboardInterrupt

        patch.setattr(stores.FileStore, "add", stop)
        assert run(pictures, "--out", "bank", *SMALL) == 130
    assert "interrupted; --resume continues" in capsys.readouterr().err
    assert "bank.parts holds a fit that was stopped; --resume" in refusal(capsys, pictures, "--out", "bank", *SMALL)
    assert run(pictures, "--out", "bank", *SMALL, "--resume") == 0
    assert pathlib.Path("bank").read_bytes() == pathlib.Path("whole").read_bytes()
    assert "out: bank must be new" in refusal(capsys, pictures, "--out", "bank", *SMALL)
    assert run(pictures, "--out", "bank", *SMALL, "--resume", "--decode", "back") == 0  # of a finished one
    assert "4 signals in back" in capsys.readouterr().out
    assert "fitted with steps 121" in refusal(capsys, pictures, "--out", "bank", *SMALL, "--resume", "--steps", "121")
    assert "fitted with source" in refusal(capsys, pictures, "--out", "bank", *SMALL, "--resume", "--max-side", "8")


def test_a_full_disk_is_one_line_that_says_what_is_left(pictures, capsys, monkeypatch) -> None:
    def full(path: pathlib.Path, *parts: Any, **meta: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stores, "join_banks", full)
        line = refusal(capsys, pictures, "--out", "bank", *SMALL)
    assert "bank: No space left on device (4 finished fields stay in bank.parts" in line
    assert "--resume continues" in line
    assert len(load_bank("bank.parts/000000000.safetensors")) == 4
    assert run(pictures, "--out", "bank", *SMALL, "--resume") == 0


def test_cut_scaled_and_gray_pictures(pictures) -> None:
    sizes = [SignalFiles(pictures, FileReadOptions(max_side=6)).read(k).values.shape for k in range(4)]
    assert sizes == [(5, 6, 3)] * 0 + [(6, 5, 3), (5, 5, 3), (6, 5, 3), (3, 6, 3)]
    assert SignalFiles(pictures, FileReadOptions(size=4, resize=True, channels=1)).read(0).values.shape == (4, 4, 1)
    whole = SignalFiles(pictures).read(0)
    assert np.array_equal((whole.values.numpy() * 255).round(), np.asarray(Image.open(pictures / "cat/1.png")))
    turned = Image.Exif()
    turned[0x0112] = 6
    ramp(4, 9).save(pictures / "turned.jpg", exif=turned)
    assert SignalFiles(pictures / "turned.jpg").read(0).values.shape == (9, 4, 3)


def test_sounds(tmp_path: pathlib.Path, capsys) -> None:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (extra media)")
    (tmp_path / "data").mkdir()
    for k in range(2):
        tone = 0.4 * np.sin(2 * np.pi * (50 + 30 * k) * np.arange(800) / 8000)
        soundfile.write(tmp_path / "data" / f"{k}.flac", tone, 8000)
    words = ["--seconds", "0.1", "--rate", "8000", *SMALL, "--steps", "400"]
    assert run("data", "--out", "bank", *words, "--decode", "back") == 0
    assert "2 audio files" in capsys.readouterr().out
    samples, rate = soundfile.read("back/0.flac.wav")
    assert (rate, len(samples)) == (8000, 800)
    assert np.abs(samples - 0.4 * np.sin(2 * np.pi * 50 * np.arange(800) / 8000)).mean() < 0.03
    assert Places.of("audio", 0.1).high == (5.0,)


@pytest.mark.parametrize("films", [True, False])
def test_clips(tmp_path: pathlib.Path, monkeypatch, films: bool) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed (extra media)")
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    (tmp_path / "data").mkdir()
    frames = [ramp(16, 16, k) for k in range(4)]
    for name in "ab":
        frames[0].save(tmp_path / "data" / f"{name}.gif", save_all=True, append_images=frames[1:], duration=100)
    words = ["--kind", "video", "--frames", "4", "--size", "16", *SMALL]
    if not films:
        from mclnf_fast.systems.fit import decode

        monkeypatch.setattr(decode, "_write_film", lambda *rest: None)
    assert run("data", "--out", "bank", *words, "--decode", "back") == 0
    if films:
        with av.open("back/a.gif.mp4") as film:
            assert len(list(film.decode(video=0))) == 4
    else:
        assert np.asarray(Image.open("back/b.gif/0003.png")).shape == (16, 16, 3)


def test_a_start_brings_its_architecture_and_its_coordinates(pictures, capsys) -> None:
    assert run(pictures, "--out", "first", *SMALL) == 0
    assert run(pictures / "cat", "--out", "second", "--start", "first", "--limit", "1", "--steps", "1") == 2
    assert "start must have one module, or 1 for as many signals, got 4" in capsys.readouterr().err
    spec = default_spec(SignalFiles(pictures), 16, 2)
    initial = mf.FieldBank(spec, 0, generator=torch.Generator().manual_seed(5))
    frame = {"axes": ["row", "column"], "low": [0.0, 0.0], "high": [1.0, 1.0], "unit": "side of the picture"}
    save_bank("start", initial, frame=frame)
    assert run(pictures, "--out", "third", "--start", "start", "--steps", "3") == 0
    assert load_bank("third").spec == spec
    assert mf.FieldDataset("third").meta["fit"]["source"]["places"] == {
        "low": [0.0, 0.0], "high": [1.0, 1.0], "ends": False,
    }  # fmt: skip
    line = refusal(capsys, pictures, "--out", "fourth", "--start", "start", "--width", "8", "--steps", "3")
    assert "width must be that of the start, 16, got 8" in line
    save_bank("sound", mf.FieldBank(mf.FieldSpec(1, 1, 8, 1)))
    line = refusal(capsys, pictures, "--out", "fourth", "--start", "sound")
    assert "start must have 2 coordinates and 3 values for image signals, got 1 and 1" in line
    assert "start: nowhere must be" in refusal(capsys, pictures, "--out", "fourth", "--start", "nowhere")


def test_starts_that_come_with_the_package_and_those_of_runs(pictures, tmp_path) -> None:
    assert run(pictures, "--out", "named", "--start", "faces", "--steps", "3") == 0
    bank = load_bank("named")
    assert bank.spec == mf.pretrained("faces").bank.spec
    assert mf.FieldDataset("named").meta["fit"]["source"]["places"]["ends"] is False
    again, _ = mf.fit(None, pictures, start=mf.pretrained("faces"), steps=3)
    assert all(torch.equal(p, q) for p, q in zip(bank.stacked, again.stacked, strict=True))
    spec = default_spec(SignalFiles(pictures), 16, 2)
    folder = tmp_path / "run"
    folder.mkdir()
    Result("image", mf.FieldBank(spec, 0), [], PICTURE).write(folder)
    assert run(pictures, "--out", "of_run", "--start", folder, "--steps", "3") == 0
    assert load_bank("of_run").spec == spec


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--steps", "99999999999"], "steps must be at most"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--lr", "0"], "lr must be above 0"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--width", "0"], "width must be at least 1"),
        (["--hidden-layers", "31"], "hidden-layers must lie in 0 ... 30, got 31"),
        (["--w0", "nan"], "w0 must be above 0"),
        (["--target-psnr", "nan"], "target-psnr must be finite"),
        (["--channels", "2"], "channels: must be 1 or 3, was 2"),
        (["--size", "0"], "size: must be"),
        (["--size", "8", "--max-side", "8"], "max_side: must not stand beside size"),
        (["--resize"], "resize: must stand beside size"),
        (["--rate", "1"], "rate: must be from 1000"),
        (["--kind", "audio"], "must hold sound files"),
        (["--strict"], "dog/4.png: must be a whole readable image"),
        (["--stesp", "3"], "unknown argument --stesp; did you mean --steps?"),
        (["--out", "."], "out must"),
        (["--out", "data"], "which is a folder"),
    ],
)
def test_refuses(pictures, capsys, words: list[str], part: str) -> None:
    assert part in refusal(capsys, pictures, "--out", "bank", *SMALL, *words)
    assert not pathlib.Path("bank").exists()
    assert not pathlib.Path("bank.parts").exists()


def test_refuses_folders_without_anything_usable(tmp_path, capsys) -> None:
    assert "nowhere: must be a folder" in refusal(capsys, "nowhere", "--out", "bank")
    (tmp_path / "empty").mkdir()
    assert "must hold images" in refusal(capsys, "empty", "--out", "bank")
    (tmp_path / "empty" / "a.png").write_bytes(b"no picture")
    assert "must have at least one usable signal" in refusal(capsys, "empty", "--out", "bank")
    with pytest.raises(TypeError, match="y must be None beside a folder"):
        mf.fit(None, "empty", torch.zeros(1))


def test_names_that_lead_out_of_the_folder_are_not_written(tmp_path) -> None:
    places = Places.of("image").described()
    bank = mf.FieldBank(mf.FieldSpec(2, 3, 8, 1))
    fit = {"source": {"kind": "image", "places": places}}
    save_bank("bank", bank, names=["../outside.png"], about=[{"size": [4, 4]}], fit=fit)
    with pytest.raises(mf.InputError, match="must stay inside"):
        decode_bank("bank", "inside")
    save_bank("plain", bank)
    with pytest.raises(mf.InputError, match="must be a bank that was fitted to a folder"):
        decode_bank("plain", "inside")
    assert not pathlib.Path("outside.png").exists()


def test_the_help_fits_the_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("--help") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_the_histogram_fits_the_terminal() -> None:
    values = [20 + 0.37 * k for k in range(60)] + [math.nan]
    text = histogram(values)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 12
    assert sum(int(line.rpartition("|")[2]) for line in lines) == 60
    assert histogram([math.nan]) == "no PSNR"
    assert histogram([30.0]).endswith("| 1")


def test_the_report_names_some_of_many_faults() -> None:
    summary = FitSummary.joined([])
    summary.skipped = [Skipped(f"{k}.png", "it is\ncorrupt " + "x" * 200) for k in range(7)]
    lines = report(summary).splitlines()
    assert lines[-1] == "and 2 more skipped"
    assert max(map(len, lines)) <= 80


def test_progress_without_and_with_a_terminal(capsys, monkeypatch) -> None:
    from mclnf_fast.systems.fit import show

    monkeypatch.setattr(show, "EVERY", 0.0)
    with shown_progress() as update:
        update(FitProgress(3.5, 8, 1, 31.25, 4.0))
        update(FitProgress(4.0, None, 0, math.nan, 5.0))
    assert capsys.readouterr().out.splitlines() == ["fit: 3.5 of 8 fields, mean 31.2 dB", "fit: 4.0 fields"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with shown_progress() as update:
        update(FitProgress(3.5, 8, 1, 31.25, 4.0))
        update(FitProgress(8.0, None, 0, math.nan, 5.0))
    assert "3.5 of 8 fields, mean 31.2 dB" in capsys.readouterr().err
