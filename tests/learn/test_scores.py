"""Fisher scores of a bank, every kind against plain autograd (methods 1a; rows A8 to A11)."""

import places
import pytest
import torch
from elsewhere import Elsewhere
from scored_bank import SIZES, SPEC, bank, channels, gradients

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.learn import (
    FimConfig,
    FisherScorer,
    diagonal_fisher_scores,
    fim_loss_weights,
    fim_weights,
    full_fisher_scores,
    rank1_fisher_scores,
    split_pair,
)
from mclnf_fast.learn.fisher import scores
from mclnf_fast.spec import FieldSpec, HashGrid

KINDS = ("diag", "kfac", "rank1", "full")
ORACLES = {"diag": diagonal_fisher_scores, "full": full_fisher_scores, "rank1": rank1_fisher_scores}
RAYS = torch.tensor([4, 0, 0, 2, 4, 2, 4, 2, 2, 1, 1, 5, 5, 5, 1, 2, 4, 1])  # 2 and 4 cross modules, 3 has no point


def scorer(kind: str, spec: FieldSpec = SPEC, modules: int = len(SIZES), **switches) -> FisherScorer:
    return FisherScorer(spec, modules, FimConfig(kind=kind, **{"source": "batch", **switches}))


@pytest.mark.parametrize("ids", [None, RAYS], ids=["points", "rays"])
@pytest.mark.parametrize("kind", list(ORACLES))
def test_empirical_equals_the_oracle_a_module(kind: str, ids: torch.Tensor | None) -> None:
    params, x, offsets, residual = bank()
    assert sum(p[0].numel() for p in params) < 500
    count = len(x) if ids is None else 6
    expected = torch.zeros(count, dtype=x.dtype)
    total = []
    for own, g in gradients(params, SPEC, x, offsets, residual, ids):
        total.append(g.sum(0))
        if own:
            eps = 1e-2 * (g * g).mean().item()
            expected[own] += ORACLES[kind](g, eps)
    found = scorer(kind, damping=1e-2)(params, x, offsets, residual, grads=True, sample_ids=ids)
    torch.testing.assert_close(found.scores, expected)
    flat = torch.cat([g.flatten(1) for g in found.grads], 1)
    torch.testing.assert_close(flat, torch.stack(total))


@pytest.mark.parametrize("ids", [None, RAYS], ids=["points", "rays"])
@pytest.mark.parametrize("kind", list(ORACLES))
def test_gauss_newton_equals_explicit_jacobians(kind: str, ids: torch.Tensor | None) -> None:
    params, x, offsets, residual = bank()
    count = len(x) if ids is None else 6
    expected = torch.zeros(count, dtype=x.dtype)
    by_channel = [gradients(params, SPEC, x, offsets, e, ids) for e in channels(residual)]
    for (own, *_), jacobians in ((c[0], [g for _, g in c]) for c in zip(*by_channel)):
        if not own:
            continue
        rows, size = torch.stack(jacobians), jacobians[0].shape[1]  # [C, n, P]
        eye = torch.eye(size, dtype=x.dtype)
        fisher = torch.einsum("cnp,cnq->pq", rows, rows) / len(own)
        eps = 1e-2 * fisher.diagonal().mean()
        if kind == "diag":
            fisher = fisher.diagonal().diag()
        if kind == "rank1":
            u = rows.sum((0, 1))
            u = u / u.norm()
            fisher = (u @ fisher @ u) * torch.outer(u, u)
        inverse = torch.linalg.inv(fisher + eps * eye)
        expected[own] += torch.einsum("cnp,pq,cnq->n", rows, inverse, rows)
    run = scorer(kind, residual="gauss_newton", damping=1e-2)
    found = run(params, x, offsets, residual, grads=True, sample_ids=ids)
    torch.testing.assert_close(found.scores, expected)
    # The gradient is the loss's, whatever the scores are made of.
    plain = scorer("diag")(params, x, offsets, residual, grads=True, sample_ids=ids).grads
    for a, b in zip(found.grads, plain):
        torch.testing.assert_close(a, b)
    again = run(params, x, offsets, 7 * residual, sample_ids=ids)
    assert again.grads is None
    assert torch.equal(again.scores, found.scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", ["empirical", "gauss_newton"])
@pytest.mark.parametrize("source", ["batch", "ema"])
def test_modules_are_independent(kind: str, residual: str, source: str) -> None:
    """Each module alone, in a bank of its own, has the scores that it has among others of other shares.

    The second one is empty at first, the first one later: what a module has not seen leaves no trace.
    """
    params, *batch = bank()
    together = scorer(kind, residual=residual, source=source)
    apart = [scorer(kind, modules=1, residual=residual, source=source) for _ in SIZES]
    for points, offsets, r in (batch, bank(sizes=(0, 4, 9), seed=3)[1:], bank(sizes=(5, 5, 5), seed=4)[1:]):
        found = together(params, points, offsets, r).scores
        assert torch.isfinite(found).all()
        for m, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist())):
            one = tuple(p[m : m + 1] for p in params)
            alone = apart[m](one, points[begin:end], torch.tensor([0, end - begin]), r[begin:end]).scores
            torch.testing.assert_close(found[begin:end], alone)
            assert len(alone) == end - begin


