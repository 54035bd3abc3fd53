"""Fisher scores against batch-size-1 autograd, one sample after another."""

from __future__ import annotations

import places
import pytest
import torch
from bank_cases import ENCODINGS, Case, assert_no_worse, make
from torch import Tensor

import mclnf_fast as mf

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("fisher_scores")
compiled = places.backends("fisher_scores", reference=False)
COUNTS = [7, 0, 12, 1]
RAYS = torch.tensor([4, 1, 4, 0, 1, 1, 4, 1, 6, 0, 6, 6, 1, 0, 4, 6, 6, 1, 0, 6])
"""Rays in any order within a module, crossing modules (1, 4, 6), and without points (2, 3, 5)."""


def oracle(
    case: Case, grad_y: Tensor, fisher: list[Tensor] | None, ids: Tensor, samples: int, damping: float
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """(scores, grads, fisher) by one backward pass a sample; float64 tensors of all parameters, modules
    first."""
    parameters = [t.detach().requires_grad_() for t in (*case.weights, *case.biases)]
    layers = len(case.weights)
    owner = torch.repeat_interleave(torch.arange(len(case.offsets) - 1), case.offsets.diff())
    each, touched = [], []
    for s in range(samples):
        rows = (ids == s).nonzero()[:, 0]
        y = mf.ops.bank_mlp(case.x, case.offsets, parameters[:layers], parameters[layers:], case.spec, "reference")
        each.append(torch.autograd.grad((y[rows] * grad_y[rows]).sum(), parameters))
        touched.append(torch.isin(torch.arange(len(case.offsets) - 1), owner[rows]))
    counts = torch.stack(touched).sum(0).clamp(min=1) if touched else torch.ones(len(case.offsets) - 1)
    stacks = [torch.stack(gs) for gs in zip(*each)]
    mean = [g.square().sum(0) / counts.view(-1, *[1] * (g.dim() - 2)) for g in stacks]
    used = mean if fisher is None else fisher
    scores = sum((g.square() / (f + damping)).flatten(1).sum(1) for g, f in zip(stacks, used))
    return scores, [g.sum(0) for g in stacks], mean


def flat(pair: tuple[list[Tensor], list[Tensor]]) -> list[Tensor]:
    return [*pair[0], *pair[1]]


def random_fisher(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(5)
    draw = [[torch.rand(t.shape, generator=g).to(t) for t in ts] for ts in (case.weights, case.biases)]
    return draw[0], draw[1]


@backends
@pytest.mark.parametrize("rays", [False, True], ids=["points", "rays"])
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_backward_pass_a_sample(need, backend: str, encoding: str, given: bool, rays: bool) -> None:
    need("fisher_scores", backend, torch.float64)
    in_dim, kind = ENCODINGS[encoding]
    case = make(mf.FieldSpec(in_dim, 3, 7, 2, "tanh", "sigmoid", kind, skips=(1, 2)), COUNTS, torch.float64)
    grad_y = torch.randn(20, 3, dtype=torch.float64)
    fisher = random_fisher(case) if given else None
    ids = places.put(RAYS) if rays else torch.arange(20)
    samples = int(ids.max()) + 1
    found = mf.ops.fisher_scores(
        case.x, case.offsets, case.weights, case.biases, grad_y, fisher, case.spec,
        sample_ids=ids if rays else None, damping=1e-6, backend=backend,
    )  # fmt: skip
    want = oracle(case, grad_y, None if fisher is None else flat(fisher), ids, samples, 1e-6)
    torch.testing.assert_close(found.scores, want[0], rtol=1e-9, atol=1e-12)
    for k, (f, w) in enumerate(zip(flat(found.grads) + flat(found.fisher), want[1] + want[2])):
        torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-12, msg=lambda text, k=k: f"tensor {k}: {text}")
    alone = mf.ops.fisher_scores(
        case.x, case.offsets, case.weights, case.biases, grad_y, fisher, case.spec,
        sample_ids=ids if rays else None, damping=1e-6, grads=False, backend=backend,
    )  # fmt: skip
    assert torch.equal(alone.scores, found.scores)
    assert alone.grads == alone.fisher == ([], [])


@compiled
@pytest.mark.parametrize("rays", [False, True], ids=["points", "rays"])
@pytest.mark.parametrize(("width", "hidden", "out_dim"), [(16, 0, 1), (37, 2, 17), (64, 4, 4), (128, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees(need, backend: str, dtype: torch.dtype, width: int, hidden: int, out_dim: int, rays: bool) -> None:
    need("fisher_scores", backend, dtype)
    case = make(mf.FieldSpec(3, out_dim, width, hidden, "softplus", encoding=mf.Frequency(4)), [700, 0, 65]).to(dtype)
    grad_y = torch.randn(765, out_dim).to(dtype)
    ids = (torch.arange(765) * 7919 % 101) if rays else None

    def run(c: Case, backend: str) -> mf.ops.FisherResult:
        return mf.ops.fisher_scores(
            c.x, c.offsets, c.weights, c.biases, grad_y.to(c.x), None, c.spec, ids, backend=backend
        )

    found, same, truth = run(case, backend), run(case, "reference"), run(case.to(torch.float64), "reference")
    assert_no_worse(found.scores, same.scores, truth.scores, "scores")
    for name in ("grads", "fisher"):
        for f, s, t in zip(*(flat(getattr(r, name)) for r in (found, same, truth))):
            assert_no_worse(f, s, t, name, terms=700)


@backends
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
def test_points_in_succession(need, backend: str, given: bool) -> None:
    """A number of points per sample is their ids without a look at them."""
    need("fisher_scores", backend, torch.float32)
    case = make(mf.FieldSpec(2, 3, 8, 1, "tanh"), [8, 0, 12], torch.float32)
    arguments = (case.x, case.offsets, case.weights, case.biases, torch.randn(20, 3))
    fisher, options = random_fisher(case) if given else None, {"damping": 1e-6, "backend": backend}
    want = mf.ops.fisher_scores(*arguments, fisher, case.spec, places.put(torch.arange(20) // 4), **options)
    found = mf.ops.fisher_scores(*arguments, fisher, case.spec, 4, **options, num_samples=5)
    for f, w in zip(*([r.scores, *flat(r.grads), *flat(r.fisher)] for r in (found, want))):
        assert torch.equal(f, w)
    alone = mf.ops.fisher_scores(*arguments, fisher, case.spec, 1, **options)
    assert torch.equal(alone.scores, mf.ops.fisher_scores(*arguments, fisher, case.spec, **options).scores)


@backends
def test_identities(need, backend: str) -> None:
    """Mean score = sum_p F_p / (F_p + damping); it tends to the number of live parameters; scale cancels."""
    need("fisher_scores", backend, torch.float64)
    case = make(mf.FieldSpec(2, 3, 8, 1, "tanh"), [50], torch.float64)
    grad_y = torch.randn(50, 3, dtype=torch.float64)

    def run(scale: float, damping: float) -> mf.ops.FisherResult:
        return mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, scale * grad_y, None, case.spec,
            damping=damping, backend=backend,
        )  # fmt: skip

    found = run(1.0, 1e-3)
    trace = sum((f / (f + 1e-3)).sum() for f in flat(found.fisher))
    torch.testing.assert_close(found.scores.mean(), trace)
    torch.testing.assert_close(run(1.0, 0.0).scores.mean(), torch.tensor(51.0, dtype=torch.float64))
    assert case.spec.num_parameters == 51
    torch.testing.assert_close(run(7.0, 49e-3).scores, found.scores)


@backends
def test_without_damping_dead_parameters_count_for_nothing(need, backend: str) -> None:
    need("fisher_scores", backend)
    case = make(mf.FieldSpec(2, 1, 4, 1, "relu"), [9])
    case.biases[0][0, 2] = -1e6  # a unit that never fires: its 2 weights, its bias and its outgoing weight
    result = mf.ops.fisher_scores(
        case.x, case.offsets, case.weights, case.biases, torch.ones(9, 1), None, case.spec,
        damping=0.0, backend=backend,
    )  # fmt: skip
    live = sum(int((f > 0).sum()) for f in flat(result.fisher))
    assert live <= case.spec.num_parameters - 4
    torch.testing.assert_close(float(result.scores.mean()), float(live), rtol=1e-5, atol=0)


@backends
def test_points_of_a_ray_add_up_before_the_square(need, backend: str) -> None:
    need("fisher_scores", backend, torch.float64)
    case = make(mf.FieldSpec(2, 1, 4, 1, "tanh"), [2], torch.float64)
    case.x[1] = case.x[0]
    opposite = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)  # the two gradients cancel exactly

    def score(ids: Tensor | None) -> Tensor:
        return mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, opposite, random_fisher(case), case.spec, ids,
            backend=backend,
        ).scores  # fmt: skip

    assert float(score(torch.tensor([0, 0]))[0]) < 1e-25
    assert float(score(None).min()) > 1e-3


@backends
@pytest.mark.parametrize("ids", [None, torch.zeros(0, dtype=torch.int64)])
def test_no_points(need, backend: str, ids: Tensor | None) -> None:
    need("fisher_scores", backend)
    case, ids = make(mf.FieldSpec(2, 1, 4, 1), [0, 0]), places.put(ids)
    empty = mf.ops.fisher_scores(
        case.x,
        case.offsets,
        case.weights,
        case.biases,
        torch.zeros(0, 1),
        None,
        case.spec,
        ids,
        backend=backend,
    )
    assert empty.scores.shape == (0,)
    assert all(bool((t == 0).all()) for t in flat(empty.grads) + flat(empty.fisher))
    if ids is not None:
        rays = mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, torch.zeros(0, 1), None, case.spec, ids,
            backend=backend, num_samples=3,
        )  # fmt: skip
        assert rays.scores.tolist() == [0, 0, 0]


def test_same_bits_for_every_run_and_thread_count(need) -> None:
    need("fisher_scores", "cpu")
    case = make(mf.FieldSpec(3, 4, 32, 2, "tanh"), [3000, 0, 129])
    grad_y, ids = torch.randn(3129, 4), torch.arange(3129) * 7919 % 997

    def run(sample_ids: Tensor | None) -> list[Tensor]:
        r = mf.ops.fisher_scores(
            case.x,
            case.offsets,
            case.weights,
            case.biases,
            grad_y,
            None,
            case.spec,
            sample_ids,
            backend="cpu",
        )
        return [r.scores, *flat(r.grads), *flat(r.fisher)]

    threads = torch.get_num_threads()
    try:
        for sample_ids in (None, ids):
            first = run(sample_ids)
            for count in (threads, 1, 2):
                torch.set_num_threads(count)
                assert all(map(torch.equal, run(sample_ids), first)), f"{count} threads"
    finally:
        torch.set_num_threads(threads)


@compiled
def test_nothing_of_size_samples_times_parameters_is_stored(need, backend: str) -> None:
    need("fisher_scores", backend)
    case = make(mf.FieldSpec(3, 4, 128, 6, encoding=mf.Frequency(6)), [65536])
    grad_y = torch.randn(65536, 4)
    assert 65536 * case.spec.num_parameters * 4 > 20e9  # bytes of all per-sample gradients
    torch.utils.deterministic.fill_uninitialized_memory = False
    for ids in (None, torch.arange(65536) // 64):
        result = mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, grad_y, None, case.spec, ids, backend=backend
        )
        trace = sum((f.double() / (f.double() + 1e-8)).sum() for f in flat(result.fisher))
        assert float(result.scores.double().mean()) == pytest.approx(float(trace), rel=1e-4)


def good() -> dict[str, object]:
    case = make(mf.FieldSpec(3, 2, 4, 1), [2, 1])
    return {
        "x": case.x, "offsets": case.offsets, "weights": case.weights, "biases": case.biases,
        "grad_y": torch.ones(3, 2), "fisher": (case.weights, case.biases), "spec": case.spec,
    }  # fmt: skip


@backends
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"grad_y": torch.ones(3, 1)}, ValueError, r"grad_y must have shape .*3, 2\], got \[3, 1\]"),
        ({"grad_y": torch.ones(3, 2).double()}, TypeError, r"grad_y must have dtype torch.float32, got .*64"),
        ({"grad_y": None}, TypeError, r"grad_y must be a tensor"),
        ({"damping": -1.0}, ValueError, r"damping must be .*got -1.0"),
        ({"damping": float("nan")}, ValueError, r"damping must be .*got nan"),
        ({"fisher": 3}, TypeError, r"fisher must be a pair .*got int"),
        ({"fisher": ([], [])}, ValueError, r"fisher\[0\] must hold 2 tensors .*got 0"),
        ({"sample_ids": torch.tensor([0, 1])}, ValueError, r"sample_ids must have shape .*3\], got \[2\]"),
        ({"sample_ids": torch.tensor([0.0, 1, 2])}, TypeError, r"sample_ids must have dtype torch.int64"),
        ({"sample_ids": torch.tensor([0, 1, -2])}, ValueError, r"sample_ids must lie in \[0, 2\), got -2"),
        ({"sample_ids": torch.tensor([0, 1, 9]), "num_samples": 5}, ValueError, r"\[0, 5\), got 9"),
        ({"sample_ids": torch.tensor([0, 1, 2**62])}, ValueError, r"sample_ids must lie in .*got 4611686018"),
        ({"sample_ids": 2}, ValueError, r"sample_ids must divide the points of every module, got 2 for 3 points"),
        ({"sample_ids": 0}, ValueError, r"sample_ids must be .*got 0"),
        ({"sample_ids": 1, "num_samples": 2}, ValueError, r"num_samples must be 3, or None, .*got 2"),
        ({"num_samples": 4}, ValueError, r"num_samples must be N = 3 .*got 4"),
        ({"num_samples": -1, "sample_ids": torch.zeros(3).long()}, ValueError, r"num_samples must be .*-1"),
        ({"offsets": torch.tensor([0, 4, 3])}, ValueError, r"offsets must not go down"),
        ({"backend": "fast"}, ValueError, r"backend must be one of .*got 'fast'"),
    ],
)  # fmt: skip
def test_bad_arguments(need, backend: str, change: dict[str, object], error: type, text: str) -> None:
    if "offsets" in change and places.here() == "cuda":
        pytest.skip("the values of offsets are looked at on the CPU alone")
    arguments = good() | {"fisher": None, "backend": need("fisher_scores", backend)} | places.put(change)
    with pytest.raises(error, match=text):
        mf.ops.fisher_scores(**arguments)


def test_a_negative_fisher_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fisher\[0\]\[0\] must not be negative or NaN, got -"):
        mf.ops.fisher_scores(**good())
