"""A bank as a sequence of its modules: indexing, slicing, iteration, assignment, removal, and their stacked state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self, overload

import torch
from torch import Tensor, nn

from mclnf_fast.checks import check_tensor
from mclnf_fast.fields.module import FieldModule

if TYPE_CHECKING:
    from mclnf_fast.spec import FieldSpec


def check_index(index: int, modules: int, name: str = "index") -> int:
    """Return the id of a module of which `index` may be counted from the end. Raises TypeError, IndexError.

    >>> check_index(-1, 4)
    3
    """
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"{name} must be an int, got {type(index).__name__}")
    if not -modules <= index < modules:
        raise IndexError(f"{name} must lie in [0, {modules}), got {index}")
    return index % modules


class Members(nn.Module):
    """What `FieldBank` has of a sequence.

    Modules come out as copies: their parameters are rows of stacked tensors, which no `torch.nn.Parameter` of their own
    can be. Assigning is in place, so that optimizers keep their parameters.
    """

    if TYPE_CHECKING:
        spec: FieldSpec

        @property
        def shared(self) -> tuple[Tensor, ...]: ...
        @property
        def stacked(self) -> tuple[Tensor, ...]: ...
        def __len__(self) -> int: ...
        def to_module(self, index: int) -> FieldModule: ...

        names: list[object]

        def _fill(self, tensors: Sequence[Tensor], names: Sequence[object] | None = None) -> None: ...
        def _read(self, state: Sequence[Tensor] | nn.Module, name: str) -> tuple[Tensor, ...]: ...

    @overload
    def __getitem__(self, index: int) -> FieldModule: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Self: ...

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> FieldModule | Self:
        """Return module `index` (`to_module`), or a bank of the modules of a slice, of ids or of a mask: copies."""
        if isinstance(index, int):
            return self.to_module(index)
        rows = self.row_ids(index)
        bank = type(self)(self.spec, 0, self.stacked[0].dtype, self.stacked[0].device, init=self.shared)
        bank._fill([t.detach()[rows.to(t.device)] for t in self.stacked])
        return bank

    def row_ids(self, index: slice | Sequence[int] | Tensor, name: str = "index") -> Tensor:
        """Return the ids int64 [K] of the modules that a slice, ids or a mask names; `name` is the argument's in the
        message of TypeError, ValueError and IndexError."""
        count = len(self)
        if isinstance(index, slice):
            return torch.tensor(range(count)[index], dtype=torch.int64)
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            check_tensor(name, index, (count,), what="[M]")
            return index.nonzero()[:, 0].cpu()
        if isinstance(index, str) or not isinstance(index, (Sequence, Tensor)):
            raise TypeError(f"{name} must be an int, a slice, ids or a mask, got {type(index).__name__}")
        ids = index.tolist() if isinstance(index, Tensor) else list(index)
        if not isinstance(ids, list):  # of a tensor without dimensions
            raise TypeError(f"{name} must be an int, a slice, ids or a mask, got a tensor of shape {list(index.shape)}")
        return torch.tensor([check_index(i, count, f"{name}[{k}]") for k, i in enumerate(ids)], dtype=torch.int64)

    def __iter__(self) -> Iterator[FieldModule]:
        """Yield every module as `to_module` returns it."""
        return map(self.to_module, range(len(self)))

    @torch.no_grad()
    def __setitem__(self, index: int, state: nn.Module | Sequence[Tensor]) -> None:
        """Write a module in place of another: one as `to_module` returns it, any that `from_modules` takes, or tensors
        like `shared`. The others stay bit-equal; an optimizer's state stays too (`reset` it)."""
        row = check_index(index, len(self))
        for tensor, new in zip(self.stacked, self._read(state, "state")):
            tensor[row] = new[0].to(tensor)

    @torch.no_grad()
    def remove(self, index: int | slice | Sequence[int] | Tensor) -> None:
        """Take modules out at run time; those behind them move up, and every other one stays bit-equal.

        The parameters are new objects afterwards: the optimizers of `mclnf_fast.optim` follow, any other has to be made
        again. Raises TypeError, ValueError, IndexError if the index names none.
        """
        rows = torch.tensor([check_index(index, len(self))]) if isinstance(index, int) else self.row_ids(index)
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[rows] = False
        names = [name for name, keep in zip(self.names, kept.tolist()) if keep]
        self._fill([t[kept.to(t.device)] for t in self.stacked], names)

    def stack_module_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what `torch.func.stack_module_state` returns for the modules, without making them: parameters
        [M, ...] by the names of `FieldModule`, and no buffers. Copies that want gradients, as torch's.

        `torch.func.functional_call` of `bank[0]` under `torch.vmap` evaluates them; `from_stacked` reads them.
        """
        layers = len(self.spec.layer_shapes)
        weights, biases, tables = self.stacked[:layers], self.stacked[layers : 2 * layers], self.stacked[2 * layers :]
        state = {}
        for l, (weight, bias) in enumerate(zip(weights, biases)):
            state[f"layers.{l}.weight"] = weight.detach().transpose(1, 2).contiguous()
            state[f"layers.{l}.bias"] = bias.detach().clone()
        state |= {f"grid.{k}": table.detach().clone() for k, table in enumerate(tables)}
        return {name: tensor.requires_grad_() for name, tensor in state.items()}, {}
