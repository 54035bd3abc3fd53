"""Per-sample Fisher scores, their gradients and the diagonal Fisher."""

from mclnf_fast.ops.fisher.api import FisherResult, fisher_scores
from mclnf_fast.ops.fisher.points import Points

__all__ = ["FisherResult", "Points", "fisher_scores"]
