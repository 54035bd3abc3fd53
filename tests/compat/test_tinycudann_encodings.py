"""`compat.tinycudann.Encoding`: every encoding against a formula, a number at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mclnf_fast.compat.tinycudann as tcnn

GRID = {"otype": "HashGrid", "n_levels": 3, "n_features_per_level": 4, "log2_hashmap_size": 6, "base_resolution": 3}


def identity(x: list[float]) -> list[float]:
    return [2.5 * v - 0.5 for v in x]


def frequency(x: list[float]) -> list[float]:
    return [wave(2**k * math.pi * v) for v in x for k in range(5) for wave in (math.sin, math.cos)]


def triangle_wave(x: list[float]) -> list[float]:
    return [4 * abs((2 ** (k - 1) * v + k / 4) % 1 - 0.5) - 1 for v in x for k in range(6)]


def one_blob(x: list[float]) -> list[float]:
    """The integral of the kernel and of its copies one unit away, by Gauss-Legendre, exact for its degree."""
    nodes, weights = np.polynomial.legendre.leggauss(5)
    values = []
    for v in x:
        for k in range(8):
            total = 0.0
            for copy in (-1, 0, 1):
                a, b = max(k / 8, v + copy - 1 / 8), min((k + 1) / 8, v + copy + 1 / 8)
                if a < b:
                    t = (a + b) / 2 + (b - a) / 2 * nodes
                    total += float(((b - a) / 2 * weights * 8 * 15 / 16 * (1 - (8 * (t - v - copy)) ** 2) ** 2).sum())
            values.append(total)
    return values


def harmonics(x: list[float]) -> list[float]:
    """By derivatives of the Legendre polynomials and powers of x + iy."""
    a, b, c = (2 * v - 1 for v in x)
    values = []
    for l in range(8):
        for m in range(-l, l + 1):
            order = abs(m)
            legendre = np.polynomial.legendre.Legendre.basis(l).deriv(order) if order else None
            q = legendre(c) if order else np.polynomial.legendre.Legendre.basis(l)(c)
            norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - order) / math.factorial(l + order))
            power = (-1) ** order * complex(a, b) ** order
            values.append(norm * q * (1.0 if m == 0 else math.sqrt(2) * (power.real if m > 0 else power.imag)))
    return values


FORMULAS: dict[str, tuple[dict[str, Any], Callable[[list[float]], list[float]]]] = {
    "Identity": ({"scale": 2.5, "offset": -0.5}, identity),
    "Frequency": ({"n_frequencies": 5}, frequency),
    "TriangleWave": ({"n_frequencies": 6}, triangle_wave),
    "OneBlob": ({"n_bins": 8}, one_blob),
    "SphericalHarmonics": ({"degree": 8}, harmonics),
}
CONFIGS: dict[str, dict[str, Any]] = {
    **{name: {"otype": name, **options} for name, (options, _) in FORMULAS.items()},
    "HashGrid": {**GRID, "per_level_scale": 1.5, "interpolation": "Smoothstep"},
    "DenseGrid": {"otype": "DenseGrid", "n_levels": 2, "base_resolution": 3, "per_level_scale": 1.7},
    "TiledGrid": {"otype": "Grid", "type": "Tiled", "n_levels": 2, "base_resolution": 3, "interpolation": "Nearest"},
    "Composite": {"otype": "Composite", "nested": [{"otype": "OneBlob", "n_dims_to_encode": 1}, {**GRID}]},
    "Sum": {
        "otype": "Composite",
        "reduction": "Sum",
        "nested": [
            {"otype": "Frequency", "n_frequencies": 3, "n_dims_to_encode": 2},
            {"otype": "OneBlob", "n_bins": 4, "n_dims_to_encode": 3, "dims_to_encode_begin": 0},
        ],
    },
    "Product": {
        "otype": "Composite",
        "reduction": "Product",
        "nested": [
            {**GRID, "n_dims_to_encode": 3, "dims_to_encode_begin": 0},
            {"otype": "TriangleWave", "n_frequencies": 6, "n_dims_to_encode": 2, "dims_to_encode_begin": 1},
        ],
    },
}


def points(count: int) -> torch.Tensor:
    """In [0, 1]^3, some on the border."""
    x = torch.rand(count, 3, dtype=torch.float64)
    x[0], x[1] = 0.0, 1.0
    return x


@pytest.mark.parametrize("name", FORMULAS)
def test_against_a_formula(name: str) -> None:
    encoding = tcnn.Encoding(3, CONFIGS[name]).double()
    x = points(33)
    wanted = torch.tensor([FORMULAS[name][1](row) for row in x.tolist()], dtype=torch.float64)
    assert encoding.n_output_dims == wanted.shape[1]
    assert encoding.params.numel() == 0
    torch.testing.assert_close(encoding(x), wanted, rtol=1e-10, atol=1e-10)


def test_one_blob_sums_to_one_and_goes_round() -> None:
    encoding = tcnn.Encoding(1, {"otype": "OneBlob", "n_bins": 16}).double()
    x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    y = encoding(x)
    torch.testing.assert_close(y.sum(1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(y[0], y[-1])
    torch.testing.assert_close(y[0, 0], y[0, 15])  # half of the blob at 0 lies in the last bin


def test_harmonics_are_orthonormal() -> None:
    z, weights = np.polynomial.legendre.leggauss(8)
    angle = np.arange(16) * math.pi / 8
    radius = np.sqrt(1 - z**2)[:, None]
    d = np.stack(np.broadcast_arrays(radius * np.cos(angle), radius * np.sin(angle), z[:, None]), -1).reshape(-1, 3)
    y = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": 8}).double()(torch.tensor((d + 1) / 2)).numpy()
    gram = y.T @ (np.repeat(weights * math.pi / 8, 16)[:, None] * y)
    np.testing.assert_allclose(gram, np.eye(64), atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_grid_is_that_of_the_op(dims: int) -> None:
    """The op has its own tests, tests/ops/test_grid_half_cell.py; here a dense level, bilinear, by `grid_sample`."""
    config = {"otype": "Grid", "type": "Dense", "n_levels": 1, "base_resolution": 6, "n_features_per_level": 2}
    encoding = tcnn.Encoding(dims, config).double()
    torch.nn.init.normal_(encoding.params)
    # 6 nodes at (i - 1/2) / 5; inside of the outermost ones, where both read the same corners
    x = 0.1 + 0.8 * torch.rand(40, dims, dtype=torch.float64)
    image = encoding.params.view(-1, 2)[: 6**dims].T.reshape(1, 2, *[6] * dims)
    place = 2 * (x * 5 + 0.5) / 5 - 1
    found = torch.nn.functional.grid_sample(image, place.view(1, *[1] * (dims - 1), 40, dims), align_corners=True)
    torch.testing.assert_close(encoding(x), found.reshape(2, 40).T, rtol=1e-10, atol=1e-10)


def test_composites() -> None:
    x = points(20)
    blob, grid = tcnn.Encoding(1, {"otype": "OneBlob"}).double(), tcnn.Encoding(2, GRID).double()
    both = tcnn.Encoding(3, CONFIGS["Composite"]).double()
    torch.testing.assert_close(both(x), torch.cat((blob(x[:, :1]), grid(x[:, 1:])), 1))  # the same seed

    total = tcnn.Encoding(3, CONFIGS["Sum"]).double()(x)
    waves = tcnn.Encoding(2, {"otype": "Frequency", "n_frequencies": 3}).double()(x[:, :2])
    blobs = tcnn.Encoding(3, {"otype": "OneBlob", "n_bins": 4}).double()(x)
    torch.testing.assert_close(total, waves + blobs)

    product = tcnn.Encoding(3, CONFIGS["Product"]).double()(x)
    whole = tcnn.Encoding(3, GRID).double()(x)
    triangles = tcnn.Encoding(2, {"otype": "TriangleWave", "n_frequencies": 6}).double()(x[:, 1:])
    torch.testing.assert_close(product, whole * triangles)


def test_padding_between_nested_encodings() -> None:
    """A grid of 4 features begins at a multiple of 4: ones behind the identity, in front of harmonics."""
    x = points(20)
    nested = [
        {"otype": "Identity", "n_dims_to_encode": 1},
        {**GRID, "n_dims_to_encode": 2, "dims_to_encode_begin": 1},
        {"otype": "SphericalHarmonics", "degree": 1, "n_dims_to_encode": 3, "dims_to_encode_begin": 0},
        {**GRID, "n_dims_to_encode": 3, "dims_to_encode_begin": 0},
    ]
    encoding = tcnn.Encoding(3, {"otype": "Composite", "nested": nested}).double()
    y = encoding(x)
    assert encoding.n_output_dims == 4 + 12 + 4 + 12 == y.shape[1]
    assert torch.equal(y[:, :4], torch.cat((x[:, :1], torch.ones(20, 3)), 1))
    assert torch.equal(y[:, 16:19], torch.ones(20, 3, dtype=torch.float64))
    torch.testing.assert_close(y[:, 19], torch.full((20,), math.sqrt(1 / (4 * math.pi)), dtype=torch.float64))


def test_the_neural_radiance_cache() -> None:
    x = torch.rand(7, 10)
    nested = [
        {"otype": "TriangleWave", "n_dims_to_encode": 3, "n_frequencies": 12},
        {"otype": "OneBlob", "n_dims_to_encode": 5, "n_bins": 4},
        {"otype": "Identity"},
    ]
    wanted = tcnn.Encoding(10, {"otype": "Composite", "nested": nested})(x)
    assert wanted.shape == (7, 36 + 20 + 2)
    assert torch.equal(tcnn.Encoding(10, {"otype": "NRC"})(x), wanted)


@pytest.mark.parametrize("name", CONFIGS)
def test_first_and_second_derivatives(name: str) -> None:
    encoding = tcnn.Encoding(3, CONFIGS[name]).double()
    params = torch.randn(encoding.params.shape, dtype=torch.float64, requires_grad=True)
    # 1/97: no kink of a wave, a blob or a level lies at such a fraction
    x = ((torch.randint(1, 97, (5, 3)) + 0.37) / 97).double().requires_grad_()

    def f(x: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(encoding, {"params": params}, (x,))

    leaves = (x, params) if params.numel() else (x,)
    g = f if params.numel() else (lambda x: f(x, params.detach()))
    assert torch.autograd.gradcheck(g, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(g, leaves, fast_mode=True)


BAD: list[tuple[int, Any, str]] = [
    (3, {"otype": "HashGrd"}, "otype must be one of Composite, .*got 'HashGrd'"),
    (3, {**GRID, "n_level": 3}, "keys must be among .*got 'n_level' as well"),
    (3, {**GRID, "n_levels": 0}, "n_levels must be an int from 1 to 64, got 0"),
    (3, {**GRID, "n_levels": 2.5}, "n_levels must be an int from 1 to 64, got 2.5"),
    (3, {**GRID, "n_features_per_level": 3}, "n_features_per_level must be 1, 2, 4 or 8, got 3"),
    (3, {**GRID, "interpolation": "Cubic"}, "interpolation must be one of Nearest, Linear, Smoothstep, got 'Cubic'"),
    (3, {**GRID, "type": "Sparse"}, "type must be one of Hash, Dense, Tiled, Tile, got 'Sparse'"),
    (3, {**GRID, "stochastic_interpolation": True}, "stochastic_interpolation must be False .*got True"),
    (3, {**GRID, "fixed_point_pos": True}, "fixed_point_pos must be False"),
    (3, {**GRID, "hash": "Prime"}, "hash must be 'CoherentPrime' .*got 'Prime'"),
    (3, {**GRID, "per_level_scale": float("nan")}, "per_level_scale must be a finite number, got nan"),
    (3, {**GRID, "per_level_scale": -1.0}, "per_level_scale must be positive, got -1.0"),
    (3, {**GRID, "type": "Dense", "per_level_scale": 40.0}, "2\\^32 numbers"),
    (3, {"otype": "DenseGrid", "n_levels": 1, "base_resolution": 1100}, "at most 1073741824 entries, got 1331000000"),
    (5, GRID, "a grid needs 2, 3 or 4 coordinates, got 5"),
    (3, {"otype": "OneBlob", "n_bins": 12}, "n_bins must be a power of 2, got 12"),
    (3, {"otype": "SphericalHarmonics", "degree": 9}, "degree must be an int from 1 to 8, got 9"),
    (2, {"otype": "SphericalHarmonics"}, "SphericalHarmonics needs 3 coordinates .*got 2"),
    (3, {"otype": "Identity", "scale": "2"}, "scale must be a finite number, got '2'"),
    (3, {"otype": "Composite"}, "nested must be a list of encoding configs, got None"),
    (3, {"otype": "Composite", "nested": [{}, {}]}, "n_dims_to_encode may be left out by one of nested at most"),
    (3, {"otype": "Composite", "nested": [{"n_dims_to_encode": 4}]}, "must end within the 3 coordinates, got 4 from 0"),
    (3, {"otype": "Composite", "nested": [{"n_dims_to_encode": 0}]}, "must encode at least one coordinate"),
    (3, {**CONFIGS["Sum"], "reduction": "Max"}, "reduction must be one of Concatenation, Sum, Product, got 'Max'"),
    (3, {"otype": "Composite", "reduction": "Sum", "nested": [{"n_dims_to_encode": 1}, {}]}, r"got \[16, 32\]"),
]


@pytest.mark.parametrize(("dims", "config", "text"), BAD, ids=[text[:30] for _, _, text in BAD])
def test_refused_configs(dims: int, config: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tcnn.Encoding(dims, config)


def test_refused_types() -> None:
    with pytest.raises(TypeError, match="encoding_config must be a dict, got str"):
        tcnn.Encoding(3, "HashGrid")
    with pytest.raises(ValueError, match="n_input_dims must be an int of at least 1, got 0"):
        tcnn.Encoding(0, GRID)
    with pytest.raises(ValueError, match=r"dtype must be torch.float32, torch.float16 or None, got torch.float64"):
        tcnn.Encoding(3, GRID, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"seed must be an int, got 1\.5"):
        tcnn.Encoding(3, GRID, seed=1.5)
    with pytest.raises(
        ValueError, match="backend must be one of auto, cpu, reference, tinycudann, or None, got 'tcnn'"
    ):
        tcnn.Encoding(3, GRID, backend="tcnn")
