"""The networks of tiny-cuda-nn: the layers that a config describes, and their evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.compat.tinycudann.config import Config
from mclnf_fast.compat.tinycudann.encodings import Columns, next_multiple
from mclnf_fast.packing import LIMITS
from mclnf_fast.spec import FieldSpec

ALIGNMENT = 16
"""Inputs and outputs of a network are padded to a multiple of it."""

_SHARPNESS = 10.0  # of Softplus and Squareplus: a(10 z) / 10
_FUSED_WIDTHS = (16, 32, 64, 128)


def _squareplus(z: Tensor) -> Tensor:
    z = _SHARPNESS * z
    return (z + (z * z + 4).sqrt()) / (2 * _SHARPNESS)


def _softplus(z: Tensor) -> Tensor:
    # Beyond the threshold torch drops log1p(e^-50), which float64 doesn't resolve.
    return torch.nn.functional.softplus(z, beta=_SHARPNESS, threshold=50.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "None": lambda z: z,
    "ReLU": torch.relu,
    "LeakyReLU": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "SiLU": torch.nn.functional.silu,
    "Exponential": torch.exp,
    "Sine": torch.sin,
    "Sigmoid": torch.sigmoid,
    "Squareplus": _squareplus,
    "Softplus": _softplus,
    "Tanh": torch.tanh,
}

_OF_THE_BANK = {
    "None": "none",
    "ReLU": "relu",
    "Exponential": "exp",
    "Sine": "sine",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Tanh": "tanh",
}
"""The activations that `ops.bank_mlp` has, under its names; softplus at another sharpness."""


class MLP:
    """A network without biases: `n_hidden_layers` layers of `n_neurons` and an output layer.

    Its parameters are the weights [out, in] of one layer after another, row by row, with the inputs of the first and
    the outputs of the last layer padded to a multiple of `ALIGNMENT`.

    Args:
        columns: of the input, padding included.
        n_outputs: without padding.
        values: the network config.

    Raises:
        TypeError, ValueError: a wrong or unknown key or value; the message names it.
    """

    def __init__(self, columns: Columns, n_outputs: int, values: object) -> None:
        config = Config("network_config", values)
        kinds = ("CutlassMLP", "MLP", "FullyFusedMLP", "MegakernelMLP")
        fused = config.name("otype", "MLP", kinds) in ("FullyFusedMLP", "MegakernelMLP")
        width = config.whole("n_neurons", 128)
        if fused and width not in _FUSED_WIDTHS:
            rule = "16, 32, 64 or 128 (CutlassMLP takes any number)"
            raise ValueError(f"network_config: n_neurons of FullyFusedMLP must be {rule}, got {width}")
        self.hidden_layers = config.whole("n_hidden_layers", 5, least=1 if fused else 0)
        self.activation = config.name("activation", "ReLU", list(ACTIVATIONS))
        self.output_activation = config.name("output_activation", "None", list(ACTIVATIONS))
        config.close()
        self.n_outputs = n_outputs
        inner = [width] * self.hidden_layers
        sizes = [len(columns.features), *inner, next_multiple(n_outputs, ALIGNMENT)]
        self.shapes = [(rows, width) for width, rows in itertools.pairwise(sizes)]
        self.n_params = sum(rows * width for rows, width in self.shapes)
        self._columns = columns
        self._spec = self._find_spec(width)

    def _find_spec(self, width: int) -> FieldSpec | None:
        """Return the network as `ops.bank_mlp` takes it, or None if it can't."""
        if self.hidden_layers > LIMITS["hidden_layers"]:
            return None
        if self.hidden_layers > 0 and self.activation not in _OF_THE_BANK:
            return None
        return FieldSpec(
            in_dim=sum(k >= 0 for k in self._columns.features),
            out_dim=self.n_outputs,
            width=width,
            hidden_layers=self.hidden_layers,
            activation=_OF_THE_BANK[self.activation] if self.hidden_layers > 0 else "none",
            output_activation=_OF_THE_BANK.get(self.output_activation, "none"),
            w0=1.0,
        )

    def _layers(self, params: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return the weights [out, in] without padding, and the first layer's bias [out]: what constants bring."""
        shares = params.split([rows * width for rows, width in self.shapes])
        weights = [share.view(shape) for share, shape in zip(shares, self.shapes)]
        weights[-1] = weights[-1][: self.n_outputs]
        index, constants = self._columns
        live = [k for k, feature in enumerate(index) if feature >= 0]
        pads = [k for k, feature in enumerate(index) if feature < 0 and constants[k] != 0]
        whole, bias = weights[0], None
        if len(live) < len(index):
            weights[0] = whole[:, : len(live)] if live[-1] == len(live) - 1 else whole[:, live]
        if pads:
            bias = whole[:, pads] @ whole.new_tensor([constants[k] for k in pads])
        return weights, bias

    def evaluate(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        """Return the outputs [N, n_outputs] for features x [N, features]; params [n_params] of x's dtype."""
        weights, bias = self._layers(params)
        if self._spec is not None:
            return self._evaluate_bank(x, weights, bias, self._spec, backend)
        last = len(weights) - 1
        for layer, weight in enumerate(weights):
            x = torch.nn.functional.linear(x, weight, bias if layer == 0 else None)
            x = ACTIVATIONS[self.output_activation if layer == last else self.activation](x)
        return x

    def _evaluate_bank(
        self, x: Tensor, weights: list[Tensor], bias: Tensor | None, spec: FieldSpec, backend: str | None
    ) -> Tensor:
        # a(10 z) / 10 is a itself between weights that are 10 times as large and as small.
        hidden = _SHARPNESS if self.hidden_layers > 0 and self.activation == "Softplus" else 1.0
        output = _SHARPNESS if self.output_activation == "Softplus" else 1.0
        factors = [1.0] * len(weights)
        factors[0] *= hidden
        factors[-1] *= output / hidden
        scaled = [weight if f == 1.0 else weight * f for weight, f in zip(weights, factors)]
        biases = [weight.new_zeros(1, weight.shape[0]) for weight in weights]
        if bias is not None:
            biases[0] = (bias if factors[0] == 1.0 else bias * factors[0])[None]
        offsets = torch.tensor([0, x.shape[0]], device=x.device)
        y = ops.bank_mlp(x, offsets, [w.t()[None] for w in scaled], biases, spec, backend=backend)
        if output != 1.0:
            y = y / output
        return y if self.output_activation in _OF_THE_BANK else ACTIVATIONS[self.output_activation](y)
