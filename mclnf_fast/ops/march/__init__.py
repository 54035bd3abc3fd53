"""Ray marching: from rays and an occupancy grid to packed samples."""

from mclnf_fast.ops.march.api import march_rays
from mclnf_fast.ops.march.reference import Samples, ray_edges

__all__ = ["Samples", "march_rays", "ray_edges"]
