"""The choice of a rate and a density bias for each initialization: the same grid for all, on tasks kept back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.params import Params
from mclnf_fast.systems.starts.tuning import Choice, Trials, TuneOptions, best_choice, kept_back

ZERO = (torch.zeros(1, 2),)


def biased(params: Params, bias: float) -> Params:
    return (params[0] + bias,)


def test_every_choice_is_tried_on_every_task_with_its_own_rate_and_bias() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def score(modules: Params, rates: Tensor) -> list[float]:
        seen.append((modules[0][:, 0], rates))
        return [1.0, 1.0, 5.0, 0.0, 2.0, 2.0, 0.0, 0.0]

    grid = TuneOptions(rates=(2.0,), density_bias=(0.5,)).grid(1.0)
    assert best_choice(ZERO, Trials(grid, 2, 8, score), biased) == Choice(2.0)  # by the mean over its two tasks
    modules, rates = seen[0]
    assert rates.tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    assert modules.tolist() == [0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5]


def test_a_choice_that_diverges_loses() -> None:
    trials = Trials((Choice(1.0), Choice(100.0)), 1, 8, lambda modules, rates: [3.0, float("nan")])
    assert best_choice(ZERO, trials, biased).lr == 1.0


def test_few_tasks_are_not_taken_from_meta_training() -> None:
    nothing_to_choose = TuneOptions(tasks=2)
    assert kept_back(range(40), nothing_to_choose) == (range(40), range(2))
    choosing = TuneOptions(rates=(2.0,), tasks=2)
    train, tried = kept_back(range(16), choosing)
    assert not set(train) & set(tried)
    assert (len(train), len(tried)) == (14, 2)
    assert kept_back(range(15), choosing) == (range(15), range(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TuneOptions(rates=(0.0,)), "tune.rates must be different numbers above 0"),
        (TuneOptions(rates=(1.0, 1.0)), "tune.rates must be different"),
        (TuneOptions(density_bias=(float("nan"),)), "tune.density-bias must be different finite numbers, got nan"),
        (TuneOptions(density_bias=(0.1, 0.1)), "tune.density-bias must be different"),
        (TuneOptions(steps=0), "tune.steps must be at least 1, got 0"),
        (TuneOptions(tasks=0), "tune.tasks must be at least 1, got 0"),
    ],
)
def test_unusable_options_are_named(options: TuneOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        options.check()
