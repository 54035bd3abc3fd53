"""torch.func: vmap of functional_call over stacked modules, grad for gradients, vmap(grad) a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.contender import Contender, Unsupported
from benchmarks.correctness import joined
from benchmarks.peers import per_sample, plain
from benchmarks.work.bank import Bank
from benchmarks.work.fitting import LR as FIT_LR
from benchmarks.work.fitting import Fit
from benchmarks.work.maml import Maml

Stacked = dict[str, Tensor]
TASK_CHUNKS = (16, 64)


def missing() -> str | None:
    """It is part of torch."""
    return None


def _network(work: Bank) -> tuple[torch.nn.Module, Stacked, list[str]]:
    """Return the module whose call is mapped, stacked parameters [M, ...] by name, and their names: weights, then
    biases."""
    net = plain.sequential(work.spec, [w[0] for w in work.weights], [b[0] for b in work.biases])
    order = [name for name, _ in net.named_parameters()]
    names = order[::2] + order[1::2]
    stacked = [w.transpose(1, 2).contiguous() for w in work.weights] + list(work.biases)
    return net, dict(zip(names, (t.detach() for t in stacked))), names


def _evaluate(net: torch.nn.Module) -> Callable[[Stacked, Tensor], Tensor]:
    return vmap(lambda params, x: functional_call(net, params, (x,)))


def _equal(work: Bank) -> tuple[Tensor, Tensor]:
    if not work.equal:
        raise Unsupported("vmap over modules needs equal shares")
    return work.x.view(work.modules, -1, work.x.shape[1]), work.grad_y.view(work.modules, -1, work.grad_y.shape[1])


def forward(work: Bank) -> Contender:
    """vmap over modules."""
    x, _ = _equal(work)
    net, stacked, _ = _network(work)
    evaluate = _evaluate(net)

    def run() -> Tensor:
        with torch.no_grad():
            return evaluate(stacked, x)

    return Contender("func", run, lambda y: {"y": y.flatten(0, 1)})


def _turned(found: Stacked, names: list[str]) -> list[Tensor]:
    """Return gradients by name -> [M, in, out] of every layer, then [M, out]."""
    return [found[name].transpose(-1, -2) if found[name].dim() == 3 else found[name] for name in names]


def forward_backward(work: Bank) -> Contender:
    """grad of the vmapped call."""
    x, gy = _equal(work)
    net, stacked, names = _network(work)
    evaluate = _evaluate(net)
    gradient = grad(lambda params: (evaluate(params, x) * gy).sum())
    return Contender("func", lambda: gradient(stacked), lambda found: joined("grads", _turned(found, names)))


def _sample_gradients(work: per_sample.Fisher) -> per_sample.Gradients:
    """vmap(grad) of one sample's `<grad_y, f(x)>`; a sample is a point, or the points of a ray."""
    net, stacked, names = _network(work)
    params = {name: t[0] for name, t in stacked.items()}
    points = work.ray_points

    def loss(params: Stacked, x: Tensor, gy: Tensor) -> Tensor:
        return (functional_call(net, params, (x,)) * gy).sum()

    mapped = vmap(grad(loss), (None, 0, 0))

    def gradients(x: Tensor, gy: Tensor) -> list[Tensor]:
        found = mapped(params, x.view(-1, points, x.shape[1]), gy.view(-1, points, gy.shape[1]))
        return [found[name] for name in names]

    return gradients


def fisher(work: per_sample.Fisher) -> Contender:
    """Return the gradients per sample, then squared."""
    return per_sample.contender("func", work, _sample_gradients(work))


def maml(work: Maml) -> Contender:
    """Return the outer gradient as grad of a vmapped inner loop of grads."""
    net = plain.sequential(work.spec, [w[0] for w in work.weights], [b[0] for b in work.biases], with_encoding=False)
    freqs = plain.frequencies(work.spec, work.device)
    order = [name for name, _ in net.named_parameters()]
    names = order[::2] + order[1::2]
    start = dict(zip(names, [w[0].t().clone() for w in work.weights] + [b[0].clone() for b in work.biases]))
    move = work.mover(list(start.values()))

    def loss(params: Stacked, x: Tensor, y: Tensor) -> Tensor:
        return (functional_call(net, params, (x,)) - y).square().mean()

    def task(params: Stacked, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        for _ in range(work.steps):
            found = grad(loss)(params, x, y)
            params = {name: p - work.lr * found[name] for name, p in params.items()}
        return loss(params, query_x, query_y)

    x, y, query_x, query_y = work.tasks()

    def outer(params: Stacked, chunk: int | None) -> Stacked:
        tasks = plain.encode(x, freqs), y, plain.encode(query_x, freqs), query_y
        over_tasks = vmap(task, (None, 0, 0, 0, 0), chunk_size=chunk)
        return grad(lambda own: over_tasks(own, *tasks).mean())(params)

    def timed(chunk: int | None) -> float:
        begin = perf_counter()
        outer(start, chunk)
        return perf_counter() - begin

    # All tasks at once may be more than the caches hold.
    chunk = min((None, *(c for c in TASK_CHUNKS if c < work.modules)), key=timed)
    note = "" if chunk is None else f"{chunk} tasks at a time"

    def outputs(found: Stacked) -> dict[str, Tensor]:
        return joined("grads", [(found[n].t() if found[n].dim() == 2 else found[n])[None] for n in names])

    def run() -> Stacked:
        found = outer(start, chunk)
        move([found[name] for name in start])
        return found

    return Contender("func", run, outputs, note=note)


def fit_loop(work: Fit) -> Contender:
    """Return the loop with vmap(grad) of the functional call, and Adam over the stacked parameters."""
    net, _, names = _network(work)
    x, target, rows = work.coordinates, work.target, torch.arange(work.modules)[:, None]

    def loss(params: Stacked, x: Tensor, y: Tensor) -> Tensor:
        return (functional_call(net, params, (x,)) - y).square().mean()

    gradient = vmap(grad(loss))
    layers = len(names) // 2

    def turned(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [t.transpose(1, 2).contiguous() if k < layers else t for k, t in enumerate(tensors)]

    def step(leaves: list[Tensor], optimizer: torch.optim.Adam, ids: Tensor) -> None:
        grads = gradient(dict(zip(names, (t.detach() for t in leaves))), x[ids], target[rows, ids])
        for leaf, name in zip(leaves, names):
            leaf.grad = grads[name]
        optimizer.step()

    def draw(k: int) -> Tensor:
        return torch.randint(work.samples, (work.modules, work.batch))

    def leaves_of() -> list[Tensor]:
        return [t.requires_grad_() for t in turned(work.start())]

    def adam(leaves: list[Tensor]) -> torch.optim.Adam:
        return torch.optim.Adam(leaves, lr=FIT_LR, fused=True)

    return work.looped("func", adam, step, draw, turned, leaves_of)


OPS: dict[str, Callable[..., Contender]] = {
    "fit_loop": fit_loop,
    "forward": forward,
    "forward_backward": forward_backward,
    "fisher_scores": fisher,
    "fisher_all": fisher,
    "fisher_rays": fisher,
    "maml": maml,
    "meta": maml,
}
