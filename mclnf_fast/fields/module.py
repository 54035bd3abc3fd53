"""One module of a bank as an ordinary torch module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mclnf_fast.checks import check_tensor
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

    @staticmethod
    def read(module: nn.Module, spec: FieldSpec, name: str = "module") -> tuple[Tensor, ...]:
        """Return the Linear layers of any module, in order, as weights [1, in, out], then biases [1, out]; then the
        tensors of its `grid`, if the spec has grids, as tables [1, entries, features] (copies).

        Raises TypeError, ValueError if they do not fit the spec; `name` is the argument's in the message.
        """
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name} must be a torch.nn.Module, got {type(module).__name__}")
        linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
        if len(linear) != len(spec.layer_shapes):
            raise ValueError(f"{name} must have {len(spec.layer_shapes)} Linear layers, got {len(linear)}")
        weights, biases = [], []
        for l, (layer, shape) in enumerate(zip(linear, spec.layer_shapes)):
            if (layer.in_features, layer.out_features) != shape:
                got = (layer.in_features, layer.out_features)
                raise ValueError(f"{name}: layer {l} must be Linear{shape}, got Linear{got}")
            check_tensor(f"{name}: the weight of layer {l}", layer.weight)
            weights.append(layer.weight.detach().T.clone()[None])
            bias = layer.bias.detach() if layer.bias is not None else weights[-1].new_zeros(shape[1])
            biases.append(bias.clone()[None])
        return (*weights, *biases, *_tables(module, spec, name))


def _tables(module: nn.Module, spec: FieldSpec, name: str) -> list[Tensor]:
    tables = list(getattr(module, "grid", ())) if spec.grids else []
    if len(tables) != len(spec.grids):
        raise ValueError(f"{name} must have {len(spec.grids)} tensors in `grid`, got {len(tables)}")
    for k, (table, shape) in enumerate(zip(tables, spec.grid_shapes)):
        if tuple(table.shape) != shape:
            raise ValueError(f"{name}: grid[{k}] must have shape {list(shape)}, got {list(table.shape)}")
    return [table.detach().clone()[None] for table in tables]
