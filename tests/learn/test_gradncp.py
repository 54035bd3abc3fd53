"""GradNCP (row E3): the score, what is kept, the bootstrapped target, the rescaled gradient, a run that learns."""

import math

import places
import pytest
import torch
from scored_bank import SIZES, SPEC, bank

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.learn import (
    MAML,
    GradNCP,
    PrunedContext,
    adapt,
    keep_top,
    prune_scores,
    rescale,
    split_pair,
)
from mclnf_fast.spec import FieldSpec, Frequency, HashGrid

SPECS = {
    "skips": SPEC,
    "last skip, sigmoid": FieldSpec(
        2, 3, width=5, hidden_layers=2, output_activation="sigmoid", encoding=Frequency(1), skips=(1, 2)
    ),
    "sine": FieldSpec(2, 1, width=6, hidden_layers=1, activation="sine(7)"),
    "linear": FieldSpec(2, 2, hidden_layers=0, encoding=Frequency(1)),
}


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.flatten(1) for t in tensors], 1)


@places.devices
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_scores_are_autograds_last_layer_gradients(spec: FieldSpec) -> None:
    params, x, offsets, y = bank(spec)
    found = prune_scores(params, x, offsets, y, spec)
    half, expected = len(params) // 2, []
    for j in range(len(x)):
        m = int((offsets[1:] <= j).sum())
        own = [p[m : m + 1].clone().requires_grad_() for p in params]
        out = ops.bank_mlp(x[j : j + 1], torch.tensor([0, 1]), own[:half], own[half:], spec, backend="reference")
        last = torch.autograd.grad((out - y[j]).square().sum() / 2, (own[half - 1], own[-1]))
        expected.append(torch.cat([g.flatten() for g in last]).norm())
    torch.testing.assert_close(found, torch.stack(expected))
    assert not found.requires_grad


def test_scores_of_a_net_behind_a_grid() -> None:
    spec = FieldSpec(2, 1, width=4, hidden_layers=1, encoding=HashGrid(levels=2, base=2, finest=4, log2_size=4))
    params, _, offsets, y = bank(spec.mlp, (5, 6))
    x = torch.rand(11, 2, dtype=torch.float64)
    tables = tuple(torch.randn(2, *shape, dtype=torch.float64).requires_grad_() for shape in spec.grid_shapes)
    whole = (*(p.requires_grad_() for p in params), *tables)
    features = ops.grid_encode(x, offsets, tables[0], spec.grids[0].encoding)
    torch.testing.assert_close(
        prune_scores(whole, x, offsets, y, spec), prune_scores(params, features, offsets, y, spec.mlp)
    )
    context = PrunedContext(x, offsets, y, spec, share=0.5)
    per_point = (ops.bank_mlp(features, offsets, *split_pair(params), spec.mlp) - y).square().mean(1)
    torch.testing.assert_close(context.whole(whole), torch.stack([p.mean() for p in per_point.split([5, 6])]))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(context.pruned(whole).sum(), whole))


@places.devices
def test_a_quarter_is_kept_by_score() -> None:
    sizes = (8, 0, 3, 100)
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(sum(sizes), generator=g)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    ids, kept = keep_top(scores, offsets, 0.25)
    assert kept.tolist() == [0, 2, 2, 3, 28]
    assert ids.tolist() == sorted(ids.tolist())
    for m, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist())):
        own = ids[kept[m] : kept[m + 1]]
        best = scores[begin:end].topk(len(own)).indices + begin
        assert sorted(best.tolist()) == own.tolist()


def test_keep_top_at_its_edges() -> None:
    offsets = torch.tensor([0, 100])
    assert keep_top(torch.ones(100), offsets, 0.29)[0].tolist() == list(range(29))  # 0.29 * 100 < 29 in floats
    assert torch.equal(keep_top(torch.rand(100), offsets, 1.0)[0], torch.arange(100))
    ids, kept = keep_top(torch.rand(0), torch.zeros(3, dtype=torch.int64))
    assert (len(ids), kept.tolist()) == (0, [0, 0, 0])
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(InputError, match="share must"):
            keep_top(torch.rand(100), offsets, share)


def test_rescale() -> None:
    part = (torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), torch.tensor([[4.0], [0.0], [1.0]]))
    whole = (torch.tensor([[0.0, 6.0], [0.0, 0.0], [0.0, 0.0]]), torch.tensor([[8.0], [0.0], [0.0]]))
    torch.testing.assert_close(rescale(part, whole), torch.tensor([0.5, 1.0, 1.0]))
    with pytest.raises(ValueError, match="part"):
        rescale(part[:1], whole)


def test_the_rescaled_gradient_is_the_whole_ones_at_the_pruned_ones_length() -> None:
    params, x, offsets, y = bank()
    context = PrunedContext(x, offsets, y, SPEC)
    leaves = tuple(p.requires_grad_() for p in params)
    part, whole, both = (
        flat(torch.autograd.grad(loss(leaves).sum(), leaves))
        for loss in (context.pruned, context.whole, context.rescaled)
    )
    assert torch.equal(context.rescaled(leaves), context.whole(leaves))
    for m, size in enumerate(SIZES):
        torch.testing.assert_close(both[m].norm(), part[m].norm())
        if size:
            torch.testing.assert_close(both[m] / both[m].norm(), whole[m] / whole[m].norm())
            assert part[m].norm() > 1.05 * whole[m].norm()  # what is kept has the largest errors


