"""FIM weights (methods 1a, 1d): mean 1, the bound, the switch-off that keeps every bit, the stop-gradient."""

import places
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mclnf_fast.learn import fim_weights, module_mse, weighted_mse


def random_scores(count: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.exp(3 * torch.randn(count, generator=g, dtype=dtype))


@places.devices
def test_formula_without_clip() -> None:
    q = random_scores(50, 0)
    expected = (1 + 0.7 * q / q.mean()) / 1.7
    torch.testing.assert_close(fim_weights(q, lam=0.7, clip=None), expected)
    torch.testing.assert_close(fim_weights(q, lam=0.7, form="pure", clip=None), q / q.mean())


@places.devices
def test_clip_then_renormalise() -> None:
    q = random_scores(50, 1)
    w = ((1 + 2 * q / q.mean()) / 3).clamp(max=1.5)
    torch.testing.assert_close(fim_weights(q, lam=2.0, clip=1.5), w / w.mean())


def test_norms() -> None:
    q = random_scores(20, 2)
    w = (1 + q / 1000) / 2
    torch.testing.assert_close(fim_weights(q, norm="params", num_params=1000, clip=None), w / w.mean())
    w = (1 + q) / 2
    torch.testing.assert_close(fim_weights(q, norm="none", clip=None), w / w.mean())


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 200),
    seed=st.integers(0, 10_000),
    lam=st.floats(0, 100),
    clip=st.floats(1, 50),
    scale=st.floats(1e-6, 1e6),
)
def test_mean_one_bounds_and_scaling(count: int, seed: int, lam: float, clip: float, scale: float) -> None:
    q = random_scores(count, seed)
    w = fim_weights(q, lam=lam, clip=clip)
    assert w.mean().item() == pytest.approx(1.0, rel=1e-12)
    assert w.min() >= 1 / (1 + lam) * (1 - 1e-12)
    assert w.max() <= clip * (1 + lam) * (1 + 1e-12)
    torch.testing.assert_close(fim_weights(q * scale, lam=lam, clip=clip), w, rtol=1e-9, atol=1e-12)


@places.devices
@pytest.mark.parametrize("form", ["one_plus", "pure"])
def test_groups_equal_separate_calls(form: str) -> None:
    q = random_scores(60, 3)
    groups = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(0))
    groups[groups == 2] = 3  # an empty module
    w = fim_weights(q, form=form, groups=groups, num_groups=5)
    for m in (0, 1, 3):
        torch.testing.assert_close(w[groups == m], fim_weights(q[groups == m], form=form))


def test_lam_zero_is_exactly_one_and_keeps_every_bit() -> None:
    g = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for samples, channels in [(1, 1), (37, 3), (4097, 3)]:
            pred = torch.randn(samples, channels, generator=g, dtype=dtype, requires_grad=True)
            target = torch.randn(samples, channels, generator=g, dtype=dtype)
            w = fim_weights(random_scores(samples, 4, dtype), lam=0.0)
            assert torch.equal(w, torch.ones_like(w))
            losses = [
                torch.nn.functional.mse_loss(pred, target),
                weighted_mse(pred, target),
                weighted_mse(pred, target, w),
            ]
            grads = [torch.autograd.grad(loss, pred)[0] for loss in losses]
            assert torch.equal(losses[0], losses[1])
            assert torch.equal(losses[1], losses[2])
            assert torch.equal(grads[1], grads[2])
            torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=0)


@places.devices
def test_module_mse_is_each_modules_own() -> None:
    g = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 3, 5, 2, generator=g).unbind(0)
    w = torch.rand(3, 5, generator=g)
    got = module_mse(pred, target, w)
    for m in range(3):
        torch.testing.assert_close(got[m], weighted_mse(pred[m], target[m], w[m]))
    assert torch.equal(module_mse(pred, target), module_mse(pred, target, torch.ones(3, 5)))


def test_stop_gradient() -> None:
    q = random_scores(5, 0).requires_grad_()
    assert not fim_weights(q).requires_grad


def test_no_information_and_no_samples() -> None:
    assert torch.equal(fim_weights(torch.zeros(4)), torch.ones(4))
    assert torch.equal(fim_weights(torch.zeros(4), form="pure"), torch.ones(4))
    assert fim_weights(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("kwargs", "error", "name"),
    [
        ({"lam": -1.0}, ValueError, "lam"),
        ({"lam": float("nan")}, ValueError, "lam"),
        ({"form": "two"}, ValueError, "form"),
        ({"norm": "max"}, ValueError, "norm"),
        ({"norm": "params"}, ValueError, "num_params"),
        ({"clip": 0.5}, ValueError, "clip"),
        ({"groups": torch.zeros(2, dtype=torch.int64)}, ValueError, "groups"),
        ({"groups": torch.zeros(3)}, TypeError, "groups"),
        ({"groups": torch.tensor([0, 1, -1])}, IndexError, "groups"),
        ({"groups": torch.tensor([0, 1, 2]), "num_groups": 2}, IndexError, "groups"),
    ],
)
def test_bad_arguments(kwargs: dict, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        fim_weights(torch.ones(3), **kwargs)


def test_bad_scores_and_shapes() -> None:
    with pytest.raises(ValueError, match="scores"):
        fim_weights(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="scores"):
        fim_weights(torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="scores"):
        fim_weights(torch.ones(2, 2))
    with pytest.raises(TypeError, match="scores"):
        fim_weights(torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="target"):
        weighted_mse(torch.ones(3, 1), torch.ones(3))
    with pytest.raises(ValueError, match="weights"):
        weighted_mse(torch.ones(3, 2), torch.ones(3, 2), torch.ones(2))
