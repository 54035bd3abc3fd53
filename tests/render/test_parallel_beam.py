"""Parallel projections against closed forms, their adjoint by autograd, and back-projection of a full set of them."""

from __future__ import annotations

import math

import pytest
import torch

from mclnf_fast.data.procedural.phantoms import draw_phantoms, phantom_pictures, phantom_projections
from mclnf_fast.fields import initial_parameters
from mclnf_fast.metrics import psnr
from mclnf_fast.render.parallel_beam import (
    back_project,
    detector_places,
    even_angles,
    field_pictures,
    project,
    random_angles,
    scan_loss,
)
from mclnf_fast.spec import FieldSpec


def test_projections_along_the_axes_are_means_of_columns_and_rows():
    image = torch.rand(2, 9, 9, dtype=torch.float64)
    down, across = project(image, torch.tensor([0.0, math.pi / 2], dtype=torch.float64)).unbind(1)
    assert torch.allclose(down, image.mean(1))  # t = 0: rays go upwards, detectors to the right
    assert torch.allclose(across, image.mean(2).flip(1))  # detectors go upwards, rows down
    turned = torch.rot90(image, 1, (1, 2))  # the same head, turned against the clock
    angles = torch.tensor([[0.3, 1.2], [0.9, 0.1]], dtype=torch.float64)
    assert torch.allclose(project(turned, angles + math.pi / 2), project(image, angles), atol=1e-12)


@pytest.mark.parametrize("size", [96, 192])
def test_sampled_projections_agree_with_the_closed_form(size):
    heads = draw_phantoms(3, seed=1)
    angles = random_angles(3, 5, torch.Generator().manual_seed(0))
    sampled, exact = project(phantom_pictures(heads, size)[..., 0], angles), phantom_projections(heads, angles, size)
    error = (sampled - exact).abs()
    assert float(error.mean()) < 0.15 / size  # less than a seventh of a pixel's share of a ray
    assert float(error.mean() / exact.mean()) < 0.015


def test_projection_is_linear_and_its_gradient_is_its_adjoint():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 8, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    angles = torch.tensor([0.2, 1.9], dtype=torch.float64)
    other = torch.rand(1, 2, 8, dtype=torch.float64, generator=generator)
    (adjoint,) = torch.autograd.grad((project(image, angles) * other).sum(), image)
    assert torch.allclose((adjoint * image).sum(), (project(image, angles) * other).sum())
    assert torch.autograd.gradcheck(lambda i: project(i, angles), image)


def test_back_projection_of_all_angles_is_the_phantom_and_of_few_is_not():
    heads = draw_phantoms(2, seed=2)
    truth = phantom_pictures(heads, 96)[..., 0]
    full = even_angles(180)
    for sinograms in (project(truth, full), phantom_projections(heads, full, 96)):
        assert float(psnr(back_project(sinograms, full), truth)) > 27
    line = detector_places(96)
    disc = line.square()[:, None] + line.square() < 1  # what all projections see
    means = back_project(project(truth, full), full)[:, disc].mean(1)
    assert torch.allclose(means, truth[:, disc].mean(1), rtol=5e-3)
    few = even_angles(6)
    assert float(psnr(back_project(project(truth, few), few), truth)) < 20


def test_the_loss_of_projections_is_that_of_the_pictures_of_fields():
    spec = FieldSpec(4, 1, 8, 2, output_activation="sigmoid")
    params = initial_parameters(spec, 3, generator=torch.Generator().manual_seed(0))
    features, angles = torch.rand(36, 4), torch.rand(3, 2)
    pictures = field_pictures(params, spec, features.repeat(3, 1, 1))
    assert pictures.shape == (3, 6, 6)
    sinograms = torch.rand(3, 2, 6)
    wanted = (project(pictures, angles) - sinograms).square().mean((1, 2))
    assert torch.allclose(scan_loss(sinograms, angles, features, spec)(params, 0), wanted)
    shifted = project(pictures, angles) + 0.1 * project(torch.ones(3, 6, 6), angles)
    assert float(scan_loss(shifted, angles, features, spec)(params, 0).max()) <= 0.01 + 1e-6


def test_angles():
    assert torch.allclose(even_angles(4), torch.tensor([0.0, 0.25, 0.5, 0.75]) * math.pi)
    drawn = random_angles(3, 50, torch.Generator().manual_seed(1))
    assert drawn.shape == (3, 50)
    assert float(drawn.min()) >= 0
    assert 0.9 * math.pi < float(drawn.max()) < math.pi


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="images must be square"):
        project(torch.rand(1, 4, 5), torch.zeros(2))
    with pytest.raises(ValueError, match=r"angles must be \[V\] or \[2, V\]"):
        project(torch.rand(2, 4, 4), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"sinograms must be \[T, V, N\]"):
        back_project(torch.rand(2, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="angles must be as many"):
        back_project(torch.rand(1, 3, 4), torch.zeros(2))


def test_a_back_projection_is_filtered_as_if_nothing_lay_beside_the_detectors():
    """At one angle it is the convolution of the line with the ramp, written out: what leaves at one end does not come
    in again at the other, as in a circular one."""
    size = 12
    line = torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    line[-1] = 5.0
    h = 2 / size

    def ramp(n: int) -> float:
        return 1 / (4 * h * h) if n == 0 else -1 / (math.pi * n * h) ** 2 if n % 2 else 0.0

    filtered = [h * sum(ramp(k - j) * 2 * float(line[j]) for j in range(size)) for k in range(size)]
    made = back_project(line[None, None], torch.zeros(1, dtype=torch.float64))[0] / math.pi
    torch.testing.assert_close(made, torch.tensor(filtered, dtype=torch.float64).expand(size, size))
