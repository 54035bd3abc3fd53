"""`compat.tinycudann`: networks against a formula, the layout of the parameters, and how the modules behave."""

from __future__ import annotations

import copy
import doctest
import importlib
import io
import itertools
import math
import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mclnf_fast.compat.tinycudann as tcnn
from mclnf_fast.compat.tinycudann.initial import Pcg32
from mclnf_fast.errors import BackendError

GRID = {"otype": "HashGrid", "n_levels": 3, "n_features_per_level": 2, "log2_hashmap_size": 6, "base_resolution": 3}
FUSED = {"otype": "FullyFusedMLP", "n_neurons": 16, "n_hidden_layers": 2}
ACTIVATIONS = {
    "None": lambda z: z,
    "ReLU": lambda z: max(z, 0.0),
    "LeakyReLU": lambda z: max(z, 0.0) + 0.01 * min(z, 0.0),
    "SiLU": lambda z: z / (1 + math.exp(-z)),
    "Exponential": math.exp,
    "Sine": math.sin,
    "Sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "Squareplus": lambda z: 0.5 * (10 * z + math.sqrt(100 * z * z + 4)) / 10,
    "Softplus": lambda z: math.log1p(math.exp(10 * z)) / 10,
    "Tanh": math.tanh,
}


def padded(n: int) -> int:
    return (n + 15) // 16 * 16


def by_layers(x: Tensor, params: Tensor, sizes: list[int], activation: str, output: str) -> Tensor:
    """Layer by layer from the flat parameters: weights [out, in], row by row, padded inputs and outputs included."""
    begin, last = 0, len(sizes) - 2
    for layer, (width, rows) in enumerate(itertools.pairwise(sizes)):
        weight = params[begin : begin + rows * width].reshape(rows, width)
        begin += rows * width
        z = x @ weight.T
        x = z.clone().apply_(ACTIVATIONS[output if layer == last else activation])
    assert begin == params.numel()
    return x


