"""The engine's ops: one mathematical function each, a reference and the backends that agree with it.

Other rooms take everything from here; modules with an underscore are for this package alone.
"""

from mclnf_fast.ops._constants import constant, offsets_of_equal_shares, uploaded
from mclnf_fast.ops._dispatch import backends, passed_over, registered, select, why_not
from mclnf_fast.ops._layers import activate, encode
from mclnf_fast.ops._library import why_not_loaded
from mclnf_fast.ops._memory import DeviceMemoryError
from mclnf_fast.ops._segment_sum import segment_sum
from mclnf_fast.ops.bank_adapt import bank_adapt
from mclnf_fast.ops.bank_fit import bank_fit
from mclnf_fast.ops.bank_mlp import bank_mlp
from mclnf_fast.ops.bank_mse import bank_mse
from mclnf_fast.ops.bank_ray_mse import Shading, bank_ray_mse
from mclnf_fast.ops.bank_step import Decay, Trust, bank_step
from mclnf_fast.ops.composite import composite
from mclnf_fast.ops.draw_ids import draw_ids
from mclnf_fast.ops.fisher import FisherResult, fisher_scores
from mclnf_fast.ops.grid import grid_encode
from mclnf_fast.ops.march import march_rays, ray_edges
from mclnf_fast.ops.render_rays import Pixels, render_rays
from mclnf_fast.ops.segment_scan import segment_scan
from mclnf_fast.ops.traverse import Traversal, traverse_grids

__all__ = [
    "Decay",
    "DeviceMemoryError",
    "FisherResult",
    "Pixels",
    "Shading",
    "Traversal",
    "Trust",
    "activate",
    "backends",
    "bank_adapt",
    "bank_fit",
    "bank_mlp",
    "bank_mse",
    "bank_ray_mse",
    "bank_step",
    "composite",
    "constant",
    "draw_ids",
    "encode",
    "fisher_scores",
    "grid_encode",
    "march_rays",
    "offsets_of_equal_shares",
    "passed_over",
    "ray_edges",
    "registered",
    "render_rays",
    "segment_scan",
    "segment_sum",
    "select",
    "traverse_grids",
    "uploaded",
    "why_not",
    "why_not_loaded",
]
