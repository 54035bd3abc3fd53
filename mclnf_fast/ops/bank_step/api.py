"""The public optimizer step: it checks its arguments, and a backend changes the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.checks import check_bool, check_number, check_tensor, check_tensors, values_can_be_read
from mclnf_fast.ops._checks import HALVES, refuse_transformed
from mclnf_fast.ops._dispatch import Backend, always, by_dtype, cpu_library, cuda_library, register
from mclnf_fast.ops.bank_step import autograd, reference
from mclnf_fast.ops.bank_step.reference import Decay, StepKind, Trust

DTYPES = (torch.float32, torch.float64)
REMEDY = "A step works in place and has no derivative: differentiate through learn.meta.adapt"

autograd.join()


def bank_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    step: Tensor,
    lr: float | Tensor,
    *,
    active: Tensor | None = None,
    kind: StepKind = "adam",
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    trust: Trust | tuple[float, Sequence[Tensor], Sequence[Tensor]] | None = None,
    copies: Sequence[Tensor | None] = (),
    scale: Tensor | None = None,
    decay: Decay | tuple[float, bool] | None = None,
    skip_zero: bool = False,
    backend: str | None = "auto",
) -> None:
    """Make one optimizer step of every module of a bank, in place and under no_grad.

    Plain SGD, or Adam (arXiv 1412.6980, algorithm 1):

        g <- g / scale
        g <- g + w theta              weight decay w; decoupled: theta <- (1 - lr w) theta before the step instead
        g <- g + lam F (theta - anchor)                              the trust region, left out if lam = 0
        sgd:   theta <- theta - lr g
        adam:  m <- b1 m + (1-b1) g,  v <- b2 v + (1-b2) g^2
               theta <- theta - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    One pass over memory, parameter by parameter; the same bits in every run, on every CPU and for any number of
    threads.

    Args:
        params: tensors [M, ...], float32 or float64, of any strides (contiguous ones save two copies) but not expanded;
            changed.
        grads: like params, or like copies if there are any; not changed.
        exp_avg, exp_avg_sq: m and v like params, changed; empty for SGD.
        step: float64 [M], the number of steps that each module has made; counted up here.
        lr: one rate, or float64 [M], at least 0.
        active: bool [M]: the others are not touched at all, bit for bit, whatever their gradient (even NaN).
            None: all are active.
        kind: "adam" or "sgd".
        betas, eps: Adam's; betas in [0, 1), eps at least 0.
        trust: (lam, fisher, anchor), see `Trust`, or None.
        copies: tensors shaped like float32 params, bfloat16 or float16: they receive the rounded values of the modules
            that step, in the same pass, and the gradients are of their dtype. None in the place of a copy: that
            parameter has none, and a float32 gradient. Empty: no parameter has.
        scale: float64 [M], above 0 (powers of two, to lose no bit): what the loss was multiplied by whose gradients
            these are; None: 1. For copies alone.
        decay: (weight, decoupled), see `Decay`, or None.
        skip_zero: whether a module whose gradients are 0 in every entry of all tensors is left alone as if it were not
            active: it had no sample, and Adam would still move it by its momentum, and weight decay shrink it. No
            device is waited for.
        backend: "auto", "cuda", "cpu" or "reference".

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a wrong number of tensors, shape, device or value, or memory that was freed; nothing is changed
            then. Values of tensors (lr, step) are read on the CPU only, and not while `torch.compile` traces.
        RuntimeError: a torch.func transform or forward-mode differentiation works on one of the tensors.
        BackendError: a backend asked for by name can't serve.

    Example:
        >>> weights, step = [torch.ones(2, 3)], torch.zeros(2, dtype=torch.float64)
        >>> bank_step(weights, [torch.ones(2, 3)], [], [], step, 0.5, kind="sgd")
        >>> weights[0].unique().tolist(), step.tolist()
        ([0.5], [1.0, 1.0])
    """
    params, grads = _listed("params", params), _listed("grads", grads)
    exp_avg, exp_avg_sq = _listed("exp_avg", exp_avg), _listed("exp_avg_sq", exp_avg_sq)
    present = _listed_copies(copies, params)
    if not params:
        raise ValueError("params must hold at least one tensor [M, ...], got none")
    check_tensor("params[0]", params[0], dtype=DTYPES)
    if kind not in ("adam", "sgd"):
        raise ValueError(f"kind must be 'adam' or 'sgd', got {kind!r}")
    region, decay = _check_trust(trust), _check_decay(decay)
    check_bool("skip_zero", skip_zero)
    rate = lr if isinstance(lr, Tensor) else check_number("lr", lr, 0.0)
    betas, eps = check_betas(betas), check_number("eps", eps, 0.0)
    refuse_transformed(
        "bank_step", REMEDY, params=params, grads=grads, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, copies=present
    )
    check_tensor("step", step, what="[M]")
    function = _OP.serving(backend, params[0].device, params[0].dtype)
    state = _State(params, grads, exp_avg, exp_avg_sq, step, rate, active, present, scale)
    with torch.no_grad():
        function(state, _Rule(kind, betas, eps, region, decay, skip_zero))


class _State(NamedTuple):
    """The tensors of a step, as `bank_step` takes them."""

    params: Sequence[Tensor]
    grads: Sequence[Tensor]
    exp_avg: Sequence[Tensor]
    exp_avg_sq: Sequence[Tensor]
    step: Tensor
    lr: float | Tensor
    active: Tensor | None
    copies: Sequence[Tensor]
    scale: Tensor | None


class _Rule(NamedTuple):
    """How a step is made."""

    kind: StepKind
    betas: tuple[float, float]
    eps: float
    trust: Trust | None
    decay: Decay
    skip_zero: bool


def _reference(state: _State, rule: _Rule) -> None:
    _check(state, rule.kind, rule.trust)
    if rule.skip_zero:
        found = reference.with_gradients(state.grads)
        state = state._replace(active=found if state.active is None else found & state.active)
    rates = state.lr if isinstance(state.lr, Tensor) else torch.full_like(state.step, state.lr)
    grads = state.grads
    if state.copies:
        scale = torch.ones_like(state.step) if state.scale is None else state.scale
        grads = [g.float() / reference.per_module(scale.float(), g) for g in grads]
    lists = (state.params, grads, state.exp_avg, state.exp_avg_sq)
    kind, betas, eps, trust, decay, _ = rule
    reference.bank_step(*lists, state.step, rates, state.active, kind, betas, eps, trust, decay)
    for copy, p in zip(state.copies, state.params):
        if copy.dtype == p.dtype:
            continue
        new = p.to(copy.dtype)
        copy.copy_(new if state.active is None else torch.where(reference.per_module(state.active, p), new, copy))


def _compiled(state: _State, rule: _Rule) -> None:
    kind, betas, eps, trust, decay, skip_zero = rule
    compiling = torch.compiler.is_compiling()
    if compiling:
        _check(state, kind, trust)
    params, grads, exp_avg, exp_avg_sq, step, lr, active, copies, scale = state
    rates, rate = (lr, 0.0) if isinstance(lr, Tensor) else (None, float(lr))
    lam, fisher, anchor = trust or (0.0, (), ())
    options = (kind == "adam", betas[0], betas[1], eps, lam, fisher, anchor, copies, scale, *decay, skip_zero)
    # The kernel checks everything before it writes anything: if it refuses, the cause is searched for here and named.
    # A correct step pays for no check in Python, which would take longer than the step of a small bank.
    try:
        if not compiling:  # autograd of what saved a parameter for its backward then finds out that it has changed
            torch.autograd.graph.increment_version((*params, *exp_avg, *exp_avg_sq, step, *copies))
        torch.ops.mclnf_fast.bank_step(params, grads, exp_avg, exp_avg_sq, step, rates, rate, active, *options)
    except (RuntimeError, TypeError):
        if not compiling:
            _check(state, kind, trust)
        raise


def check_betas(betas: object, name: str = "betas") -> tuple[float, float]:
    """Return Adam's decays. Raises TypeError, ValueError."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        got = betas if isinstance(betas, tuple) else type(betas).__name__
        raise TypeError(f"{name} must be two numbers, got {got}")
    return check_number(f"{name}[0]", betas[0], 0.0, 1.0), check_number(f"{name}[1]", betas[1], 0.0, 1.0)


