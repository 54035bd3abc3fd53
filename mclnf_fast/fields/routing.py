"""Routing: from module ids in any order to points grouped by module."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor, values_can_be_read


def route(module_ids: Tensor, modules: int) -> tuple[Tensor, Tensor]:
    """Group points by module, in their order within each.

    Args:
        module_ids: int64 [N] in 0 ... modules-1, in any order.
        modules: M.

    Returns:
        order [N] (point `order[k]` comes k-th) and offsets [M + 1].

    Raises:
        TypeError, ValueError, IndexError: ids that are not int64 [N], or out of range (checked on the CPU).

    Example:
        >>> order, offsets = route(torch.tensor([1, 0, 1]), modules=2)
        >>> order.tolist(), offsets.tolist()
        ([1, 0, 2], [0, 1, 3])
    """
    check_tensor("module_ids", module_ids, (None,), torch.int64, what="[N]")
    if values_can_be_read(module_ids):
        check_ids(module_ids, modules)
    order = torch.argsort(module_ids, stable=True)
    bounds = torch.arange(modules + 1, device=module_ids.device)
    return order, torch.searchsorted(module_ids[order], bounds)


def check_ids(module_ids: Tensor, modules: int) -> None:
    """Raise IndexError if an id is out of range; reads the values.

    >>> check_ids(torch.tensor([1, 0, 1]), modules=2)
    """
    if not module_ids.numel():
        return
    low, high = (int(v) for v in module_ids.aminmax())
    if low < 0 or high >= modules:
        raise IndexError(f"module_ids must lie in [0, {modules}), got {low if low < 0 else high}")
