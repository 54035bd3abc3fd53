"""Per-sample Fisher scores."""

from mclnf_fast.ops.fisher.api import FisherResult, fisher_scores

__all__ = ["FisherResult", "fisher_scores"]
