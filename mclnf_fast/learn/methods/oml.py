"""OML: a slow representation from meta-learning, under a fast prediction part that alone is trained."""

from __future__ import annotations

from mclnf_fast.learn.meta.oml import fast_mask
from mclnf_fast.learn.methods.base import Method
from mclnf_fast.learn.methods.fitted import uniform_draws
from mclnf_fast.learn.params import Params
from mclnf_fast.ops.bank_fit import Draws


class OML(Method):
    """Sequential training of the last layers; the first ones were meta-learned through such sequences and stay (Javed
    & White, arXiv 1905.12588)."""

    category = "MCL"
    initialization = "oml"
    options = ("fast_layers",)

    @property
    def frozen_layers(self) -> int:
        return max(0, len(self.params) // 2 - self.config.fast_layers)

    def next_draws(self, k: int, most: int) -> Draws | None:
        return uniform_draws(self, k, most) if self.makes_steps_as(OML) else None

    def trained(self) -> Params:
        fast = fast_mask(self.params, self.config.fast_layers)
        return tuple(p for p, chosen in zip(self.params, fast) if chosen)
