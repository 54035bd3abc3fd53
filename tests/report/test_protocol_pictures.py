"""The pictures of image, video and audio runs: sizes, contents, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_run import run_metrics, signals, statistics, values, write_run
from PIL import Image

from mclnf_fast.errors import InputError
from mclnf_fast.report import Labels, Sound, filmstrip, qualitative_picture, write_run_pictures
from mclnf_fast.report.page import plots
from mclnf_fast.report.page.methods import method
from mclnf_fast.report.protocol.matrices import matrices_figure
from mclnf_fast.report.protocol.plots import meta_figure, reach_figure, signed, steps_figure
from mclnf_fast.report.protocol.qualitative import _most_different, small_enough
from mclnf_fast.report.protocol.run_pictures import load_predictions
from mclnf_fast.report.protocol.tables import Labelled
from mclnf_fast.report.protocol.waves import bands_picture, spectrogram, waveform

TWO = ("finetune", "mod")


def grid(kind: str, count: int = 2, labels: Labels | None = None) -> np.ndarray:
    truth = values(kind, count)
    made = dict.fromkeys(TWO, truth)
    psnrs = {m: [20.0 + i for _ in range(count)] for i, m in enumerate(TWO)}
    return np.asarray(qualitative_picture(kind, truth, made, psnrs, labels, sound=Sound(8000.0)).convert("RGB"))


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_a_row_a_signal_and_a_column_a_method(kind: str) -> None:
    one, two = grid(kind, 1), grid(kind, 2)
    row = two.shape[0] - one.shape[0]
    assert row > 60
    assert two.shape[1] == one.shape[1]
    truth = values(kind, 1)
    alone = qualitative_picture(kind, truth, {"mod": truth}, {"mod": [20.0]}, sound=Sound(8000.0))
    assert alone.width < one.shape[1]
    taller = grid(kind, 2, Labels(title="a title", lines=["run: mclnf-fast run x --out y"]))
    assert taller.shape[0] > two.shape[0]


def test_pictures_are_shown_as_they_are() -> None:
    truth = torch.zeros(1, 40, 40, 3)
    made = {"mod": truth.clone()}
    made["mod"][:, 20:, 20:] = torch.tensor([0.0, 1.0, 0.0])
    shown = np.asarray(qualitative_picture("image", truth, made, {"mod": [1.0]}))
    green = (shown == [0, 255, 0]).all(-1)
    # About a quarter of a picture of 3 x 40 pixels, smoothly enlarged, and a detail of 120 x 90 with nothing else.
    assert 2500 + 120 * 90 < green.sum() <= 3600 + 120 * 90
    assert green.any(0).argmax() > shown.shape[1] // 2  # none of it on the side of the truth


def test_video_shows_the_middle_frame() -> None:
    truth = torch.zeros(1, 5, 20, 20, 3)
    truth[:, 2] = torch.tensor([0.0, 0.0, 1.0])
    truth[:, [0, 4]] = 1.0
    shown = np.asarray(qualitative_picture("video", truth, {"mod": truth}, {"mod": [1.0]}))
    assert (shown == [0, 0, 255]).all(-1).sum() > 2 * 120 * 120 - 2000


def test_the_detail_is_where_methods_differ() -> None:
    truth = np.zeros((40, 40, 3), np.uint8)
    alike = np.full_like(truth, 200)  # both are wrong everywhere, but in one place one is right
    other = alike.copy()
    other[20:30, 5:15] = 0
    assert _most_different(truth, [alike, other], (10, 10)) == (20, 5)


def test_the_best_is_underlined() -> None:
    lines = np.abs(grid("image").astype(int) - [27, 30, 36]).sum(-1) == 0  # INK
    runs = [y for y in range(len(lines)) if "1" * 30 in "".join("01"[int(v)] for v in lines[y])]
    assert len(runs) >= 4  # two rows of pixels under each signal's best
    columns = np.flatnonzero(lines[runs[-1]])
    assert columns.min() > lines.shape[1] // 2  # mod, the second method


@pytest.mark.parametrize(
    ("kind", "shape"), [("image", (0, 4, 4, 3)), ("image", (1, 4, 4)), ("audio", (1, 4, 4, 1)), ("text", (1, 4, 1))]
)
def test_other_shapes_are_refused(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="truth must hold signals of kind"):
        qualitative_picture(kind, torch.zeros(shape), {}, {})
    with pytest.raises(ValueError, match=r"predictions\['mod'\] must be"):
        qualitative_picture("audio", torch.zeros(1, 50, 1), {"mod": torch.zeros(1, 49, 1)}, {})


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (11, 11), (400, 300)])
def test_odd_sizes_and_gray(size: tuple[int, int]) -> None:
    truth = torch.rand(1, *size, 1)
    picture = qualitative_picture("image", truth, {"mod": truth}, {})
    assert picture.width < 700


def test_silent_and_short_sound() -> None:
    for length in (1, 5, 300):
        silent = torch.full((1, length, 1), 0.5)
        qualitative_picture("audio", silent, {"mod": silent}, {"mod": [None]}, sound=Sound(None, {"mod": [None]}))


def test_a_spectrogram_finds_the_tone() -> None:
    rate, tone = 8000.0, 1000.0
    sound = 0.5 + 0.3 * np.sin(2 * np.pi * tone * np.arange(8000) / rate)
    bands, highest = spectrogram(sound, rate)
    assert highest == 4.0
    assert bands.mean(1).argmax() == pytest.approx(tone / (rate / 2) * (len(bands) - 1), abs=1)
    picture = np.asarray(bands_picture(bands, float(bands.max()), (50, 80)))
    assert picture.shape == (80, 50, 3)
    # Low tones lie below: a quarter of the way up from the bottom.
    assert picture.sum((1, 2)).argmax() == pytest.approx(60, abs=2)


def test_a_waveform_covers_its_whole_range() -> None:
    half = np.full(100, 0.5)
    half[50:] = 1.0
    shown = np.asarray(waveform(half, np.full(100, 0.5), 0.5, "#ff0000", (20, 41)))
    red = (shown == [255, 0, 0]).all(-1)
    assert red[20, :10].all()
    assert red[0, 10:].all()
    assert not red[0, :10].any()
    swing = np.tile([0.25, 0.75], 500)
    shown = np.asarray(waveform(swing, swing, 0.5, "#ff0000", (20, 41)))
    assert (shown[10:31] == [255, 0, 0]).all()
    assert not (shown[:9] == [255, 0, 0]).all(-1).any()


def test_filmstrip_spreads_its_frames() -> None:
    truth = torch.rand(9, 8, 8, 3)
    few, many = (filmstrip(truth, {"mod": truth, "er": truth * 0.9}, n) for n in (2, 5))
    assert few.height == many.height
    assert few.width < many.width
    filmstrip(truth[:1], {"mod": truth[:1]})
    with pytest.raises(ValueError, match="must be"):
        filmstrip(truth, {"mod": truth[:3]})
    with pytest.raises(ValueError, match="at least one frame"):
        filmstrip(truth[:0], {})


def test_a_picture_is_made_to_fit_its_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 100, 100, 3), dtype=np.uint8)
    made: list[int] = []

    def make(rows: int) -> Image.Image:
        made.append(rows)
        return Image.fromarray(noise[:rows].reshape(-1, 100, 3))

    assert small_enough(make, 4, most=70_000)[1] == 2
    assert made == [4, 3, 2]
    assert small_enough(make, 3, most=10)[1] == 1


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_a_run_gets_its_pictures(tmp_path: Path, kind: str) -> None:
    metrics = run_metrics(kind, methods=["finetune", "mod", "mim"], seeds=1, signals=2, last=64)
    write_run(tmp_path, metrics, values(kind))
    listed = write_run_pictures(tmp_path, signals(metrics))
    kinds = [p.kind for p in listed]
    assert kinds == ["qualitative"] * (2 if kind == "video" else 1) + ["curve", "reach", "matrix", "meta"]
    for p in listed:
        assert p.caption.endswith(".")
        with Image.open(tmp_path / p.file) as image:
            assert image.width > 300
    assert sorted(f.name for f in (tmp_path / "images").iterdir()) == sorted(Path(p.file).name for p in listed)


def test_a_run_without_predictions_or_results_gets_the_other_pictures(tmp_path: Path) -> None:
    assert [p.kind for p in write_run_pictures(tmp_path, signals({}))] == ["curve"]
    metrics = run_metrics(methods=["offline"], seeds=1, signals=1)
    assert [p.kind for p in write_run_pictures(tmp_path, signals(metrics))] == ["curve", "meta"]


def test_corrupt_and_foreign_predictions_are_named(tmp_path: Path) -> None:
    metrics = run_metrics(methods=["mod"], seeds=1, signals=2)
    write_run(tmp_path, metrics, values("image"))
    run = statistics(metrics)
    found = load_predictions(tmp_path, run)
    assert found is not None
    assert list(found[1]) == ["mod"]
    file = tmp_path / "predictions" / "mod.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"mod\.safetensors: must be a whole safetensors file"):
        write_run_pictures(tmp_path, signals(metrics))
    write_run(tmp_path, metrics, values("image"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # one bit of a figure: still a safetensors file
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"mod\.safetensors: must match its checksum"):
        write_run_pictures(tmp_path, signals(metrics))
    write_run(tmp_path, metrics, values("image"))
    (tmp_path / "predictions" / "truth.safetensors").unlink()
    assert load_predictions(tmp_path, run) is None
    write_run(tmp_path, metrics, values("image"))
    other = write_run(tmp_path / "other", metrics, values("image", 3))
    (other / "predictions" / "mod.safetensors").replace(file)
    with pytest.raises(InputError, match="like the truth"):
        write_run_pictures(tmp_path, signals(metrics))


def test_figures_have_a_panel_a_run_and_the_commands() -> None:
    runs = [
        Labelled(f"<b>${k}$", statistics(run_metrics(k, methods=ms, seeds=1, signals=2)))
        for k, ms in (("image", ["mod", "mim", "er"]), ("video", ["offline"]), ("audio", ["mod", "mim"]))
    ]
    for draw, panels in ((steps_figure, 3), (meta_figure, 3), (reach_figure, 3), (matrices_figure, 5 + 2)):
        figure = draw(runs)
        assert figure is not None
        before = float(figure.get_figheight())
        assert len(figure.axes) == panels
        signed(figure, [r.run.command for r in runs], "mclnf-fast table a --out b")
        assert figure.get_figheight() > before
        said = [t.get_text() for t in figure.texts]
        assert "figure: mclnf-fast table a --out b" in said
        assert sum(t.startswith("run: ") for t in said) == 3


def test_lines_carry_their_category_and_band() -> None:
    run = Labelled("x", statistics(run_metrics(methods=["offline", "er", "mod"], signals=4)))
    axes = steps_figure([run]).axes[0]
    drawn = {line.get_color(): line for line in axes.get_lines() if len(line.get_xdata()) > 3}
    assert set(drawn) == {method(m).color for m in ("offline", "er", "mod")}
    assert len({str(line.get_linestyle()) + str(line._unscaled_dash_pattern) for line in drawn.values()}) == 3
    mean = run.run.curve("mod")
    assert drawn[method("mod").color].get_ydata()[-1] == mean[4096].mean
    assert len(axes.collections) == 3
    band = axes.collections[0].get_paths()[0].vertices
    ends = band[band[:, 0] == 4096, 1]
    error = run.run.curve("offline")[4096].error
    assert error is not None
    assert np.ptp(ends) == pytest.approx(2 * error)
    assert axes.get_xlim() == (1, 4096)


def test_figures_of_nothing(tmp_path: Path) -> None:
    nothing = [Labelled("x", statistics({}))]
    assert meta_figure(nothing) is None
    assert reach_figure(nothing) is None
    for draw in (steps_figure, matrices_figure):
        plots.save(draw(nothing), tmp_path / "a.png")
