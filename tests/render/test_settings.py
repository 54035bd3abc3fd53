"""The settings of rendering: their plain form, that of files of before, and their errors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from mclnf_fast.errors import InputError
from mclnf_fast.render import RenderSettings
from mclnf_fast.shading import OBJECT_SHADING, SCENE_SHADING, Shading

# As `mclnf-fast run single-view` and `run photos` of version 0.1 wrote them into their initialization's file.
SINGLE_VIEW = {
    "bins": 24, "near": 2.5, "far": 5.5, "convention": "blog", "chunk": 8192, "backend": "auto", "background": "white"
}  # fmt: skip
PHOTOS = {**SINGLE_VIEW, "convention": "learnit", "background": "field"}


@pytest.mark.parametrize(
    "settings",
    [
        RenderSettings(),
        RenderSettings(7, 0.5, 3.0, shading=replace(SCENE_SHADING, background=(0.1, 0.2, 0.3)), chunk=5),
        RenderSettings.between(1.0, 3.0, samples_per_ray=5, convention="learnit", background="last_sample"),
    ],
)
def test_the_plain_form_reads_back_through_json(settings: RenderSettings) -> None:
    assert RenderSettings.from_dict(json.loads(json.dumps(settings.to_dict(), allow_nan=False))) == settings


def test_files_of_before_still_load() -> None:
    assert RenderSettings.from_dict(SINGLE_VIEW) == RenderSettings.between(2.5, 5.5, samples_per_ray=24)
    photos = RenderSettings.from_dict(PHOTOS)
    assert photos == RenderSettings.between(2.5, 5.5, 24, "learnit", background="last_sample")
    assert photos.shading == replace(OBJECT_SHADING, background="last_sample")
    without_background = {key: value for key, value in SINGLE_VIEW.items() if key != "background"}
    assert RenderSettings.from_dict(without_background).shading.background == "white"


def test_an_endless_last_spacing_has_no_gradient() -> None:
    assert RenderSettings.between(convention="blog").shading.detach_last_density
    assert not RenderSettings.between(convention="learnit").shading.detach_last_density
    assert not RenderSettings().shading.detach_last_density
    asked = replace(RenderSettings.between(convention="learnit"), shading=Shading(detach_last_density=True))
    assert asked.shading.detach_last_density


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "settings must be a mapping, got list"),
        ({"samples": 3}, "settings have unknown fields samples; they have samples_per_ray, near, far"),
        ({**SINGLE_VIEW, "background": "black"}, "background must be one of white, field, got 'black'"),
        ({**SINGLE_VIEW, "bins": 1}, "samples_per_ray must be at least 2, got 1"),
        ({"samples_per_ray": 0}, "samples_per_ray must be at least 1, got 0"),
        ({"near": 3.0, "far": 2.0}, "near and far must be 0 <= near < far, got 3.0 and 2.0"),
        ({"convention": "blog", "far": None}, "near and far must be 0 <= near < far, finite, got 0.0 and inf"),
        ({"convention": "nerf"}, "convention must be one of cell, blog, learnit, got 'nerf'"),
        ({"shading": {"background": "grey"}}, "shading: background must be one of black, white, last_sample"),
    ],
)
def test_errors_name_the_field(data: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        RenderSettings.from_dict(data)


def test_an_infinite_far_is_none_in_the_plain_form() -> None:
    assert RenderSettings().far == math.inf
    assert RenderSettings().to_dict()["far"] is None