def _listed(name: str, value: Sequence[Tensor]) -> Sequence[Tensor]:
    return value if isinstance(value, (list, tuple)) else check_tensors(name, value)


def _listed_copies(copies: Sequence[Tensor | None], params: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the copies with an empty float32 tensor for each that is missing, as the kernels take it."""
    if not isinstance(copies, (list, tuple)):
        return check_tensors("copies", copies)
    if all(copy is not None for copy in copies):
        return copies
    missing = params[0].new_empty(0)
    return [missing if copy is None else copy for copy in copies]


def _check_copies(copies: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    if len(copies) != len(params):
        raise ValueError(f"copies must hold {len(params)} tensors like params, got {len(copies)}")
    check_tensor("params[0]", params[0], dtype=torch.float32)
    present = [i for i, copy in enumerate(copies) if copy.dtype != torch.float32 or copy.numel()]
    if not present:
        raise ValueError("copies must be empty or hold at least one tensor, got None alone")
    first = present[0]
    check_tensor(f"copies[{first}]", copies[first], dtype=HALVES)
    for i in present:
        p = params[i]
        check_tensor(f"copies[{i}]", copies[i], tuple(p.shape), copies[first].dtype, p.device, f"like params[{i}]")


def _check_trust(trust: Trust | tuple[float, Sequence[Tensor], Sequence[Tensor]] | None) -> Trust | None:
    """Return the trust region, None if it is off."""
    if trust is None:
        return None
    if not isinstance(trust, tuple) or len(trust) != 3:
        raise TypeError(f"trust must be (lam, fisher, anchor) or None, got {type(trust).__name__}")
    lam = check_number("trust's lam", trust[0], 0.0)
    if lam == 0:
        return None
    return Trust(lam, _listed("trust's fisher", trust[1]), _listed("trust's anchor", trust[2]))


def _check_decay(decay: Decay | tuple[float, bool] | None) -> Decay:
    if decay is None:
        return reference.NO_DECAY
    if not isinstance(decay, tuple) or len(decay) != 2:
        raise TypeError(f"decay must be (weight, decoupled) or None, got {type(decay).__name__}")
    return Decay(check_number("decay's weight", decay[0], 0.0), check_bool("decay's decoupled", decay[1]))


def _check(state: _State, kind: StepKind, trust: Trust | None) -> None:
    params, grads, exp_avg, exp_avg_sq, step, lr, active, copies, scale = state
    for i, p in enumerate(params):
        check_tensor(f"params[{i}]", p, dtype=DTYPES if i == 0 else params[0].dtype, device=params[0].device)
        if p.dim() == 0 or p.shape[0] != params[0].shape[0]:
            raise ValueError(f"params[{i}] must be [M, ...] with one M for all, got {list(p.shape)}")
    modules, device = params[0].shape[0], params[0].device
    moments = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    region = {} if trust is None else {"trust's fisher": trust.fisher, "trust's anchor": trust.anchor}
    if copies:
        _check_copies(copies, params)
    for name, tensors in {"grads": grads, **moments, **region}.items():
        if kind == "sgd" and name in moments:
            if tensors:
                raise ValueError(f"{name} must be empty for SGD, got {len(tensors)} tensors")
            continue
        if len(tensors) != len(params):
            raise ValueError(f"{name} must hold {len(params)} tensors like params, got {len(tensors)}")
        for i, (t, p) in enumerate(zip(tensors, params)):
            dtype = copies[i].dtype if name == "grads" and copies else p.dtype
            check_tensor(f"{name}[{i}]", t, tuple(p.shape), dtype, device, f"like params[{i}]")
    check_tensor("step", step, (modules,), torch.float64, device, "[M]")
    for name, changed in {"params": params, **moments, "step": (step,), "copies": copies}.items():
        if any(size > 1 and stride == 0 for t in changed for size, stride in zip(t.shape, t.stride())):
            raise ValueError(f"{name} must not be expanded: it is changed in place")
    if isinstance(lr, Tensor):
        check_tensor("lr", lr, (modules,), torch.float64, device, "[M]")
    if active is not None:
        check_tensor("active", active, (modules,), torch.bool, device, "[M]")
    if scale is not None:
        check_tensor("scale", scale, (modules,), torch.float64, device, "[M]")
        if not copies:
            raise ValueError("scale must be None without copies, got a tensor")
    for name, values in {"step": step, "lr": lr, "scale": scale}.items():
        if not isinstance(values, Tensor) or not values_can_be_read(values):
            continue
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            raise ValueError(f"{name} must be finite and at least 0, got {values.tolist()}")


_OP = register(
    "bank_step",
    passes_transforms=True,
    cuda=Backend(by_dtype(cuda_library, DTYPES), _compiled),
    cpu=Backend(by_dtype(cpu_library, DTYPES), _compiled),
    reference=Backend(always, _reference),
)
