"""The bank MLP's values: the reference against independent formulas, the compiled kernels against the
reference."""

from __future__ import annotations

import math

import places
import pytest
import torch
from bank_cases import ACTIVATIONS, ENCODINGS, Case, assert_no_worse, make, spread
from torch import Tensor, nn

import mclnf_fast as mf
from mclnf_fast.ops import _layers

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_mlp")
compiled = places.backends("bank_mlp", reference=False)
SCALAR = {
    "none": lambda z: z,
    "relu": lambda z: max(z, 0.0),
    "sine": lambda z: math.sin(30.0 * z),
    "softplus": lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z))),
    "tanh": math.tanh,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "exp": math.exp,
}


def legendre_harmonics(degree: int, d: list[float]) -> list[float]:
    """Real spherical harmonics of a unit vector from associated Legendre functions, Condon-Shortley
    included."""
    cos, phi = d[2], math.atan2(d[1], d[0])
    sin = math.sqrt(max(0.0, 1 - cos * cos))
    p = {(m, m): math.prod(-(2 * k - 1) * sin for k in range(1, m + 1)) for m in range(degree)}
    for m in range(degree):
        for l in range(m + 1, degree):
            p[l, m] = ((2 * l - 1) * cos * p[l - 1, m] - (l + m - 1) * p.get((l - 2, m), 0.0)) / (l - m)
    values = []
    for l in range(degree):
        for m in range(-l, l + 1):
            a = abs(m)
            norm = (2 * l + 1) / (4 * math.pi) * math.factorial(l - a) / math.factorial(l + a)
            turn = math.sqrt(2) * (math.cos(m * phi) if m > 0 else math.sin(a * phi)) if m else 1.0
            values.append(math.sqrt(norm) * p[l, a] * turn)
    return values


def features(encoding: mf.spec.Encoding, x: list[float]) -> list[float]:
    """An encoding of one point, number by number."""
    if isinstance(encoding, mf.Composite):
        found: list[float] = []
        for inner, dims in encoding.items:
            found, x = found + features(inner, x[:dims]), x[dims:]
        return found
    if isinstance(encoding, mf.SphericalHarmonics):
        return legendre_harmonics(encoding.degree, x)
    if isinstance(encoding, mf.Frequency):
        octaves = [2**k * encoding.scale for k in range(encoding.n)]
        first = x if encoding.include_input else []
    elif isinstance(encoding, mf.LogFrequency):
        octaves = [2 ** (encoding.max_exp * k / (encoding.n - 1)) for k in range(encoding.n)]
        first = []
    else:
        return x
    return first + [wave(f * v) for f in octaves for wave in (math.sin, math.cos) for v in x]


def by_linear(case: Case) -> Tensor:
    """Every point alone, through torch.nn.Linear layers."""
    rows = []
    for m in range(len(case.offsets) - 1):
        layers = []
        for w, b in zip(case.weights, case.biases):
            layers.append(nn.Linear(w.shape[1], w.shape[2], dtype=torch.float64, device=places.here()))
            layers[-1].weight.data, layers[-1].bias.data = w[m].T.clone(), b[m].clone()
        for point in case.x[int(case.offsets[m]) : int(case.offsets[m + 1])].tolist():
            e = h = torch.tensor(features(case.spec.encoding, point), dtype=torch.float64)
            for l, layer in enumerate(layers):
                kind = case.spec.output_activation if l == len(layers) - 1 else case.spec.activation
                z = layer(torch.cat((h, e)) if l in case.spec.skips else h)
                h = torch.tensor([SCALAR[kind](v) for v in z.tolist()], dtype=torch.float64)
            rows.append(h)
    return torch.stack(rows)


@backends
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_point_alone_through_linear_layers(need, backend: str, encoding: str, activation: str) -> None:
    in_dim, kind = ENCODINGS[encoding]
    spec = mf.FieldSpec(in_dim, 2, 5, 2, activation, "sigmoid", kind, skips=(1, 2))
    case = make(spec, [3, 0, 4], torch.float64)
    if "spherical" in encoding or encoding == "composite":  # the Legendre form knows unit vectors only
        case.x[:, -3:] = nn.functional.normalize(case.x[:, -3:], dim=-1)
    found = case.run(need("bank_mlp", backend, torch.float64))
    torch.testing.assert_close(found, by_linear(case), rtol=1e-12, atol=1e-12)


