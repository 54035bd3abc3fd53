"""Banks with grids: parameters, the three ways to call, modules that come and go, files, and what must be told."""

from __future__ import annotations

import copy
import pathlib
import pickle

import pytest
import torch
from torch import nn

import mclnf_fast as mf
from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldModule, encode_grids, evaluate_params, initial_parameters, split_params
from mclnf_fast.ops.bank_mlp import reference

GRID = mf.HashGrid(3, 2, 6, base=3, growth=2.0)
PLANE = mf.TriPlane(4, 5, "concat")
SPECS = {
    "hash": mf.FieldSpec(3, 4, 16, 2, encoding=GRID),
    "position_and_direction": mf.FieldSpec(
        6, 4, 16, 2, "softplus", encoding=mf.Composite(((GRID, 3), (mf.SphericalHarmonics(3), 3))), skips=(1,)
    ),
    "two_grids": mf.FieldSpec(
        6, 3, 8, 1, "sine", encoding=mf.Composite(((mf.Frequency(2), 1), (PLANE, 3), (GRID, 2))), w0=2.0
    ),
}
specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
backends = pytest.mark.parametrize("backend", ["reference", "cpu"])


def bank_of(spec: mf.FieldSpec, modules: int, dtype: torch.dtype = torch.float64) -> mf.FieldBank:
    """A bank whose modules differ."""
    bank = mf.FieldBank(spec, modules, dtype, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in bank.parameters():
            p += 0.3 * torch.randn(p.shape, generator=g).to(dtype)
    return bank


@specs
def test_names_shapes_and_equal_start(spec: mf.FieldSpec) -> None:
    bank = mf.FieldBank(spec, 5)
    layers, grids = len(spec.layer_shapes), len(spec.grids)
    names = [f"{kind}.{l}" for kind in ("weight", "bias") for l in range(layers)]
    assert list(dict(bank.named_parameters())) == [*names, *(f"grid.{k}" for k in range(grids))]
    for table, shape in zip(bank.grid, spec.grid_shapes):
        assert table.shape == (5, *shape)
    for p, s in zip(bank.stacked, bank.shared, strict=True):
        assert torch.equal(p, s.expand_as(p))
    assert sum(p.numel() for p in bank.parameters()) == 5 * spec.num_parameters


@specs
@backends
def test_three_ways_to_call_agree(need, spec: mf.FieldSpec, backend: str) -> None:
    need("grid_encode", backend, torch.float64)
    bank, x = bank_of(spec, 3), torch.rand(3, 5, spec.in_dim, dtype=torch.float64) * 2 - 1
    dense = bank(x, backend=backend)
    assert dense.shape == (3, 5, spec.out_dim)
    packed = bank(x.flatten(0, 1), offsets=torch.arange(4) * 5, backend=backend)
    assert torch.equal(packed.unflatten(0, (3, 5)), dense)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    ids = torch.arange(3).repeat_interleave(5)[order]
    routed = bank(x.flatten(0, 1)[order], module_ids=ids, backend=backend)
    torch.testing.assert_close(routed, packed[order])


@specs
def test_the_bank_is_its_parts(spec: mf.FieldSpec) -> None:
    """Each grid on its coordinates, then the network on the features, every part on its own."""
    bank, x = bank_of(spec, 2), torch.rand(9, spec.in_dim, dtype=torch.float64) * 2 - 1
    offsets = torch.tensor([0, 4, 9])
    pieces, start = [], 0
    items = spec.encoding.items if isinstance(spec.encoding, mf.Composite) else ((spec.encoding, spec.in_dim),)
    tables = iter(bank.grid)
    for encoding, dims in items:
        part = x[:, start : start + dims]
        if isinstance(encoding, mf.HashGrid | mf.TriPlane):
            pieces.append(mf.ops.grid_encode(part, offsets, next(tables), encoding))
        else:
            pieces.append(reference.encode(encoding, part))
        start += dims
    plain = mf.FieldSpec(
        spec.encoded_dim, spec.out_dim, spec.width, spec.hidden_layers, spec.activation, w0=spec.w0, skips=spec.skips
    )
    wanted = mf.ops.bank_mlp(torch.cat(pieces, 1), offsets, list(bank.weight), list(bank.bias), plain)
    torch.testing.assert_close(bank(x, offsets=offsets), wanted)


@specs
@backends
def test_gradients_of_everything(need, spec: mf.FieldSpec, backend: str) -> None:
    need("grid_encode", backend, torch.float64)
    bank, x = bank_of(spec, 2), torch.rand(7, spec.in_dim, dtype=torch.float64) * 1.8 - 0.9
    leaves = (x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in bank.stacked))

    def f(x: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        return evaluate_params(params, spec, x, torch.tensor([0, 4, 7]), backend)

    assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
    if spec.activation != "relu":
        assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("modules", [0, 1, 3])
@specs
def test_append_and_modules(spec: mf.FieldSpec, modules: int) -> None:
    bank = bank_of(spec, modules)
    before = [p.detach().clone() for p in bank.stacked]
    assert bank.append() == modules
    for old, new, shared in zip(before, bank.stacked, bank.shared, strict=True):
        assert torch.equal(new[:modules], old)
        assert torch.equal(new[modules:], shared)
        assert new.requires_grad
    donor = bank_of(spec, 1).to_module(0)
    bank.append(donor)
    x = torch.rand(modules + 2, 6, spec.in_dim, dtype=torch.float64) * 2 - 1
    y = bank(x)
    torch.testing.assert_close(y[modules + 1], donor(x[modules + 1]))
    torch.testing.assert_close(donor(x[0].reshape(2, 3, -1)), donor(x[0]).reshape(2, 3, -1))
    alone = [bank.to_module(i) for i in range(modules + 2)]
    for i, module in enumerate(alone):
        torch.testing.assert_close(module(x[i]), y[i])
    again = mf.FieldBank.from_modules(alone)
    assert again.spec == spec
    assert all(map(torch.equal, again.stacked, bank.stacked))


def test_from_modules_of_other_code() -> None:
    class Other(nn.Module):
        def __init__(self, entries: int, features: int) -> None:
            super().__init__()
            self.grid = nn.ParameterList([torch.randn(entries, features)])
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, features: torch.Tensor) -> torch.Tensor:  # of the grid, which it doesn't look up itself
            return self.net(features)

    spec = mf.FieldSpec(2, 3, 8, 1, encoding=GRID)
    entries = GRID.layout(2).entries
    others = [Other(entries, 2) for _ in range(2)]
    bank = mf.FieldBank.from_modules(others, spec)
    assert torch.equal(bank.grid[0], torch.stack([o.grid[0] for o in others]))
    with pytest.raises(ValueError, match=r"modules\[0\]: grid\[0\] must have shape .*got \[4, 2\]"):
        mf.FieldBank.from_modules([Other(4, 2)], spec)
    with pytest.raises(ValueError, match=r"modules\[0\] must have 1 tensors in `grid`, got 0"):
        mf.FieldBank.from_modules([others[0].net], spec)