@pytest.mark.parametrize("hidden", [0, 1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_against_a_formula(activation: str, hidden: int) -> None:
    names = list(ACTIVATIONS)
    output = names[(names.index(activation) + 3 * hidden) % len(names)]  # each is an output's, too
    config = {"otype": "CutlassMLP", "n_neurons": 12, "n_hidden_layers": hidden}
    model = tcnn.Network(5, 18, {**config, "activation": activation, "output_activation": output}).double()
    model.params.data *= 0.5  # exponentials of exponentials
    x = torch.rand(9, 5, dtype=torch.float64)
    ones = torch.cat((x, torch.ones(9, 11, dtype=torch.float64)), 1)  # the identity's padding
    wanted = by_layers(ones, model.params.detach(), [16, *[12] * hidden, 32], activation, output)
    torch.testing.assert_close(model(x), wanted[:, :18], rtol=1e-10, atol=1e-10)


def test_networks_deeper_than_a_bank() -> None:
    config = {"otype": "MLP", "n_neurons": 3, "n_hidden_layers": 33, "activation": "Tanh"}
    model = tcnn.Network(2, 1, config).double()
    x = torch.cat((torch.rand(4, 2, dtype=torch.float64), torch.ones(4, 14, dtype=torch.float64)), 1)
    wanted = by_layers(x, model.params.detach(), [16, *[3] * 33, 16], "Tanh", "None")
    torch.testing.assert_close(model(x[:, :2]), wanted[:, :1])


PADDINGS = {
    "a grid is padded with zeros": (3, GRID, 6, 0.0),
    "waves are padded with ones": (3, {"otype": "Frequency", "n_frequencies": 3}, 18, 1.0),
    "nothing to pad": (2, {"otype": "OneBlob", "n_bins": 8}, 16, 1.0),
    "the last of several is padded": (
        3,
        {"otype": "Composite", "nested": [{"otype": "Identity", "n_dims_to_encode": 2}, {"otype": "OneBlob"}]},
        18,
        1.0,
    ),
}


@pytest.mark.parametrize("name", PADDINGS)
def test_an_encoding_in_front_of_a_network(name: str) -> None:
    dims, config, width, constant = PADDINGS[name]
    model = tcnn.NetworkWithInputEncoding(dims, 3, config, FUSED).double()
    alone = tcnn.Encoding(dims, config).double()
    network = padded(width) * 16 + 16 * 16 + 16 * 16
    assert model.params.numel() == network + alone.params.numel()
    torch.nn.init.normal_(model.params, std=0.3)
    alone.params.data = model.params.data[network:]
    x = torch.rand(9, dims, dtype=torch.float64)
    inputs = torch.cat((alone(x), torch.full((9, padded(width) - width), constant, dtype=torch.float64)), 1).detach()
    wanted = by_layers(inputs, model.params.detach()[:network], [padded(width), 16, 16, 16], "ReLU", "None")
    torch.testing.assert_close(model(x), wanted[:, :3], rtol=1e-10, atol=1e-10)


def test_harmonics_are_padded_in_front() -> None:
    model = tcnn.NetworkWithInputEncoding(3, 2, {"otype": "SphericalHarmonics", "degree": 3}, FUSED).double()
    alone = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": 3}).double()
    x = torch.rand(9, 3, dtype=torch.float64)
    inputs = torch.cat((torch.ones(9, 7, dtype=torch.float64), alone(x)), 1)
    wanted = by_layers(inputs, model.params.detach(), [16, 16, 16, 16], "ReLU", "None")
    torch.testing.assert_close(model(x), wanted[:, :2], rtol=1e-10, atol=1e-10)


def test_padding_of_a_sum() -> None:
    """Each summand is padded by itself: two paddings of one add up to two."""
    nested = [{"otype": "Identity", "n_dims_to_encode": 3}, {"otype": "Identity", "scale": 2.0}]
    model = tcnn.NetworkWithInputEncoding(6, 2, {"otype": "Composite", "reduction": "Sum", "nested": nested}, FUSED)
    model.double()
    x = torch.rand(9, 6, dtype=torch.float64)
    inputs = torch.cat((x[:, :3] + 2 * x[:, 3:], torch.full((9, 13), 2.0, dtype=torch.float64)), 1)
    wanted = by_layers(inputs, model.params.detach(), [16, 16, 16, 16], "ReLU", "None")
    torch.testing.assert_close(model(x), wanted[:, :2], rtol=1e-10, atol=1e-10)


def test_number_of_parameters_of_instant_ngp() -> None:
    """13,074,912 numbers in the grid, as instant-ngp has reported them for this configuration."""
    grid = {
        "otype": "HashGrid",
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.51572,
    }
    # Scales 16 b^l - 1; of 16, 25, 37, 56 nodes a cube fits into the table, of 85 = 614,125 it does not: 2^19
    dense = sum((n**3 + 7) // 8 * 8 for n in (16, 25, 37, 56))
    assert 2 * (dense + 12 * 2**19) == 13_074_912
    encoding = tcnn.Encoding(3, grid)
    assert encoding.params.numel() == 13_074_912
    assert encoding.n_output_dims == 32
    density = {"otype": "FullyFusedMLP", "n_neurons": 64, "n_hidden_layers": 1}
    model = tcnn.NetworkWithInputEncoding(3, 16, grid, density)
    assert model.params.numel() == 13_074_912 + 64 * 32 + 16 * 64
    color = {"otype": "FullyFusedMLP", "n_neurons": 64, "n_hidden_layers": 2, "output_activation": "Sigmoid"}
    directions = {"otype": "SphericalHarmonics", "degree": 4, "n_dims_to_encode": 3}
    both = {"otype": "Composite", "nested": [directions, {"otype": "Identity", "n_dims_to_encode": 15}]}
    model = tcnn.NetworkWithInputEncoding(18, 3, both, color)  # 16 + 15 features, padded to 32; 3 outputs, to 16
    assert model.params.numel() == 64 * 32 + 64 * 64 + 16 * 64 == 7168


COUNTS = [
    # nodes of levels, entries of a level, features
    ({"n_levels": 4, "base_resolution": 5, "per_level_scale": 1.5}, 3, [125 + 3, 8**3, 12**3, 2**12], 2),
    ({"type": "Dense", "n_levels": 3, "base_resolution": 3, "per_level_scale": 2.0}, 2, [9 + 7, 36 + 4, 144], 2),
    ({"type": "Dense", "n_levels": 5}, 2, [16**2, 32**2, 64**2, 128**2, 256**2], 2),  # up to 256 nodes, by default
    ({"type": "Tiled", "n_levels": 3, "base_resolution": 3, "n_features_per_level": 8}, 3, [27, 27, 27], 8),
    ({"type": "Tile", "n_levels": 2, "base_resolution": 4, "per_level_scale": 1.0}, 4, [256, 256], 2),
]


@pytest.mark.parametrize(("config", "dims", "entries", "features"), COUNTS)
def test_entries_of_levels(config: dict[str, Any], dims: int, entries: list[int], features: int) -> None:
    encoding = tcnn.Encoding(dims, {"otype": "Grid", "log2_hashmap_size": 12, **config})
    assert encoding.params.numel() == features * sum(entries)


def pcg32(seed: int, stream: int, count: int) -> list[int]:
    """The generator's recurrence in plain Python."""
    state, words = 0, []
    for step in range(-2, count):
        old = state
        state = (old * 6364136223846793005 + 2 * stream + 1) % 2**64
        if step == -2:
            state = (state + seed) % 2**64
        word, turn = ((old >> 18 ^ old) >> 27) % 2**32, old >> 59
        words.append((word >> turn | word << (-turn % 32)) % 2**32)
    return words[2:]


def test_pcg32_is_the_published_one() -> None:
    assert pcg32(42, 54, 3) == [0xA15C02B7, 0x7B47F409, 0xBA1D3330]  # those of the generator's own demonstration
    numbers = [(word >> 9) / 2**23 for word in pcg32(1337, 1, 1000)]
    rng = Pcg32(1337)
    assert np.concatenate([rng.uniform(n) for n in (1, 2, 3, 500, 494)]).tolist() == numbers
    rng = Pcg32(1337)
    rng.skip(777)
    assert rng.uniform(5).tolist() == numbers[777:782]


def test_initial_parameters() -> None:
    model = tcnn.NetworkWithInputEncoding(3, 4, GRID, FUSED, seed=3)
    again, other = tcnn.NetworkWithInputEncoding(3, 4, GRID, FUSED, 3), tcnn.NetworkWithInputEncoding(3, 4, GRID, FUSED)
    assert torch.equal(model.params, again.params)
    assert not torch.equal(model.params, other.params)
    network, tables = model.params.detach().split([3 * 256, model.params.numel() - 3 * 256])
    bound = math.sqrt(6 / 32)
    assert 0.95 * bound < float(network.abs().max()) <= bound
    assert float(network.mean().abs()) < 0.03
    assert 0.95e-4 < float(tables.abs().max()) <= 1e-4
    # The network draws first, then the grid, of which each thread draws four numbers: 128 threads, one block
    stream = Pcg32(3).uniform(768 + 512)
    expected = (stream[:256] * np.float32(2)) * np.float32(bound) - np.float32(bound)
    assert np.array_equal(network[:256].numpy(), expected)
    np.testing.assert_allclose(tables[:2].numpy(), stream[[768, 772]] * 2e-4 - 1e-4, atol=1e-11)
    np.testing.assert_allclose(tables[128].numpy(), stream[769] * 2e-4 - 1e-4, atol=1e-11)
    sine = tcnn.Network(4, 3, {"otype": "CutlassMLP", "n_neurons": 24, "n_hidden_layers": 1, "activation": "Sine"})
    first, last = sine.params.detach().split([16 * 24, 16 * 24])
    assert 0.95 * 30 / 16 < float(first.abs().max()) <= 30 / 16
    assert 0.9 * math.sqrt(6 / 24) < float(last.abs().max()) <= math.sqrt(6 / 24)


SECOND = [
    ("ReLU", "Sigmoid"),
    ("Softplus", "None"),
    ("Squareplus", "Exponential"),
    ("SiLU", "LeakyReLU"),
    ("Sine", "Softplus"),
]


@pytest.mark.parametrize(("activation", "output"), SECOND)
def test_second_order_in_inputs_and_parameters(activation: str, output: str) -> None:
    config = {"otype": "CutlassMLP", "n_neurons": 4, "n_hidden_layers": 2}
    config |= {"activation": activation, "output_activation": output}
    nested = [{**GRID, "n_dims_to_encode": 2}, {"otype": "Frequency", "n_frequencies": 1}]
    model = tcnn.NetworkWithInputEncoding(3, 2, {"otype": "Composite", "nested": nested}, config).double()
    x = ((torch.randint(1, 97, (4, 3)) + 0.37) / 97).double().requires_grad_()
    params = torch.randn(model.params.shape, dtype=torch.float64).mul_(0.5).requires_grad_()

    def f(x: Tensor, params: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"params": params}, (x,))

    assert torch.autograd.gradcheck(f, (x, params), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x, params), fast_mode=True)


def test_a_step_of_maml_and_one_of_an_eikonal_loss() -> None:
    model = tcnn.NetworkWithInputEncoding(
        3, 1, {**GRID, "interpolation": "Smoothstep"}, {**FUSED, "activation": "Softplus"}
    )
    x = torch.rand(20, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(model(x).square().mean(), model.params, create_graph=True)
    inner = torch.func.functional_call(model, {"params": model.params - 0.1 * grad}, (x,))
    (normal,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    for loss in (inner.square().mean(), (normal.norm(dim=1) - 1).square().mean()):
        (grad,) = torch.autograd.grad(loss, model.params)
        assert bool(grad.isfinite().all())
        assert int((grad != 0).sum()) > 500


@pytest.fixture(scope="module")
def model() -> tcnn.NetworkWithInputEncoding:
    return tcnn.NetworkWithInputEncoding(3, 2, GRID, FUSED)


@pytest.mark.parametrize("count", [0, 1, 17, 129])
def test_any_number_of_points(model: tcnn.NetworkWithInputEncoding, count: int) -> None:
    x = torch.rand(count, 3, requires_grad=True)
    y = model(x)
    assert y.shape == (count, 2)
    assert y.dtype == model.dtype == torch.float32
    grad_x, grad = torch.autograd.grad(y.sum(), (x, model.params))
    assert grad_x.shape == x.shape
    assert bool((grad == 0).all()) == (count == 0)
    parts = [model(x[:5]), model(x[5:])]
    torch.testing.assert_close(torch.cat(parts), y)


def test_inputs_of_any_strides_and_dtypes(model: tcnn.NetworkWithInputEncoding) -> None:
    x = torch.rand(21, 3)
    y = model(x)
    assert torch.equal(model(x.T.contiguous().T), y)
    assert torch.equal(model(torch.cat((x, x), 1)[:, 3:6]), y)
    assert torch.equal(model(x.double()), y)
    for dtype in (torch.float16, torch.bfloat16):
        low = model(x.to(dtype))
        assert low.dtype == torch.float32
        assert torch.equal(low, model(x.to(dtype).float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), y)
    half = tcnn.Encoding(3, GRID, dtype=torch.float16)
    assert half(x).dtype == half.dtype == torch.float16
    assert torch.equal(half(x), tcnn.Encoding(3, GRID)(x).half())
    assert copy.deepcopy(model).half()(x).dtype == torch.float32


BAD = [
    (torch.rand(5, 2), ValueError, r"x must have shape \[N, n_input_dims\] = \[\*, 3\], got \[5, 2\]"),
    (torch.rand(3), ValueError, r"x must have shape \[N, n_input_dims\]"),
    (torch.ones(5, 3, dtype=torch.int64), TypeError, "x must have dtype .*torch.int64"),
    ([[0.0, 0.0, 0.0]], TypeError, r"x must be a tensor \[N, n_input_dims\], got list"),
    (torch.empty(5, 3, device="meta"), ValueError, "x must be on cpu .*got meta"),
]


@pytest.mark.parametrize(("x", "error", "text"), BAD)
def test_refused_inputs(model: tcnn.NetworkWithInputEncoding, x: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        model(x)


CONFIGS = [
    ({**FUSED, "n_neurons": 48}, "n_neurons of FullyFusedMLP must be 16, 32, 64 or 128 .*got 48"),
    ({**FUSED, "n_hidden_layers": 0}, "n_hidden_layers must be an int of at least 1, got 0"),
    ({**FUSED, "activation": "GELU"}, "activation must be one of None, ReLU, .*got 'GELU'"),
    ({**FUSED, "output_activation": None}, "output_activation must be one of .*got None"),
    ({**FUSED, "n_layers": 2}, "keys must be among .*got 'n_layers' as well"),
    ({**FUSED, "otype": "SIREN"}, "otype must be one of CutlassMLP, MLP, FullyFusedMLP, MegakernelMLP, got 'SIREN'"),
]


@pytest.mark.parametrize(("config", "text"), CONFIGS)
def test_refused_configs(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"network_config: {text}"):
        tcnn.Network(3, 2, config)


def test_copies_and_files(model: tcnn.NetworkWithInputEncoding) -> None:
    x = torch.rand(9, 3)
    y = model(x)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)):
        assert torch.equal(again(x), y)
        assert again.params is not model.params
    assert list(model.state_dict()) == ["params"]
    other = tcnn.NetworkWithInputEncoding(3, 2, GRID, FUSED, seed=1)
    assert not torch.equal(other(x), y)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), y)
    assert "n_input_dims=3, n_output_dims=2, seed=1337" in repr(model)


