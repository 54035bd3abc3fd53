"""Step all modules of a bank, each with a step count, a learning rate and a switch of its own.

torch.optim keeps one step counter per tensor; a bank needs one per module, because modules join late (append), stop
(freeze) and start over (reset) while the others go on. `ops.bank_step` is the mathematics;
`BankOptimizer` holds the state, for gradients that are handed to it and for the optimizers of `mf.optim`, which take
them from `p.grad`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.checks import check_number, check_tensor
from mclnf_fast.learn.mixed import LossScale, all_finite, masters_of, write_copies
from mclnf_fast.learn.params import HALVES, Params, check_like, check_modules, check_params, per_module
from mclnf_fast.ops.bank_fit import FitState
from mclnf_fast.ops.bank_step import Decay, StepKind, Trust, bank_step, check_betas


class BankOptimizer:
    """Adam or SGD over a bank, per module what torch.optim is per network.

    The parameters are changed in place, under no_grad. Frozen modules are not touched at all: their
    parameters, moments and counters stay as they are, bit for bit, whatever their gradient (even NaN).

    Of parameters in bfloat16 or float16 it keeps the values in float32, `masters`, with their moments: a step shorter
    than a weight's last bit of 8 or 11 would be lost. A step changes the masters, and writes the parameters in the same
    pass as their rounded values. float32 parameters beside them (`mixed.half_copies`) are their own masters.

    Args:
        params: flat tuple of tensors [M, ...], all float64, or float32 and one of bfloat16 and float16.
        kind: "adam" or "sgd".
        lr: one rate, or one per module [M].
        betas, eps: Adam's.
        trust: (lam, fisher, anchor), see `Trust`, or None; may be set later through `optimizer.trust`.
        masters: float32 tensors like half params, which are set to their rounded values; changed in place. In the place
            of a float32 param that param itself. None: the values of params.
        loss_scale: whether gradients are those of `scaled` losses: float16 has no small numbers. For half params.

    Attributes:
        decay: weight decay of the steps, see `ops.Decay`, or None.
        skip_empty: whether a module whose gradients are all 0, and a tensor without a gradient, is left alone.

    Raises: TypeError, ValueError, naming the argument.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        kind: StepKind = "adam",
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        trust: Trust | tuple[float, Params, Params] | None = None,
        masters: Sequence[Tensor] | None = None,
        loss_scale: bool = False,
    ) -> None:
        self.params = _checked(params)
        self.masters = masters_of(self.params, masters)
        if kind not in ("adam", "sgd"):
            raise ValueError(f"kind must be 'adam' or 'sgd', got {kind!r}")
        self.kind: StepKind = kind
        self.betas, self.eps = check_betas(betas), check_number("eps", eps, 0.0)
        device = self.params[0].device
        self._step = torch.zeros(self.modules, dtype=torch.float64, device=device)
        self._lr = torch.empty(self.modules, dtype=torch.float64, device=device)
        self._rate = 0.0  # the last one set for all: that of the first module to join an empty bank
        # On the host: with a tensor on a GPU the question whether any module is frozen would wait for the device.
        self._frozen = [False] * self.modules
        self._active: Tensor | None = None  # bool [M] on the device; None while no module is frozen
        self._exp_avg = self._zeros()
        self._exp_avg_sq = self._zeros()
        self._trust: Trust | None = None
        self.decay: Decay | None = None
        self.skip_empty = False
        if loss_scale and not self.half:
            raise ValueError(f"loss_scale must be False for params of {self.params[0].dtype}, got True")
        self.loss_scale = LossScale(self.modules, device) if loss_scale else None
        self.set_lr(lr)
        self.trust = trust

    @property
    def modules(self) -> int:
        """M."""
        return self.params[0].shape[0]

    @property
    def half(self) -> bool:
        """Whether parameters have a half type, beside masters."""
        return any(m is not p for m, p in zip(self.masters, self.params))

    @property
    def lr(self) -> Tensor:
        """fp64 [M]."""
        return self._lr

    @property
    def frozen(self) -> Tensor:
        """bool [M], on the CPU."""
        return torch.tensor(self._frozen, dtype=torch.bool)

    @property
    def steps(self) -> Tensor:
        """int64 [M]: steps each module has made since it joined or was reset."""
        return self._step.to(torch.int64)

    @property
    def trust(self) -> Trust | None:
        """The trust region in force; assign (lam, fisher, anchor) or None."""
        return self._trust

    @trust.setter
    def trust(self, trust: Trust | tuple[float, Params, Params] | None) -> None:
        if trust is None:
            self._trust = None
            return
        if not isinstance(trust, tuple) or len(trust) != 3:
            raise TypeError(f"trust must be (lam, fisher, anchor) or None, got {type(trust).__name__}")
        lam, fisher, anchor = trust
        lam = check_number("trust's lam", lam, 0.0)
        fisher = check_like(fisher, self.params, "trust's fisher")
        anchor = check_like(anchor, self.params, "trust's anchor")
        like = self.masters[0].detach()
        self._trust = Trust(lam, tuple(f.detach().to(like) for f in fisher), tuple(a.detach().to(like) for a in anchor))

    def set_lr(self, lr: float | Tensor, modules: int | Iterable[int] | Tensor | None = None) -> None:
        """Set the rate, one for all or one each [m], of all modules or of those named. Raises ValueError."""
        rows = slice(None) if modules is None else check_modules(modules, self.modules)
        if isinstance(lr, Tensor):
            count = len(rows) if isinstance(rows, list) else self.modules
            check_tensor("lr", lr)
            if lr.dim() > 1 or (lr.dim() == 1 and lr.shape[0] != count):
                raise ValueError(f"lr must be a float or [{count}], got {tuple(lr.shape)}")
            if not bool((torch.isfinite(lr) & (lr >= 0)).all()):
                raise ValueError(f"lr must be finite and at least 0, got {lr.tolist()}")
            self._lr[rows] = lr.detach().to(self._lr)
            return
        rate = check_number("lr", lr, 0.0)
        if isinstance(rows, list):
            self._lr[rows] = rate
        else:  # at every step of a schedule
            self._rate = rate
            self._lr.fill_(rate)

    def set_rates(self, lr: float | Tensor, factors: Tensor | None = None) -> None:
        """Set every module's rate to `lr`, a number or a tensor of one, times its factor [M]; never waits for a device.
        Raises TypeError, ValueError."""
        rate = lr if isinstance(lr, Tensor) else check_number("lr", lr, 0.0)
        if factors is not None:
            torch.mul(factors, rate, out=self._lr)
        elif isinstance(rate, Tensor):
            self._lr.copy_(rate.reshape(()).expand(self.modules))
        else:
            self._rate = rate
            self._lr.fill_(rate)

    def scaled(self, losses: Tensor) -> Tensor:
        """Return losses [M] times each module's scale: those to differentiate. Without `loss_scale` the losses."""
        return losses if self.loss_scale is None else losses * self.loss_scale.scale.to(losses)

    def step(
        self,
        grads: Sequence[Tensor | None] | None = None,
        active: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        """Make one step of every module that is not frozen, and whose gradients are finite if losses are scaled.

        Args:
            grads: tensors like the parameters, or None to take `p.grad`. Beside half parameters also all float32, not
                scaled: those of half parameters are rounded. With `skip_empty` None for a tensor that makes no step.
            active: bool [M], of the modules that make a step; None: all.
            scale: float64 [M], what the losses of half parameters were multiplied by; None: `loss_scale`, or 1.

        Raises: TypeError, if a gradient has another dtype; ValueError, if one is missing or has another shape.
        Nothing is changed then.
        """
        if grads is not None and not isinstance(grads, (list, tuple)):
            raise TypeError(f"grads must be a sequence of tensors like the parameters, got {type(grads).__name__}")
        gradients: list[Tensor] = []
        stepped: list[int] = []
        for i, g in enumerate([p.grad for p in self.params] if grads is None else grads):
            if g is not None:
                gradients.append(g)
                stepped.append(i)
            elif not self.skip_empty:
                raise ValueError(f"grads[{i}] must be a tensor like params[{i}], got None")
        if self.skip_empty and not gradients:
            return
        lists: list[Sequence[Any]] = [
            self.masters,
            self._exp_avg,
            self._exp_avg_sq,
            self.params,
            [None if m is p else p for m, p in zip(self.masters, self.params)] if self.half else (),
        ]
        if self.skip_empty and len(stepped) < len(self.params):
            lists = [[tensors[i] for i in stepped] if tensors else () for tensors in lists]
        masters, exp_avg, exp_avg_sq, params, copies = lists
        if self._active is not None:
            active = self._active if active is None else self._active & active
        scaling = self.loss_scale
        finite: Tensor | None = None
        if copies and all(isinstance(g, Tensor) and g.dtype == torch.float32 for g in gradients):
            gradients = [self._scaled_and_rounded(g, p) for g, p in zip(gradients, params)]
        if scaling is not None:
            finite = all_finite(gradients)
            active = finite if active is None else finite & active
        bank_step(
            masters,
            gradients,
            exp_avg,
            exp_avg_sq,
            self._step,
            self._lr,
            active=active,
            kind=self.kind,
            betas=self.betas,
            eps=self.eps,
            trust=self._trust,
            copies=copies,
            scale=scale if scaling is None else scaling.scale,
            decay=self.decay,
            skip_zero=self.skip_empty,
        )
        if scaling is not None and finite is not None:
            scaling.update(finite, self._active)

    def fit_state(self, steps: int) -> FitState:
        """Return parameters and moments for `ops.bank_fit`, which changes them in place; `steps` is the number made on
        the task. What it then makes is counted by `count`."""
        made = torch.full((self.modules,), steps, dtype=torch.int64, device=self.params[0].device)
        params = tuple(p.detach() for p in self.masters)
        state = FitState(params, tuple(self._exp_avg), tuple(self._exp_avg_sq), made)
        state.know(steps)
        return state

    def count(self, steps: int) -> None:
        """Count steps of all modules that `ops.bank_fit` has made from `fit_state`."""
        self._step += steps
        write_copies(self.params, self.masters)

    def zero_grad(self) -> None:
        """Set every `p.grad` to None."""
        for p in self.params:
            # None, not zeros: zeros would cost one pass to write and one more to add to.
            p.grad = None

    def freeze(self, modules: int | Iterable[int] | Tensor) -> None:
        """Stop these modules. Raises: IndexError for an id out of range."""
        self._switch(modules, True)

    def unfreeze(self, modules: int | Iterable[int] | Tensor) -> None:
        """Let these modules go on, from the state in which they were frozen. Raises: IndexError."""
        self._switch(modules, False)

    def reset(self, modules: int | Iterable[int] | Tensor | None = None) -> None:
        """Forget the moments and counters of these modules (all, if None). Raises: IndexError."""
        rows = list(range(self.modules)) if modules is None else check_modules(modules, self.modules)
        self._step[rows] = 0.0
        for state in (*self._exp_avg, *self._exp_avg_sq):
            state[rows] = 0.0
        if self.loss_scale is not None:
            self.loss_scale.reset(rows)

    def append(self, module_params: Sequence[Tensor], lr: float | None = None) -> Params:
        """Add modules with parameters [m, ...]; returns the new leaves [M + m, ...], also `self.params`.

        A bank that grows its own parameters calls `rebind` instead. Raises: TypeError, ValueError.
        """
        new = check_params(module_params, "module_params", mixed=True)
        if len(new) != len(self.params) or any(a.shape[1:] != b.shape[1:] for a, b in zip(new, self.params)):
            shapes = [tuple(p.shape[1:]) for p in self.params]
            raise ValueError(f"module_params must have the shapes [m] + {shapes}, got {[tuple(p.shape) for p in new]}")
        grown = tuple(
            torch.cat([old.detach(), add.detach().to(old)]).requires_grad_(old.requires_grad)
            for old, add in zip(self.params, new)
        )
        self.rebind(grown, lr)
        return grown

    def keep(self, modules: list[int]) -> None:
        """Forget every other module; its parameters are copies until `rebind`. A trust region is dropped with them."""
        if modules == list(range(self.modules)):
            return
        half = [p.dtype in HALVES for p in self.params]
        self.params = tuple(p.detach()[modules].requires_grad_(p.requires_grad) for p in self.params)
        self.masters = tuple(m[modules] if is_half else p for m, p, is_half in zip(self.masters, self.params, half))
        self._step, self._lr = self._step[modules], self._lr[modules]
        self._exp_avg = [state[modules] for state in self._exp_avg]
        self._exp_avg_sq = [state[modules] for state in self._exp_avg_sq]
        self._trust = None
        if self.loss_scale is not None:
            self.loss_scale.keep(modules)
        self._set_frozen([self._frozen[m] for m in modules])

    def rebind(self, params: Sequence[Tensor], lr: float | None = None) -> None:
        """Take over a bank's grown parameters [M + m, ...]; the first M modules keep their state.

        New modules have the rate `lr`, or that of the last module (of an empty bank: the last
        one set for all). A trust region is dropped when the bank
        has grown, since it no longer fits. Raises: TypeError, ValueError.
        """
        new = _checked(params)
        old, extra = self.modules, new[0].shape[0] - self.modules
        if len(new) != len(self.params) or any(a.shape[1:] != b.shape[1:] for a, b in zip(new, self.params)):
            raise ValueError("params must be the same architecture as the optimizer's, got other shapes")
        # Which modules are gone could not be known: what is kept of one would pass to another.
        if extra < 0:
            raise ValueError(f"params must hold at least the optimizer's {old} modules, got {new[0].shape[0]}")
        for a, b in zip(new, self.params):
            if a.dtype != b.dtype:
                raise TypeError(f"params must be {b.dtype} like the optimizer's, got {a.dtype}")
        self.masters = tuple(
            p if p.dtype not in HALVES else torch.cat([m, p.detach()[old:].float()]) for m, p in zip(self.masters, new)
        )
        self.params = new
        if self.loss_scale is not None:
            self.loss_scale.extend(extra)
        self._step = torch.cat([self._step, self._step.new_zeros(extra)])
        last = self._lr[-1:] if old else self._lr.new_full((1,), self._rate)
        self._lr = torch.cat([self._lr, last.expand(extra)])
        self._set_frozen(self._frozen + [False] * extra)
        self._exp_avg = [torch.cat([s, s.new_zeros(extra, *s.shape[1:])]) for s in self._exp_avg]
        self._exp_avg_sq = [torch.cat([s, s.new_zeros(extra, *s.shape[1:])]) for s in self._exp_avg_sq]
        if extra:
            self._trust = None
            if lr is not None:
                self.set_lr(lr, range(old, old + extra))

    def tensor_state(self, i: int) -> dict[str, Tensor]:
        """Return what belongs to `params[i]`, not copied: `step` [M] of all of them, the moments, and the master."""
        state = {"step": self._step}
        if self.kind == "adam":
            state |= {"exp_avg": self._exp_avg[i], "exp_avg_sq": self._exp_avg_sq[i]}
        return state | ({"master": self.masters[i]} if self.half else {})

    def state_dict(self) -> dict[str, Tensor]:
        """Return counters, rates, switches and moments as tensors (copies); the rest is the caller's."""
        state = {"step": self._step.clone(), "lr": self._lr.clone(), "frozen": self.frozen}
        state.update({f"exp_avg.{i}": s.clone() for i, s in enumerate(self._exp_avg)})
        state.update({f"exp_avg_sq.{i}": s.clone() for i, s in enumerate(self._exp_avg_sq)})
        if self.half:
            state.update({f"master.{i}": m.detach().clone() for i, m in enumerate(self.masters)})
        if self.loss_scale is not None:
            state["scale"], state["good_steps"] = self.loss_scale.scale.clone(), self.loss_scale.good_steps.clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned.

        Raises: ValueError, if an entry is missing or has another shape.
        """
        expected = self.state_dict()
        # All is checked before anything is written: a state that does not fit leaves the optimizer as it was.
        if set(state) != set(expected):
            raise ValueError(f"state must hold {sorted(expected)}, got {sorted(state)}")
        for key, value in expected.items():
            if state[key].shape != value.shape:
                raise ValueError(f"state[{key!r}] must be {tuple(value.shape)}, got {tuple(state[key].shape)}")
        self._step.copy_(state["step"])
        self._lr.copy_(state["lr"])
        self._set_frozen([bool(f) for f in state["frozen"].tolist()])
        for i, (m, v) in enumerate(zip(self._exp_avg, self._exp_avg_sq)):
            m.copy_(state[f"exp_avg.{i}"])
            v.copy_(state[f"exp_avg_sq.{i}"])
        if self.half:
            with torch.no_grad():
                for i, m in enumerate(self.masters):
                    m.copy_(state[f"master.{i}"])
            write_copies(self.params, self.masters)
        if self.loss_scale is not None:
            self.loss_scale.scale.copy_(state["scale"])
            self.loss_scale.good_steps.copy_(state["good_steps"])

    def _scaled_and_rounded(self, gradient: Tensor, param: Tensor) -> Tensor:
        """Return a float32 gradient as one of the scaled loss in the parameter's type."""
        if self.loss_scale is not None:
            gradient = gradient * per_module(self.loss_scale.scale.to(gradient), gradient)
        return gradient.to(param.dtype)

    def _zeros(self) -> list[Tensor]:
        # SGD has no moments: zeros would take twice the memory of the parameters.
        if self.kind == "sgd":
            return []
        return [torch.zeros_like(p, memory_format=torch.contiguous_format).detach() for p in self.masters]

    def _switch(self, modules: int | Iterable[int] | Tensor, off: bool) -> None:
        frozen = list(self._frozen)
        for m in check_modules(modules, self.modules):
            frozen[m] = off
        self._set_frozen(frozen)

    def _set_frozen(self, frozen: list[bool]) -> None:
        self._frozen = frozen
        self._active = ~self.frozen.to(self.params[0].device) if any(frozen) else None


def _checked(params: Sequence[Tensor]) -> Params:
    checked = check_params(params, mixed=True)
    if checked[0].dtype not in (torch.float32, torch.float64, *HALVES):
        raise TypeError(f"params must be float32, float64, bfloat16 or float16, got {checked[0].dtype}")
    return checked