@specs
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_files_state_and_copies(tmp_path: pathlib.Path, spec: mf.FieldSpec, dtype: torch.dtype) -> None:
    bank, x = bank_of(spec, 2, dtype), torch.rand(2, 4, spec.in_dim).to(dtype)
    y = bank(x)
    assert y.dtype == dtype
    mf.save_bank(tmp_path / "bank", bank)
    again = mf.load_bank(tmp_path / "bank", spec)
    other = mf.FieldBank(spec, 2, dtype)
    other.load_state_dict(bank.state_dict())
    for found in (again, other, copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        assert torch.equal(found(x), y)
        assert all(map(torch.equal, found.shared, bank.shared))
    module = pickle.loads(pickle.dumps(bank.to_module(1)))
    assert isinstance(module, FieldModule)
    assert set(dict(module.named_parameters())) >= {f"grid.{k}" for k in range(len(spec.grids))}
    state = {k: v for k, v in bank.state_dict().items() if not k.startswith("shared")}
    kept = [s.clone() for s in other.shared]
    other.load_state_dict(state)
    assert all(map(torch.equal, other.shared, kept))
    with pytest.raises(InputError, match="must have the architecture"):
        mf.load_bank(tmp_path / "bank", mf.FieldSpec(3, 4, 16, 2))


def test_initialization() -> None:
    def tables(encoding: mf.spec.Encoding) -> torch.Tensor:
        return initial_parameters(mf.FieldSpec(3, 1, encoding=encoding))[-1]

    table = tables(mf.HashGrid(2, 2, 10))
    assert 0.95e-4 < float(table.abs().max()) <= 1e-4
    assert abs(float(table.mean())) < 1e-5
    for reduce in ("sum", "concat"):
        table = tables(mf.TriPlane(8, 16, reduce))
        assert 0.095 < float(table.abs().max()) <= 0.1
    table = tables(mf.TriPlane(8, 16, "product"))
    assert 0.1 <= float(table.min()) < 0.105
    assert 0.495 < float(table.max()) <= 0.5
    # Nothing about a field's network changes by the grid in front of it.
    g = [torch.Generator().manual_seed(5) for _ in range(2)]
    with_grid = initial_parameters(SPECS["hash"], generator=g[0])
    assert all(map(torch.equal, with_grid[:-1], initial_parameters(SPECS["hash"].mlp, generator=g[1])))


@specs
def test_errors_of_ops_on_the_network_alone_name_the_remedy(spec: mf.FieldSpec) -> None:
    bank = bank_of(spec, 1)
    x, offsets = torch.rand(4, spec.in_dim, dtype=torch.float64), torch.tensor([0, 4])
    weights, biases, tables = split_params(bank.stacked, spec)
    grad_y = torch.ones(4, spec.out_dim, dtype=torch.float64)
    text = r"spec must have no learned grid, got one with .*mf.ops.grid_encode .*spec.mlp"
    with pytest.raises(ValueError, match=text):
        mf.ops.bank_mlp(x, offsets, weights, biases, spec)
    with pytest.raises(ValueError, match=text):
        mf.ops.fisher_scores(x, offsets, weights, biases, grad_y, None, spec)
    features = encode_grids(x, offsets, tables, spec)
    assert mf.ops.fisher_scores(features, offsets, weights, biases, grad_y, None, spec.mlp).scores.shape == (4,)


def test_refused_arguments() -> None:
    spec = SPECS["hash"]
    bank, x, offsets = bank_of(spec, 1), torch.rand(4, 3, dtype=torch.float64), torch.tensor([0, 4])
    with pytest.raises(ValueError, match=r"params must hold 7 tensors \(3 weights, 3 biases, 1 tables\), got 6"):
        evaluate_params(bank.stacked[:-1], spec, x, offsets)
    with pytest.raises(ValueError, match=r"x must have shape \[N, in_dim\] = \[\*, 3\], got \[4, 4\]"):
        bank(torch.rand(4, 4, dtype=torch.float64), offsets=offsets)
    with pytest.raises(ValueError, match=r"init must hold 7 tensors \(weights, biases, tables\), got 6"):
        mf.FieldBank(spec, 1, init=bank.shared[:-1])
    with pytest.raises(ValueError, match=r"state\[6\] must have shape"):
        bank.append((*bank.shared[:-1], bank.shared[-1][:, 1:]))


def test_compiles_whole(need) -> None:
    need("grid_encode", "cpu")
    bank = bank_of(SPECS["position_and_direction"], 2, torch.float32)
    x, offsets = torch.rand(8, 6), torch.tensor([0, 3, 8])
    compiled = torch.compile(bank, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, offsets=offsets), bank(x, offsets=offsets))
    with torch.autocast("cpu", torch.bfloat16):
        low = bank(x, offsets=offsets)
    assert low.dtype == torch.float32  # that of x
    assert not torch.equal(low, bank(x, offsets=offsets))
    torch.testing.assert_close(low, bank(x, offsets=offsets), rtol=0.05, atol=0.05)
