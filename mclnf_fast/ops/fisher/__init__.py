"""Per-sample Fisher scores, their gradients and the diagonal Fisher."""

from mclnf_fast.ops.fisher.api import fisher_scores
from mclnf_fast.ops.fisher.records import FisherResult, Points

__all__ = ["FisherResult", "Points", "fisher_scores"]
