"""The tensors of one bank in one parameter group of an optimizer, and what each of the modules has of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.checks import check_number
from mclnf_fast.fields.bank import FieldBank
from mclnf_fast.learn.mixed import write_copies
from mclnf_fast.learn.optim.bank import BankOptimizer
from mclnf_fast.learn.params import check_modules
from mclnf_fast.ops.bank_step import Decay, StepKind

MOMENTS = ("exp_avg", "exp_avg_sq")


class ModuleOptions:
    """Which modules of a bank are frozen, and the factor of each one's rate."""

    def __init__(self, bank: FieldBank) -> None:
        self.bank = bank
        self.names = list(bank.names)
        self.frozen = [False] * len(bank)
        self.rates = [1.0] * len(bank)

    def follow(self) -> None:
        """Forget the options of modules that have left the bank, and give those that have joined the ones of a fresh
        module."""
        known = {id(name): (off, rate) for name, off, rate in zip(self.names, self.frozen, self.rates)}
        self.names = list(self.bank.names)
        options = [known.get(id(name), (False, 1.0)) for name in self.names]
        self.frozen, self.rates = [off for off, _ in options], [rate for _, rate in options]

    def switch(self, modules: int | Iterable[int] | Tensor, frozen: bool) -> None:
        """Freeze modules or let them go on."""
        for m in check_modules(modules, len(self.frozen)):
            self.frozen[m] = frozen

    def set_rates(self, factor: float | Sequence[float] | Tensor, modules: list[int]) -> None:
        """Set the factors of modules: one for all, or one each. Raises TypeError, ValueError."""
        if isinstance(factor, (Tensor, Sequence)):
            values = factor.tolist() if isinstance(factor, Tensor) else list(factor)
            values = values if isinstance(values, list) else [values] * len(modules)
        else:
            values = [factor] * len(modules)
        if len(values) != len(modules):
            raise ValueError(f"factor must be a number or [{len(modules)}], got {len(values)} numbers")
        for m, value in zip(modules, [check_number("factor", v, 0.0) for v in values]):
            self.rates[m] = value

    def factors(self, device: torch.device) -> Tensor | None:
        """Return the factors of the rates, float64 [M]; None if all are 1."""
        if all(rate == 1.0 for rate in self.rates):
            return None
        return torch.tensor(self.rates, dtype=torch.float64, device=device)


