"""Rays in, pixels out, to look at a bank: march, network and compositing as one op without a gradient."""

from mclnf_fast.ops.render_rays.api import render_rays
from mclnf_fast.ops.render_rays.reference import Pixels

__all__ = ["Pixels", "render_rays"]
