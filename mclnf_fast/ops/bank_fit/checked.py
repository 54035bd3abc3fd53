"""The checks of a fit's arguments, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence

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
from mclnf_fast.ops._checks import check_offsets, check_spec, refuse_transformed
from mclnf_fast.ops.bank_fit.call import FitCall
from mclnf_fast.ops.bank_fit.guide import Guide, check_guide, check_guide_state
from mclnf_fast.ops.bank_fit.schedule import Schedule
from mclnf_fast.ops.bank_fit.types import Draws, FitData, FitRays, FitRule, FitState, Watch
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


def checked(
    state: FitState,
    data: FitData | FitRays,
    spec: FieldSpec,
    steps: int | Tensor,
    draws: Draws,
    rule: FitRule,
    watch: Watch,
) -> FitCall:
    """Return the call that the arguments of `ops.bank_fit` make, and raise as it states."""
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
    if isinstance(data, FitRays):
        _check_rays(data, spec, modules)
    else:
        check_samples(data, spec, modules)
    sizes = data.sizes
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


def check_samples(data: FitData, spec: FieldSpec, modules: int | None = None) -> int:
    """Check the samples of modules (None: of any number) and return how many modules they are of."""
    x, out = data.x, spec.out_dim
    if data.offsets is None:
        shape: tuple[int | None, ...] = (modules, x.shape[0], out)
        what = "[M, n, out_dim]"
    else:
        check_offsets("data.offsets", data.offsets, modules, x.shape[0], x.device)
        shape, what = (x.shape[0], out), "[N, out_dim]"
    check_tensor("data.target", data.target, shape, x.dtype, x.device, what)
    if data.weight is not None:
        check_tensor(
            "data.weight", data.weight, tuple(data.target.shape[:-1]), x.dtype, x.device, "a weight per sample"
        )
    return len(data.target) if data.offsets is None else len(data.offsets) - 1


def _check_rays(rays: FitRays, spec: FieldSpec, modules: int) -> None:
    """Check the rays."""
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