def test_inner_steps_see_the_kept_points_alone_and_choose_anew() -> None:
    params, x, offsets, y = bank(sizes=(12, 20))
    context = PrunedContext(x, offsets, y, SPEC)
    theta, seen = params, []
    for _ in range(3):
        ids, kept = keep_top(prune_scores(theta, x, offsets, y, SPEC), offsets, 0.25)
        assert kept.tolist() == [0, 3, 8]
        seen.append(ids.tolist())
        loss = lambda p, k, ids=ids, kept=kept: ops.bank_mse(x[ids], kept, *split_pair(p), y[ids], SPEC)  # noqa: E731
        theta = adapt(theta, loss, 1, 0.5, create_graph=False)
    assert seen[0] != seen[2]
    for a, b in zip(adapt(params, context.pruned, 3, 0.5, create_graph=False), theta):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("squared", [False, True])
def test_the_bootstrapped_target(squared: bool) -> None:
    """Value and derivative of the outer loss: the target is held fixed, the distance pulls towards it."""
    params, x, offsets, y = bank(sizes=(12, 20))
    context = PrunedContext(x, offsets, y, SPEC)
    learner = GradNCP(MAML(tuple(p[:1] for p in params)), bootstrap_weight=3.0, squared=squared)
    leaves = tuple(p.requires_grad_() for p in params)
    found = learner.query_loss(context)(leaves, 4)
    target = adapt(tuple(p.detach() for p in params), context.whole, 5, 5e-2, create_graph=False)
    away = flat(leaves) - flat(target)
    distance = away.square().sum(1) if squared else away.norm(dim=1)
    expected = context.whole(leaves) + 3.0 * distance
    torch.testing.assert_close(found, expected)
    a, b = (flat(torch.autograd.grad(loss.sum(), leaves)) for loss in (found, expected))
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, flat(torch.autograd.grad(context.whole(leaves).sum(), leaves)))


def test_a_module_without_anything_to_correct() -> None:
    params, x, offsets, y = bank()  # module 1 is empty
    learner = GradNCP(MAML(tuple(p[:1] for p in params)))
    leaves = tuple(p.requires_grad_() for p in params)
    loss = learner.query_loss(PrunedContext(x, offsets, y, SPEC))(leaves, 0)
    assert loss[1] == 0
    assert torch.isfinite(flat(torch.autograd.grad(loss.sum(), leaves))).all()


def test_the_steps_of_training_and_testing() -> None:
    """An outer step is MAML's on the pruned support and the bootstrapped query; adaptation is SGD on the rescaled."""
    params, x, offsets, y = bank(sizes=(12, 20))
    context = PrunedContext(x, offsets, y, SPEC)
    learner, twin = (GradNCP(MAML(tuple(p[:1] for p in params), inner_lr=0.5, inner_steps=2)) for _ in range(2))
    adapted = learner.adapt(context)
    expected = adapt(learner.meta.clone(2), context.rescaled, 2, 0.5, create_graph=False)
    assert all(torch.equal(a, b) for a, b in zip(adapted, expected))
    plain = adapt(learner.meta.clone(2), context.whole, 2, 0.5, create_graph=False)
    assert not torch.allclose(flat(adapted), flat(plain), rtol=1e-2)
    found = learner.step(context)
    losses, grads = twin.meta.outer_gradient(context.pruned, twin.query_loss(context), 2)
    assert torch.equal(found["query_loss"], losses)
    assert all(torch.equal(p.grad, g) for p, g in zip(learner.meta.init, grads))


WAVES = FieldSpec(1, 1, width=16, hidden_layers=2, activation="sine(15)")


def signals(count: int, seed: int) -> PrunedContext:
    """`count` signals of 64 samples: one wave each, of its own phase, with a step in it."""
    g = torch.Generator().manual_seed(seed)
    x = torch.linspace(-1, 1, 64).repeat(count)[:, None]
    phase = torch.rand(count, generator=g).repeat_interleave(64)[:, None]
    y = 0.5 + 0.3 * torch.sin(4 * x + 2 * phase) + 0.2 * (x > phase)
    return PrunedContext(x, torch.arange(count + 1) * 64, y, WAVES)


def test_a_small_run_learns() -> None:
    train, held_out = signals(8, seed=0), signals(8, seed=1)
    g = torch.Generator().manual_seed(0)
    reach = [1.0, *((6 / i) ** 0.5 / 15 for i, _ in WAVES.layer_shapes[1:])]  # SIREN's own start
    weights = [(torch.rand(1, *s, generator=g) * 2 - 1) * r for s, r in zip(WAVES.layer_shapes, reach)]
    init = [*weights, *(torch.zeros(1, o) for _, o in WAVES.layer_shapes)]
    learner = GradNCP(MAML(init, inner_lr=2e-2, inner_steps=3, outer_lr=2e-3, grad_clip=1.0), bootstrap_weight=0.1)
    before = held_out.whole(learner.adapt(held_out)).mean()
    losses = [learner.step(train)["loss"] for _ in range(80)]
    after = held_out.whole(learner.adapt(held_out)).mean()
    assert torch.stack(losses[-5:]).mean() < 0.2 * torch.stack(losses[:5]).mean()
    assert after < 0.2 * before
    assert learner.meta.outer_steps == 80
    # Adapted from where told, and for as long.
    tuned = learner.adapt(held_out, steps=20, params=learner.meta.clone(8))
    assert held_out.whole(tuned).mean() < after


def test_errors() -> None:
    params, x, offsets, y = bank()
    meta = MAML(tuple(p[:1] for p in params))
    with pytest.raises(ValueError, match="y must"):
        prune_scores(params, x, offsets, y[:, :1], SPEC)
    with pytest.raises(InputError, match="bootstrap_lr"):
        GradNCP(meta, bootstrap_lr=0.0)
    with pytest.raises(InputError, match="bootstrap_weight"):
        GradNCP(meta, bootstrap_weight=-1.0)
    with pytest.raises(ValueError, match="bootstrap_steps"):
        GradNCP(meta, bootstrap_steps=0)
