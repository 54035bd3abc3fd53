"""Networks of ordinary torch modules as parameters of a bank: their layers, their architecture, and whether a bank
computes the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mclnf_fast.checks import check_tensor
from mclnf_fast.fields.functional import encode_grids, evaluate_params
from mclnf_fast.fields.module import FieldModule
from mclnf_fast.ops import encode
from mclnf_fast.spec import FieldSpec

POINTS = 64  # at which a module and a bank are compared
TOLERANCE = 1e-6  # of the largest output: both are evaluated in float64


def read_module(module: nn.Module, spec: FieldSpec, name: str = "module", check: bool = True) -> tuple[Tensor, ...]:
    """Return `read_layers` of a module that computes what a bank of the architecture does (`check_same_function`).

    >>> len(read_module(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)), FieldSpec(2, 3, 8, 1)))
    4
    """
    tensors = read_layers(module, spec, name)
    if check and not (type(module) is FieldModule and module.spec == spec):
        check_same_function(module, spec, tensors, name)
    return tensors


def read_layers(module: nn.Module, spec: FieldSpec, name: str = "module") -> tuple[Tensor, ...]:
    """Return the Linear layers of any module, in order, as weights [1, in, out], then biases [1, out]; then the tensors
    of its `grid`, if the spec has grids, as tables [1, entries, features] (copies).

    Raises TypeError, ValueError if they do not fit the spec; `name` is the argument's in the message.

    >>> tensors = read_layers(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)), FieldSpec(2, 3, 8, 1))
    >>> [list(t.shape) for t in tensors]
    [[1, 2, 8], [1, 8, 3], [1, 8], [1, 3]]
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


def spec_of(module: nn.Module, name: str = "module") -> FieldSpec:
    """Return the architecture of a module: the `spec` that it carries, or that of an `nn.Sequential` of Linear layers
    with one activation between them and at most one behind.

    Raises ValueError if it is neither, or no architecture of a bank; `name` is the argument's in the message.

    >>> spec_of(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)))
    FieldSpec(in_dim=2, out_dim=3, width=8, hidden_layers=1, activation='tanh', output_activation='none', ...)
    """
    if isinstance(carried := getattr(module, "spec", None), FieldSpec):
        return carried
    if not isinstance(module, nn.Sequential) or not len(module) or not isinstance(module[0], nn.Linear):
        raise ValueError(f"spec must be given: {name} is no nn.Sequential that begins with a Linear layer")
    layers: list[nn.Linear] = []
    after: list[str] = []  # of each layer, its activation
    for k, child in enumerate(module):
        if isinstance(child, nn.Linear):
            layers.append(child)
            after.append("none")
        elif after[-1] == "none":
            after[-1] = _activation(child, f"{name}[{k}]")
        else:
            raise ValueError(f"{name}[{k}] must be a Linear layer behind an activation, got {child}")
    hidden = set(after[:-1]) or {"relu"}
    widths = {layer.out_features for layer in layers[:-1]} or {64}
    for what, values in (("activation between the layers", hidden), ("width of the hidden layers", widths)):
        if len(values) > 1:
            raise ValueError(f"{name} must have one {what}, got {', '.join(map(str, sorted(values)))}")
    return FieldSpec(
        layers[0].in_features,
        layers[-1].out_features,
        width=widths.pop(),
        hidden_layers=len(layers) - 1,
        activation=hidden.pop(),
        output_activation=after[-1],
    )


ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Softplus: "softplus",
    nn.Identity: "none",
}


def _activation(module: nn.Module, name: str) -> str:
    known = ACTIVATION_MODULES.get(type(module))
    if known is None or (isinstance(module, nn.Softplus) and module.beta != 1):
        names = ", ".join(kind.__name__ for kind in ACTIVATION_MODULES)
        raise ValueError(
            f"{name} must be Linear or an activation of a bank ({names}; Softplus of beta 1), got {module}"
        )
    return known


