"""The public fit: it checks its arguments, and a backend makes the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.checks import (
    check_bool,
    check_number,
    check_positive_int,
    check_tensor,
    check_tensors,
    values_can_be_read,
)
from mclnf_fast.ops._autograd import Joined, join_ops
from mclnf_fast.ops._checks import check_offsets, check_spec, refuse_transformed
from mclnf_fast.ops._dispatch import Backend, always, by_dtype, cpu_library, cuda_library, register
from mclnf_fast.ops.bank_fit import compiled, reference
from mclnf_fast.ops.bank_fit.call import FitCall
from mclnf_fast.ops.bank_fit.guide import Guide, check_guide, check_guide_state
from mclnf_fast.ops.bank_fit.schedule import Schedule
from mclnf_fast.ops.bank_fit.types import Draws, FitData, FitLog, FitRays, FitRule, FitState, Watch
from mclnf_fast.ops.bank_step import Trust, check_betas
from mclnf_fast.ops.draw_ids.api import check_integer, wrapped_seed
from mclnf_fast.ops.draw_ids.reference import MOST
from mclnf_fast.ops.march.reference import MOST_BINS
from mclnf_fast.packing import DrawRule, Precision
from mclnf_fast.shading import Shading
from mclnf_fast.spec import FieldSpec

DTYPES = (torch.float32, torch.float64)
REMEDY = "A fit works in place and has no derivative: differentiate through learn.meta.adapt"
PRECISIONS = [precision.name.lower() for precision in Precision]
RULES = {rule.name.lower(): rule for rule in DrawRule}


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
    On CUDA a block of threads does, in the memory of one multiprocessor; the draws are the same, the bits others than
    the CPU's, as sums have another order. A call does not wait for the device if `steps` is one number and the state is
    one that `FitState.begin` or such calls left: it then knows how many rates it needs.

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
            read on the CPU only: on CUDA a module without samples, or with an id that is none of them, ends as
            DIVERGED before that step.
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
    call = _checked(state, data, spec, steps, draws or Draws(), rule or FitRule(), watch or Watch())
    if call.rule.precision == "fp32":
        op = _RAY_OP if isinstance(data, FitRays) else _GUIDED_OP if call.guide is not None else _OP
    else:
        op = _ROUNDED_RAY_OP if isinstance(data, FitRays) else _ROUNDED_OP
    function = op.serving(backend, call.data.x.device, call.data.x.dtype)
    with torch.no_grad():
        log: FitLog = function(call)
    state.know(call.last)
    return log


def _checked(
    state: FitState,
    data: FitData | FitRays,
    spec: FieldSpec,
    steps: int | Tensor,
    draws: Draws,
    rule: FitRule,
    watch: Watch,
) -> FitCall:
    if not isinstance(data, FitData | FitRays):
        raise TypeError(f"data must be a FitData or a FitRays, got {type(data).__name__}")
    for name, value, kind in (
        ("state", state, FitState),
        ("draws", draws, Draws),
        ("rule", rule, FitRule),
        ("watch", watch, Watch),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    check_spec(spec)
    if isinstance(data, FitRays):
        check_tensor("data.origins", data.origins, (None, 3), DTYPES, what="[R, 3]")
    else:
        check_tensor("data.x", data.x, (None, spec.in_dim), DTYPES, what="[N, in_dim]")
    modules = _check_state(state, spec, data.x, rule)
    tensors = {f"data.{name}": value for name, value in zip(data._fields, data) if isinstance(value, Tensor)}
    refuse_transformed("bank_fit", REMEDY, params=state.params, **tensors)
    sizes = _check_rays(data, spec, modules) if isinstance(data, FitRays) else _check_data(data, spec, modules)
    goal = _goal(state, steps, modules)
    trust = _check_trust(rule, state)
    guide = _check_guide(draws, data, sizes, state)
    if guide is not None and rule.precision != "fp32":
        raise ValueError(f"rule.precision must be 'fp32' with the rule 'guided', got {rule.precision!r}")
    numbers = _check_draws(draws, modules, sizes, goal, state)
    stop_loss = _check_watch(watch, modules, data.x.device)
    last = _last(state, steps, goal)
    draw_rule = RULES[draws.rule]
    return FitCall(state, data, spec, goal, last, draws, draw_rule, numbers, rule, trust, watch, stop_loss, guide)


def _check_state(state: FitState, spec: FieldSpec, x: Tensor, rule: FitRule) -> int:
    """Check the state and return the number of its modules."""
    shapes = [*spec.layer_shapes, *(shape[1:] for shape in spec.layer_shapes)]
    params = check_tensors("state.params", state.params)
    if len(params) != len(shapes):
        raise ValueError(f"state.params must hold {len(shapes)} tensors, weights then biases, got {len(params)}")
    modules = len(params[0]) if params[0].dim() else 0
    for i, (p, shape) in enumerate(zip(params, shapes)):
        check_tensor(f"state.params[{i}]", p, (modules, *shape), x.dtype, x.device, "[M, in, out] or [M, out]")
    if not isinstance(rule.schedule, Schedule):
        raise TypeError(f"rule.schedule must be a Schedule, got {type(rule.schedule).__name__}")
    if rule.kind not in ("adam", "sgd"):
        raise ValueError(f"rule.kind must be 'adam' or 'sgd', got {rule.kind!r}")
    moments = {"state.exp_avg": state.exp_avg, "state.exp_avg_sq": state.exp_avg_sq}
    for name, value in moments.items():
        tensors = check_tensors(name, value)
        if len(tensors) != (len(params) if rule.kind == "adam" else 0):
            wanted = f"hold {len(params)} tensors like state.params" if rule.kind == "adam" else "be empty"
            raise ValueError(f"{name} must {wanted} for rule.kind {rule.kind!r}, got {len(tensors)}")
        for i, (t, p) in enumerate(zip(tensors, params)):
            check_tensor(f"{name}[{i}]", t, tuple(p.shape), p.dtype, p.device, f"like state.params[{i}]")
    check_tensor("state.steps", state.steps, (modules,), torch.int64, x.device, "[M]")
    for name, changed in {"state.params": params, **moments, "state.steps": (state.steps,)}.items():
        if any(size > 1 and stride == 0 for t in changed for size, stride in zip(t.shape, t.stride())):
            raise ValueError(f"{name} must not be expanded: it is changed in place")
    check_betas(rule.betas, "rule.betas")
    check_number("rule.eps", rule.eps, 0.0)
    check_integer(rule.frozen_layers, "rule.frozen_layers", len(spec.layer_shapes) - 1)
    if not isinstance(rule.precision, str) or rule.precision not in PRECISIONS:
        raise ValueError(f"rule.precision must be one of {', '.join(PRECISIONS)}, got {rule.precision!r}")
    return modules


def _check_data(data: FitData, spec: FieldSpec, modules: int) -> Tensor:
    """Check the samples and return how many each module has, int64 [M]."""
    x, out = data.x, spec.out_dim
    if data.offsets is None:
        shape: tuple[int, ...] = (modules, x.shape[0], out)
        what = "[M, n, out_dim]"
    else:
        check_offsets("data.offsets", data.offsets, modules, x.shape[0], x.device)
        shape, what = (x.shape[0], out), "[N, out_dim]"
    check_tensor("data.target", data.target, shape, x.dtype, x.device, what)
    if data.weight is not None:
        check_tensor("data.weight", data.weight, shape[:-1], x.dtype, x.device, "a weight per sample")
    return data.sizes


def _check_rays(rays: FitRays, spec: FieldSpec, modules: int) -> Tensor:
    """Check the rays and return how many each module has, int64 [M]."""
    x = rays.origins
    count, extra = x.shape[0], spec.in_dim - 3
    if spec.out_dim != 4 or extra < 0:
        raise ValueError(
            f"spec must have out_dim 4 and in_dim 3 or more for rays, got {spec.out_dim} and {spec.in_dim}"
        )
    check_offsets("data.offsets", rays.offsets, modules, count, x.device, "rays")
    for name in ("directions", "colors"):
        check_tensor(f"data.{name}", getattr(rays, name), (count, 3), x.dtype, x.device, "[R, 3]")
    if (rays.view is None) != (extra == 0):
        wanted = f"[R, {extra}] for a field of {spec.in_dim} inputs" if extra else "None for a field of places"
        raise ValueError(f"data.view must be {wanted}, got {'None' if rays.view is None else 'a tensor'}")
    if rays.view is not None:
        check_tensor("data.view", rays.view, (count, extra), x.dtype, x.device, "[R, in_dim - 3]")
    if rays.weight is not None:
        check_tensor("data.weight", rays.weight, (count,), x.dtype, x.device, "[R]")
    if not isinstance(rays.shading, Shading):
        raise TypeError(f"data.shading must be a Shading, got {type(rays.shading).__name__}")
    if check_positive_int(rays.samples_per_ray, "data.samples_per_ray") > MOST_BINS:
        raise ValueError(f"data.samples_per_ray must be at most {MOST_BINS}, got {rays.samples_per_ray}")
    near = check_number("data.near", rays.near, 0.0)
    if not check_number("data.far", rays.far, 0.0, finite=False) > near:
        raise ValueError(f"data.far must be above data.near, {near}, got {rays.far}")
    check_bool("data.jitter", rays.jitter)
    return rays.sizes


def _goal(state: FitState, steps: int | Tensor, modules: int) -> Tensor:
    """Return the numbers of steps at the end of the call, int64 [M]."""
    if not isinstance(steps, Tensor):
        return state.steps + check_integer(steps, "steps", MOST["step"])
    check_tensor("steps", steps, (modules,), torch.int64, state.steps.device, "[M]")
    if modules and values_can_be_read(steps) and int(steps.min()) < 0:
        raise ValueError(f"steps must be at least 0, got {steps.tolist()}")
    return state.steps + steps


def _last(state: FitState, steps: int | Tensor, goal: Tensor) -> int | None:
    """Return a number that no goal passes, if that is known without waiting for the device."""
    if not len(goal):
        return 0
    if values_can_be_read(goal):
        return int(goal.max())
    most = state.most_steps
    return None if most is None or isinstance(steps, Tensor) else most + steps


def _check_trust(rule: FitRule, state: FitState) -> Trust | None:
    """Return the trust region, None if it is off."""
    if rule.trust is None:
        return None
    if not isinstance(rule.trust, tuple) or len(rule.trust) != 3:
        raise TypeError(f"rule.trust must be (lam, fisher, anchor) or None, got {type(rule.trust).__name__}")
    lam = check_number("rule.trust's lam", rule.trust[0], 0.0)
    if lam == 0:
        return None
    lists: list[list[Tensor]] = []
    for name, value in (("fisher", rule.trust[1]), ("anchor", rule.trust[2])):
        tensors = check_tensors(f"rule.trust's {name}", value)
        if len(tensors) != len(state.params):
            raise ValueError(f"rule.trust's {name} must hold {len(state.params)} tensors, got {len(tensors)}")
        for i, (t, p) in enumerate(zip(tensors, state.params)):
            check_tensor(f"rule.trust's {name}[{i}]", t, tuple(p.shape), p.dtype, p.device, f"like state.params[{i}]")
        lists.append(tensors)
    return Trust(lam, *lists)


def _check_guide(draws: Draws, data: FitData | FitRays, sizes: Tensor, state: FitState) -> Guide | None:
    """Return the options of the rule "guided", checked with its state; None of another rule."""
    if not isinstance(draws.rule, str) or draws.rule not in RULES:
        raise ValueError(f"draws.rule must be one of {', '.join(RULES)}, got {draws.rule!r}")
    guide = None
    if draws.rule != "guided":
        if draws.guide is not None:
            raise ValueError(f"draws.guide must be None with the rule {draws.rule!r}, got {type(draws.guide).__name__}")
    elif isinstance(data, FitRays):
        raise ValueError("draws.rule must not be 'guided' for rays, which it has no scores of: draw them by ids")
    else:
        guide = Guide() if draws.guide is None else draws.guide
        check_guide(guide, data, sizes)
    check_guide_state(state.guide, guide, state.params, sizes)
    return guide


def _check_draws(draws: Draws, modules: int, sizes: Tensor, goal: Tensor, state: FitState) -> Tensor:
    """Check the draws and return the numbers that they are keyed by, int64 [M]."""
    device = sizes.device
    check_positive_int(draws.batch, "draws.batch")
    wrapped_seed(draws.seed, "draws.seed")
    check_integer(draws.task, "draws.task", MOST["task"])
    numbers = torch.arange(modules, device=device) if draws.modules is None else draws.modules
    check_tensor("draws.modules", numbers, (modules,), torch.int64, device, "[M]")
    if draws.rule == "given":
        check_tensor("draws.ids", draws.ids, (None, modules, None), torch.int64, device, "[K, M, batch]")
        if draws.weights is not None:
            assert draws.ids is not None
            shape, dtype = tuple(draws.ids.shape), state.params[0].dtype
            check_tensor("draws.weights", draws.weights, shape, dtype, device, "like draws.ids")
    else:
        for name, value in (("draws.ids", draws.ids), ("draws.weights", draws.weights)):
            if value is not None:
                raise ValueError(f"{name} must be None with the rule {draws.rule!r}: it draws its own samples")
    if not modules or not values_can_be_read(sizes, numbers, state.steps, goal):
        return numbers
    for name, values in (("draws.modules", numbers), ("state.steps", state.steps), ("the last step", goal)):
        if not 0 <= int(values.min()) <= int(values.max()) <= MOST["module"]:
            raise ValueError(f"{name} must be at least 0 and below 2^32, got {values.tolist()}")
    moving = (goal > state.steps).tolist()
    for m, n in enumerate(sizes.tolist()):
        if moving[m] and not 1 <= n <= MOST["sample"]:
            raise ValueError(f"data must have samples for module {m}, got {n}")
        if moving[m] and draws.rule in ("uniform", "even", "guided") and draws.batch > n:
            raise ValueError(
                f"draws.batch must be at most the {n} samples of module {m}, got {draws.batch}; "
                "the rule 'whole' takes every sample in every step"
            )
    if draws.ids is not None:
        _check_ids(draws.ids, sizes, (goal - state.steps), moving)
    return numbers


def _check_ids(ids: Tensor, sizes: Tensor, steps: Tensor, moving: Sequence[bool]) -> None:
    if ids.shape[0] < int(steps.max()):
        raise ValueError(f"draws.ids must have a row for each of {int(steps.max())} steps, got {ids.shape[0]}")
    if any(moving) and ids.shape[2] == 0:
        raise ValueError("draws.ids must name at least one sample per step, got none")
    wrong = (ids < 0) | (ids >= sizes[None, :, None])
    wrong &= torch.tensor(moving, dtype=torch.bool)[None, :, None]
    if bool(wrong.any()):
        k, m, j = wrong.nonzero()[0].tolist()
        value = int(ids[k, m, j])
        raise IndexError(f"draws.ids must be in [0, {int(sizes[m])}) for module {m}, got ids[{k}, {m}, {j}] = {value}")


def _check_watch(watch: Watch, modules: int, device: torch.device) -> Tensor | None:
    """Check what is watched and return the losses to stop at, float64 [M], or None."""
    for name in ("losses_at", "params_at"):
        numbers = getattr(watch, name)
        if isinstance(numbers, str | Tensor) or not isinstance(numbers, Sequence):
            raise TypeError(f"watch.{name} must be a sequence of ints, got {type(numbers).__name__}")
        for number in numbers:
            check_positive_int(number, f"watch.{name}")
        if list(numbers) != sorted(set(numbers)):
            raise ValueError(f"watch.{name} must ascend, got {list(numbers)}")
    check_positive_int(watch.check_every, "watch.check_every")
    if watch.stop_loss is None:
        return None
    if isinstance(watch.stop_loss, Tensor):
        check_tensor("watch.stop_loss", watch.stop_loss, (modules,), torch.float64, device, "[M]")
        return watch.stop_loss
    loss = check_number("watch.stop_loss", watch.stop_loss, 0.0)
    return torch.full((modules,), loss, dtype=torch.float64, device=device)


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


def _why_not_guided(device: torch.device, dtype: torch.dtype) -> str | None:
    reason = by_dtype(cuda_library, DTYPES)(device, dtype)
    return reason or "its fit has no Fisher-guided draws: draw with the rule 'given'"


_GUIDED_OP = register(
    "bank_guided_fit",
    passes_transforms=True,
    cuda=Backend(_why_not_guided, compiled.bank_guided_fit),
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
