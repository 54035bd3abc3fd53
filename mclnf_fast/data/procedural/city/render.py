"""Renders a district by day."""

from __future__ import annotations

import functools

import torch

from mclnf_fast.data.procedural.city.district import District
from mclnf_fast.data.procedural.city.ground import ground_color
from mclnf_fast.data.procedural.city.solids import Light, SolidRenderer

# Linear light. A warm sun and a blue sky give shadows a color of their own, as in photos.
SUN_LIGHT = torch.tensor([1.04, 0.95, 0.80], dtype=torch.float32)
SKY_LIGHT = torch.tensor([0.42, 0.50, 0.64], dtype=torch.float32)
BOUNCE_LIGHT = torch.tensor([0.26, 0.24, 0.21], dtype=torch.float32)
SKY_COLOR = torch.tensor([0.45, 0.62, 0.85], dtype=torch.float32)


class CityRenderer(SolidRenderer):
    """Renders views of one district; build it once, since it keeps the shadow grid.

    >>> from mclnf_fast.data import block_views, make_district
    >>> district = make_district(seed=0, blocks=(1, 1))
    >>> cameras = block_views(district.block_boxes()[0], count=1, size=(8, 6), seed=0)
    >>> CityRenderer(district).render(cameras).shape
    torch.Size([1, 6, 8, 3])
    """

    def __init__(self, district: District) -> None:
        light = Light(
            district.sun, SUN_LIGHT, SKY_LIGHT, BOUNCE_LIGHT, SKY_COLOR, SKY_COLOR, torch.ones(3, dtype=torch.float32)
        )
        super().__init__(district.solids, district.materials, functools.partial(ground_color, district), light)
