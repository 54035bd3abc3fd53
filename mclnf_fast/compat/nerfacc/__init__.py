"""The names of nerfacc 0.5, on CPU and GPU: same arguments, defaults, shapes and dtypes.

    import mclnf_fast.compat.nerfacc as nerfacc

The modules have nerfacc's names too (`grid`, `volrend`, `estimators.occ_grid`, ...). docs/nerfacc.md lists every name,
and what differs from the original.
"""

from mclnf_fast.compat.nerfacc.accumulate import accumulate_along_rays, accumulate_along_rays_
from mclnf_fast.compat.nerfacc.data_specs import RayIntervals, RaySamples
from mclnf_fast.compat.nerfacc.estimators.occ_grid import OccGridEstimator
from mclnf_fast.compat.nerfacc.estimators.prop_net import PropNetEstimator, get_proposal_requires_grad_fn
from mclnf_fast.compat.nerfacc.grid import ray_aabb_intersect, traverse_grids
from mclnf_fast.compat.nerfacc.losses import distortion
from mclnf_fast.compat.nerfacc.pack import pack_info
from mclnf_fast.compat.nerfacc.pdf import importance_sampling, searchsorted
from mclnf_fast.compat.nerfacc.scan import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum
from mclnf_fast.compat.nerfacc.volrend import (
    render_transmittance_from_alpha,
    render_transmittance_from_density,
    render_visibility_from_alpha,
    render_visibility_from_density,
    render_weight_from_alpha,
    render_weight_from_density,
    rendering,
)

__version__ = "0.5.3"
"""The version of nerfacc whose interface this is."""

__all__ = [
    "OccGridEstimator",
    "PropNetEstimator",
    "RayIntervals",
    "RaySamples",
    "__version__",
    "accumulate_along_rays",
    "accumulate_along_rays_",
    "distortion",
    "exclusive_prod",
    "exclusive_sum",
    "get_proposal_requires_grad_fn",
    "importance_sampling",
    "inclusive_prod",
    "inclusive_sum",
    "pack_info",
    "ray_aabb_intersect",
    "render_transmittance_from_alpha",
    "render_transmittance_from_density",
    "render_visibility_from_alpha",
    "render_visibility_from_density",
    "render_weight_from_alpha",
    "render_weight_from_density",
    "rendering",
    "searchsorted",
    "traverse_grids",
]
