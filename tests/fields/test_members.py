"""A bank as a sequence of modules, and modules of other code in a bank."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import mclnf_fast as mf
from mclnf_fast.fields import FieldModule, initial_parameters

SPEC = mf.FieldSpec(2, 3, 8, 2, "tanh", encoding=mf.Frequency(2))
GRIDS = mf.FieldSpec(3, 4, 8, 1, encoding=mf.TriPlane(features=2, resolution=4))


def different(spec: mf.FieldSpec = SPEC, modules: int = 5) -> mf.FieldBank:
    """A bank whose modules differ."""
    bank = mf.FieldBank(spec, modules)
    with torch.no_grad():
        for tensor in bank.parameters():
            tensor += 0.1 * torch.randn_like(tensor)
    return bank


def plain(activation: type[nn.Module] = nn.Tanh, middle: nn.Module | None = None) -> nn.Sequential:
    between = [] if middle is None else [middle]
    return nn.Sequential(nn.Linear(8, 8), activation(), *between, nn.Linear(8, 8), activation(), nn.Linear(8, 3))


@pytest.mark.parametrize("spec", [SPEC, GRIDS], ids=["frequency", "planes"])
def test_indices_slices_ids_and_masks_give_modules_and_banks(spec: mf.FieldSpec) -> None:
    bank, x = different(spec), torch.rand(5, 7, spec.in_dim)
    y = bank(x)
    assert isinstance(bank[-1], FieldModule)
    assert torch.allclose(bank[-1](x[4]), y[4], atol=1e-6)
    mask = torch.tensor([True, False, False, True, True])
    for index, rows in (
        (slice(1, 3), [1, 2]), (slice(None, None, -2), [4, 2, 0]), ([3, 3, -5], [3, 3, 0]),
        (torch.tensor([2, 1]), [2, 1]), (mask, [0, 3, 4]), ([], []), (slice(4, 1), []),
    ):  # fmt: skip
        part = bank[index]
        assert len(part) == len(rows)
        assert torch.equal(part(x[rows]), y[rows])
        assert all(map(torch.equal, part.shared, bank.shared))
    with torch.no_grad():
        bank[1:3].weight[0].zero_()  # a copy
    assert torch.equal(bank(x), y)
    assert [torch.allclose(module(x[m]), y[m], atol=1e-6) for m, module in enumerate(bank)] == [True] * 5


@pytest.mark.parametrize("spec", [SPEC, GRIDS], ids=["frequency", "planes"])
def test_an_assigned_module_is_written_in_place(spec: mf.FieldSpec) -> None:
    bank, other, x = different(spec), different(spec), torch.rand(5, 7, spec.in_dim)
    parameters, y = list(bank.parameters()), bank(x)
    bank[1] = other[3]
    bank[-1] = bank.shared
    assert all(a is b for a, b in zip(parameters, bank.parameters()))
    assert torch.equal(bank(x)[[0, 2, 3]], y[[0, 2, 3]])
    assert torch.equal(bank.stacked[0][1], other.stacked[0][3])
    assert torch.equal(bank.stacked[0][4], bank.shared[0][0])


def test_removed_modules_leave_the_others_as_they_were() -> None:
    bank, x = different(), torch.rand(5, 7, 2)
    y = bank(x)
    bank.remove(1)
    assert torch.equal(bank(x[[0, 2, 3, 4]]), y[[0, 2, 3, 4]])
    bank.remove([0, -1])
    assert torch.equal(bank(x[[2, 3]]), y[[2, 3]])
    bank.remove(slice(None))
    assert len(bank) == 0
    assert bank.append() == 0


def test_wrong_indices_are_refused_by_name() -> None:
    bank = different()
    for index, error in (
        (5, IndexError), (-6, IndexError), (True, TypeError), (1.0, TypeError), ("a", TypeError), ([0, 5], IndexError),
        ([0.5], TypeError), (torch.tensor(1), TypeError), (torch.ones(4, dtype=torch.bool), ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match=r"^index"):
            bank[index]
        with pytest.raises(error, match=r"^index"):
            bank.remove(index)
    with pytest.raises(ValueError, match="state must have 3 Linear layers"):
        bank[0] = nn.Linear(2, 3)
    with pytest.raises(TypeError, match=r"^index"):
        bank[0:2] = bank.shared


def test_independent_modules_differ_and_come_from_one_seed() -> None:
    banks = [
        mf.FieldBank(SPEC, 3, init="independent", generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    weights = [bank.weight[1].detach() for bank in banks]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert all(not torch.equal(weights[0][a], weights[0][b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(banks[0].shared[1][0], weights[0][0])
    with pytest.raises(ValueError, match="init must be"):
        mf.FieldBank(SPEC, 3, init="random")


def test_stacked_states_of_torch_go_in_and_out() -> None:
    modules = [plain() for _ in range(4)]
    state, _ = torch.func.stack_module_state(modules)
    bank = mf.FieldBank.from_stacked(state, SPEC)
    for m, module in enumerate(modules):
        inside = bank[m].layers
        assert all(torch.equal(inside[k].weight, module[2 * k].weight) for k in range(3))
    ours, buffers = bank.stack_module_state()
    theirs, _ = torch.func.stack_module_state(list(bank))
    assert buffers == {}
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].requires_grad for name in theirs)
    x = torch.rand(4, 7, 2)
    base = bank[0]
    y = torch.vmap(lambda params, x: torch.func.functional_call(base, params, (x,)))(ours, x)
    assert torch.allclose(y, bank(x), atol=1e-6)
    grids = different(GRIDS)
    again = mf.FieldBank.from_stacked(grids.stack_module_state()[0], GRIDS)
    assert all(map(torch.equal, again.stacked, grids.stacked))


def test_stacked_states_that_do_not_fit_are_refused() -> None:
    state, _ = torch.func.stack_module_state([plain() for _ in range(2)])
    for wrong, what in (
        ({k: v for k, v in state.items() if k != "4.weight"}, "must hold weights, biases and grids alone, got 4.bias"),
        ({k: v for k, v in state.items() if not k.startswith("4")}, "must have the weights of 3 layers"),
        (state | {"4.weight": state["4.weight"][:1]}, r"state\[4.weight\] must have shape"),
        (state | {"0.bias": state["0.bias"].double()}, r"state\[0.bias\] must have dtype"),
        (state | {"scale": torch.ones(2)}, "got scale"),
    ):
        with pytest.raises((ValueError, TypeError), match=what):
            mf.FieldBank.from_stacked(wrong, SPEC)
    with pytest.raises(TypeError, match="state must map names to tensors, got list"):
        mf.FieldBank.from_stacked([], SPEC)
    with pytest.raises(ValueError, match=r"none of the name grid\.0"):
        mf.FieldBank.from_stacked(
            {k: v for k, v in different(GRIDS).stack_module_state()[0].items() if "grid" not in k}, GRIDS
        )


class Coordinates(nn.Module):
    """A network with its encoding, as other code has it."""

    def __init__(self, encoding: mf.Frequency, net: nn.Module) -> None:
        super().__init__()
        self.encoding, self.net = encoding, net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(mf.ops.encode(self.encoding, x))


def test_modules_that_compute_something_else_are_refused() -> None:
    bank = mf.FieldBank.from_modules([plain(), plain()], SPEC)
    assert len(bank) == 2
    for wrong in (
        plain(nn.ReLU),
        plain(middle=nn.LayerNorm(8)),
        plain(middle=nn.Dropout(0.5)),
        nn.Sequential(plain(), nn.Tanh()),
    ):
        with pytest.raises(ValueError, match=r"modules\[1\] must compute what FieldSpec.* differ by"):
            mf.FieldBank.from_modules([plain(), wrong], SPEC)
        with pytest.raises(ValueError, match="state must compute what"):
            bank.append(wrong)
        with pytest.raises(ValueError, match="state must compute what"):
            bank[0] = wrong
        assert len(mf.FieldBank.from_modules([plain(), wrong], SPEC, check=False)) == 2
    assert len(bank) == 2
    bag = nn.Module()
    bag.layers = plain()
    with pytest.raises(ValueError, match=r"must take points \[N, 2\] or \[N, 8\].* but calling it raised"):
        mf.FieldBank.from_modules([bag], SPEC)


def test_a_module_with_its_own_encoding_is_compared_at_coordinates() -> None:
    own, x = Coordinates(SPEC.encoding, plain()), torch.rand(9, 2)
    bank = mf.FieldBank.from_modules([own], SPEC)
    assert torch.allclose(bank(x[None])[0], own(x), atol=1e-6)
    with pytest.raises(ValueError, match="must compute what"):
        mf.FieldBank.from_modules([Coordinates(mf.Frequency(2, scale=1.0), plain())], SPEC)


@pytest.mark.parametrize(
    ("activation", "name"), [(nn.ReLU(), "relu"), (nn.Sigmoid(), "sigmoid"), (nn.Softplus(), "softplus")]
)
def test_the_architecture_of_a_sequential_is_read(activation: nn.Module, name: str) -> None:
    module = nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3), nn.Sigmoid())
    bank, x = mf.FieldBank.from_modules([module]), torch.rand(9, 2)
    assert bank.spec == mf.FieldSpec(2, 3, 8, 2, name, "sigmoid")
    assert torch.allclose(bank(x[None])[0], module(x), atol=1e-6)
    assert mf.FieldBank.from_modules([nn.Sequential(nn.Linear(2, 3))]).spec.hidden_layers == 0


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.Linear(2, 3), "spec must be given"),
        (nn.Sequential(nn.ReLU(), nn.Linear(2, 3)), "spec must be given"),
        (
            nn.Sequential(nn.Linear(2, 8), nn.ELU(), nn.Linear(8, 3)),
            r"modules\[0\]\[1\] must be Linear or an activation",
        ),
        (nn.Sequential(nn.Linear(2, 8), nn.Softplus(2), nn.Linear(8, 3)), r"modules\[0\]\[1\] must be Linear or"),
        (nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.ReLU(), nn.Linear(8, 3)), "behind an activation"),
        (
            nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)),
            "one activation between the layers, got relu, tanh",
        ),
        (
            nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)),
            "one width of the hidden layers, got 4, 8",
        ),
    ],
)
def test_an_architecture_that_no_bank_has_is_named(module: nn.Module, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        mf.FieldBank.from_modules([module])


def test_a_bank_on_the_meta_device_has_shapes_alone() -> None:
    bank = mf.FieldBank(SPEC, 4, device="meta")
    assert bank(torch.empty(4, 7, 2, device="meta")).shape == (4, 7, 3)
    assert bank[1:3].weight[0].shape == (2, 8, 8)
    assert bank.append() == 4
    loaded = different().state_dict()
    bank.load_state_dict(loaded, assign=True)
    assert torch.equal(bank.weight[0], loaded["weight.0"])


def test_some_modules_of_a_file_are_read(tmp_path) -> None:
    bank, x = different(), torch.rand(5, 7, 2)
    mf.save_bank(tmp_path / "bank", bank)
    part = mf.load_bank(tmp_path / "bank", modules=[3, 0])
    assert torch.equal(part(x[[3, 0]]), bank(x)[[3, 0]])
    assert len(mf.load_bank(tmp_path / "bank", modules=slice(1, None))) == 4
    assert mf.load_bank(tmp_path / "bank", device="meta").weight[0].device.type == "meta"
    with pytest.raises(IndexError, match=r"^modules\[1\] must lie in \[0, 5\), got 5"):
        mf.load_bank(tmp_path / "bank", modules=[0, 5])


def test_plain_files_are_read_with_a_spec(tmp_path) -> None:
    bank = different()
    own = {name: tensor.detach().clone() for name, tensor in bank.named_parameters()}
    torchs = {name: tensor.detach().clone() for name, tensor in bank.stack_module_state()[0].items()}
    for k, tensors in enumerate((own, torchs)):
        save_file(tensors, tmp_path / str(k))
        loaded = mf.load_bank(tmp_path / str(k), SPEC)
        assert all(map(torch.equal, loaded.stacked, bank.stacked))
        with pytest.raises(mf.InputError, match=r"must have format mclnf_fast/1.* or be read with a spec"):
            mf.load_bank(tmp_path / str(k))
        with pytest.raises(mf.InputError, match="its tensors do not fit"):
            mf.load_bank(tmp_path / str(k), mf.FieldSpec(2, 3, 8, 1, encoding=mf.Frequency(2)))


def test_initial_parameters_are_one_draw_per_module() -> None:
    drawn = initial_parameters(SPEC, 3, generator=torch.Generator().manual_seed(0))
    bank = mf.FieldBank(SPEC, 3, init="independent", generator=torch.Generator().manual_seed(0))
    assert all(map(torch.equal, bank.stacked, drawn))


@pytest.mark.parametrize("make", [mf.optim.Adam, mf.optim.AdamW, mf.optim.SGD])
def test_optimizers_follow_modules_that_leave_and_join(make: type[torch.optim.Optimizer]) -> None:
    """Each module goes on with its own moments and steps, as if the others had never been there."""
    bank = different(modules=4)
    one, x = bank[2:3], torch.rand(4, 7, 2)
    optimizer, alone = make(bank, lr=1e-2), make(one, lr=1e-2)

    def learn(module: int) -> None:
        for net, step, m in ((bank, optimizer, module), (one, alone, 0)):
            step.zero_grad()
            net.mse(x[: len(net)], torch.ones(len(net), 7, 3))[m].backward()
            step.step()

    x[0] = x[2]
    learn(2)
    x[1] = x[0]
    bank.remove(0)
    bank.append()  # as many modules as before, but others
    learn(1)
    bank.remove([0, -1])
    learn(0)
    assert len(bank) == 1 + 1
    assert all(torch.allclose(a[0], b[0], atol=1e-7) for a, b in zip(bank.stacked, one.stacked))