@torch.no_grad()
def check_same_function(module: nn.Module, spec: FieldSpec, tensors: Sequence[Tensor], name: str = "module") -> None:
    """Raise ValueError if a network of a bank does not compute what the module does, at random points in [-1, 1].

    The module is called with coordinates [N, in_dim], or with what the encoding makes of them, [N, encoded_dim], if it
    takes no coordinates. Both are evaluated in float64.

    Args:
        module: any module; a copy of it is called.
        spec: the architecture.
        tensors: its parameters as `read_layers` returns them.
        name: of the argument, for the message.

    >>> module = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> check_same_function(module, spec := FieldSpec(2, 3, 8, 1, "tanh"), read_layers(module, spec))
    """
    if any(t.device.type == "meta" for t in tensors):
        return  # it has no values
    unit = torch.rand(POINTS, spec.in_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, whole = unit * 2 - 1, torch.tensor([0, POINTS])
    wide = [t.to("cpu", torch.float64) for t in tensors]
    expected = evaluate_params(wide, spec, x, whole)
    features = encode(spec.mlp.encoding, encode_grids(x, whole, wide[2 * len(spec.layer_shapes) :], spec))
    copied, got, refused = copy.deepcopy(module).to("cpu", torch.float64), None, None
    for points in (x, features):
        try:
            got = copied(points)
            break
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
            refused = error
    takes = f"points [N, {spec.in_dim}]" + (f" or [N, {spec.encoded_dim}]" if spec.encoded_dim != spec.in_dim else "")
    if not isinstance(got, Tensor):
        why = f"calling it raised {refused!r:.200}" if got is None else f"it returned {type(got).__name__}"
        raise ValueError(f"{name} must take {takes}, so that a bank's network can be compared with it, but {why}")
    if got.shape != expected.shape:
        raise ValueError(f"{name} must return {list(expected.shape)} for {takes}, got {list(got.shape)}")
    difference = float((got - expected).abs().max() / expected.abs().max().clamp_min(1.0))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{name} must compute what {spec} does, got outputs that differ by {difference:.2g} of the largest, at "
            f"random points: a bank has Linear layers, one activation between them and an encoding in front, no "
            f"normalization, no dropout and no other skips"
        )


def read_stacked(state: Mapping[str, Tensor], spec: FieldSpec, name: str = "state") -> tuple[Tensor, ...]:
    """Return the parameters of a bank from `torch.func.stack_module_state`'s dict: weights [M, in, out], then biases
    [M, out], then the tables of grids.

    Args:
        state: of every Linear layer, in order, `<layer>.weight` [M, out, in] and `<layer>.bias` [M, out] (zeros if it
            is missing); of every grid `grid.<k>` [M, entries, features].
        spec: the architecture.
        name: of the argument, for the message.

    Raises:
        TypeError, ValueError: the tensors do not fit the spec.

    >>> modules = [nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(4)]
    >>> state, _ = torch.func.stack_module_state(modules)
    >>> [list(t.shape) for t in read_stacked(state, FieldSpec(2, 3, 8, 1))]
    [[4, 2, 8], [4, 8, 3], [4, 8], [4, 3]]
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{name} must map names to tensors, got {type(state).__name__}")
    layers = [key.removesuffix("weight") for key in state if key == "weight" or key.endswith(".weight")]
    shapes, known = spec.layer_shapes, {f"{layer}{part}" for layer in layers for part in ("weight", "bias")}
    grids = [f"grid.{k}" for k in range(len(spec.grids))]
    if unknown := [key for key in state if key not in known and key not in grids]:
        raise ValueError(f"{name} must hold weights, biases and grids alone, got {', '.join(unknown)}")
    if len(layers) != len(shapes):
        raise ValueError(f"{name} must have the weights of {len(shapes)} layers, got {', '.join(layers) or 'none'}")
    modules, weights, biases, tables = None, [], [], []
    for layer, (rows, columns) in zip(layers, shapes):
        weight = state[f"{layer}weight"]
        check_tensor(f"{name}[{layer}weight]", weight, (modules, columns, rows), what=f"[M, {columns}, {rows}]")
        modules = weight.shape[0]
        bias = state.get(f"{layer}bias")
        if bias is not None:
            check_tensor(f"{name}[{layer}bias]", bias, (modules, columns), weight.dtype, weight.device)
        weights.append(weight.detach().transpose(1, 2).contiguous())
        biases.append(weight.new_zeros(modules, columns) if bias is None else bias.detach().clone())
    for key, shape in zip(grids, spec.grid_shapes):
        if key not in state:
            raise ValueError(f"{name} must have the tables {', '.join(grids)}, got none of the name {key}")
        check_tensor(f"{name}[{key}]", state[key], (modules, *shape), weights[0].dtype, weights[0].device)
        tables.append(state[key].detach().clone())
    return (*weights, *biases, *tables)
