"""Elastic weight consolidation: parameters that old tasks depend on are held back."""

from __future__ import annotations

from collections.abc import Sequence

from mclnf_fast.learn.methods.base import AdaptConfig, Memory, Method
from mclnf_fast.learn.methods.consolidate import Consolidation
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import ScoredTask, Task, check_scored


class EWC(Method):
    """L = L_k + lam / 2 sum_i (theta - theta_i)^T F_i (theta - theta_i), F_i the diagonal Fisher information of task i
    at its end (Kirkpatrick et al., arXiv 1612.00796); or one running F and the last theta (online EWC, Schwarz et al.,
    arXiv 1805.06370). The penalty is the trust region of the bank optimizer."""

    options = ("ewc_lam", "ewc_online", "ewc_decay")
    tasks: Sequence[ScoredTask]

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        super().__init__(check_scored(tasks, "ewc"), init, config, seed)
        self.old = Consolidation(online=config.ewc_online, decay=config.ewc_decay)

    def adam(self, k: int) -> BankOptimizer:
        optimizer = super().adam(k)
        # The fused step adds the penalty; as a term of the loss it would be one more pass over all parameters.
        if self.old:
            optimizer.trust = (self.config.ewc_lam, self.old.fisher, self.old.anchor)
        return optimizer

    def finish(self, k: int) -> None:
        super().finish(k)
        self.old.add(self.tasks[k], self.params_of(k), self.seed)

    def memories(self) -> dict[str, Memory]:
        return {"old": self.old}