def test_rank1_of_gradients_along_their_mean_has_no_rest_below_zero() -> None:
    """All at one point, in float32: what rounding leaves across the mean would be the whole score."""
    spec = FieldSpec(2, 1, 16, 1, activation="none")
    params, *_ = bank(spec, (40,), dtype=torch.float32)
    x, residual = torch.tensor([[0.3, -0.7]]).expand(40, 2).contiguous(), torch.linspace(0.5, 2.0, 40)[:, None]
    found = scorer("rank1", spec, 1, damping=1e-9)(params, x, torch.tensor([0, 40]), residual).scores
    along = residual[:, 0].square()
    assert bool((found >= along / along.mean() * (1 - 1e-4)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_carry_no_unit_of_the_loss(kind: str) -> None:
    params, x, offsets, r = bank()
    a = scorer(kind)(params, x, offsets, r).scores
    b = scorer(kind)(params, x, offsets, 1e3 * r).scores
    torch.testing.assert_close(b, a)


def test_mean_of_the_diagonal_scores() -> None:
    params, x, offsets, r = bank()
    q = scorer("diag", damping=0.1)(params, x, offsets, r).scores
    for (own, g), part in zip(gradients(params, SPEC, x, offsets, r), q.split(SIZES)):
        if own:
            fisher = (g * g).mean(0)
            torch.testing.assert_close(part.mean(), (fisher / (fisher + 0.1 * fisher.mean())).sum())


@pytest.mark.parametrize(
    "spec", [SPEC, FieldSpec(2, 2, width=1, hidden_layers=1, activation="tanh")], ids=["P>N", "P<N"]
)
@pytest.mark.parametrize("residual", ["empirical", "gauss_newton"])
def test_mean_of_the_full_scores_is_the_rank(residual: str, spec: FieldSpec) -> None:
    params, x, offsets, r = bank(spec)
    q = scorer("full", spec, damping=1e-11, residual=residual)(params, x, offsets, r).scores
    by_channel = [gradients(params, spec, x, offsets, e) for e in ([r] if residual == "empirical" else channels(r))]
    for m, part in enumerate(q.split(SIZES)):
        if len(part):
            rank = torch.linalg.matrix_rank(torch.cat([c[m][1] for c in by_channel])).item()
            assert part.mean().item() == pytest.approx(rank, rel=1e-4)
            assert part.min() >= 0
            assert part.max() <= len(by_channel) * len(part) * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_running_fisher_scores_against_the_matrix_before(kind: str) -> None:
    """A first batch is scored against itself, the next ones against the mean of those before."""
    params, x, offsets, r = bank(sizes=(6, 6))
    _, x2, _, r2 = bank(sizes=(6, 6), seed=5)
    run = scorer(kind, modules=2, source="ema", decay=0.75)
    first = run(params, x, offsets, r).scores
    torch.testing.assert_close(first, scorer(kind, modules=2)(params, x, offsets, r).scores)
    state = {k: v.clone() for k, v in run.state_dict().items()}
    second = run(params, x2, offsets, r2).scores
    assert not torch.allclose(second, scorer(kind, modules=2)(params, x2, offsets, r2).scores)
    # The state itself: 0.75 of the first batch's and 0.25 of the second's. Rank-1's rho goes by the first batch's u.
    alone = scorer(kind, modules=2, source="ema", decay=0.75)
    alone(params, x2, offsets, r2)
    last, own = run.state_dict(), alone.state_dict()
    kept = [k for k in state if k.startswith("fisher.")]
    for k in kept[:-2] if kind == "rank1" else kept:
        torch.testing.assert_close(last[k], 0.75 * state[k] + 0.25 * own[k])
    # A module that is reset begins anew; the other goes on.
    twin = scorer(kind, modules=2, source="ema", decay=0.75)
    twin.load_state_dict(last)
    third = twin(params, x, offsets, r).scores
    run.reset(1)
    again = run(params, x, offsets, r).scores
    torch.testing.assert_close(again[:6], third[:6])
    torch.testing.assert_close(again[6:], first[6:])
    run.append()
    assert run.running.count.tolist() == [3, 1, 0]
    with pytest.raises(ValueError, match="count"):
        twin.load_state_dict(run.state_dict())


def test_running_diagonal_has_the_form_that_the_op_takes() -> None:
    """diag + empirical + known: one call of the op, and its numbers."""
    params, x, offsets, r = bank(dtype=torch.float32)
    run = scorer("diag", source="ema")
    run(params, x, offsets, r)
    weights, biases = split_pair(params)
    known = run.running.damped(1e-3)
    calls = []
    real = ops.fisher_scores

    def counted(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mclnf_fast.learn.fisher.score_batch.fisher_scores", counted)
        found = run(params, x + 0.1, offsets, r, grads=True)
    assert len(calls) == 1
    expected = real(x + 0.1, offsets, weights, biases, r, known, SPEC, damping=0.0)
    assert torch.equal(found.scores, expected.scores)
    assert all(torch.equal(a, b) for a, b in zip(found.grads, (*expected.grads[0], *expected.grads[1])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", ["empirical", "gauss_newton"])
def test_weights_of_drawn_samples(kind: str, residual: str) -> None:
    """The scores are the plain losses', the gradient is the weighted ones'; the Fisher sees the weights."""
    params, x, offsets, r = bank()
    run = scorer(kind, residual=residual, source="ema")
    run(params, x, offsets, r)
    twin = scorer(kind, residual=residual, source="ema")
    twin.load_state_dict(run.state_dict())
    w = torch.rand(len(x), dtype=x.dtype) + 0.5
    plain, weighted = run(params, x, offsets, r), twin(params, x, offsets, r, grads=True, weights=w)
    torch.testing.assert_close(weighted.scores, plain.scores)
    expected = scorer("diag")(params, x, offsets, r * w[:, None], grads=True).grads
    for a, b in zip(weighted.grads, expected):
        torch.testing.assert_close(a, b)
    changed = [k for k, v in twin.state_dict().items() if not torch.equal(v, run.state_dict()[k])]
    assert changed
    if kind == "full" and residual == "gauss_newton":  # mean of w J J^T
        each = [gradients(params, SPEC, x, offsets, e) for e in channels(r)]
        for m, own in enumerate(w.split(SIZES)):
            if len(own):
                fisher = sum(torch.einsum("n,np,nq->pq", own, c[m][1], c[m][1]) for c in each) / len(own)
                start = run.running.fisher[0][0][m]  # after two equal batches, the first batch's own
                torch.testing.assert_close(twin.running.fisher[0][0][m], 0.9 * start + 0.1 * fisher)


def test_of_a_ray_that_weights_and_ids_go_together() -> None:
    params, x, offsets, r = bank()
    w = torch.rand(6, dtype=x.dtype) + 0.5
    run = scorer("diag", source="ema")
    run(params, x, offsets, r, sample_ids=RAYS)
    twin = scorer("diag", source="ema")
    twin.load_state_dict(run.state_dict())
    found = twin(params, x, offsets, r, sample_ids=RAYS, num_samples=6, weights=w)
    torch.testing.assert_close(found.scores, run(params, x, offsets, r, sample_ids=RAYS).scores)
    assert found.scores[3] == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "kfac"])
def test_points_in_succession_are_rays(kind: str) -> None:
    params, x, _, r = bank()
    w, ids = torch.rand(6, dtype=x.dtype) + 0.5, torch.arange(18) // 3
    whole = torch.tensor([0, 9, 9, 18])  # modules of whole rays
    want = scorer(kind, damping=1e-2)(params, x, whole, r, grads=True, sample_ids=ids, num_samples=6, weights=w)
    found = scorer(kind, damping=1e-2)(params, x, whole, r, grads=True, sample_ids=3, weights=w)
    assert all(map(torch.equal, (found.scores, *found.grads), (want.scores, *want.grads)))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_and_half_agree_with_double(kind: str) -> None:
    params, x, offsets, r = bank()
    exact = scorer(kind, damping=1e-2)(params, x, offsets, r).scores
    leaves = tuple(p.detach().requires_grad_() for p in params)
    half = len(leaves) // 2
    y = ops.bank_mlp(x, offsets, leaves[:half], leaves[half:], SPEC, backend="reference")
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(y, leaves, r)])
    for dtype, rtol in ((torch.float32, 1e-3), (torch.bfloat16, 0.15)):
        run = scorer(kind, damping=1e-2, source="ema")
        found = run(tuple(p.to(dtype) for p in params), x.to(dtype), offsets, r.to(dtype), grads=True)
        assert found.scores.dtype == found.grads[0].dtype == dtype
        assert (found.scores.double() / exact - 1).abs().mean() < rtol
        made = torch.cat([g.flatten() for g in found.grads]).double()
        assert float((made - gradient).norm() / gradient.norm()) < rtol
        assert run.running.fisher[0][0].dtype == torch.float32


@pytest.mark.parametrize(
    "kind", ["diag", "kfac", "rank1"]
)  # `full` goes through torch.func, which knows no such device
def test_on_another_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left on the CPU, where the bank is elsewhere; the numbers are the CPU's."""
    autocast = torch.autocast  # knows no such device
    monkeypatch.setattr(torch, "autocast", lambda device, **rest: autocast(device.replace("meta", "cpu"), **rest))
    params, *batch = bank()
    here, there = (FisherScorer(SPEC, 3, FimConfig(kind=kind), backend="reference") for _ in range(2))
    with Elsewhere():
        for _ in range(2):
            expected = here(params, *batch, grads=True)
            found = there(tuple(p.to("meta") for p in params), *(t.to("meta") for t in batch), grads=True)
            torch.testing.assert_close(found.scores.cpu(), expected.scores)
            torch.testing.assert_close(found.grads[-1].cpu(), expected.grads[-1])


@places.devices
@pytest.mark.parametrize("kind", KINDS)
def test_on_each_device(kind: str) -> None:
    params, x, offsets, r = bank(dtype=torch.float32)
    found = scorer(kind, source="ema")(params, x, offsets, r, grads=True)
    exact = scorer(kind, source="ema")(tuple(p.double() for p in params), x.double(), offsets, r.double())
    torch.testing.assert_close(found.scores.double(), exact.scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_no_score(kind: str) -> None:
    params, x, offsets, r = bank()
    found = scorer(kind, source="ema")(params, x, offsets, torch.zeros_like(r))
    assert torch.equal(found.scores, torch.zeros_like(found.scores))
    none = scorer(kind, source="ema")(params, x[:0], torch.zeros(4, dtype=torch.int64), r[:0], grads=True)
    assert none.scores.shape == (0,)
    assert all(torch.equal(g, torch.zeros_like(p)) for g, p in zip(none.grads, params))


def test_a_net_behind_a_grid() -> None:
    spec = FieldSpec(2, 1, width=4, hidden_layers=1, encoding=HashGrid(levels=2, base=2, finest=4, log2_size=4))
    params, x, offsets, r = bank(spec.mlp, (5, 6))
    x = torch.rand(11, 2, dtype=torch.float64)
    tables = tuple(torch.randn(2, *shape, dtype=torch.float64) for shape in spec.grid_shapes)
    found = scorer("diag", spec, 2)((*params, *tables), x, offsets, r, grads=True)
    assert len(found.grads) == len(params) + len(tables)
    assert found.grads[-1].abs().sum() > 0
    assert found.scores.min() > 0


def test_loss_weights() -> None:
    params, x, offsets, r = bank(dtype=torch.float32)
    scored = scorer("diag")(params, x, offsets, r)
    w = fim_loss_weights(scored, offsets, FimConfig(lam=0.7, clip=3.0))
    for q, own in zip(scored.scores.split(SIZES), w.split(SIZES)):
        torch.testing.assert_close(own, fim_weights(q, lam=0.7, clip=3.0))
    groups = torch.zeros(len(x), dtype=torch.int64)
    torch.testing.assert_close(
        fim_loss_weights(scored.scores, offsets, FimConfig(form="pure"), groups=groups),
        fim_weights(scored.scores, form="pure"),
    )
    ones = fim_loss_weights(scored, offsets, FimConfig(lam=0.0))
    leaves = tuple(p.requires_grad_() for p in params)
    losses = [ops.bank_mse(x, offsets, *split_pair(leaves), r, SPEC, sample_weight=w) for w in (None, ones)]
    assert torch.equal(*losses)
    a, b = (torch.autograd.grad(loss.sum(), leaves) for loss in losses)
    assert all(torch.equal(p, q) for p, q in zip(a, b))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use", "always"),
        ("kind", "block"),
        ("source", "task"),
        ("residual", "true"),
        ("form", "exp"),
        ("norm", "max"),
        ("decay", 1.0),
        ("damping", 0.0),
        ("damping", float("inf")),
        ("lam", -1.0),
        ("lam", float("nan")),
        ("clip", 0.5),
        ("mix", 1.0),
        ("refresh", 0),
        ("refresh", 2.0),
    ],
)
def test_a_bad_switch_is_named(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{field} must .* got"):
        FisherScorer(SPEC, 1, FimConfig(**{field: value}))


def test_errors() -> None:
    params, x, offsets, r = bank()
    FimConfig(clip=None).check()
    with pytest.raises(InputError, match="kind 'full'"):
        scorer("full", FieldSpec(2, 1, width=64))
    with pytest.raises(InputError, match="sample_ids"):
        scorer("kfac")(params, x, offsets, r, sample_ids=RAYS)
    with pytest.raises(ValueError, match="weights"):
        scorer("diag")(params, x, offsets, r, weights=torch.ones(3))
    with pytest.raises(ValueError, match="weights"):
        scorer("diag")(params, x, offsets, r, weights=torch.zeros(len(x), dtype=x.dtype))
    with pytest.raises(ValueError, match="offsets"):
        scorer("diag")(params, x, offsets[:-1], r)
    with pytest.raises(ValueError, match="params"):
        scorer("diag")(params[:-1], x, offsets, r)
    run = scorer("diag", source="ema")
    run(params, x, offsets, r)
    with pytest.raises(IndexError, match="modules"):
        run.reset(3)
    assert set(scores.KINDS) == set(KINDS)