def test_spherical_harmonics_are_orthonormal() -> None:
    # Products are polynomials of degree 6 in the direction: 8 heights (Gauss, exact to degree 15) and 16
    # equal angles integrate them exactly.
    below = [k / math.sqrt(4 * k * k - 1) for k in range(1, 8)]
    jacobi = torch.diag(torch.tensor(below, dtype=torch.float64), 1)
    heights, vectors = torch.linalg.eigh(jacobi + jacobi.T)
    z = heights.repeat_interleave(16)
    weight = (2 * vectors[0].square()).repeat_interleave(16) * 2 * math.pi / 16
    phi = (torch.arange(16).double() * 2 * math.pi / 16).repeat(8)
    ring = (1 - z * z).sqrt()
    y = _layers.spherical_harmonics(4, torch.stack((ring * phi.cos(), ring * phi.sin(), z), -1))
    torch.testing.assert_close(y.T @ (weight[:, None] * y), torch.eye(16).double(), rtol=0, atol=1e-13)


@compiled
@pytest.mark.parametrize("modules", [1, 3, 257])
@pytest.mark.parametrize("points", [0, 1, 15, 16, 17, 63, 64, 65, 129, 1000])
def test_agrees_at_every_number_of_points(need, backend: str, points: int, modules: int) -> None:
    need("bank_mlp", backend)
    spec = mf.FieldSpec(3, 4, 32, 2, encoding=mf.Frequency(4))
    # Of few points, several banks: the rounding errors of four values are a matter of luck.
    cases = [make(spec, spread(points, modules), seed=seed) for seed in range(max(1, 64 // max(points, 1)))]
    own, same = (torch.cat([case.run(name) for case in cases]) for name in (backend, "reference"))
    assert_no_worse(own, same, torch.cat([case.to(torch.float64).run("reference") for case in cases]))


@compiled
@pytest.mark.parametrize("width", [16, 32, 37, 48, 64, 128])
@pytest.mark.parametrize(("out_dim", "hidden"), [(1, 0), (3, 1), (4, 2), (17, 3), (1, 6), (17, 0), (3, 5)])
def test_agrees_at_every_width_and_depth(need, backend: str, width: int, out_dim: int, hidden: int) -> None:
    need("bank_mlp", backend)
    spec = mf.FieldSpec(3, out_dim, width, hidden, encoding=mf.Frequency(10, True, scale=1.0))
    case = make(spec, [65, 0, 17, 0])
    assert_no_worse(case.run(backend), case.run("reference"), case.to(torch.float64).run("reference"))


@compiled
@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_module_with_everything(need, backend: str, at: int) -> None:
    need("bank_mlp", backend)
    counts = [0, 0, 0]
    counts[at] = 5000  # more than a run of the work plan
    case = make(mf.FieldSpec(2, 3, 16, 1, "tanh"), counts)
    assert_no_worse(case.run(backend), case.run("reference"), case.to(torch.float64).run("reference"))


def strided(t: Tensor, how: str) -> Tensor:
    """The same values in other memory."""
    if how == "transposed":
        return t.mT.contiguous().mT
    if how == "offset":  # starts one element into its storage: nothing is aligned
        return torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape)
    return torch.stack((t, t.new_full(t.shape, math.nan)), -1)[..., 0]


@compiled
@pytest.mark.parametrize("how", ["transposed", "offset", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_stride_gives_the_same_bits(need, backend: str, how: str, dtype: torch.dtype) -> None:
    need("bank_mlp", backend, dtype)
    case = make(mf.FieldSpec(3, 4, 37, 2, "sine"), [40, 0, 33], dtype)
    biases = [strided(b, "offset" if how == "transposed" else how) for b in case.biases]
    other = Case(case.spec, strided(case.x, how), case.offsets, [strided(w, how) for w in case.weights], biases)
    assert torch.equal(other.run(backend), case.run(backend))


@compiled
def test_expanded_inputs(need, backend: str) -> None:
    need("bank_mlp", backend)
    case = make(mf.FieldSpec(3, 4, 16, 1), [20, 20])
    case.x = case.x[:1].expand(40, 3)
    case.weights = [w[:1].expand_as(w) for w in case.weights]
    case.biases = [b[:1].expand_as(b) for b in case.biases]
    y = case.run(backend)
    assert torch.equal(y, y[:1].expand_as(y))
    assert_no_worse(y, case.run("reference"), case.to(torch.float64).run("reference"))


def test_same_bits_for_every_run_thread_count_and_split(need) -> None:
    need("bank_mlp", "cpu")
    case = make(mf.FieldSpec(3, 4, 64, 2, encoding=mf.Frequency(5)), [3000, 0, 129])
    y = case.run("cpu")
    assert torch.equal(case.run("cpu"), y)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert torch.equal(case.run("cpu"), y)
    finally:
        torch.set_num_threads(threads)
    # A point's value does not depend on its neighbors: exact, whatever the split.
    for cut in (1, 63, 700):
        first = Case(case.spec, case.x[:cut], torch.tensor([0, cut, cut, cut]), case.weights, case.biases)
        rest = Case(case.spec, case.x[cut:], (case.offsets - cut).clamp(min=0), case.weights, case.biases)
        assert torch.equal(torch.cat((first.run("cpu"), rest.run("cpu"))), y)


@pytest.mark.parametrize("width", [16, 64, 80, 128])
@pytest.mark.parametrize("activation", ["relu", "sine"])
def test_few_points_have_the_bits_of_many(need, width: int, activation: str) -> None:
    """Runs of few points take kernels of their own, by the number of points; no point's value may show it."""
    need("bank_mlp", "cpu")
    counts = list(range(1, 66))
    spec = mf.FieldSpec(3, 5, width, 3, activation, "sigmoid", mf.Frequency(4), skips=(2, 3), w0=3.0)
    case = make(spec, counts)
    few = case.run("cpu")
    assert_no_worse(few, case.run("reference"), case.to(torch.float64).run("reference"))
    filled = torch.arange(len(counts) + 1) * 128
    x = torch.zeros(int(filled[-1]), 3)
    rows = torch.cat([torch.arange(n) + first for n, first in zip(counts, filled.tolist())])
    x[rows] = case.x
    assert torch.equal(Case(spec, x, filled, case.weights, case.biases).run("cpu")[rows], few)


@compiled
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ["relu", "sine", "softplus"])
def test_low_precision(need, backend: str, dtype: torch.dtype, activation: str) -> None:
    need("bank_mlp", backend, dtype)
    case = make(mf.FieldSpec(3, 4, 64, 3, activation, w0=3.0), [200, 0, 57]).to(dtype)
    found, truth = case.run(backend), case.to(torch.float64).run("reference")
    assert found.dtype == dtype
    assert_no_worse(found, case.run("reference"), truth)
    if backend == "triton" or (dtype == torch.bfloat16 and torch.ops.mclnf_fast.cpu_bf16_dot()):
        return  # what each layer reads is rounded
    # Computed in float32 and rounded once: half a unit in the last place, whatever PyTorch's own error is.
    half_unit = torch.finfo(dtype).eps / 2 * (1 + 1e-2)
    small = torch.finfo(dtype).tiny
    assert bool(((found.double() - truth).abs() <= half_unit * truth.abs() + 1e-5 + small).all())


@backends
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_autocast(need, backend: str, given: torch.dtype) -> None:
    """It casts weights and biases, and never x: the result has the dtype of x."""
    case = make(mf.FieldSpec(3, 4, 32, 2), [30, 12]).require()
    x = case.x.detach().to(given).requires_grad_()
    low = case.mixed(torch.bfloat16)
    low.x = x.detach()
    want = low.run(need("bank_mlp", backend))
    with torch.autocast(places.here(), torch.bfloat16):
        y = mf.ops.bank_mlp(x, case.offsets, case.weights, case.biases, case.spec, backend)
    assert y.dtype == given
    assert torch.equal(y, want)
    y.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == t.dtype for t in (x, *case.weights, *case.biases))


@compiled
@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
def test_nan_stays_nan_and_stays_where_it_is(need, backend: str, activation: str) -> None:
    need("bank_mlp", backend)
    case = make(mf.FieldSpec(2, 3, 16, 2, activation, "none"), [70])
    clean = case.run(backend)
    case.x[5, 1] = math.nan
    y = case.run(backend)
    assert bool(y[5].isnan().all())
    rows = torch.arange(70) != 5
    assert torch.equal(y[rows], clean[rows])
