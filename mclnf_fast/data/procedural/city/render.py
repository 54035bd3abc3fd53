"""Pictures of a district by day."""

from __future__ import annotations

import functools

import torch

from mclnf_fast.data.procedural.city.district import District
from mclnf_fast.data.procedural.city.ground import ground_color
from mclnf_fast.data.procedural.city.solids import Light, SolidRenderer

SUN_LIGHT = torch.tensor([1.04, 0.95, 0.80])
SKY_LIGHT = torch.tensor([0.42, 0.50, 0.64])
BOUNCE_LIGHT = torch.tensor([0.26, 0.24, 0.21])
SKY_COLOR = torch.tensor([0.45, 0.62, 0.85])


class CityRenderer(SolidRenderer):
    """Renders views of one district; build it once, the shadow grid is kept."""

    def __init__(self, district: District) -> None:
        light = Light(district.sun, SUN_LIGHT, SKY_LIGHT, BOUNCE_LIGHT, SKY_COLOR, SKY_COLOR, torch.ones(3))
        super().__init__(district.solids, district.materials, functools.partial(ground_color, district), light)