def test_what_users_call(model: tcnn.NetworkWithInputEncoding) -> None:
    tcnn.free_temporary_memory()
    model.jit_fusion = tcnn.supports_jit_fusion()
    assert (model.jit_fusion, model.loss_scale, model.seed) == (False, 1.0, 1337)
    assert (model.n_input_dims, model.n_output_dims) == (3, 2)
    assert model.encoding_config == GRID
    assert model.network_config == FUSED
    assert isinstance(model, tcnn.Module)
    assert isinstance(model.params, torch.nn.Parameter)


def test_a_model_learns() -> None:
    torch.manual_seed(0)
    model = tcnn.NetworkWithInputEncoding(2, 1, {**GRID, "log2_hashmap_size": 10}, FUSED)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        x = torch.rand(256, 2)
        loss = (model(x)[:, 0] - (6 * x).sin().prod(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def stand_in() -> types.ModuleType:
    """A package with the real one's classes, as far as the backend uses them."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, params: Tensor) -> Tensor:
            ctx.save_for_backward(x, params)
            return (x.sum(1, keepdim=True) * params.sum() ** 2).half()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            x, params = ctx.saved_tensors
            grad = grad.float()
            both = (grad * x.sum(1, keepdim=True)).sum() * 2 * params.sum()
            return (grad * params.sum() ** 2).expand_as(x), both.expand_as(params)

    class Network(torch.nn.Module):
        def __init__(self, n_input_dims: int, n_output_dims: int, network_config: Any, seed: int = 1337) -> None:
            super().__init__()
            self.dtype, self.loss_scale = torch.float16, 128.0
            count = 16 * 16 * 3
            self.params = torch.nn.Parameter(torch.full((count,), 1 / count))

        def forward(self, x: Tensor) -> Tensor:
            return Function.apply(x, self.params)

    package = types.ModuleType("tinycudann")
    package.Network = Network
    return package


def test_the_real_package_as_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", stand_in())
    model = tcnn.Network(3, 1, FUSED, backend="tinycudann")
    assert model.dtype == torch.float16
    assert model.loss_scale == 128.0
    assert list(model.state_dict()) == ["params"]
    x = torch.rand(5, 3, requires_grad=True)
    y = model(x)
    torch.testing.assert_close(y, x.sum(1, keepdim=True).half())
    grad_x, grad = torch.autograd.grad(y.float().sum(), (x, model.params), create_graph=True)
    torch.testing.assert_close(grad, 2 * x.sum().expand_as(grad))
    torch.autograd.grad(grad_x.square().sum(), model.params, retain_graph=True, allow_unused=True)  # its own business
    with pytest.raises(BackendError, match="leaves out the derivative of the gradient of params"):
        torch.autograd.grad(grad.square().sum(), model.params)
    with pytest.raises(ValueError, match="n_neurons"):  # configs are read here first
        tcnn.Network(3, 1, {**FUSED, "n_neurons": 48}, backend="tinycudann")
    with pytest.raises(RuntimeError, match="must have 1024 numbers, got 768"):
        tcnn.Network(3, 1, {**FUSED, "n_hidden_layers": 3}, backend="tinycudann")


def test_the_real_package_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(BackendError, match=r"backend 'tinycudann' can't serve: .*take backend='auto'"):
        tcnn.Network(3, 1, FUSED, backend="tinycudann")


@pytest.mark.parametrize("name", ["modules", "config", "encodings", "grid", "harmonics", "initial", "build"])
def test_the_examples_of_docstrings_run(name: str) -> None:
    module = importlib.import_module(f"mclnf_fast.compat.tinycudann.{name}")
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0
