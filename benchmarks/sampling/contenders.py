"""The samplers that are compared, with the values that are tried of each one's own options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.sampling.selectors import EVOS, INT, NINT, TRAIN, EvenByError, GradNCP, Selected, Selector
from benchmarks.sampling.weighted import EvenWeighted, SoftMining
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import MIM, AdaptConfig, Mod, ModEven
from mclnf_fast.learn.params import Params
from mclnf_fast.tasks.coords import CoordTask

Options = Mapping[str, Any]


class Place(NamedTuple):
    """What modules are learned on: the task, the shape of a module's grid, initialization, options and seed."""

    task: CoordTask
    box: tuple[int, ...]
    init: Params
    config: AdaptConfig
    seed: int
    last: int


@dataclasses.dataclass(frozen=True)
class Contender:
    """One row of the table; `tried`: values of its own options, its usual ones first."""

    name: str
    title: str
    kind: type
    tried: tuple[Options, ...] = ({},)


FISHER: tuple[Options, ...] = ({"mix": 0.8, "refresh": 16}, {"mix": 0.5, "refresh": 16}, {"mix": 0.8, "refresh": 4})
CONTENDERS = (
    Contender("uniform", "uniform (`mod`)", Mod),
    Contender("even", "even, no scores (`mod_even`)", ModEven),
    Contender("fisher_even", "**even, Fisher scores (`mim`)**", MIM, tuple({"draws": "even", **o} for o in FISHER)),
    Contender("fisher", "independent, Fisher scores", MIM, tuple({"draws": "independent", **o} for o in FISHER)),
    Contender("error_even", "even, scored by error", EvenByError, FISHER),
    Contender(
        "even_weighted", "even, loss weighted by error", EvenWeighted, ({"power": 1.0}, {"power": 0.5}, {"power": 0.25})
    ),
    Contender(
        "soft_mining",
        "soft mining",
        SoftMining,
        ({"alpha": 0.6, "a": 5e-3}, {"alpha": 0.8, "a": 5e-3}, {"alpha": 0.8, "a": 2e-4}),
    ),
    Contender(
        "int",
        "INT",
        INT,
        ({"longest": 5, "growing": True}, {"longest": 1, "growing": False}, {"longest": 50, "growing": True}),
    ),
    Contender(
        "evos",
        "EVOS (without its Laplacian loss)",
        EVOS,
        ({"first": 10, "mutation": 0.5}, {"first": 32, "mutation": 0.5}, {"first": 32, "mutation": 0.8}),
    ),
    Contender(
        "nint",
        "NINT",
        NINT,
        (
            {"random": 0.7, "every": 5, "fade": 1.0},
            {"random": 0.7, "every": 1, "fade": 1.0},
            {"random": 0.5, "every": 1, "fade": 1.0},
        ),
    ),
    Contender(
        "gradncp",
        "GradNCP's selection",
        GradNCP,
        ({"longest": 4, "growing": False}, {"longest": 1, "growing": False}, {"longest": 16, "growing": False}),
    ),
)
NAMED = {c.name: c for c in CONTENDERS}


def method(contender: Contender, options: Options, place: Place) -> Mod:
    """Return the method before its first step."""
    task, box, init, config, seed, last = place
    kind = contender.kind
    if kind is MIM:
        return MIM([task], init, dataclasses.replace(config, fim=FimConfig(use="sample", **options)), seed)
    if issubclass(kind, Selector):
        return Selected([task], init, config, seed, lambda: kind(task, box, config.batch, last, **options))
    if kind is SoftMining:
        return SoftMining([task], init, config, seed, box, **options)
    return kind([task], init, config, seed, **options)


def passes(method: Mod) -> float:
    """Return the operations so far of a module: matrix products per layer, times samples.

    A training step takes three of each sample, a look one, a step that also scores by Fisher information five.
    """
    if isinstance(method, Selected):
        return method.passes
    total = float(TRAIN * method.config.batch * method.made)
    if isinstance(method, MIM):
        total += 2 * method.config.batch * -(-method.made // method.config.fim.refresh)
    return total
