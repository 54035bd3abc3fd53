"""Coordinates to values: losses, gradients and points against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import join
from mclnf_fast.metrics import mse_to_psnr
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks import coords
from mclnf_fast.tasks.coords import CoordTask, pixel_places, whole_loss

SPEC = FieldSpec(2, 3, 7, 2, activation="sine", w0=5.0)
SIGNALS, POINTS = 3, 20


def make(backend: str = "auto", name: str = "one", points: int = POINTS, seed: int = 0) -> CoordTask:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.rand(points, 2, generator=g) * 2 - 1, torch.rand(SIGNALS, points, 3, generator=g)
    return CoordTask(name, x, y, SPEC, backend)


def parameters(seed: int = 1) -> Params:
    held = initial_parameters(SPEC, SIGNALS, generator=torch.Generator().manual_seed(seed))
    return tuple(p.detach().requires_grad_() for p in held)


def forward(params: Params, x: Tensor) -> Tensor:
    """A SIREN of the spec in plain PyTorch: x [M, k, 2] -> [M, k, 3]."""
    half = len(params) // 2
    for layer, (w, b) in enumerate(zip(params[:half], params[half:])):
        x = x @ w + b[:, None]
        if layer < half - 1:
            x = torch.sin(SPEC.w0 * x)
    return x


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_loss_and_its_gradient_are_those_of_plain_autograd(backend, weighted):
    task, params = make(backend), parameters()
    batch = task.draw(9, torch.Generator().manual_seed(2))
    weights = torch.rand(SIGNALS, 9) + 0.5 if weighted else None
    squares = (forward(params, batch[0]) - batch[1]).square().mean(2)
    expected = (squares if weights is None else squares * weights).mean(1)
    found = task.loss(params, batch, weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found.shape == (SIGNALS,)
    scale = torch.tensor([1.0, -2.0, 0.5])  # a module's gradient is of its own loss
    wanted = torch.autograd.grad((expected * scale).sum(), params)
    for a, b in zip(torch.autograd.grad((found * scale).sum(), params), wanted):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_loss_can_be_differentiated_twice():
    task, params = make("reference"), parameters()
    batch = task.take(torch.arange(POINTS).expand(SIGNALS, -1))

    def of(losses: Tensor) -> list[Tensor]:
        grads = torch.autograd.grad(losses.sum(), params, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in grads), params))

    plain = of((forward(params, batch[0]) - batch[1]).square().mean((1, 2)))
    for a, b in zip(of(task.loss(params, batch)), plain):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_points_hold_the_gradient_of_each_samples_own_loss():
    task, params = make(), parameters()
    batch = task.draw(5, torch.Generator().manual_seed(3))
    points = task.points(params, batch)
    y = forward(params, batch[0]).detach().requires_grad_()
    each = (y - batch[1]).square().mean(2)  # a sample's loss is the mean over its channels
    (expected,) = torch.autograd.grad(each.sum(), y)
    torch.testing.assert_close(points.grad_y, expected.flatten(0, 1), rtol=1e-4, atol=1e-6)
    assert torch.equal(points.x, batch[0].flatten(0, 1))
    assert points.offsets.tolist() == [0, 5, 10, 15]
    assert points.sample_ids is None
    assert points.num_samples == 15
    assert not points.grad_y.requires_grad


def test_taking_gives_each_signal_its_own_values():
    task = make()
    ids = torch.tensor([[0, 3], [19, 3], [7, 7]])
    x, y = task.take(ids)
    for s in range(SIGNALS):
        assert torch.equal(x[s], task.x[ids[s]])
        assert torch.equal(y[s], task.y[s, ids[s]])


def test_a_subset_of_the_signals():
    task, chosen = make(), torch.tensor([2, 0])
    ids = torch.tensor([[4, 5, 6], [1, 2, 3]])
    x, y = task.take(ids, chosen)
    assert torch.equal(x, task.x[ids])
    assert torch.equal(y[0], task.y[2, ids[0]])
    assert torch.equal(y[1], task.y[0, ids[1]])
    drawn = task.draw(6, torch.Generator().manual_seed(5), chosen)
    assert drawn[0].shape == (2, 6, 2)
    assert drawn[1].shape == (2, 6, 3)
    for row, signal in enumerate(chosen.tolist()):
        at = [int((task.x == x).all(1).nonzero()) for x in drawn[0][row]]
        assert torch.equal(drawn[1][row], task.y[signal, at])


def test_draws_are_uniform_over_the_pool():
    x, _ = make().draw(30_000, torch.Generator().manual_seed(4))
    task = make()
    counts = torch.stack([(x[0] == point).all(1).sum() for point in task.x]).double()
    assert float((counts - 1500).square().sum() / 1500) < 44  # chi-square of 19 degrees, one in a thousand


def test_joined_tasks_are_one_with_all_samples():
    first, second = make(seed=0), make(seed=7, points=6)
    whole, params = join([first, second]), parameters()
    assert whole.items == 26
    assert whole.modules == SIGNALS
    assert torch.equal(whole.x[20:], second.x)
    assert torch.equal(whole.y[:, :20], first.y)
    torch.testing.assert_close(whole.predict(params)[:, 20:], second.predict(params))
    errors = [task.squared_errors(task.predict(params)) for task in (whole, first, second)]
    torch.testing.assert_close(errors[0], errors[1] + errors[2])


def test_the_loss_of_whole_signals_is_over_all_their_samples():
    task, params = make(), parameters()
    errors = (forward(params, task.x.expand(SIGNALS, -1, -1)) - task.y).square().mean((1, 2))
    torch.testing.assert_close(whole_loss(task)(params, 0), errors)
    chosen = torch.tensor([2, 0])
    some = whole_loss(task, chosen)(tuple(p[chosen] for p in params), 5)
    torch.testing.assert_close(some, errors[chosen])


def test_places_of_pixels_begin_at_zero_and_end_below_one():
    places = pixel_places(2, 4)
    assert torch.equal(places[:5], torch.tensor([[0, 0], [0, 0.25], [0, 0.5], [0, 0.75], [0.5, 0]]))
    assert len(places) == 8


def test_evaluation_is_the_sum_of_squares_of_clamped_values(monkeypatch):
    task, params = make(), tuple(p.detach() * 3 for p in parameters())
    y = forward(params, task.x.expand(SIGNALS, -1, -1))
    assert bool((y < 0).any())
    assert bool((y > 1).any())
    expected = (y.clamp(0, 1).double() - task.y.double()).square().sum((1, 2))
    whole = task.predict(params)
    torch.testing.assert_close(task.squared_errors(whole), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(task.evaluate(params), mse_to_psnr(task.squared_errors(whole) / (POINTS * 3)))
    monkeypatch.setattr(coords, "CHUNK", 8)  # two points of each signal at once
    torch.testing.assert_close(task.predict(params), whole)


@pytest.mark.parametrize(("x", "y"), [((4,), (1, 4, 1)), ((4, 2), (4, 1)), ((4, 2), (1, 3, 1)), ((0, 2), (1, 0, 1))])
def test_shapes_that_do_not_fit(x, y):
    with pytest.raises(ValueError, match="y must be \\[S, n, C\\]"):
        CoordTask("bad", torch.zeros(x), torch.zeros(y), SPEC)
