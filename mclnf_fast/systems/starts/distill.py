"""Distill other random weights to the outputs of a meta-learned initialization, and to their mean."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from mclnf_fast.learn.meta.inits import Distilled, Outputs, Points, constant, matched
from mclnf_fast.learn.params import Params
from mclnf_fast.systems.starts.options import InitializationName


class Matching(NamedTuple):
    """What is distilled of the learned initialization: its `outputs`, whose mean `constant` has everywhere, and the
    `raw` ones of its network, which `matched` has at each of the points that the tasks draw."""

    outputs: Outputs
    raw: Outputs
    points: Points


def distilled(
    names: Collection[InitializationName],
    learned: Params,
    random: Callable[[int], Params],
    matching: Callable[[], Matching],
    steps: int,
) -> dict[InitializationName, Distilled]:
    """Return `constant` and `matched`, those of `names`, both from one random network: they then differ in what they
    were trained to put out alone.

    Args:
        names: of the initializations that are compared.
        learned: the meta-learned one [1, ...].
        random: 1 -> random weights [1, ...] that are not those which meta-training began from.
        matching: what is distilled, made anew for each, so that both meet the same points.
        steps: of Adam, for each.
    """
    made: dict[InitializationName, Distilled] = {}
    if "constant" in names:
        what = matching()
        made["constant"] = constant(random(1), learned, what.outputs, what.points, steps=steps)
    if "matched" in names:
        what = matching()
        made["matched"] = matched(random(1), learned, what.raw, what.points, steps=steps)
    return made
