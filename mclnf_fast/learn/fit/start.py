"""Where the modules of a fit begin."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor, check_tensors
from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank, initial_parameters, load_bank
from mclnf_fast.fields.io import tensor_bytes
from mclnf_fast.learn.params import Params
from mclnf_fast.spec import FieldSpec


class Start:
    """The parameters at which modules begin: one initialization for all, or one for each.

    Args:
        spec: the architecture.
        start: None: a random initialization, the same for all modules; a bank of one module, or of none, whose shared
            initialization is taken; a bank of M modules; parameters [1, ...] or [M, ...] as `FieldBank.stacked`; or a
            file of `save_bank`.
        seed: of the random initialization.

    Raises:
        TypeError: no such thing.
        InputError: it is of another architecture.

    >>> Start(FieldSpec(2, 1, 8, 1)).modules(0, 3)[0].shape
    torch.Size([3, 2, 8])
    """

    def __init__(self, spec: FieldSpec, start: object = None, seed: int = 0) -> None:
        self.spec = spec
        if isinstance(start, str | os.PathLike):
            start = load_bank(start)
        if isinstance(start, FieldBank):
            if start.spec != spec:
                raise InputError(f"start must be a bank of {spec}, got one of {start.spec}")
            start = start.stacked if len(start) else start.shared
        self.given = start is not None
        if start is None:
            params: Sequence[Tensor] = initial_parameters(spec, generator=torch.Generator().manual_seed(seed))
        elif isinstance(start, Tensor) or not isinstance(start, Sequence):
            raise TypeError(f"start must be a FieldBank, parameters or a file, got {type(start).__name__}")
        else:
            params = check_tensors("start", start)
        shapes = [*spec.layer_shapes, *(shape[1:] for shape in spec.layer_shapes), *spec.grid_shapes]
        if len(params) != len(shapes) or any(p.shape[1:] != shape for p, shape in zip(params, shapes)):
            got = [list(p.shape) for p in params]
            raise InputError(f"start must hold the parameters [1, ...] or [M, ...] of {spec}, got {got}")
        self.params: Params = tuple(p.detach() for p in params)
        self.count = len(self.params[0])
        if not self.count or any(len(p) != self.count for p in self.params):
            raise InputError(f"start must have at least one module, and all tensors as many, got {self.count}")

    def shared(self, like: Tensor) -> Params:
        """Return the shared initialization [1, ...] of the bank, in the dtype and on the device of a tensor."""
        return tuple(p[:1].to(like) for p in self.params)

    def modules(self, first: int, count: int, like: Tensor | None = None) -> Params:
        """Return a copy of the parameters [count, ...] of the modules from number `first` on.

        Raises InputError if there are not as many.
        """
        if self.count > 1 and first + count > self.count:
            raise InputError(f"start must have one module, or one for each signal, got {self.count}")
        rows = slice(0, 1) if self.count == 1 else slice(first, first + count)
        chosen = [p[rows] if like is None else p[rows].to(like) for p in self.params]
        # A copy in any case: a fit works in place.
        return tuple(p.expand(count, *p.shape[1:]).clone(memory_format=torch.contiguous_format) for p in chosen)

    def check_total(self, total: int | None) -> None:
        """Raise InputError if there are several modules, and not as many as signals."""
        if self.count > 1 and total is not None and total != self.count:
            raise InputError(f"start must have one module, or {total} for as many signals, got {self.count}")

    def digest(self) -> str:
        """Return a checksum of the values.

        >>> a, b = (Start(FieldSpec(2, 1, 8, 1), seed=seed) for seed in (0, 1))
        >>> a.digest() == b.digest()
        False
        """
        digest = hashlib.sha256()
        for p in self.params:
            check_tensor("start", p)
            digest.update(tensor_bytes(p))
        return digest.hexdigest()
