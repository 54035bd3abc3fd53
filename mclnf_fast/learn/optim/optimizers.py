"""Adam, AdamW and SGD as torch has them, which step the modules of banks each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn

from mclnf_fast.checks import check_number
from mclnf_fast.fields.bank import FieldBank, banks_of
from mclnf_fast.learn.optim.share import ModuleOptions, Share
from mclnf_fast.learn.params import check_modules
from mclnf_fast.ops.bank_step import StepKind, check_betas

Trained = nn.Module | Iterable[Any]
"""A bank, another module, or an iterable of tensors, modules or parameter groups."""


class ModuleOptimizer(torch.optim.Optimizer):
    """What `Adam`, `AdamW` and `SGD` share: a torch optimizer that steps every module of a bank by itself.

    Of a bank's parameters, however they are handed over:

    * a module whose gradients are 0 in every entry (it had no sample) is left alone, bit for bit: no momentum moves it,
      no weight decay shrinks it, and its step is not counted. No device is waited for. Several parameter groups with
      tensors of one bank decide each by their own tensors;
    * each module counts its own steps, and can be frozen, reset and given a rate of its own;
    * after `bank.append` and `bank.remove` new modules begin with a fresh state at the next `zero_grad` or `step`,
      which also puts the bank's new tensors into `param_groups`; the others keep theirs;
    * of bfloat16 and float16 parameters the values are kept in float32 beside them, `state[p]["master"]`.

    All other tensors are stepped by torch's optimizer of the same name. `state[p]` of a bank's parameter holds `step`
    [M] and, like p, `exp_avg` and `exp_avg_sq`.
    """

    kind: ClassVar[StepKind]
    decoupled: ClassVar[bool] = False
    plain: ClassVar[Any]  # the class of torch that steps other tensors

    def __init__(self, params: Trained, defaults: dict[str, Any]) -> None:
        self._banks: list[ModuleOptions] = []
        self._shares: list[Share] = []
        self._others: torch.optim.Optimizer | None = None
        super().__init__(_groups(params), defaults)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # torch.amp.GradScaler then hands over its scale and what it found, and does not wait for the device.
        return self._others is None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as torch's optimizers do; its `params` may also be or hold banks and other modules."""
        if isinstance(param_group, dict) and "params" in param_group:
            param_group = {**param_group, "params": _tensors(param_group["params"])}
        super().add_param_group(param_group)
        number = len(self.param_groups) - 1
        group = self.param_groups[number]
        _check_options(group)
        owners, others = banks_of(group["params"]), []
        for p, owner in zip(group["params"], owners):
            if owner is None:
                others.append(p)
        for bank in {id(owner): owner for owner in owners if owner is not None}.values():
            places = [k for k, p in enumerate(bank.stacked) if any(p is q for q in group["params"])]
            self._shares.append(Share(number, self._options(bank), places, self.kind, self.decoupled))
        if others:
            rest = {"params": others, **{key: group[key] for key in self.defaults}}
            if self._others is None:
                self._others = self.plain([rest])
            else:
                self._others.add_param_group(rest)
            self._others.param_groups[-1]["number"] = number

    def _options(self, bank: FieldBank) -> ModuleOptions:
        for options in self._banks:
            if options.bank is bank:
                return options
        self._banks.append(ModuleOptions(bank))
        return self._banks[-1]

    def _follow(self) -> None:
        for share in self._shares:
            replaced = share.follow()
            if not replaced:
                continue
            params = self.param_groups[share.group]["params"]
            params[:] = [replaced.get(p, p) for p in params]
            for old in replaced:
                self.state.pop(old, None)
            self.state.update(share.states())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients of all parameters to None or, without `set_to_none`, to zeros."""
        self._follow()
        super().zero_grad(set_to_none)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step of every module with a gradient. `closure` evaluates the loss again, which is returned.

        Raises TypeError, ValueError if gradients or options of a parameter group do not fit.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._follow()
        for share in self._shares:
            parts = len(share.parts)
            group = self.param_groups[share.group]
            share.step(group, getattr(self, "found_inf", None), getattr(self, "grad_scale", None))
            if len(share.parts) > parts:
                self.state.update(share.states())
        if self._others is not None:
            self._others.state = self.state
            for rest in self._others.param_groups:
                rest.update({key: self.param_groups[rest["number"]][key] for key in self.defaults})
            self._others.step()
        return loss

    def freeze(self, modules: int | Iterable[int] | Tensor, bank: FieldBank | None = None) -> None:
        """Stop modules of a bank: nothing of them changes, whatever their gradient. Raises IndexError, ValueError."""
        self._switch(modules, True, bank)

    def unfreeze(self, modules: int | Iterable[int] | Tensor, bank: FieldBank | None = None) -> None:
        """Let modules go on from the state in which they were frozen. Raises IndexError, ValueError."""
        self._switch(modules, False, bank)

    def _switch(self, modules: int | Iterable[int] | Tensor, frozen: bool, bank: FieldBank | None) -> None:
        options = self._options_of(bank)
        options.switch(modules, frozen)
        self._apply(options)

    def reset(self, modules: int | Iterable[int] | Tensor | None = None, bank: FieldBank | None = None) -> None:
        """Forget the moments and steps of modules (None: of all). Raises IndexError, ValueError."""
        options = self._options_of(bank)
        rows = list(range(len(options.frozen))) if modules is None else check_modules(modules, len(options.frozen))
        for share in self._shares:
            if share.options is options:
                for _, optimizer in share.parts:
                    optimizer.reset(rows)

    def set_rate(
        self,
        factor: float | Sequence[float] | Tensor,
        modules: int | Iterable[int] | Tensor | None = None,
        bank: FieldBank | None = None,
    ) -> None:
        """Multiply the rate of modules (None: of all) by a factor, one for all or one each: a module learns with the
        `lr` of its group times its factor, so that schedulers go on working. Raises IndexError, TypeError, ValueError.
        """
        options = self._options_of(bank)
        count = len(options.frozen)
        options.set_rates(factor, list(range(count)) if modules is None else check_modules(modules, count))
        self._apply(options)

    def _options_of(self, bank: FieldBank | None) -> ModuleOptions:
        self._follow()
        for options in self._banks:
            if options.bank is bank or (bank is None and len(self._banks) == 1):
                return options
        wanted = "one of the optimizer's banks" if self._banks else "given to the optimizer, which has no bank"
        raise ValueError(f"bank must be {wanted}, got {'None' if bank is None else 'another'}")

    def _apply(self, options: ModuleOptions) -> None:
        for share in self._shares:
            if share.options is options:
                share.apply_options()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch's optimizers do; `modules` holds what modules of each bank have of their own."""
        self._follow()
        modules = [{"frozen": list(o.frozen), "rates": list(o.rates)} for o in self._banks]
        return {**super().state_dict(), "modules": modules}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned. Raises ValueError if it does not fit; nothing is changed then."""
        self._follow()
        modules = state_dict.get("modules", [])
        sizes = [len(options.frozen) for options in self._banks]
        if [len(m["frozen"]) for m in modules] != sizes:
            got = [len(m["frozen"]) for m in modules]
            raise ValueError(f"state_dict must hold banks of {sizes} modules, got {got}")
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        tensors = [p for group in self.param_groups for p in group["params"]]
        saved = {p: state_dict["state"][i] for i, p in zip(ids, tensors) if i in state_dict["state"]}
        for share in self._shares:
            for p in share.params:
                if p in saved:
                    share.check_state(p, saved[p], f"state_dict's state[{ids[[t is p for t in tensors].index(True)]}]")
        super().load_state_dict(state_dict)
        for options, values in zip(self._banks, modules):
            options.frozen, options.rates = list(values["frozen"]), list(values["rates"])
        for share in self._shares:
            share.load(saved, self.param_groups[share.group])
            self.state.update(share.states())

    def __getstate__(self) -> dict[str, Any]:
        own = {name: self.__dict__[name] for name in ("_banks", "_shares", "_others")}
        return {**super().__getstate__(), **own}


class Adam(ModuleOptimizer):
    """`torch.optim.Adam` (arXiv 1412.6980) that steps every module of a bank by itself, in one fused pass; see
    `ModuleOptimizer` for what that means.

    Args:
        params: a bank, another `nn.Module` (with banks inside or without), or an iterable of tensors, modules, or
            parameter groups whose "params" are such.
        lr, betas, eps: as torch's; lr a number or a tensor of one.
        weight_decay: at least 0; times the parameter, added to its gradient.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> import mclnf_fast as mf
        >>> bank = mf.FieldBank(mf.FieldSpec(2, 3, width=16, hidden_layers=1), modules=2)
        >>> optimizer = Adam(bank, lr=1e-2)
        >>> loss = bank.mse(torch.rand(5, 2), torch.rand(5, 3), offsets=torch.tensor([0, 5, 5])).sum()
        >>> optimizer.zero_grad()
        >>> loss.backward()
        >>> optimizer.step()
        >>> optimizer.state[bank.weight[0]]["step"].tolist()  # module 1 had no sample
        [1.0, 0.0]
    """

    kind = "adam"
    plain: ClassVar[Any] = torch.optim.Adam

    def __init__(
        self,
        params: Trained,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})


class AdamW(Adam):
    """`torch.optim.AdamW` (arXiv 1711.05101) over banks: `Adam` whose weight decay multiplies a parameter by
    1 - lr weight_decay in every step that its module makes.

    Example:
        >>> optimizer = AdamW(nn.Linear(2, 3))
        >>> optimizer.defaults["weight_decay"]
        0.01
    """

    decoupled = True
    plain = torch.optim.AdamW

    def __init__(
        self,
        params: Trained,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class SGD(ModuleOptimizer):
    """`torch.optim.SGD` without momentum over banks; weight decay is added to the gradient.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> SGD(layer, lr=0.1).param_groups[0]["lr"]
        0.1
    """

    kind = "sgd"
    plain = torch.optim.SGD

    def __init__(self, params: Trained, lr: float | Tensor = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})


def _groups(params: Trained) -> list[Any]:
    """Return parameter groups."""
    if isinstance(params, (Tensor, dict)) or not isinstance(params, (nn.Module, Iterable)):
        raise TypeError(
            f"params must be a FieldBank, another nn.Module or an iterable of tensors, modules or parameter groups, "
            f"got {type(params).__name__}"
        )
    listed = [params] if isinstance(params, nn.Module) else list(params)
    if not listed:
        raise ValueError("params must hold at least one tensor, module or parameter group, got an empty iterable")
    if all(isinstance(group, dict) for group in listed):
        return listed
    return [{"params": listed}]


def _tensors(params: Any) -> list[Any]:
    """Return the tensors of a parameter group, those of modules among them."""
    if isinstance(params, (Tensor, nn.Module)):
        params = [params]
    listed: list[Any] = []
    for p in params:
        listed.extend(p.parameters() if isinstance(p, nn.Module) else [p])
    return listed


def _check_options(group: dict[str, Any]) -> None:
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"lr must be a number or a tensor of one, got a tensor {list(lr.shape)}")
    else:
        check_number("lr", lr, 0.0)
    check_number("weight_decay", group["weight_decay"], 0.0)
    if "betas" in group:
        check_betas(group["betas"])
        check_number("eps", group["eps"], 0.0)
