"""The engine's ops: one mathematical function each, a reference and the backends that agree with it."""

from mclnf_fast.ops._constants import constant
from mclnf_fast.ops._sums import added as segment_sum
from mclnf_fast.ops.bank_mlp import bank_mlp
from mclnf_fast.ops.bank_mse import bank_mse
from mclnf_fast.ops.bank_ray_mse import Shading, bank_ray_mse
from mclnf_fast.ops.bank_step import Trust, bank_step
from mclnf_fast.ops.composite import composite
from mclnf_fast.ops.fisher import FisherResult, fisher_scores
from mclnf_fast.ops.grid import grid_encode
from mclnf_fast.ops.march import march_rays
from mclnf_fast.ops.render_rays import Pixels, render_rays

__all__ = [
    "FisherResult",
    "Pixels",
    "Shading",
    "Trust",
    "bank_mlp",
    "bank_mse",
    "bank_ray_mse",
    "bank_step",
    "composite",
    "constant",
    "fisher_scores",
    "grid_encode",
    "march_rays",
    "render_rays",
    "segment_sum",
]
