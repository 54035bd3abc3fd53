"""Modules: a small network per task, all from one meta-learned initialization (MCL-NF's `Ours (mod)`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from mclnf_fast.learn.methods.base import AdaptConfig, Category, InitializationName, Method
from mclnf_fast.learn.params import Params, part_of
from mclnf_fast.learn.task import Task


class Mod(Method):
    """theta_k <- theta_shared, trained on task k alone and never touched again (arXiv 2504.05806): nothing can be
    forgotten."""

    category: ClassVar[Category] = "MCL"
    initialization: ClassVar[InitializationName] = "modules"
    modular = True

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        super().__init__(tasks, init, config, seed)
        self.modules: list[Params] = []

    def begin(self, k: int) -> None:
        self.params = self.fresh()
        super().begin(k)

    def finish(self, k: int) -> None:
        super().finish(k)
        # The finished module leaves the optimizer for good: no later step can touch it.
        self.modules.append(tuple(p.detach() for p in self.params))
        self.params = self.fresh()

    def params_of(self, k: int) -> Params:
        if k < len(self.modules):
            return self.modules[k]
        # A task still to come is answered for by what its module will start from.
        return tuple(p.detach() for p in (self.params if k == self.task else self.fresh()))

    def state_dict(self) -> dict[str, Tensor]:
        modules = {f"modules.{m}.{i}": p for m, module in enumerate(self.modules) for i, p in enumerate(module)}
        return {**super().state_dict(), **modules}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        device, size = self.params[0].device, len(self.params)
        tensors = part_of(state, "modules")
        self.modules = [
            tuple(tensors[f"{m}.{i}"].to(device, copy=True) for i in range(size)) for m in range(len(tensors) // size)
        ]
