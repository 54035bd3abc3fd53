"""Banks for the tests of the ops: parameters of a sensible size, points, and the rule for how close is
close."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import mclnf_fast as mf

ENCODINGS: dict[str, tuple[int, mf.spec.Encoding]] = {
    "identity": (3, mf.Identity()),
    "frequency": (2, mf.Frequency(3, include_input=True, scale=1.0)),
    "frequency_pi": (3, mf.Frequency(2)),
    "log_frequency": (2, mf.LogFrequency(3, 2.0)),
    "spherical": (3, mf.SphericalHarmonics(4)),
    "composite": (
        6,
        mf.Composite(((mf.Frequency(2, True), 2), (mf.Identity(), 1), (mf.SphericalHarmonics(3), 3))),
    ),
}
ACTIVATIONS = ("relu", "sine", "softplus", "tanh", "sigmoid", "exp")


@dataclasses.dataclass
class Case:
    """One bank and its points."""

    spec: mf.FieldSpec
    x: Tensor
    offsets: Tensor
    weights: list[Tensor]
    biases: list[Tensor]

    def run(self, backend: str = "auto") -> Tensor:
        return mf.ops.bank_mlp(self.x, self.offsets, self.weights, self.biases, self.spec, backend=backend)

    def to(self, dtype: torch.dtype) -> Case:
        cast = [[t.detach().to(dtype) for t in tensors] for tensors in (self.weights, self.biases)]
        return Case(self.spec, self.x.detach().to(dtype), self.offsets, *cast)

    def mixed(self, dtype: torch.dtype) -> Case:
        """The same with weights of a half type behind the first layer."""
        case = self.to(self.x.dtype)
        case.weights[1:] = [w.to(dtype) for w in case.weights[1:]]
        return case

    def all_mixed(self, dtype: torch.dtype) -> Case:
        """The same with all parameters of another dtype beside unrounded points."""
        return dataclasses.replace(self.to(dtype), x=self.x.detach().clone())

    def on(self, device: str) -> Case:
        """The same on another device."""
        put = [[t.detach().to(device) for t in tensors] for tensors in (self.weights, self.biases)]
        return Case(self.spec, self.x.detach().to(device), self.offsets.to(device), *put)

    def require(self, x: bool = True, parameters: bool = True) -> Case:
        self.x.requires_grad_(x)
        for t in (*self.weights, *self.biases):
            t.requires_grad_(parameters)
        return self

    @property
    def leaves(self) -> list[Tensor]:
        return [t for t in (self.x, *self.weights, *self.biases) if t.requires_grad]


def make(spec: mf.FieldSpec, counts: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Case:
    """Random parameters that keep activations near 1, and `counts[m]` points for module m."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=g).to(dtype)

    m = len(counts)
    weights = [normal(m, *s) * s[0] ** -0.5 for s in spec.layer_shapes]
    biases = [0.3 * normal(m, s[1]) for s in spec.layer_shapes]
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return Case(spec, normal(sum(counts), spec.in_dim) * 0.5, offsets, weights, biases)


def spread(points: int, modules: int) -> list[int]:
    """Uneven shares that add up to `points`; the first of several modules is empty."""
    if modules == 1:
        return [points]
    share = [0] + [(points * (k % 3 + 1)) // (3 * modules) for k in range(1, modules - 1)]
    return [*share, points - sum(share)]


def rms(t: Tensor) -> float:
    return float(t.detach().double().square().mean().sqrt())


def assert_no_worse(found: Tensor, same_dtype: Tensor, truth: Tensor, name: str = "", terms: int = 1) -> None:
    """The error against float64 is at most twice that of the reference in the same dtype, plus its rounding.

    Root mean squares, since the largest of a few hundred rounding errors is a matter of luck; one wrong
    element among ten thousand is still a thousand times over. The rounding is two units in the last place:
    the reference may be right by luck.
    """
    assert found.shape == truth.shape, f"{name}: {found.shape} is not {truth.shape}"
    assert found.dtype == same_dtype.dtype, f"{name}: dtype {found.dtype}"
    if truth.numel() == 0:
        return
    allowed = 2 * rms(same_dtype.double() - truth) + (2 + terms**0.5 / 4) * torch.finfo(found.dtype).eps * rms(truth)
    error = rms(found.double() - truth)
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g} (values {rms(truth):.3g})"


def nearest(t: Tensor) -> Tensor:
    """The nearest numbers of 10 bits behind the leading one, halves away from zero."""
    bits = t.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & -0x2000).view(torch.float32).to(t.dtype)


class Product(torch.autograd.Function):
    """a b of rounded operands, and its derivatives as such products, to any order.

    A letter names what an index counts: n points, i inputs of a layer, o outputs. The last `features` inputs of points
    are not rounded.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, of_a: str, of_b: str, features: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.names = of_a, of_b, features

        def operand(t: Tensor, names: str) -> Tensor:
            kept = features if names in ("ni", "in") else 0
            axis = names.find("i") - 2
            size = t.shape[axis] - kept if kept else 0
            return (
                torch.cat((nearest(t.narrow(axis, 0, size)), t.narrow(axis, size, kept)), axis) if kept else nearest(t)
            )

        return torch.matmul(operand(a, of_a), operand(b, of_b))  # not `@`, which `Rounded` would take

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        of_a, of_b, features = ctx.names
        of_g = of_a[0] + of_b[1]
        grad_a = Product.apply(g, b.mT, of_g, of_b[::-1], features)
        return grad_a, Product.apply(a.mT, g, of_a[::-1], of_g, features), None, None, None


class Rounded(TorchFunctionMode):
    """The products of a reference of this field, of operands rounded as tf32 rounds them; the features of the encoding,
    and so the coordinates, are not."""

    def __init__(self, spec: mf.FieldSpec) -> None:
        super().__init__()
        self.spec, self.products = spec, 0

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.matmul:  # as `@` is known here, once a layer, layer by layer
            layer = self.products % (self.spec.hidden_layers + 1)
            self.products += 1
            features = self.spec.encoded_dim if layer == 0 or layer in self.spec.skips else 0
            return Product.apply(*args, "ni", "io", features)
        return function(*args, **(kwargs or {}))
