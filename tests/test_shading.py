"""The record of how a field's outputs become pixels: its formulas, its plain form, its errors."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.errors import InputError
from mclnf_fast.shading import OBJECT_SHADING, SCENE_SHADING, Shading

SHADINGS = [
    Shading(),
    SCENE_SHADING,
    OBJECT_SHADING,
    Shading("exp", max_raw_density=-2.5, background=(0.0, 0.25, 1.0), detach_last_density=True, view_directions=True),
]


def test_density_and_color_are_the_formulas() -> None:
    raw = torch.tensor([[12.0, -1.0, 0.5, -3.0], [-2.0, 3.0, 0.0, 12.0]])
    density, color = SCENE_SHADING.density_and_color(raw)
    assert torch.equal(density, torch.tensor([9.0, -2.0]).exp())
    assert torch.equal(color, raw[:, 1:].sigmoid())
    density, color = OBJECT_SHADING.density_and_color(raw[None])
    assert density.tolist() == [[0.0, 12.0]]
    assert torch.equal(color[0], raw[:, :3].sigmoid())


@pytest.mark.parametrize("shading", SHADINGS)
def test_the_plain_form_reads_back_through_json(shading: Shading) -> None:
    text = json.dumps(shading.to_dict(), allow_nan=False)
    assert Shading.from_dict(json.loads(text)) == shading
    assert set(json.loads(text)) == {field.name for field in fields(Shading)}


def test_the_background_color() -> None:
    assert Shading().background_color == (0.0, 0.0, 0.0)
    assert OBJECT_SHADING.background_color == (1.0, 1.0, 1.0)
    assert SCENE_SHADING.background_color is None
    assert replace(SCENE_SHADING, background=[0, 1, 0.5]).background == (0.0, 1.0, 0.5)  # type: ignore[arg-type]


def test_the_op_hands_on_the_same_class() -> None:
    assert mf.ops.Shading is Shading is mf.Shading


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"density_activation": "softplus"}, "shading: density_activation must be one of relu, exp, got 'softplus'"),
        ({"color_activation": "relu"}, "shading: color_activation must be one of sigmoid, got 'relu'"),
        ({"density_first": 1}, "shading: density_first must be true or false, got 1"),
        ({"detach_last_density": None}, "shading: detach_last_density must be true or false, got None"),
        ({"view_directions": "no"}, "shading: view_directions must be true or false, got 'no'"),
        ({"max_raw_density": math.nan}, "shading: max_raw_density must be a number, got nan"),
        ({"max_raw_density": "9"}, "shading: max_raw_density must be a number, got '9'"),
        ({"background": "field"}, "shading: background must be one of black, white, last_sample, or three numbers"),
        ({"background": [0, 0, 1.5]}, r"shading: background must be .*, got \[0, 0, 1.5\]"),
        ({"backdrop": "white"}, "shading has unknown fields backdrop; it has density_activation, "),
    ],
)
def test_errors_name_the_field(change: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Shading.from_dict({**Shading().to_dict(), **change})


def test_a_shading_must_be_a_mapping() -> None:
    with pytest.raises(InputError, match="shading must be a mapping, got list"):
        Shading.from_dict([])  # type: ignore[arg-type]
