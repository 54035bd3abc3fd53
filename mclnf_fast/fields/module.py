"""One module of a bank as an ordinary torch module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mclnf_fast.fields.functional import encode_grids
from mclnf_fast.ops import activate, encode
from mclnf_fast.spec import FieldSpec


class FieldModule(nn.Module):
    """A field of `torch.nn.Linear` layers: one module of a bank, for code without banks.

    The tables of grids are the parameters `grid.<k>` [entries, features].

    Example:
        >>> module = FieldModule(FieldSpec(2, 3, hidden_layers=0), [torch.zeros(2, 3), torch.ones(3)])
        >>> module(torch.rand(5, 2)).sum()
        tensor(15., grad_fn=<SumBackward0>)
    """

    def __init__(self, spec: FieldSpec, parameters: Sequence[Tensor]) -> None:
        """Copy `parameters`: weights [in, out] of every layer, biases [out], then tables [entries, features]."""
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
        self.grid = nn.ParameterList([nn.Parameter(t.detach().clone()) for t in parameters[2 * count :]])

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate x [..., in_dim] -> [..., out_dim]."""
        spec = self.spec
        if spec.grids:
            points = x.reshape(-1, spec.in_dim)
            whole = torch.tensor([0, points.shape[0]], device=x.device)
            features = encode_grids(points, whole, [t[None] for t in self.grid], spec)
            x = features.unflatten(0, x.shape[:-1])
        encoded = h = encode(spec.mlp.encoding, x)
        last = spec.hidden_layers
        for l, layer in enumerate(self.layers):
            if l in spec.skips:
                h = torch.cat((h, encoded), -1)
            h = activate(spec.output_activation if l == last else spec.activation, layer(h), spec.w0)
        return h
