"""Modules whose loss is weighted by Fisher information: MCL-NF's own form of `MIM`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mclnf_fast.learn.methods.base import AdaptConfig
from mclnf_fast.learn.methods.mim import MIM
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Task


class MIMWeight(MIM):
    """sum_j w_j |f(x_j) - y_j|^2 with w_j from q_j = g_j^T F^-1 g_j (arXiv 2504.05806), whatever `fim.use` says; how q
    and w are formed, `fim` says."""

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        # Whatever use the run chose for `mim`: the paper's own form stands beside it in every comparison.
        weighted = dataclasses.replace(config, fim=dataclasses.replace(config.fim, use="weight"))
        super().__init__(tasks, init, weighted, seed)
