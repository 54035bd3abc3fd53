"""Head phantoms: the published one at no jitter, a family about it, and line integrals in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from mclnf_fast.data.procedural.phantoms import (
    draw_phantoms,
    phantom_pictures,
    phantom_projections,
    procedural_phantoms,
)
from mclnf_fast.errors import InputError


def test_without_jitter_it_is_the_modified_shepp_logan_phantom():
    ellipses = draw_phantoms(2, seed=7, jitter=0.0)
    assert torch.equal(ellipses[0], ellipses[1])
    size = 201
    picture = phantom_pictures(ellipses[:1], size, samples=1)[0, :, :, 0]

    def at(x: float, y: float) -> float:
        return float(picture[round((1 - y) * size / 2 - 0.5), round((1 + x) * size / 2 - 0.5)])

    known = {
        (0.0, 0.0): 0.2, (0.0, 0.9): 1.0, (0.67, 0.0): 1.0, (0.98, 0.98): 0.0, (0.22, 0.0): 0.0, (-0.22, 0.0): 0.0,
        (0.0, 0.35): 0.3, (0.0, 0.1): 0.3, (0.0, 0.12): 0.4, (0.0, -0.1): 0.3, (-0.08, -0.605): 0.3,
        (0.0, -0.606): 0.3, (0.06, -0.605): 0.3, (0.4, -0.5): 0.2,
    }  # fmt: skip
    for place, value in known.items():
        assert at(*place) == pytest.approx(value, abs=1e-6), place
    # The ventricles lean outwards at the top, as published: -18 degrees to the right, 18 to the left.
    assert at(0.30, 0.24) == pytest.approx(0.0, abs=1e-6)
    assert at(0.30, -0.24) == pytest.approx(0.2, abs=1e-6)
    axes = (
        (1, 0.69, 0.92), (-0.8, 0.6624, 0.874), (-0.2, 0.11, 0.31), (-0.2, 0.16, 0.41), (0.1, 0.21, 0.25),
        (0.2, 0.046, 0.046), (0.2, 0.046, 0.023), (0.1, 0.023, 0.023),
    )  # fmt: skip
    area = math.pi * sum(density * a * b for density, a, b in axes)
    assert float(picture.mean()) * 4 == pytest.approx(area, rel=5e-3)


def test_a_family_is_made_by_its_seed():
    one, other = draw_phantoms(5, seed=3), draw_phantoms(5, seed=4)
    assert torch.equal(one[:2], draw_phantoms(2, seed=3))
    assert not torch.equal(one, other)
    pictures = phantom_pictures(one, 48)
    flat = pictures.flatten(1)
    apart = torch.cdist(flat, flat) / flat.shape[1] ** 0.5 + torch.eye(5)
    assert float(apart.min()) > 0.03  # no two alike
    assert pictures.shape == (5, 48, 48, 1)
    assert float(pictures.min()) >= 0
    assert float(pictures.max()) <= 1
    line = torch.linspace(-1, 1, 48)
    outside = line.square()[:, None] + line.square() > 1.03
    assert float(pictures[:, outside].abs().max()) == 0  # within the disc that all rays meet
    sets = procedural_phantoms(5, 48, seed=3, test=2, validation=1)
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (2, 1, 2)
    assert torch.equal(sets.test.values, pictures[3:])


def test_projections_are_line_integrals():
    disc = torch.tensor([[[0.5, 0.6, 0.6, 0.1, -0.2, 0.3]]], dtype=torch.float64)
    angles = torch.tensor([0.0, math.pi / 2, 0.7])
    found = phantom_projections(disc, angles, 50)
    assert found.shape == (1, 3, 50)
    s = (2 * torch.arange(50) + 1) / 50 - 1
    for v, t in enumerate(angles.tolist()):
        off = s - (0.1 * math.cos(t) - 0.2 * math.sin(t))
        chord = 2 * (0.36 - off.square()).clamp(min=0).sqrt()
        assert torch.allclose(found[0, v], 0.5 * chord / 2, atol=1e-6)
    # Every projection of a thing sees all of it: the mean over detectors is the mean over the square.
    heads = draw_phantoms(3)
    sums = phantom_projections(heads, torch.rand(3, 9) * math.pi, 2000).mean(-1)
    area = (heads[:, :, 0] * heads[:, :, 1] * heads[:, :, 2]).sum(1) * math.pi / 4
    assert torch.allclose(sums.double(), area[:, None].expand(3, 9), rtol=2e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"jitter": 1.5}, "jitter: must be in 0"), ({"count": 0}, "count: must be"), ({"seed": -1}, "seed: must be")],
)
def test_unusable_numbers(given, message):
    with pytest.raises(InputError, match=message):
        draw_phantoms(**{"count": 2, **given})
    with pytest.raises(InputError, match="size: must be from 16"):
        procedural_phantoms(3, 8, test=1)
