"""The public draws of samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int, check_tensor, values_can_be_read
from mclnf_fast.ops._autograd import Joined, join_ops
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, register
from mclnf_fast.ops.draw_ids import reference
from mclnf_fast.packing import DrawRule

RULES = {"uniform": DrawRule.UNIFORM, "even": DrawRule.EVEN}


def _fake(sizes: Tensor, modules: Tensor, steps: Tensor, batch: int, *rest: Any) -> Tensor:
    return sizes.new_empty(sizes.shape[0], batch)


join_ops("mclnf_fast", Joined("draw_ids", _fake))


def draw_ids(
    sizes: Tensor,
    batch: int,
    steps: Tensor | int,
    *,
    rule: str = "uniform",
    seed: int = 0,
    task: int = 0,
    modules: Tensor | None = None,
    backend: str | None = "auto",
) -> Tensor:
    """Return the samples that every module takes in a step, by counted random numbers.

    A number depends on the seed, the task, the module's number, its step and the place in the batch alone
    (Philox4x32-10, Salmon et al., SC 2011): step k of module m draws the same samples on every device, whatever is
    drawn before it or beside it.

        uniform: independent, with replacement.
        even: draw j lies in the j-th of `batch` equal parts of 0 ... n - 1, and within 16 steps once in each sixteenth
            of it (stratified sampling; Zhao & Zhang, arXiv 1405.3080). Every sample is equally likely.

    Args:
        sizes: int64 [M], samples of each module, at least 1 and below 2^32.
        batch: samples per module and step.
        steps: int64 [M], the step of each module, from 0; or one for all.
        rule: "uniform" or "even".
        seed: 64 bits.
        task: below 2^24; another task draws other samples under the same seed.
        modules: int64 [M], the modules' numbers; None: 0 ... M - 1.
        backend: `"auto"`, or a name; see `mclnf_fast.info()`.

    Returns: int64 [M, batch].

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape, device or value.

    Example:
        >>> ids = draw_ids(torch.tensor([100, 7]), 4, 0, seed=1)
        >>> ids.shape, bool((ids < torch.tensor([[100], [7]])).all())
        (torch.Size([2, 4]), True)
        >>> later = draw_ids(torch.tensor([7]), 4, 0, seed=1, modules=torch.tensor([1]))
        >>> bool((later == ids[1:]).all())  # module 1 draws the same alone
        True
    """
    check_tensor("sizes", sizes, (None,), torch.int64, what="[M]")
    count, device = sizes.shape[0], sizes.device
    check_positive_int(batch, "batch")
    if not isinstance(steps, Tensor):
        steps = torch.full_like(sizes, check_integer(steps, "steps", reference.MOST["step"]))
    if modules is None:
        modules = torch.arange(count, device=device)
    for name, values, least in (("sizes", sizes, 1), ("steps", steps, 0), ("modules", modules, 0)):
        check_tensor(name, values, (count,), torch.int64, device, "[M]")
        if count and values_can_be_read(values) and not least <= int(values.min()) <= int(values.max()) < 1 << 32:
            raise ValueError(f"{name} must be at least {least} and below 2^32, got {values.tolist()}")
    if not isinstance(rule, str) or rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    seed, task = wrapped_seed(seed), check_integer(task, "task", reference.MOST["task"])
    function = _OP.serving(backend, device, torch.int64)
    ids: Tensor = function(sizes, modules, steps, batch, RULES[rule], seed, task)
    return ids


def check_integer(value: int, name: str, most: int) -> int:
    """Return a number of 0 ... most. Raises TypeError, ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not 0 <= value <= most:
        raise ValueError(f"{name} must be at least 0 and at most {most}, got {value}")
    return value


def wrapped_seed(seed: int, name: str = "seed") -> int:
    """Return the 64 bits of a seed as a signed number, which is what an op takes. Raises TypeError, ValueError."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"{name} must be an int, got {type(seed).__name__}")
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"{name} must have 64 bits, got {seed}")
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)


def _cpu(sizes: Tensor, modules: Tensor, steps: Tensor, batch: int, rule: DrawRule, seed: int, task: int) -> Tensor:
    return torch.ops.mclnf_fast.draw_ids(sizes, modules, steps, batch, int(rule), seed, task)


def _why_not_cpu(device: torch.device, dtype: torch.dtype) -> str | None:
    return cpu_library(device, torch.float32)  # ids have no floating point


_OP = register(
    "draw_ids",
    passes_transforms=True,
    cpu=Backend(_why_not_cpu, _cpu),
    reference=Backend(always, reference.draw_ids),
)
