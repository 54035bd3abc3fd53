"""Random Fourier features: their formula, their deviation, and that a seed draws them."""

from __future__ import annotations

import torch

from mclnf_fast.fields import initial_parameters
from mclnf_fast.fields.fourier import fourier_features, gaussian_frequencies
from mclnf_fast.spec import FieldSpec


def test_features_are_sines_and_cosines_of_mixtures():
    frequencies = torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    found = fourier_features(torch.tensor([[0.5, 0.25]]), frequencies)
    turns = torch.tensor([1.0, -0.75])
    assert torch.allclose(found[0], torch.cat((turns.sin(), turns.cos())))


def test_frequencies_are_normal():
    drawn = gaussian_frequencies(20_000, 2, 30.0, torch.Generator().manual_seed(0))
    assert drawn.shape == (20_000, 2)
    assert abs(float(drawn.std()) - 30) < 0.5
    assert abs(float(drawn.mean())) < 0.5
    assert torch.equal(drawn, gaussian_frequencies(20_000, 2, 30.0, torch.Generator().manual_seed(0)))


def test_the_gain_of_hidden_layers():
    spec = FieldSpec(64, 8, 64, 2)
    he, small = (initial_parameters(spec, 4, generator=torch.Generator().manual_seed(0), gain=g) for g in (2.0, 1.0))
    for layer in range(2):
        assert torch.allclose(he[layer], small[layer] * 2**0.5)
        assert abs(float(small[layer].var()) * 64 - 1) < 0.05
    assert torch.equal(he[2], small[2])  # the output layer's is 1 in any case
