"""A bank: `M` networks of one architecture with stacked parameters."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mclnf_fast import ops
from mclnf_fast.checks import check_tensor, check_tensors, values_can_be_read
from mclnf_fast.fields.functional import check_field_spec, encode_grids, parameter_shapes
from mclnf_fast.fields.imported import read_module, read_stacked, spec_of
from mclnf_fast.fields.initial import initial_parameters
from mclnf_fast.fields.members import Members, check_index
from mclnf_fast.fields.module import FieldModule
from mclnf_fast.fields.points import Ids, Offsets, plain_points
from mclnf_fast.fields.routing import check_ids, route
from mclnf_fast.spec import FieldSpec

Parameters = tuple[Tensor, ...]

_PLACES = tuple(str(k) for k in range(32))  # by which a list names its tensors

_banks: weakref.WeakSet[FieldBank] = weakref.WeakSet()  # all that live


def banks_of(parameters: Iterable[object]) -> list[FieldBank | None]:
    """Return the bank that each of these is a parameter of, None for anything else.

    >>> bank = FieldBank(FieldSpec(2, 3, hidden_layers=0), modules=2)
    >>> [owner is bank for owner in banks_of([bank.weight[0], torch.zeros(2)])]
    [True, False]
    """
    owners = {id(p): bank for bank in list(_banks) for p in bank.stacked}
    return [owners.get(id(p)) for p in parameters]


class FieldBank(Members):
    """`modules` networks of the architecture `spec`, every point through the network of its module.

    Parameters are `weight.<l>` [M, in, out], `bias.<l>` [M, out] and, for each grid of the encoding, `grid.<k>`
    [M, entries, features]. All modules begin bit-equal, from the shared initialization of the bank (buffers
    `shared_<k>`), which `append` copies into a new module as well; `init="independent"` draws each by itself.

    It is a sequence of its modules: `len(bank)`, `bank[i]`, `bank[1:3]`, iteration, `bank[i] = module`, `append`,
    `remove`.

    Args:
        spec: the architecture.
        modules: M, at least 0.
        dtype, device: of the parameters, all of them. A bank of a half type (also one that was saved, or converted by
            `to`) is evaluated with its first layer's weights and its biases widened to float32, which loses nothing
            more; but the bits that they lack cost up to 1 dB of PSNR. Keep a bank that is trained in float32, and
            evaluate it under autocast, which casts the other weights alone, or at `learn.mixed.half_copies`.
        init: the shared initialization, as `initial_parameters` gives it (leading size 1); None draws one;
            `"independent"` draws one for each module, of which the first is the shared one.
        generator: to draw it with; None: torch's own.

    Raises:
        TypeError, ValueError: an argument of a wrong type, or `init` does not fit the spec.

    Example:
        >>> bank = FieldBank(FieldSpec(2, 3, width=16, hidden_layers=1), modules=4)
        >>> bank(torch.rand(5, 2), module_ids=torch.tensor([3, 0, 0, 1, 3])).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        spec: FieldSpec,
        modules: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        init: Sequence[Tensor] | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_field_spec(spec)
        if isinstance(modules, bool) or not isinstance(modules, int) or modules < 0:
            raise ValueError(f"modules must be an int of at least 0, got {modules!r}")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")
        device = _checked_device(device)
        self.spec = spec
        independent = isinstance(init, str)
        if independent and init != "independent":
            raise ValueError(f'init must be tensors, "independent" or None, got {init!r}')
        if init is None or isinstance(init, str):
            drawn = initial_parameters(spec, max(modules, 1) if independent else 1, dtype, device, generator)
        else:
            drawn = tuple(t.detach().to(device=device, dtype=dtype) for t in _checked(spec, init, 1, "init"))
        for k, tensor in enumerate(drawn):
            self.register_buffer(f"shared_{k}", tensor[:1].clone())
        self._fill([(t[:modules] if independent else t.expand(modules, *t.shape[1:])).clone() for t in drawn])
        _banks.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _banks.add(self)

    def _fill(self, tensors: Sequence[Tensor], names: Sequence[object] | None = None) -> None:
        """Take these parameters. `names`: of each module something that is its own, by which optimizers find its state
        when others have left; None: all are new."""
        self.names = [object() for _ in range(len(tensors[0]))] if names is None else list(names)
        layers = len(self.spec.layer_shapes)
        self.weight = nn.ParameterList([nn.Parameter(t) for t in tensors[:layers]])
        self.bias = nn.ParameterList([nn.Parameter(t) for t in tensors[layers : 2 * layers]])
        self.grid = nn.ParameterList([nn.Parameter(t) for t in tensors[2 * layers :]])

    @property
    def modules_count(self) -> int:
        """M, the number of modules."""
        return self._tensors("weight")[0].shape[0]

    def __len__(self) -> int:
        return self.modules_count

    @property
    def shared(self) -> Parameters:
        """The shared initialization: weights [1, in, out], then biases [1, out], then tables [1, entries, features]."""
        return tuple(getattr(self, f"shared_{k}") for k in range(len(self.stacked)))

    @property
    def stacked(self) -> Parameters:
        """All parameters: weights [M, in, out] of every layer, then biases [M, out], then tables
        [M, entries, features] of grids."""
        return (*self._tensors("weight"), *self._tensors("bias"), *self._tensors("grid"))

    def _tensors(self, name: str) -> list[Tensor]:
        """Return the tensors of a parameter list."""
        listed = self._modules[name]
        assert isinstance(listed, nn.ParameterList)
        if torch.compiler.is_compiling() or len(listed) > len(_PLACES):
            return list(listed)
        try:  # a list's own way through its attributes takes microseconds per tensor
            held = listed._parameters
            parameters: list[Any] = [held[k] for k in _PLACES[: len(listed)]]
        except KeyError:  # some of them are parametrized
            parameters = list(listed)
        return parameters

    def _evaluate(self, x: Tensor, offsets: Tensor, weights: list[Tensor], backend: str | None) -> Tensor:
        spec = self.spec
        if spec.grids:
            x = encode_grids(x, offsets, self._tensors("grid"), spec, backend)
        return ops.bank_mlp(x, offsets, weights, self._tensors("bias"), spec.mlp, backend)

    def forward(
        self,
        x: Tensor,
        offsets: Offsets | None = None,
        module_ids: Ids | None = None,
        backend: str | None = "auto",
    ) -> Tensor:
        """Evaluate the bank, with one of three ways to name the module of a point:

        * `offsets` [M + 1]: x [N, in_dim] is grouped by module -> [N, out_dim];
        * `module_ids` [N]: any order, grouped inside -> [N, out_dim] in the caller's order; also x [..., in_dim] with
          ids [...], or one id for all points -> [..., out_dim];
        * neither: x [M, n, in_dim], an equal share per module -> [M, n, out_dim]; also [M, ..., in_dim], and for a bank
          of one module [..., in_dim], such as a picture's coordinates [H, W, 2].

        Offsets and ids are int64, int32 or lists.

        Raises TypeError, ValueError or IndexError on wrong shapes, dtypes, devices or ids, naming the
        argument.
        """
        weights = self._tensors("weight")
        x, offsets, module_ids, lead = plain_points(x, offsets, module_ids, weights[0].shape[0], self.spec.in_dim)
        if offsets is not None:
            return self._evaluate(x, offsets, weights, backend)
        if module_ids is not None:
            order, grouped = self._routed(x, module_ids, weights[0].shape[0])
            if order is None:
                y = self._evaluate(x, grouped, weights, backend)
            else:
                y = self._evaluate(x[order], grouped, weights, backend)
                place = torch.empty_like(order)
                place[order] = torch.arange(order.numel(), device=order.device)
                y = y[place]
            return y if lead is None else y.view(*lead, y.shape[1])
        shares = ops.offsets_of_equal_shares(x.shape[0], x.shape[1], x.device)
        y = self._evaluate(x.flatten(0, 1), shares, weights, backend)
        return y.view(*(x.shape[:2] if lead is None else lead), y.shape[1])

    def mse(
        self,
        x: Tensor,
        target: Tensor,
        *,
        offsets: Offsets | None = None,
        module_ids: Ids | None = None,
        sample_weight: Tensor | None = None,
        reduction: str = "mean",
        backend: str | None = "auto",
    ) -> Tensor:
        """Return every module's squared error against samples of its signal, [M]; see `ops.bank_mse`.

            loss_m = sum over its points i of  w_i |f_m(x_i) - target_i|^2        ("mean": divided by n_m out_dim)

        Faster than the error of what `bank(x)` returns: the gradients of the parameters are formed in the sweep that
        evaluates the loss. The grids of an encoding are evaluated by their own op in front of it, and the network and
        the error in two steps, so that the gradient comes to the tables. Twice differentiable in parameters, x, target
        and weights.

        Args:
            x, offsets, module_ids: as in `bank(x, ...)`, with its three ways to name the module of a point.
            target: like the bank's outputs, [N, out_dim], [M, n, out_dim] or [..., out_dim], dtype of x.
            sample_weight: one per point, [N] or [M, n], dtype of x; None: ones. The mean is over points, not weights.
            reduction: `"mean"` over points and outputs, or `"sum"`.
            backend: of the ops.

        Raises:
            TypeError, ValueError, IndexError: as `bank(x, ...)` and `ops.bank_mse`, naming the argument.

        Example:
            >>> bank = FieldBank(FieldSpec(2, 3, width=16, hidden_layers=1), modules=2)
            >>> losses = bank.mse(torch.rand(2, 5, 2), torch.rand(2, 5, 3))
            >>> losses.sum().backward()  # one backward for all modules: they share no parameter
            >>> losses.shape
            torch.Size([2])
        """
        weights = self._tensors("weight")
        modules, outputs = weights[0].shape[0], self.spec.out_dim
        x, offsets, module_ids, lead = plain_points(x, offsets, module_ids, modules, self.spec.in_dim)
        if offsets is None:
            shape = x.shape[:-1] if lead is None else lead
            check_tensor("target", target, (*shape, outputs), what="[..., out_dim] like the bank's outputs")
            target = target.reshape(-1, outputs) if target.dim() != 2 else target
            if sample_weight is not None:
                check_tensor("sample_weight", sample_weight, shape, what="[...], one per point")
                sample_weight = sample_weight.reshape(-1)
            if module_ids is not None:
                order, offsets = self._routed(x, module_ids, modules)
                if order is not None:
                    x, target = x[order], target[order]
                    sample_weight = None if sample_weight is None else sample_weight[order]
            else:
                offsets = ops.offsets_of_equal_shares(modules, x.shape[1], x.device)
                x = x.flatten(0, 1)
        spec = self.spec
        if spec.grids:
            x = encode_grids(x, offsets, self._tensors("grid"), spec, backend)
        biases = self._tensors("bias")
        return ops.bank_mse(x, offsets, weights, biases, target, spec.mlp, sample_weight, reduction, backend)

    def _routed(self, x: Tensor, module_ids: Tensor, modules: int) -> tuple[Tensor | None, Tensor]:
        """Return the order in which points are grouped by module, None for that which they have, and offsets."""
        if x.dim() != 2 or x.shape[1] != self.spec.in_dim:
            check_tensor("x", x, (None, self.spec.in_dim), what="[N, in_dim]")
        check_tensor("module_ids", module_ids, (x.shape[0],), torch.int64, x.device, "[N]")
        if modules == 1 and values_can_be_read(module_ids):
            # Of a few ids a list is faster than an operator of torch.
            if any(module_ids.tolist()) if x.shape[0] <= 64 else module_ids.any():
                check_ids(module_ids, modules)
            return None, ops.offsets_of_equal_shares(1, x.shape[0], x.device)
        return route(module_ids, modules)

    @torch.no_grad()
    def append(self, state: Sequence[Tensor] | nn.Module | None = None) -> int:
        """Add a module at run time and return its id; the others stay bit-equal.

        `state`: None for the shared initialization, a module as `to_module` gives it, or a sequence like `shared`
        (leading size 1). The parameters are new objects afterwards: those of `mclnf_fast.optim` follow, any other
        optimizer has to be made again.

        Raises TypeError, ValueError if the state does not fit.
        """
        new = self.shared if state is None else self._read(state, "state")
        self._fill([torch.cat((old, t.to(old))) for old, t in zip(self.stacked, new)], [*self.names, object()])
        return self.modules_count - 1

    def to_module(self, index: int) -> FieldModule:
        """Return module `index` as a `torch.nn.Module` of Linear layers (a copy).

        Raises TypeError if the index is no int, IndexError if it is out of range.
        """
        check_index(index, len(self))
        return FieldModule(self.spec, [t[index].detach() for t in self.stacked])

    def _read(self, state: Sequence[Tensor] | nn.Module, name: str) -> Parameters:
        """Return the parameters of one module, of leading size 1."""
        if isinstance(state, nn.Module):
            return read_module(state, self.spec, name)
        return _checked(self.spec, state, 1, name)

    @classmethod
    def from_modules(
        cls, modules: Sequence[nn.Module], spec: FieldSpec | None = None, *, check: bool = True
    ) -> FieldBank:
        """Return a bank of ordinary modules: the `torch.nn.Linear` layers of each, in order, become its layers, and the
        tensors of its `grid`, if the spec has grids, their tables.

        Args:
            modules: at least one.
            spec: their architecture; None: the one that the first carries (`FieldModule`), or that of an
                `nn.Sequential` of Linear layers with one activation between them.
            check: whether each module must return what its network in the bank does, at random points: it takes
                coordinates, or what the encoding makes of them. Without it, what is no Linear layer is passed over.

        Raises:
            TypeError, ValueError: a module's layers do not fit, or it computes something else (another activation, a
                normalization, a skip).

        >>> modules = [nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)) for _ in range(4)]
        >>> FieldBank.from_modules(modules).spec.activation
        'tanh'
        """
        if not isinstance(modules, Iterable):
            raise TypeError(f"modules must be a sequence of torch modules, got {type(modules).__name__}")
        modules = list(modules)
        if not modules:
            raise ValueError("modules must hold at least one module, got none")
        spec = spec_of(modules[0], "modules[0]") if spec is None else spec
        check_field_spec(spec)
        read = [read_module(module, spec, f"modules[{m}]", check) for m, module in enumerate(modules)]
        init = read[0]
        for m, tensors in enumerate(read):
            for tensor in tensors:
                if (tensor.dtype, tensor.device) != (init[0].dtype, init[0].device):
                    first, other = f"{init[0].dtype} on {init[0].device}", f"{tensor.dtype} on {tensor.device}"
                    raise TypeError(f"modules[{m}] must have all parameters in {first} like modules[0], got {other}")
        bank = cls(spec, 0, init[0].dtype, init[0].device, init=init)
        bank._fill([torch.cat(tensors) for tensors in zip(*read)])
        return bank

    @classmethod
    def from_stacked(cls, state: Mapping[str, Tensor], spec: FieldSpec) -> FieldBank:
        """Return a bank of what `torch.func.stack_module_state` returns for modules of Linear layers: of every layer,
        in order, `<layer>.weight` [M, out, in] and `<layer>.bias` [M, out]; of every grid `grid.<k>`.

        The shared initialization is that of the first module. Raises TypeError, ValueError if the state does not fit.

        >>> modules = [nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in range(4)]
        >>> state, _ = torch.func.stack_module_state(modules)
        >>> len(FieldBank.from_stacked(state, FieldSpec(2, 3, width=16, hidden_layers=1)))
        4
        """
        check_field_spec(spec)
        tensors = read_stacked(state, spec)
        if not len(tensors[0]):
            raise ValueError("state must hold at least one module, got none")
        bank = cls(spec, 0, tensors[0].dtype, tensors[0].device, init=[t[:1] for t in tensors])
        bank._fill(tensors)
        return bank

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # A state without the shared initialization (parameters only) leaves the present one in place.
        for k, tensor in enumerate(self.shared):
            state_dict.setdefault(f"{prefix}shared_{k}", tensor)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.spec}, modules={self.modules_count}"


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a torch.device or its name, got {device!r}: {error}") from None


def _checked(spec: FieldSpec, value: Sequence[Tensor], modules: int, name: str) -> Parameters:
    shapes = [(modules, *s) for s in parameter_shapes(spec)]
    tensors = check_tensors(name, value)
    if len(tensors) != len(shapes):
        raise ValueError(f"{name} must hold {len(shapes)} tensors (weights, biases, tables), got {len(tensors)}")
    for k, (tensor, shape) in enumerate(zip(tensors, shapes)):
        check_tensor(f"{name}[{k}]", tensor, shape)
        if not tensor.is_floating_point():
            raise TypeError(f"{name}[{k}] must have a floating-point dtype, got {tensor.dtype}")
    return tuple(tensors)
