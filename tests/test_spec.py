"""FieldSpec and the encodings: sizes, what is refused, and the trip through plain data."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

import mclnf_fast as mf
from mclnf_fast import spec as sp

ENCODINGS = [
    (3, mf.Identity(), 3),
    (3, mf.Frequency(10), 60),
    (3, mf.Frequency(10, include_input=True), 63),
    (3, mf.LogFrequency(20, 8.0), 120),
    (3, mf.SphericalHarmonics(1), 1),
    (3, mf.SphericalHarmonics(4), 16),
    (6, mf.Composite(((mf.Frequency(4), 3), (mf.SphericalHarmonics(3), 3))), 33),
]


@pytest.mark.parametrize(("in_dim", "encoding", "features"), ENCODINGS)
def test_features(in_dim: int, encoding: sp.Encoding, features: int) -> None:
    spec = mf.FieldSpec(in_dim, 2, 8, 2, encoding=encoding, skips=(1,))
    assert spec.encoded_dim == features
    assert spec.layer_shapes == ((features, 8), (8 + features, 8), (8, 2))
    assert spec.num_parameters == (features + 1) * 8 + (8 + features + 1) * 8 + 9 * 2
    assert sp.from_dict(json.loads(json.dumps(sp.to_dict(spec)))) == spec
    assert mf.FieldBank(spec, 1)(mf.FieldBank(spec, 1).weight[0].new_zeros(1, 2, in_dim)).shape == (1, 2, 2)


def test_frequencies_and_depth() -> None:
    assert mf.Frequency(3).frequencies == (math.pi, 2 * math.pi, 4 * math.pi)
    assert mf.Frequency(2, scale=1).frequencies == (1.0, 2.0)
    assert mf.LogFrequency(3, 8.0).frequencies == (1.0, 16.0, 256.0)
    assert mf.LogFrequency(1).frequencies == (1.0,)
    assert mf.FieldSpec(3, 4, 64, 4).layer_shapes == ((3, 64), *[(64, 64)] * 3, (64, 4))
    assert mf.FieldSpec(3, 4, 64, 0).layer_shapes == ((3, 4),)


def test_sine_with_a_frequency() -> None:
    spec = mf.FieldSpec(2, 1, activation="sine(200)")
    assert (spec.activation, spec.w0) == ("sine", 200.0)
    assert spec == mf.FieldSpec(2, 1, activation="sine", w0=200.0)


def test_frozen_hashable_replaceable() -> None:
    spec = mf.FieldSpec(3, 1, skips=(2, 1, 2))
    assert spec.skips == (1, 2)
    assert len({spec, mf.FieldSpec(3, 1, skips=(1, 2))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.width = 3
    wider = dataclasses.replace(spec, width=32)
    assert wider.layer_shapes[0] == (3, 32)
    assert wider.packed != spec.packed


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: mf.FieldSpec(0, 1), ValueError, "in_dim must be an int of at least 1, got 0"),
        (lambda: mf.FieldSpec(3, 1.5), ValueError, "out_dim must be an int of at least 1, got 1.5"),
        (lambda: mf.FieldSpec(3, 1, width=True), ValueError, "width must be an int .*got True"),
        (lambda: mf.FieldSpec(3, 1, hidden_layers=-1), ValueError, "hidden_layers must be .*got -1"),
        (
            lambda: mf.FieldSpec(3, 1, hidden_layers=31),
            ValueError,
            "hidden_layers must be at most 30, got 31",
        ),
        (lambda: mf.FieldSpec(3, 1, activation="gelu"), ValueError, "activation must be one of .*got 'gelu'"),
        (
            lambda: mf.FieldSpec(3, 1, activation="sine(e)"),
            ValueError,
            r"activation must be .*got 'sine\(e\)'",
        ),
        (
            lambda: mf.FieldSpec(3, 1, output_activation=None),
            ValueError,
            "output_activation must be .*got None",
        ),
        (lambda: mf.FieldSpec(3, 1, w0=0), ValueError, "w0 must be a positive number, got 0"),
        (lambda: mf.FieldSpec(3, 1, w0="1"), ValueError, "w0 must be a positive number, got '1'"),
        (lambda: mf.FieldSpec(3, 1, activation="sine", w0=math.nan), ValueError, "w0 must be .*got nan"),
        (
            lambda: mf.FieldSpec(3, 1, activation="sine(3)", output_activation="sine(4)"),
            ValueError,
            "activation and output_activation must have the same w0, got 3.0 and 4.0",
        ),
        (lambda: mf.FieldSpec(3, 1, encoding="nerf"), TypeError, "encoding must be an Encoding, got 'nerf'"),
        (lambda: mf.FieldSpec(3, 1, skips=(5,)), ValueError, r"skips must name layers 1 ... 4, got \(5,\)"),
        (lambda: mf.FieldSpec(3, 1, skips=(0,)), ValueError, r"skips must name layers .*got \(0,\)"),
        (lambda: mf.FieldSpec(3, 1, skips=2), TypeError, "skips must be a tuple of ints, got 2"),
        (lambda: mf.FieldSpec(2, 1, encoding=mf.SphericalHarmonics(2)), ValueError, "3 coordinates .*got 2"),
        (lambda: mf.SphericalHarmonics(5), ValueError, "degree must be 1, 2, 3 or 4, got 5"),
        (lambda: mf.Frequency(0), ValueError, "n must be an int of at least 1, got 0"),
        (lambda: mf.Frequency(2, scale=math.inf), ValueError, "scale must be a finite .*got inf"),
        (lambda: mf.Frequency(2000), ValueError, "frequencies must be finite"),
        (lambda: mf.LogFrequency(3, math.nan), ValueError, "max_exp must be a finite number, got nan"),
        (lambda: mf.LogFrequency(3, 5000.0), ValueError, "frequencies must be finite"),
        (lambda: mf.Composite(()), ValueError, "items must hold at least one"),
        (lambda: mf.Composite((mf.Identity(),)), TypeError, r"each item must be a pair .*got Identity\(\)"),
        (
            lambda: mf.FieldSpec(4, 1, encoding=mf.Composite(((mf.Identity(), 3),))),
            ValueError,
            "items cover 3 coordinates, but the field has in_dim = 4",
        ),
        (lambda: sp.from_dict([1]), TypeError, "a spec must be a mapping, got list"),
        (lambda: sp.from_dict({"in_dim": 3}), TypeError, "out_dim"),
        (
            lambda: sp.from_dict({"in_dim": 3, "out_dim": 1, "encoding": {"kind": "Magic"}}),
            ValueError,
            "encoding kind must be one of Identity, .*got 'Magic'",
        ),
    ],
)
def test_refused_arguments(build, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        build()
