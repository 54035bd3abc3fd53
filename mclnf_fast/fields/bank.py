"""A bank: `M` networks of one architecture with stacked parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mclnf_fast import ops
from mclnf_fast.checks import check_tensor, check_tensors
from mclnf_fast.fields.functional import check_field_spec, evaluate_params, parameter_shapes
from mclnf_fast.fields.imported import read_module, read_stacked, spec_of
from mclnf_fast.fields.members import Members, check_index
from mclnf_fast.fields.module import FieldModule
from mclnf_fast.fields.routing import route
from mclnf_fast.spec import FieldSpec, Grid, TriPlane

Parameters = tuple[Tensor, ...]


def initial_parameters(
    spec: FieldSpec,
    modules: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    gain: float = 2.0,
) -> Parameters:
    """Return random parameters for `modules` networks: weights [M, in, out] of every layer, then biases [M, out], then
    the tables [M, entries, features] of grids.

    `sine`: SIREN's rule (arXiv 2006.09661, sec. 3.2). Else: uniform with variance `gain` / in for relu and softplus (2:
    He et al., arXiv 1502.01852), 1 / in otherwise and in the output layer; biases zero. Hash grids: uniform in +-1e-4
    (instant-NGP, arXiv 2201.05989). Tri-planes: uniform in +-0.1; if the maps are multiplied, in 0.1 ... 0.5 (K-Planes,
    arXiv 2301.10241), since a product of small numbers has next to no gradient.

    Args:
        spec: the architecture.
        modules: M.
        dtype, device: of the parameters. They are drawn in float32 on the CPU, so that a seed means one result.
        generator: None: torch's own.
        gain: see above.

    >>> weight, bias = initial_parameters(FieldSpec(3, 4, hidden_layers=0), modules=2)
    >>> weight.shape, bias.shape
    (torch.Size([2, 3, 4]), torch.Size([2, 4]))
    """

    def draw(*shape: int, bound: float, middle: float = 0.0) -> Tensor:
        unit = torch.rand(shape, dtype=torch.float32, generator=generator)
        return ((unit * 2 - 1) * bound + middle).to(device=device, dtype=dtype)

    weights, biases = [], []
    for layer, (rows, columns) in enumerate(spec.layer_shapes):
        bias_bound = 0.0
        if spec.activation == "sine":
            bound = 1 / spec.mlp.in_dim if layer == 0 else math.sqrt(6 / rows) / spec.w0
            bias_bound = 1 / math.sqrt(rows)
        else:
            variance = gain if spec.activation in ("relu", "softplus") and layer < spec.hidden_layers else 1.0
            bound = math.sqrt(3 * variance / rows)
        weights.append(draw(modules, rows, columns, bound=bound))
        biases.append(draw(modules, columns, bound=bias_bound))
    tables = []
    for part, shape in zip(spec.grids, spec.grid_shapes):
        bound, middle = _table_range(part.encoding)
        tables.append(draw(modules, *shape, bound=bound, middle=middle))
    return (*weights, *biases, *tables)


def _table_range(grid: Grid) -> tuple[float, float]:
    if isinstance(grid, TriPlane):
        return (0.2, 0.3) if grid.reduce == "product" else (0.1, 0.0)
    return 1e-4, 0.0


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

    def _fill(self, tensors: Sequence[Tensor]) -> None:
        layers = len(self.spec.layer_shapes)
        self.weight = nn.ParameterList([nn.Parameter(t) for t in tensors[:layers]])
        self.bias = nn.ParameterList([nn.Parameter(t) for t in tensors[layers : 2 * layers]])
        self.grid = nn.ParameterList([nn.Parameter(t) for t in tensors[2 * layers :]])

    @property
    def modules_count(self) -> int:
        """M, the number of modules."""
        return self.weight[0].shape[0]

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
        return (*self.weight, *self.bias, *self.grid)

    def forward(
        self,
        x: Tensor,
        offsets: Tensor | None = None,
        module_ids: Tensor | None = None,
        backend: str | None = "auto",
    ) -> Tensor:
        """Evaluate the bank, with one of three ways to name the module of a point:

        * `offsets` int64 [M + 1]: x [N, in_dim] is grouped by module -> [N, out_dim];
        * `module_ids` int64 [N]: any order, grouped inside -> [N, out_dim] in the caller's order;
        * neither: x [M, n, in_dim], an equal share per module -> [M, n, out_dim].

        Raises TypeError, ValueError or IndexError on wrong shapes, dtypes, devices or ids, naming the
        argument.
        """
        params, spec = self.stacked, self.spec
        if offsets is not None and module_ids is not None:
            raise ValueError("give offsets or module_ids, not both")
        check_tensor("x", x)
        if offsets is not None:
            return evaluate_params(params, spec, x, offsets, backend)
        if module_ids is not None:
            check_tensor("x", x, (None, spec.in_dim), what="[N, in_dim]")
            check_tensor("module_ids", module_ids, (x.shape[0],), torch.int64, x.device, "[N]")
            order, grouped = route(module_ids, self.modules_count)
            y = evaluate_params(params, spec, x[order], grouped, backend)
            place = torch.empty_like(order)
            place[order] = torch.arange(order.numel(), device=order.device)
            return y[place]
        if x.dim() != 3 or x.shape[0] != self.modules_count:
            raise ValueError(
                f"x must have shape [M, n, in_dim] = [{self.modules_count}, *, {self.spec.in_dim}] "
                f"if neither offsets nor module_ids is given, got {list(x.shape)}"
            )
        shares = ops.offsets_of_equal_shares(x.shape[0], x.shape[1], x.device)
        return evaluate_params(params, spec, x.flatten(0, 1), shares, backend).unflatten(0, x.shape[:2])

    @torch.no_grad()
    def append(self, state: Sequence[Tensor] | nn.Module | None = None) -> int:
        """Add a module at run time and return its id; the others stay bit-equal.

        `state`: None for the shared initialization, a module as `to_module` gives it, or a sequence like `shared`
        (leading size 1). The parameters are new objects afterwards: hand them to the optimizer again.

        Raises TypeError, ValueError if the state does not fit.
        """
        new = self.shared if state is None else self._read(state, "state")
        self._fill([torch.cat((old, t.to(old))) for old, t in zip(self.stacked, new)])
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
