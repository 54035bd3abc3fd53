"""K-FAC scores: against dense Kronecker products, and exact where the Fisher matrix factorises."""

import pytest
import torch
from scored_bank import SIZES, bank, channels, gradients
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn import FimConfig, FisherScorer, full_fisher_scores
from mclnf_fast.spec import FieldSpec, Frequency

DAMPING = 1e-2


def scorer(spec: FieldSpec, modules: int, **switches) -> FisherScorer:
    return FisherScorer(spec, modules, FimConfig(kind="kfac", **{"source": "batch", "damping": DAMPING, **switches}))


def layer_gradients(flat: Tensor, spec: FieldSpec) -> list[Tensor]:
    """Gradients [n, P] cut into layers, [n, in + 1, out]: weight and bias as K-FAC joins them."""
    shapes = spec.layer_shapes
    pieces = flat.split([i * o for i, o in shapes] + [o for _, o in shapes], 1)
    return [
        torch.cat((w.unflatten(1, shape), b[:, None]), 1)
        for w, b, shape in zip(pieces[: len(shapes)], pieces[len(shapes) :], shapes)
    ]


@pytest.mark.parametrize("sizes", [SIZES, (6, 6)], ids=["one by one", "stacked"])
@pytest.mark.parametrize("residual", ["empirical", "gauss_newton"])
@pytest.mark.parametrize(
    "spec",
    [
        FieldSpec(2, 2, width=4, hidden_layers=2, activation="tanh", encoding=Frequency(1), skips=(1, 2)),
        FieldSpec(2, 3, width=4, hidden_layers=2, activation="sine(3)", output_activation="sigmoid"),
    ],
    ids=["skips", "sine"],
)
def test_equals_a_dense_kronecker_inverse(spec: FieldSpec, residual: str, sizes: tuple[int, ...]) -> None:
    """A and G are read off the gradients themselves: a point's is a d^T, whose last row (the bias's) is d."""
    params, x, offsets, r = bank(spec, sizes)
    directions = [r] if residual == "empirical" else channels(r)
    each = [gradients(params, spec, x, offsets, e) for e in directions]
    expected = torch.zeros(len(x), dtype=x.dtype)
    for m in range(len(sizes)):
        own, size = each[0][m][0], each[0][m][1].shape[1]
        if not own:
            continue
        layers = [layer_gradients(c[m][1], spec) for c in each]  # direction, layer: [n, in + 1, out]
        factors = []
        for l in range(len(spec.layer_shapes)):
            ds = [c[l][:, -1] for c in layers]
            best = ds[0].abs().argmax(1)
            n = torch.arange(len(own))
            a = layers[0][l][n, :, best] / ds[0][n, best, None]
            factors.append((a.T @ a / len(own), sum(d.T @ d for d in ds) / len(own)))
        eps = DAMPING * sum(a.trace() * g.trace() for a, g in factors) / size
        for l, (a, g) in enumerate(factors):
            pi = (a.trace() / len(a) / (g.trace() / len(g))).sqrt()
            dense = torch.kron(a + pi * eps.sqrt() * torch.eye(len(a)), g + eps.sqrt() / pi * torch.eye(len(g)))
            for c in layers:
                rows = c[l].flatten(1)
                expected[own] += (rows @ torch.linalg.inv(dense) * rows).sum(1)
    found = scorer(spec, len(sizes), residual=residual)(params, x, offsets, r).scores
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("width", [2, 3])
def test_exact_where_the_fisher_factorises(width: int) -> None:
    """One linear layer, and every input met with every residual: F = A (x) G, and K-FAC is the full Fisher."""
    spec = FieldSpec(3, width, hidden_layers=0)
    params, _, _, _ = bank(spec, (1,))
    inputs = torch.randn(9, 3, dtype=torch.float64)
    residuals = torch.randn(8, width, dtype=torch.float64)
    x, r = inputs.repeat_interleave(8, 0), residuals.repeat(9, 1)
    offsets = torch.tensor([0, 72])
    g = gradients(params, spec, x, offsets, r)[0][1]
    found = scorer(spec, 1, damping=1e-20)(params, x, offsets, r).scores
    torch.testing.assert_close(found, full_fisher_scores(g), rtol=1e-6, atol=0)
    assert found.mean().item() == pytest.approx(4 * width)
    # The Gauss-Newton Fisher of a linear layer factorises by itself: G is the identity.
    full = FisherScorer(spec, 1, FimConfig(kind="full", source="batch", residual="gauss_newton", damping=1e-12))
    one = scorer(spec, 1, damping=1e-20, residual="gauss_newton")(params, x, offsets, r).scores
    torch.testing.assert_close(one, full(params, x, offsets, r).scores, rtol=1e-6, atol=0)


def test_one_output_gauss_newton_of_a_net_by_its_last_layer() -> None:
    """With one output, G of the last layer is a number: its share of the score is a^T A^-1 a, which has mean dim A."""
    spec = FieldSpec(2, 1, width=4, hidden_layers=0)
    params, x, offsets, r = bank(spec, (30,))
    q = scorer(spec, 1, damping=1e-20)(params, x, offsets, torch.ones_like(r)).scores
    assert q.mean().item() == pytest.approx(3)


def test_a_damping_too_small_is_named() -> None:
    spec = FieldSpec(2, 2, width=4, hidden_layers=1)
    params, x, offsets, r = bank(spec, (3,))
    r[0] = float("nan")
    with pytest.raises(InputError, match=r"damping must .*K-FAC"):
        scorer(spec, 1)(params, x, offsets, r)
