"""`Signals` and `SignalSets`: what they refuse, and subsets."""

import math

import pytest
import torch

from mclnf_fast.data import Signals, SignalSets
from mclnf_fast.errors import InputError


def audio(count: int, first: int = 0, rate: float = 8000.0) -> Signals:
    return Signals("audio", tuple(f"a{first + k}" for k in range(count)), torch.rand(count, 5, 1), rate)


def test_a_subset_keeps_names_and_values_together():
    whole = audio(4)
    part = whole.subset(torch.tensor([2, 0]))
    assert part.names == ("a2", "a0")
    assert torch.equal(part.values, whole.values[[2, 0]])
    assert len(part) == 2
    assert part.rate == 8000.0
    assert len(whole.subset([])) == 0
    for wrong in ([4], [-1], [1, 1]):
        with pytest.raises(InputError, match=r"ids|names"):
            whole.subset(wrong)


@pytest.mark.parametrize(
    ("kind", "names", "values", "rate", "message"),
    [
        ("picture", ("a",), torch.zeros(1, 2, 2, 3), None, "kind"),
        ("image", ("a",), torch.zeros(1, 2, 3), None, r"\[S, H, W, C\]"),
        ("image", ("a",), torch.zeros(1, 2, 2, 4), None, "channels"),
        ("video", ("a",), torch.zeros(1, 2, 2, 3), None, r"\[S, F, H, W, C\]"),
        ("audio", ("a",), torch.zeros(1, 9, 2), 8.0, "channels"),
        ("audio", ("a",), torch.zeros(1, 9, 1), None, "rate"),
        ("audio", ("a",), torch.zeros(1, 9, 1), -1.0, "rate"),
        ("audio", ("a",), torch.zeros(1, 0, 1), 8.0, "sample"),
        ("image", ("a",), torch.zeros(1, 2, 2, 3, dtype=torch.float64), None, "float32"),
        ("image", ("a", "b"), torch.zeros(1, 2, 2, 3), None, "names"),
        ("image", ("a", "a"), torch.zeros(2, 2, 2, 3), None, "twice"),
        ("image", ("a",), torch.full((1, 2, 2, 3), math.nan), None, "finite"),
        ("image", ("a",), torch.full((1, 2, 2, 3), 1.01), None, r"\[0, 1\]"),
    ],
)
def test_signals_refuse(kind, names, values, rate, message):
    with pytest.raises(InputError, match=message):
        Signals(kind, names, values, rate)


def test_sets_refuse_signals_that_do_not_fit_each_other():
    SignalSets("fine", audio(0), audio(0), audio(1))
    with pytest.raises(InputError, match="test on"):
        SignalSets("x", audio(2), audio(0), audio(0))
    with pytest.raises(InputError, match="one set only"):
        SignalSets("x", audio(2), audio(0), audio(1))
    with pytest.raises(InputError, match="train: must be as test"):
        SignalSets("x", audio(1, 5, 16000.0), audio(0), audio(1))
    image = Signals("image", ("i",), torch.zeros(1, 2, 2, 3))
    with pytest.raises(InputError, match="validation: must be as test"):
        SignalSets("x", audio(1, 5), image, audio(1))
