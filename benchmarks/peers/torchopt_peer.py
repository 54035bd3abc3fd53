"""TorchOpt: MetaSGD over a module of stacked parameters, all tasks at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.contender import Contender
from benchmarks.correctness import joined
from benchmarks.peers import importable, plain
from benchmarks.work.maml import Maml


def missing() -> str | None:
    """Return whether it imports."""
    return importable("torchopt")


class Stack(nn.Module):
    """Stacked parameters and a batched matrix product a layer."""

    def __init__(self, work: Maml) -> None:
        super().__init__()
        self.layers, self.spec = len(work.weights), work.spec
        for k, t in enumerate((*work.weights, *work.biases)):
            self.register_parameter(f"p{k}", nn.Parameter(t.clone()))

    def forward(self, features: Tensor) -> Tensor:
        own = [getattr(self, f"p{k}") for k in range(2 * self.layers)]
        return plain.bmm_mlp(features, own[: self.layers], own[self.layers :], self.spec)


def maml(work: Maml) -> Contender:
    """Return the gradient of the outer loss in the stacked start; its sum over tasks is that of the initialization."""
    import torchopt

    net = Stack(work)
    optimizer = torchopt.MetaSGD(net, lr=work.lr)
    start = list(net.parameters())
    state, module = torchopt.extract_state_dict(optimizer), torchopt.extract_state_dict(net)
    shared = [t.detach().clone() for t in work.init]
    move = work.mover(shared)
    x, y, query_x, query_y = work.tasks()
    freqs = plain.frequencies(work.spec, work.device)

    def run() -> tuple[Tensor, ...]:
        torchopt.recover_state_dict(net, module)
        torchopt.recover_state_dict(optimizer, state)
        with torch.no_grad():
            for stack, one in zip(start, shared):
                stack.copy_(one)
        features, query = plain.encode(x, freqs), plain.encode(query_x, freqs)
        for _ in range(work.steps):
            optimizer.step((net(features) - y).square().mean((1, 2)).sum())
        loss = (net(query) - query_y).square().mean()
        found = tuple(g.sum(0, keepdim=True) for g in torch.autograd.grad(loss, start))
        move(found)
        return found

    return Contender("torchopt", run, lambda grads: joined("grads", grads))


OPS: dict[str, Callable[..., Contender]] = {"maml": maml, "meta": maml}
