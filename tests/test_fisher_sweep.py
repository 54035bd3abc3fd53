"""The Fisher sweep: a tiny run, what its table says, its picture, and bad input."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import pathlib
import sys
from typing import Any

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import fisher_measure, fisher_report, fisher_sweep
from benchmarks.fisher_variants import FACTORS, MOD, SAMPLE, WEIGHT, Row, Variant, rows
from mclnf_fast.data import procedural_audio
from mclnf_fast.errors import InputError
from mclnf_fast.learn.methods import MIM
from mclnf_fast.systems.signals.options import AdaptOptions, AudioConfig, MetaConfig, SirenOptions

TINY = AudioConfig(
    steps=8,
    field=SirenOptions(width=8),
    adapt=AdaptOptions(batch=16),
    meta=MetaConfig(steps=1, tasks=2, batch=8, inner_steps=2),
)


@pytest.fixture(scope="module")
def sweep() -> fisher_measure.Sweep:
    return fisher_measure.Sweep(TINY, procedural_audio(6, 0.05, rate=4000, test=2, validation=1))


def test_the_variants() -> None:
    """Each turns one switch; each factor shows what it departs from; all are configurations that hold."""
    listed = rows()
    assert list(dict.fromkeys(row.factor for row in listed)) == list(FACTORS)
    assert len({(row.factor, row.label) for row in listed}) == len(listed)
    for row in listed:
        if row.variant.fim is not None:
            row.variant.fim.check()
            base = WEIGHT if row.variant.fim.use == "weight" else SAMPLE
            turned = [
                f.name for f in dataclasses.fields(SAMPLE) if getattr(base, f.name) != getattr(row.variant.fim, f.name)
            ]
            assert len(turned) <= 1 or row.label == "even, no scores", (row, turned)
    for factor in set(FACTORS) - {"meta"}:
        here = {row.variant for row in listed if row.factor == factor}
        assert here & {Variant(SAMPLE), Variant(WEIGHT)}, factor


def test_a_tiny_run(sweep: fisher_measure.Sweep) -> None:
    said: list[str] = []
    chosen = [
        Row("use", "none", Variant(dataclasses.replace(SAMPLE, use="none"))),
        Row("use", "sample", Variant(SAMPLE)),
    ]
    found = fisher_measure.measure(sweep, chosen, (0, 1), said.append)
    plain, none, sample = found
    assert [row["label"] for row in found] == ["mod", "none", "sample"]
    assert len(said) == 6
    assert "seed 1, 3 of 3, use: sample" in said[-1]
    # Without a use it is mod, bit for bit, and what is paired has no spread.
    assert none["psnr"] == plain["psnr"]
    assert none["difference"] == {"8": [0.0, 0.0]}
    assert sample["differences_at_the_end"] != [0.0] * 4
    assert sample["pairs"] == 4
    mean = sum(sample["differences_at_the_end"]) / 4
    assert sample["difference"]["8"][0] == pytest.approx(mean, abs=1e-3)
    assert sample["psnr"]["8"][0] - plain["psnr"]["8"][0] == pytest.approx(mean, abs=1e-3)
    assert all(row["seconds"] > 0 for row in found)


def test_starts_of_their_own(sweep: fisher_measure.Sweep) -> None:
    plain, own = sweep.start(MOD, 0), sweep.start(Variant(inner="weight"), 0)
    assert sweep.start(Variant(WEIGHT), 0) is plain
    assert any(bool((a != b).any()) for a, b in zip(plain, own))
    assert sweep.start(Variant(scale=2.0), 0)[0].shape[-1] == 16


def test_a_variant_with_other_settings_or_bits_is_refused(
    sweep: fisher_measure.Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.check(0)
    monkeypatch.setattr(fisher_measure, "WEIGHT", dataclasses.replace(WEIGHT, use="none"))
    with pytest.raises(RuntimeError, match="use=weight must differ from mod"):
        sweep.check(0)
    plain = MIM.gradients
    monkeypatch.setattr(MIM, "gradients", lambda self, *a: [g * (1 + 1e-6) for g in plain(self, *a)])
    with pytest.raises(RuntimeError, match="use=none must equal mod bit for bit"):
        sweep.check(0)


def test_the_columns_of_a_row() -> None:
    mine = [{4: [10.0, 20.0], 8: [14.0, 21.0]}, {4: [11.0, 20.0], 8: [13.0, 21.0]}]
    theirs = [{4: [10.0, 19.0], 8: [11.0, 22.0]}, {4: [10.0, 19.0], 8: [11.0, 20.0]}]
    found = fisher_measure.summary(Row("use", "x", Variant(SAMPLE)), mine, theirs, 1.5)
    assert found["psnr"] == {"8": [17.25, pytest.approx(math.sqrt(56.75 / 3) / 2, abs=1e-4)]}
    assert found["differences_at_the_end"] == [3.0, -1.0, 2.0, 1.0]
    assert found["difference"]["8"] == [1.25, pytest.approx(math.sqrt(8.75 / 3) / 2, abs=1e-4)]
    # The first pair needs all 8 steps, the second never gets there, the others need 4 of 8, in 0.75 of the time.
    assert (found["share_of_steps"], found["within"], found["within_time"]) == (1.0, 0.5, 0.5)
    slow = fisher_measure.summary(Row("use", "x", Variant(SAMPLE)), mine, theirs, 2.5)
    assert slow["within_time"] == 0.0
    lost = fisher_measure.summary(Row("use", "x", Variant(SAMPLE)), theirs, [{4: [0, 0], 8: [90, 90]}] * 2, 1.0)
    assert (lost["share_of_steps"], lost["within"]) == (None, 0.0)


def made(modality: str, gain: float = 0.5, error: float = 0.1) -> dict[str, Any]:
    """A result of two rows: one that gains, one that loses twice as much."""

    def row(factor: str, label: str, value: float, spread: float) -> dict[str, Any]:
        return {
            "factor": factor,
            "label": label,
            "against": "mod",
            "pairs": 8,
            "psnr": {"64": [20.0, 1.0], "128": [30.0 + value, 1.0]},
            "difference": {"64": [0.0, 0.0], "128": [value, spread]},
            "share_of_steps": None if value < 0 else 0.5,
            "within": 0.75,
            "within_time": 0.25,
            "seconds": 1.25,
        }

    listed = [row("", "mod", 0.0, 0.0), row("use", "sample", gain, error), row("use", "weight", -2 * gain, error)]
    keys = {"title": "made", "about": "8 pairs.", "command": "c", "machine": "m", "torch": "t"}
    return {"modality": modality, **keys, "rows": listed}


def test_the_table() -> None:
    text = fisher_report.markdown([made("image"), made("audio", error=0.3)])
    image, audio = text.split("## audio: made")
    assert "1 of 2 variants above what they are held against, 1 below, 0 neither." in image
    assert "| sample | 20.00 | 30.50 | +0.00 ± 0.00 | **+0.50 ± 0.10** | 50 % | 75 / 25 % | 1.25 |" in image
    assert "| weight | 20.00 | 29.00 | +0.00 ± 0.00 | −1.00 ± 0.10 | never | 75 / 25 % | 1.25 |" in image
    assert "0 of 2 variants above what they are held against, 1 below, 1 neither." in audio
    assert "| +0.50 ± 0.30 |" in audio  # within two standard errors: not bold


def test_the_command(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"signals": 2, "limit": 6, "steps": 8, "seeds": 3, "batch": 16, "width": 8, "meta-steps": 1}
    small = ["--modality", "audio", *(word for name, size in sizes.items() for word in (f"--{name}", str(size)))]
    stem = tmp_path / "new" / "sound.json"
    assert fisher_sweep.main([*small, "--factors", "source", "--out", str(stem)]) == 0
    out = capsys.readouterr().out
    assert "| F of the batch |" in out
    (found,) = json.loads(stem.read_text())["sweeps"]
    assert found["modality"] == "audio"
    assert [row["label"] for row in found["rows"]] == ["mod", "running F (default)", "F of the batch"]
    assert found["command"].endswith("--meta-steps 1 --factors source")
    assert stem.with_suffix(".md").read_text() in out
    picture = importlib.util.find_spec("matplotlib") is not None
    assert stem.with_suffix(".png").exists() == picture

    other = tmp_path / "image.json"
    other.write_text(json.dumps({"sweeps": [made("image")]}))
    assert fisher_sweep.main(["--merge", str(other), str(stem), "--out", str(tmp_path / "both")]) == 0
    both = json.loads((tmp_path / "both.json").read_text())["sweeps"]
    assert [sweep["modality"] for sweep in both] == ["image", "audio"]
    if picture:
        from PIL import Image

        one, two = (Image.open(path) for path in (stem.with_suffix(".png"), tmp_path / "both.png"))
        assert two.width > 1.5 * one.width
        assert len(two.convert("RGB").getcolors(1 << 24)) > 10


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--modality", "image", "--steps", "0"], "steps must be at least 1, got 0"),
        (["--modality", "image", "--factors", "use", "taste"], "factors must be some of use, draws"),
        (["--modality", "audio", "--size", "32"], "size must be left out with audio, got 32"),
        (["--modality", "image", "--seeds", "1", "1"], "seeds must be different numbers"),
        (["--modality", "image", "--data", "nowhere"], "nowhere"),
        (["--merge", "nowhere.json"], "merge: nowhere.json must be a result of this command"),
    ],
)
def test_bad_input(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fisher_sweep.main(given) == 2
    assert told in capsys.readouterr().err


def test_a_sweep_that_comes_twice(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"sweeps": [made("image")]}))
    with pytest.raises(InputError, match="got image of made twice"):
        fisher_sweep.merged([path, path])
    path.write_text("[]")
    with pytest.raises(InputError, match="must be a result of this command"):
        fisher_sweep.merged([path])
