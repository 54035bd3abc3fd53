"""Cameras, cells, and volume rendering of a bank: rays in, pixels and their loss out."""

from mclnf_fast.render.cameras import Cameras, look_at
from mclnf_fast.render.cells import Cells
from mclnf_fast.render.lenses.lens import Lens, Projection, make_lens
from mclnf_fast.render.losses import ray_losses
from mclnf_fast.render.occupancy import OccupancyGrid
from mclnf_fast.render.pool import RayBatch, RayPool
from mclnf_fast.render.samples import Rays, RaySamples, sample_between, sample_in_cells
from mclnf_fast.render.settings import RenderSettings
from mclnf_fast.render.views import render_scene, render_views, view_rays
from mclnf_fast.render.volume import Rendered, render_fused, render_modules, render_objects

__all__ = [
    "Cameras",
    "Cells",
    "Lens",
    "OccupancyGrid",
    "Projection",
    "RayBatch",
    "RayPool",
    "RaySamples",
    "Rays",
    "RenderSettings",
    "Rendered",
    "look_at",
    "make_lens",
    "ray_losses",
    "render_fused",
    "render_modules",
    "render_objects",
    "render_scene",
    "render_views",
    "sample_between",
    "sample_in_cells",
    "view_rays",
]
