"""The public fit: it checks its arguments, and a backend makes the steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import Joined, join_ops
from mclnf_fast.ops._dispatch import Backend, always, by_dtype, cpu_library, cuda_library, register
from mclnf_fast.ops.bank_fit import compiled, reference
from mclnf_fast.ops.bank_fit.checked import DTYPES, checked
from mclnf_fast.ops.bank_fit.types import Draws, FitData, FitLog, FitRays, FitRule, FitState, Watch
from mclnf_fast.spec import FieldSpec


def _shapes(x: Tensor, params: list[Tensor], log_at: Tensor, snapshot_at: Tensor) -> tuple[Any, ...]:
    modules = params[0].shape[0]
    snapshots = [torch.empty_like(p) for _ in range(len(snapshot_at)) for p in params]
    ends = x.new_empty(modules, dtype=torch.int64)
    return x.new_empty(len(log_at), modules), snapshots, ends, x.new_empty(modules, dtype=torch.float64)


def _fake(x: Tensor, offsets: Any, target: Any, weight: Any, params: list[Tensor], *rest: Any) -> tuple[Any, ...]:
    return _shapes(x, params, rest[21], rest[22])


def _guided_fake(x: Tensor, *rest: Any) -> tuple[Any, ...]:
    params = rest[14]
    return _shapes(x, params, rest[36], rest[37])


def _ray_fake(origins: Tensor, *rest: Any) -> tuple[Any, ...]:
    params = rest[15]
    return _shapes(origins, params, rest[37], rest[38])


join_ops(
    "mclnf_fast",
    Joined("bank_fit", _fake),
    Joined("bank_ray_fit", _ray_fake),
    Joined("bank_guided_fit", _guided_fake),
)


def bank_fit(
    state: FitState,
    data: FitData | FitRays,
    spec: FieldSpec,
    steps: int | Tensor,
    *,
    draws: Draws | None = None,
    rule: FitRule | None = None,
    watch: Watch | None = None,
    backend: str | None = "auto",
) -> FitLog:
    """Make many steps of every module of a bank, each on its own samples, in one call; the state is changed in place.

    A step of module m with k steps behind it:

        ids  = the samples that `draws` gives it (see `ops.draw_ids`), a function of seed, task, module and k alone, and
               with the rule "guided" of the module's scores in `state.guide` (see `Guide`)
        loss = mean over ids and outputs of weight (f_m(x) - target)^2                       as `ops.bank_mse`
               or over rays and channels of weight (pixel - color)^2                         as `ops.bank_ray_mse`
        one step of SGD or Adam with the rate `rule.schedule.rate(k)`, with the trust region  as `ops.bank_step`

    so step k is the same whatever the modules beside it, the number of threads and the cut into calls. On the CPU a
    core keeps a module for many steps, with parameters, moments and gradients in its cache, and no thread waits for
    another between steps; the bits are those of the loop over `draw_ids`, `bank_mse` (of one module) and `bank_step`.
    On CUDA a block of threads does, in the memory of one multiprocessor, or several blocks if modules are few and steps
    large; the draws are the same, the bits others than the CPU's, as sums have another order. A call does not wait for
    the device if `steps` is one number and the state is one that `FitState.begin` or such calls left: it then knows how
    many rates it needs.

    Args:
        state: parameters, moments and step counts; changed in place.
        data: samples of every module: points (`FitData`) or rays (`FitRays`).
        spec: the architecture, without a learned grid.
        steps: to make in this call, at least 0; one number, or int64 [M]: modules with 0 are frozen.
        draws, rule, watch: see `Draws`, `FitRule`, `Watch`; None: their defaults.
        backend: `"auto"`, or a name; see `mclnf_fast.info()`.

    Returns: see `FitLog`.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape, device or value (a module without samples, a
            batch above a module's samples, a state of another spec); nothing is changed then. Values of tensors are
            read on the CPU only: on CUDA a module without samples, or with an id (or a place of a curve) that is none
            of them, ends as DIVERGED before that step.
        RuntimeError: a torch.func transform or forward-mode differentiation works on one of the tensors.
        BackendError: a backend asked for by name can't serve.

    A module whose loss or gradient is not finite (NaN in its samples, a rate that is too large) ends with its last
    finite state, is named in the log and stops none of the others.

    Example:
        >>> import mclnf_fast as mf
        >>> from mclnf_fast.ops.bank_fit import Schedule
        >>> spec = mf.FieldSpec(1, 1, width=16, hidden_layers=2, activation="sine(10)")
        >>> bank, x = mf.FieldBank(spec, modules=3), torch.linspace(-1, 1, 64)[:, None]
        >>> target = torch.stack([torch.sin(k * x) for k in (1, 2, 3)])
        >>> state = FitState.begin([*bank.weight, *bank.bias])  # the bank's own parameters
        >>> rule = FitRule(Schedule(1e-3))
        >>> log = bank_fit(state, FitData(x, target), spec, 200, draws=Draws(batch=32), rule=rule,
        ...                watch=Watch(losses_at=(1, 200)))
        >>> log.losses.shape, bool((log.losses[1] < log.losses[0]).all())
        (torch.Size([2, 3]), True)
    """
    call = checked(state, data, spec, steps, draws or Draws(), rule or FitRule(), watch or Watch())
    if call.rule.precision == "fp32":
        op = _RAY_OP if isinstance(data, FitRays) else _GUIDED_OP if call.guide is not None else _OP
    else:
        op = _ROUNDED_RAY_OP if isinstance(data, FitRays) else _ROUNDED_OP
    function = op.serving(backend, call.data.x.device, call.data.x.dtype)
    with torch.no_grad():
        log: FitLog = function(call)
    state.know(call.last)
    return log


def _fp32_alone(device: torch.device, dtype: torch.dtype) -> str:
    reason = by_dtype(cpu_library, DTYPES)(device, dtype)
    return reason or "its products are fp32 (or fp64) ones, and rule.precision asks for rounded operands"


_OP = register(
    "bank_fit",
    passes_transforms=True,
    cuda=Backend(by_dtype(cuda_library, DTYPES), compiled.bank_fit),
    cpu=Backend(by_dtype(cpu_library, DTYPES), compiled.bank_fit),
    reference=Backend(always, reference.bank_fit),
)


_GUIDED_OP = register(
    "bank_guided_fit",
    passes_transforms=True,
    cuda=Backend(by_dtype(cuda_library, DTYPES), compiled.bank_guided_fit),
    cpu=Backend(by_dtype(cpu_library, DTYPES), compiled.bank_guided_fit),
    reference=Backend(always, reference.bank_fit),
)
_RAY_OP = register(
    "bank_ray_fit",
    passes_transforms=True,
    cuda=Backend(by_dtype(cuda_library, DTYPES), compiled.bank_ray_fit),
    cpu=Backend(by_dtype(cpu_library, DTYPES), compiled.bank_ray_fit),
    reference=Backend(always, reference.bank_fit),
)
# With operands that are rounded.
_ROUNDED_OP = register(
    "bank_fit_rounded",
    passes_transforms=True,
    cuda=Backend(by_dtype(cuda_library, DTYPES[:1]), compiled.bank_fit),
    cpu=Backend(_fp32_alone, compiled.bank_fit),
    reference=Backend(always, reference.bank_fit),
)
_ROUNDED_RAY_OP = register(
    "bank_ray_fit_rounded",
    passes_transforms=True,
    cuda=Backend(by_dtype(cuda_library, DTYPES[:1]), compiled.bank_ray_fit),
    cpu=Backend(_fp32_alone, compiled.bank_ray_fit),
    reference=Backend(always, reference.bank_fit),
)
