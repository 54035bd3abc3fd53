"""The classical reconstructions of a slice: the right way round, on the right pixels, and left out by name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tiny_runs import run_system

from mclnf_fast.data.procedural.phantoms import procedural_phantoms
from mclnf_fast.errors import InputError
from mclnf_fast.metrics import psnr
from mclnf_fast.render.parallel_beam import back_project, even_angles, project
from mclnf_fast.systems.ct import classical

pytest.importorskip("skimage.transform", reason="scikit-image is not installed")


def off_center(size: int) -> torch.Tensor:
    """A slice that no turn or mirror maps to itself."""
    picture = torch.zeros(1, size, size)
    picture[0, size // 4 : size // 2, size // 3 : size // 3 + size // 8] = 1.0
    picture[0, size // 2 : size // 2 + 3, size // 5 : size // 2] = 0.5
    return picture


@pytest.mark.parametrize("size", [32, 33])
def test_many_projections_give_the_slice_back(size):
    truth, angles = off_center(size), even_angles(60)
    lines = project(truth, angles)
    ramp = float(psnr(back_project(lines, angles).clamp(0, 1), truth))
    assert float(psnr(classical.sart(lines, angles, 0.3, 3).clamp(0, 1), truth)) > ramp + 5.0
    assert float(psnr(classical.hann(lines, angles).clamp(0, 1), truth)) > ramp - 6.0  # the window blurs


@pytest.mark.parametrize("size", [32, 33])
def test_the_center_of_mass_stands_where_it_is(size):
    truth, angles = off_center(size), even_angles(60)
    lines, places = project(truth, angles), torch.arange(size, dtype=torch.float64)
    for made in (classical.hann(lines, angles), classical.sart(lines, angles, 0.3, 3)):
        for dim in (1, 2):
            weights, exact = (t.double().clamp(min=0).sum((0, 3 - dim)) for t in (made, truth))
            assert float((weights @ places) / weights.sum()) == pytest.approx(
                float((exact @ places) / exact.sum()), abs=0.12
            )  # half a pixel is the mistake that is easy to make


def test_what_is_moved_off_one_end_of_a_projection_does_not_come_in_at_the_other():
    """At half a turn the centers are a whole detector apart: the last value goes, and the others are one further on."""
    lines = torch.rand(1, 1, 16, generator=torch.Generator().manual_seed(0)) + 0.5
    moved = classical._centered(lines, torch.tensor([torch.pi]))[0, 0]
    assert moved == pytest.approx([0.0, *(16 * lines[0, 0, :-1]).tolist()], abs=1e-4)


def test_scales_are_those_of_the_slice():
    disk = torch.zeros(1, 33, 33)
    rows, columns = torch.meshgrid(*[torch.arange(33) - 16] * 2, indexing="ij")
    disk[0][rows.square() + columns.square() <= 100] = 0.7
    lines, angles = project(disk, even_angles(90)), even_angles(90)
    for made in (classical.hann(lines, angles), classical.sart(lines, angles, 0.3, 3)):
        assert float(made[0, 12:21, 12:21].mean()) == pytest.approx(0.7, abs=0.02)


def test_the_best_relaxation_and_sweeps_are_those_of_the_slices_they_are_tried_on():
    sets = procedural_phantoms(6, 24, seed=0, test=2, validation=2, jitter=1.0)
    truth, angles = sets.validation.values[..., 0], even_angles(6)
    lines = project(truth, angles)
    scores = {(r, k): float(psnr(classical.sart(lines, angles, r, k).clamp(0, 1), truth, keep_first=True).mean())
              for r in classical.RELAXATIONS for k in classical.SWEEPS}  # fmt: skip
    assert classical.best_sart(lines, angles, truth) == max(scores, key=scores.__getitem__)
    assert len({round(s, 6) for s in scores.values()}) == len(scores)


def test_the_linear_estimate_is_that_of_ridge_regression():
    slices = procedural_phantoms(12, 16, seed=0, test=2, validation=2, jitter=1.0).train.values[..., 0]
    angles = even_angles(3)
    lines = project(slices, angles)
    truth, measured = slices[6:], lines[6:]
    estimate = classical.linear_estimate(slices[:6], lines[:6], 1e-3)(measured, angles)
    x, p = slices[:6].flatten(1).double(), lines[:6].flatten(1).double()
    centered = p - p.mean(0)
    weight = 1e-3 * centered.square().sum() * torch.eye(p.shape[1], dtype=torch.float64)
    matrix = torch.linalg.solve(centered.T @ centered + weight, centered.T @ (x - x.mean(0)))
    exact = x.mean(0) + (measured.flatten(1).double() - p.mean(0)) @ matrix
    assert torch.allclose(estimate.flatten(1).double(), exact, atol=1e-5)
    scores = [
        float(psnr(classical.linear_estimate(slices[:6], lines[:6], r)(measured, angles).clamp(0, 1), truth,
                   keep_first=True).mean()) for r in classical.RIDGES
    ]  # fmt: skip
    best = classical.best_linear((slices[:6], lines[:6]), (truth, measured), angles)(measured, angles).clamp(0, 1)
    assert float(psnr(best, truth, keep_first=True).mean()) == max(scores)


def test_the_linear_estimate_from_one_slice_is_that_slice():
    slices, angles = off_center(16), even_angles(3)
    lines = project(slices, angles)
    assert torch.equal(classical.linear_estimate(slices, lines, 1e-8)(lines, angles), slices)


def test_three_sweeps_each_from_the_last():
    truth, angles = off_center(16), even_angles(5)
    lines = project(truth, angles)
    from skimage.transform import iradon_sart

    integrals, degrees = classical._centered(lines, angles)[0].T.copy(), np.rad2deg(angles.numpy().astype(np.float64))
    picture = None
    for _ in range(3):
        picture = iradon_sart(integrals, degrees, image=picture, relaxation=0.3, clip=(0.0, 1.0))
    assert np.allclose(classical.sart(lines, angles, 0.3, 3)[0].numpy(), picture, atol=1e-6)


def test_without_scikit_image_the_rows_are_left_out_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.transform", None)
    found = run_system("ct", [
        "--count", "6", "--test", "2", "--size", "16", "--steps", "2", "--width", "8", "--hidden-layers", "2",
        "--frequencies", "8", "--initializations", "standard", "--rates", "3", "--threads", "1",
    ], tmp_path / "run")  # fmt: skip
    assert list(found["initializations"]) == ["standard", "fbp", "linear", "mean"]
    assert any(
        "scikit-image is not installed" in note and "pip install scikit-image" in note for note in found["notes"]
    )
    with pytest.raises(InputError, match=r"sart needs scikit-image: pip install scikit-image"):
        classical.sart(torch.zeros(1, 2, 4), even_angles(2), 0.1, 3)
