"""Which samples a module takes in a step: counted random numbers, the same on every device and in every order."""

from mclnf_fast.ops.draw_ids.api import draw_ids
from mclnf_fast.ops.draw_ids.reference import MOST, philox

__all__ = ["MOST", "draw_ids", "philox"]
