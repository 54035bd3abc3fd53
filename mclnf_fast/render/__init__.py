"""Cameras, cells and volume rendering of a bank."""

from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.fused import render_fused
from mclnf_fast.render.occupancy import OccupancyGrid
from mclnf_fast.render.pool import RayBatch, RayPool
from mclnf_fast.render.volume import RenderSettings, render_modules, render_scene

__all__ = [
    "Cameras",
    "Cells",
    "OccupancyGrid",
    "RayBatch",
    "RayPool",
    "RenderSettings",
    "render_fused",
    "render_modules",
    "render_scene",
]
