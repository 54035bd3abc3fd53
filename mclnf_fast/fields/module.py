"""One module of a bank as an ordinary torch module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mclnf_fast.ops.bank_mlp.reference import activate, encode
from mclnf_fast.spec import FieldSpec


class FieldModule(nn.Module):
    """A field of `torch.nn.Linear` layers: one module of a bank, for code that knows nothing of banks."""

    def __init__(self, spec: FieldSpec, parameters: Sequence[Tensor]) -> None:
        """`parameters`: weights [in, out] of every layer, then biases [out]; copied."""
        super().__init__()
        self.spec = spec
        count = len(spec.layer_shapes)
        self.layers = nn.ModuleList()
        for weight, bias in zip(parameters[:count], parameters[count:]):
            layer = nn.Linear(weight.shape[0], weight.shape[1], device=weight.device, dtype=weight.dtype)
            with torch.no_grad():
                layer.weight.copy_(weight.T)
                layer.bias.copy_(bias)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_dim] -> [..., out_dim]."""
        encoded = h = encode(self.spec.encoding, x)
        last = self.spec.hidden_layers
        for l, layer in enumerate(self.layers):
            if l in self.spec.skips:
                h = torch.cat((h, encoded), -1)
            h = activate(self.spec.output_activation if l == last else self.spec.activation, layer(h), self.spec.w0)
        return h

    @staticmethod
    def read(module: nn.Module, spec: FieldSpec) -> tuple[Tensor, ...]:
        """The Linear layers of any module, in order, as weights [1, in, out], then biases [1, out] (copies).

        Raises ValueError where they do not fit the spec.
        """
        linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
        if len(linear) != len(spec.layer_shapes):
            raise ValueError(f"a module must have {len(spec.layer_shapes)} Linear layers, got {len(linear)}")
        weights, biases = [], []
        for l, (layer, shape) in enumerate(zip(linear, spec.layer_shapes)):
            if (layer.in_features, layer.out_features) != shape:
                got = (layer.in_features, layer.out_features)
                raise ValueError(f"layer {l} must be Linear{shape}, got Linear{got}")
            weights.append(layer.weight.detach().T.clone()[None])
            bias = layer.bias.detach() if layer.bias is not None else weights[-1].new_zeros(shape[1])
            biases.append(bias.clone()[None])
        return (*weights, *biases)
