"""The pictures: sizes, contents, refusals, no torn files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mclnf_fast.report import fisher_map, module_map, overview, save_png, strip, triptych
from mclnf_fast.report.page.canvas import MARGIN, heat, to_rgb8


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def only(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_save_png_keeps_every_pixel(tmp_path: Path, picture: np.ndarray) -> None:
    path = save_png(tmp_path / "new" / "a.png", picture)
    assert np.array_equal(pixels(path), np.rint(picture * 255).astype(np.uint8))
    save_png(path, torch.full((2, 3, 3), 2.0))
    assert np.array_equal(pixels(path), np.full((2, 3, 3), 255))
    assert only(path.parent) == ["a.png"]


def test_to_rgb8_takes_gray_and_nan_and_refuses_other_shapes() -> None:
    assert to_rgb8(np.full((2, 3), np.nan)).tolist() == np.zeros((2, 3, 3)).tolist()
    for shape in ((3,), (2, 2, 4), (0, 4, 3), (1, 2, 2, 3)):
        with pytest.raises(ValueError, match=r"truth must be \[H, W, 3\]"):
            to_rgb8(np.zeros(shape), "truth")


def test_heat_is_dark_to_light_and_takes_values_that_are_not_finite() -> None:
    colors = heat(np.linspace(0, 1, 64)).astype(float)
    light = colors @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(light) > 0).all()
    assert np.array_equal(heat(np.array([np.nan, -1.0, 2.0])), heat(np.array([0.0, 0.0, 1.0])))


def test_triptych(tmp_path: Path, picture: np.ndarray) -> None:
    renders = {"finetune": np.zeros_like(picture), "mim": picture, "other": (picture * 255).astype(np.uint8)}
    path = triptych(tmp_path / "t.png", picture, renders, {"mim": 30.0}, cell=64, smooth=False, title="a title")
    out = pixels(path)
    assert out.shape[1] == 2 * MARGIN + 4 * 64 + 3 * 8
    truth = np.rint(picture * 255).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    top = MARGIN + 40
    assert np.array_equal(out[top : top + 48, MARGIN : MARGIN + 64], truth)
    assert np.array_equal(
        out[top : top + 48, MARGIN + 216 : MARGIN + 280], truth
    )  # mim comes after the others, by its category
    error = out[top + 48 + 40 : top + 2 * 48 + 40, MARGIN + 216 : MARGIN + 280]
    assert np.array_equal(error, np.broadcast_to(heat(np.array(0.0)), error.shape))
    assert only(tmp_path) == ["t.png"]


def test_triptych_of_many_methods_goes_on_below(tmp_path: Path, picture: np.ndarray) -> None:
    five = {f"method {i}": picture for i in range(5)}
    one = pixels(triptych(tmp_path / "five.png", picture, five, {}, cell=16))
    more = pixels(triptych(tmp_path / "seven.png", picture, {**five, "a": picture * 0, "b": picture}, {}, cell=16))
    assert more.shape[1] == one.shape[1]
    height = one.shape[0] - 2 * MARGIN
    assert more.shape[0] == 2 * MARGIN + 2 * height + 24
    below = more[MARGIN + height + 24 :]
    true = pixels(save_png(tmp_path / "true.png", picture))
    assert np.array_equal(below[:12, MARGIN : MARGIN + 16], true)  # the truth again
    assert not np.array_equal(below[:12, MARGIN:], one[MARGIN : MARGIN + 12, MARGIN:])


def test_triptych_refuses_a_render_of_another_size(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'mim' must be"):
        triptych(tmp_path / "t.png", picture, {"mim": picture[:-1]}, {})
    assert only(tmp_path) == []


def test_strip(tmp_path: Path, picture: np.ndarray) -> None:
    rows = {"mim": [picture * 0.5, picture], "mod_random": [picture * 0]}
    path = strip(tmp_path / "s.png", picture, rows, [1, 4], {"mim": [10.0, None]}, cell=48, smooth=False)
    out = pixels(path)
    truth = np.rint(picture * 255).astype(np.uint8).repeat(3, 0).repeat(3, 1)
    y = MARGIN + 30 + 36 + 28 + 6  # mim comes after mod_random
    assert np.array_equal(out[y : y + 36, -MARGIN - 48 : -MARGIN], truth)
    assert np.array_equal(out[y : y + 36, -MARGIN - 104 : -MARGIN - 56], truth)
    with pytest.raises(ValueError, match="at most 1 pictures"):
        strip(path, picture, rows, [1], {})
    strip(path, picture, {}, [], {})


def test_overview(tmp_path: Path, picture: np.ndarray) -> None:
    path = overview(tmp_path / "o.png", [picture, picture[:6, :8], picture], 2, ["a", "b", "c"], cell=32)
    assert pixels(path).shape == (MARGIN + 2 * (24 + 34) + MARGIN, 2 * MARGIN + 2 * 32 + 8, 3)
    assert pixels(overview(path, [picture], 5, cell=16, title="t")).shape[1] == 2 * MARGIN + 16
    with pytest.raises(ValueError, match="labels must be none or 1"):
        overview(path, [picture], 1, ["a", "b"])
    with pytest.raises(ValueError, match="at least 1"):
        overview(path, [], 1)


@pytest.mark.parametrize("kind", ["wide", "flat", "zero", "nan", "narrow"])
def test_fisher_map(tmp_path: Path, picture: np.ndarray, kind: str) -> None:
    scores: Any = np.random.default_rng(1).random((12, 16)) ** 12
    scores = {"flat": scores * 0 + 3.0, "zero": scores * 0, "narrow": 1.0 + scores}.get(kind, scores)
    if kind == "nan":
        scores[0], scores[1] = np.nan, np.inf
    out = pixels(fisher_map(tmp_path / "f.png", picture, torch.as_tensor(scores), cell=48))
    assert out.shape[0] == 2 * MARGIN + 36 + 26
    assert len(np.unique(out.reshape(-1, 3), axis=0)) > 10


def test_fisher_map_refuses_another_shape(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"scores must be \(12, 16\)"):
        fisher_map(tmp_path / "f.png", picture, np.zeros((16, 12)))


def test_module_map(tmp_path: Path, picture: np.ndarray) -> None:
    owners = np.full((12, 16), -1)
    owners[:, 4:10], owners[:, 10:] = 0, 3
    path = module_map(tmp_path / "m.png", picture * 0, owners, ["a"], [(1, 1, 5, 5)], cell=160)
    out = pixels(path)[MARGIN:-MARGIN, MARGIN : MARGIN + 160]
    assert out[60, 5].tolist() == [0, 0, 0]  # nobody's
    assert out[110, 60].tolist() != out[110, 140].tolist()
    assert out[110, 100].tolist() == [255, 255, 255]  # the border
    many = np.arange(12 * 16).reshape(12, 16)
    module_map(path, picture, many, [])
    module_map(path, picture, np.full((12, 16), -1), [])
    with pytest.raises(ValueError, match="owners must be whole numbers"):
        module_map(path, picture, owners.astype(float), [])
    with pytest.raises(ValueError, match="owners must be"):
        module_map(path, picture, owners[:3], [])
