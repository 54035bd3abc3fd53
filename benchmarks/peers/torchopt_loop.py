"""TorchOpt as its examples use it: MetaSGD over one network, a task after the other, the outer gradients added up."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from benchmarks.contender import Contender
from benchmarks.correctness import joined
from benchmarks.peers import importable, plain
from benchmarks.work.maml import Maml


def missing() -> str | None:
    """Return whether it imports."""
    return importable("torchopt")


def maml(work: Maml) -> Contender:
    """backward() of every task's query loss; the start is recovered between tasks."""
    import torchopt

    freqs = plain.frequencies(work.spec, work.device)
    net = plain.sequential(work.spec, [w[0] for w in work.weights], [b[0] for b in work.biases], with_encoding=False)
    optimizer = torchopt.MetaSGD(net, lr=work.lr)
    start = plain.parameters([net])
    move = work.mover(start)
    state, module = torchopt.extract_state_dict(optimizer), torchopt.extract_state_dict(net)
    x, y, query_x, query_y = work.tasks()
    error = nn.functional.mse_loss

    def run() -> list[Tensor]:
        for p in start:
            p.grad = None
        features, query = plain.encode(x, freqs), plain.encode(query_x, freqs)
        for k in range(work.modules):
            for _ in range(work.steps):
                optimizer.step(error(net(features[k]), y[k]))
            (error(net(query[k]), query_y[k]) / work.modules).backward()
            torchopt.recover_state_dict(net, module)
            torchopt.recover_state_dict(optimizer, state)
        found = [p.grad for p in start if p.grad is not None]
        move(found)
        return found

    return Contender("torchopt loop", run, lambda grads: joined("grads", plain.stacked(grads, len(work.weights), 1)))


OPS: dict[str, Callable[..., Contender]] = {"maml": maml, "meta": maml}
