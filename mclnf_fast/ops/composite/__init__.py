"""Alpha compositing along rays: color, opacity, depth and weights in one pass."""

from mclnf_fast.ops.composite.api import composite
from mclnf_fast.ops.composite.reference import Composite

__all__ = ["Composite", "composite"]
