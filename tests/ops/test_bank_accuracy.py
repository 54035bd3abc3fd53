"""Accuracy of the vectorised elementary functions, read through the op: a network of one layer that is the
identity.

Measured with AVX-512, AVX2 and the portable kernels, over 20 million arguments of either sign between the
subnormal numbers and the largest, in units in the last place: exp 1.06, softplus 2.52, tanh 2.49, sigmoid
2.57, sine 1.56 (up to 2^28 by our own reduction, beyond it by the library's). The bounds below are these,
rounded up.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mclnf_fast as mf

BOUNDS = {"exp": 1.25, "softplus": 2.75, "tanh": 2.75, "sigmoid": 3.0, "sine": 1.75}
TRUTH = {
    "exp": torch.exp,
    "softplus": lambda z: z.clamp(min=0) + torch.log1p(torch.exp(-z.abs())),
    "tanh": torch.tanh,
    "sigmoid": lambda z: torch.where(z < 0, z.exp(), 1.0) / (1 + torch.exp(-z.abs())),
    "sine": torch.sin,
}


def through_op(activation: str, z: Tensor) -> Tensor:
    spec = mf.FieldSpec(1, 1, 1, 0, output_activation=activation, w0=1.0)
    one, zero = [torch.ones(1, 1, 1)], [torch.zeros(1, 1)]
    return mf.ops.bank_mlp(z[:, None], torch.tensor([0, len(z)]), one, zero, spec, "cpu")[:, 0]


def worst_ulps(activation: str, z: Tensor) -> float:
    """The largest error in units in the last place; where the truth overflows float32 the result must as
    well."""
    y, truth = through_op(activation, z), TRUTH[activation](z.double())
    finite = truth.float().isfinite()
    assert torch.equal(y[~finite], truth.float()[~finite])
    exponent = torch.frexp(truth.abs().clamp(min=2.0**-126))[1] - 24  # subnormal results share one unit
    unit = torch.ldexp(torch.ones_like(truth), exponent)
    return float(((y.double() - truth).abs() / unit)[finite].max())


def every(step: int) -> Tensor:
    """Every `step`-th float32 from 0 to the largest, and its negative."""
    bits = torch.arange(0, 0x7F800000, step, dtype=torch.int32).view(torch.float32)
    return torch.cat((bits, -bits))


@pytest.mark.parametrize("activation", BOUNDS)
def test_over_all_floats(need, activation: str) -> None:
    need("bank_mlp", "cpu")
    assert worst_ulps(activation, every(2111)) <= BOUNDS[activation]


@pytest.mark.parametrize("activation", BOUNDS)
def test_where_the_values_are(need, activation: str) -> None:
    need("bank_mlp", "cpu")
    assert worst_ulps(activation, torch.linspace(-110, 95, 400_001)) <= BOUNDS[activation]
    assert worst_ulps(activation, torch.linspace(-2, 2, 400_001)) <= BOUNDS[activation]


def test_huge_arguments_of_sine(need) -> None:
    need("bank_mlp", "cpu")
    assert worst_ulps("sine", torch.linspace(-1e6, 1e6, 400_001)) <= BOUNDS["sine"]
    # Next to multiples of pi/2 almost every bit cancels.
    near = (torch.arange(1, 600_000, dtype=torch.float64) * (math.pi / 2)).float()
    assert worst_ulps("sine", torch.cat((near, -near))) <= BOUNDS["sine"]
    edge = torch.tensor([2.0**28, 2.0**28 + 32, 1e9, 1e20, 3.4e38])
    assert worst_ulps("sine", torch.cat((edge, -edge))) <= BOUNDS["sine"]


@pytest.mark.parametrize("activation", BOUNDS)
def test_infinity_and_nan(need, activation: str) -> None:
    need("bank_mlp", "cpu")
    # The product with the weight and the sum with the bias keep these as they are.
    ends = through_op(activation, torch.tensor([math.inf, -math.inf, math.nan]))
    want = TRUTH[activation](torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64)).float()
    torch.testing.assert_close(ends, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("w0", [30.0, 200.0])
def test_frequencies_of_a_sine_layer_and_an_encoding(need, w0: float) -> None:
    """The argument is rounded to float32 once, as in PyTorch; nothing else is lost."""
    need("bank_mlp", "cpu")
    z = torch.linspace(-40, 40, 100_001)[:, None]
    offsets, weights, biases = torch.tensor([0, len(z)]), [torch.ones(1, 1, 1)], [torch.zeros(1, 1)]
    layer = mf.FieldSpec(1, 1, 1, 0, output_activation="sine", w0=w0)
    y = mf.ops.bank_mlp(z, offsets, weights, biases, layer, "cpu")
    torch.testing.assert_close(y, torch.sin((w0 * z).double()).float(), rtol=0, atol=1.2e-7)
    encoding = mf.FieldSpec(1, 20, 1, 0, encoding=mf.Frequency(10))
    y = mf.ops.bank_mlp(z, offsets, [torch.eye(20)[None]], [torch.zeros(1, 20)], encoding, "cpu")
    for k in range(10):
        angle = (torch.tensor(2.0**k * math.pi) * z[:, 0]).double()
        torch.testing.assert_close(y[:, 2 * k], angle.sin().float(), rtol=0, atol=1.2e-7)
        torch.testing.assert_close(y[:, 2 * k + 1], angle.cos().float(), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("activation", ["none", *BOUNDS])
@pytest.mark.parametrize("huge", [1e5, 1e9, 3e38, math.inf, math.nan])
def test_a_huge_coordinate_changes_no_bit_of_other_rows(need, activation: str, huge: float) -> None:
    """Rows that lie in one vector with it, in the encoding and in the activations, forward and backward."""
    need("bank_mlp", "cpu")
    spec = mf.FieldSpec(2, 3, 24, 2, activation=activation, encoding=mf.Frequency(6, include_input=True))
    bank = mf.FieldBank(spec, 1, generator=torch.Generator().manual_seed(0))

    def results(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        y = bank(x, backend="cpu")
        return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    x = torch.rand(1, 100, 2) * 40
    extreme = x.clone()
    extreme[0, 37, 1] = huge
    others = torch.arange(100) != 37
    for result, want in zip(results(extreme), results(x), strict=True):
        torch.testing.assert_close(result[0, others], want[0, others], rtol=0, atol=0, equal_nan=True)