class Share:
    """The tensors of a bank in one parameter group: `places` of them in `bank.stacked`.

    Those that get their first gradient in the same step count their steps together, in one `BankOptimizer`.
    """

    def __init__(self, group: int, options: ModuleOptions, places: list[int], kind: StepKind, decoupled: bool) -> None:
        self.group, self.options, self.places = group, options, places
        self.kind, self.decoupled = kind, decoupled
        self.params, self.names = self._present(), list(options.bank.names)
        self.parts: list[tuple[list[int], BankOptimizer]] = []  # places in `params`, with what steps them
        self._rated: object = None  # what the rates in force were made from

    def _present(self) -> list[Tensor]:
        stacked = self.options.bank.stacked
        return [stacked[k] for k in self.places]

    def follow(self) -> dict[Tensor, Tensor]:
        """Take over the parameters of a bank that modules have joined or left. Return the new ones by those that they
        replace."""
        present = self._present()
        replaced = {old: new for old, new in zip(self.params, present) if old is not new}
        if not replaced:
            return {}
        self.options.follow()
        there = {id(name) for name in self.options.names}
        kept = [m for m, name in enumerate(self.names) if id(name) in there]
        self.params, self.names = present, list(self.options.names)
        for places, optimizer in self.parts:
            optimizer.keep(kept)
            optimizer.rebind([present[i] for i in places])
        self._rated = None
        return replaced

    def part(self, places: list[int], group: Mapping[str, Any]) -> BankOptimizer:
        """Return the optimizer of tensors without a state, which is kept."""
        tensors = [self.params[i] for i in places]
        optimizer = BankOptimizer(tensors, self.kind, 0.0, betas=group.get("betas", (0.9, 0.999)))
        optimizer.skip_empty = True
        optimizer.freeze([m for m, frozen in enumerate(self.options.frozen) if frozen])
        self.parts.append((places, optimizer))
        self._rated = None
        return optimizer

    def step(self, group: Mapping[str, Any], found_inf: Tensor | None, grad_scale: Tensor | None) -> None:
        """Make a step with the options of the parameter group."""
        known = {i for places, _ in self.parts for i in places}
        if len(known) < len(self.params):
            fresh = [i for i, p in enumerate(self.params) if i not in known and p.grad is not None]
            if fresh:
                self.part(fresh, group)
        self._set_rates(group["lr"])
        for _, optimizer in self.parts:
            if self.kind == "adam":
                optimizer.betas, optimizer.eps = group["betas"], group["eps"]
            weight = group["weight_decay"]
            optimizer.decay = Decay(weight, self.decoupled) if weight else None
            grads = [p.grad for p in optimizer.params]
            active = scale = None
            if found_inf is not None:
                active = (found_inf == 0).to(optimizer.lr.device).reshape(()).expand(optimizer.modules)
            if grad_scale is not None:
                if optimizer.half:
                    scale = grad_scale.to(optimizer.lr).reshape(()).expand(optimizer.modules)
                else:
                    grads = [None if g is None else g / grad_scale.to(g.device) for g in grads]
            optimizer.step(grads, active, scale)

    def _set_rates(self, lr: float | Tensor) -> None:
        if not isinstance(lr, Tensor):
            if self._rated == lr:
                return
            self._rated = lr
        for _, optimizer in self.parts:
            optimizer.set_rates(lr, self.options.factors(optimizer.lr.device))

    def apply_options(self) -> None:
        """Take over changed options of the modules."""
        self._rated = None
        frozen = [m for m, off in enumerate(self.options.frozen) if off]
        others = [m for m, off in enumerate(self.options.frozen) if not off]
        for _, optimizer in self.parts:
            optimizer.freeze(frozen)
            optimizer.unfreeze(others)

    def states(self) -> dict[Tensor, dict[str, Tensor]]:
        """Return the state of every tensor that has one: step [M], moments like it and, of half types, its master."""
        return {
            optimizer.params[n]: optimizer.tensor_state(n)
            for places, optimizer in self.parts
            for n in range(len(places))
        }

    def check_state(self, tensor: Tensor, state: Mapping[str, Any], name: str) -> None:
        """Raise ValueError if a tensor's state does not fit."""
        half = tensor.dtype in (torch.bfloat16, torch.float16)
        keys = {"step", *(MOMENTS if self.kind == "adam" else ()), *(("master",) if half else ())}
        if set(state) != keys:
            raise ValueError(f"{name} must hold {sorted(keys)}, got {sorted(state)}")
        for key, value in state.items():
            shape = tensor.shape[:1] if key == "step" else tensor.shape
            if not isinstance(value, Tensor) or value.shape != shape:
                got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{name}[{key!r}] must be a tensor {list(shape)}, got {got}")

    def load(self, states: Mapping[Tensor, Mapping[str, Tensor]], group: Mapping[str, Any]) -> None:
        """Take over states of tensors, those with the same steps together."""
        self.parts = []
        together: list[tuple[Tensor, list[int]]] = []
        for i, p in enumerate(self.params):
            if p not in states:
                continue
            step = states[p]["step"].cpu()
            same = next((places for known, places in together if torch.equal(known, step)), None)
            if same is None:
                together.append((step, [i]))
            else:
                same.append(i)
        for _, places in together:
            optimizer = self.part(places, group)
            for n, i in enumerate(places):
                for key, value in optimizer.tensor_state(n).items():
                    value.copy_(states[self.params[i]][key])
            write_copies(optimizer.params, optimizer.masters)
