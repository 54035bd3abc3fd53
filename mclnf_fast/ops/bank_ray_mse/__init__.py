"""Squared error of the pixels that a bank's rays are composited to."""

from mclnf_fast.ops.bank_ray_mse.api import bank_ray_mse
from mclnf_fast.shading import Shading

__all__ = ["Shading", "bank_ray_mse"]
